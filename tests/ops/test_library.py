"""Loading the compiled operators, and life without them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from threedgen.ops import backend, cpu_isa
from threedgen.ops._library import SCHEMAS

OPS = Path(__file__).parents[2] / "custom_cuda" / "ops.cpp"


def test_python_and_cpp_define_the_same_operators() -> None:
    assert re.findall(r'm\.def\("([^"]+)"\)', OPS.read_text()) == list(SCHEMAS)


def test_without_the_library_the_twins_run_and_say_so_once(run_workload: Callable[..., dict]) -> None:
    result = run_workload(THREEDGEN_NO_EXT="1")
    assert result["backend"] == "reference"
    assert result["isa"] == "none"
    assert len(result["warnings"]) == 1
    assert "pure torch on cpu" in result["warnings"][0]
    assert "THREEDGEN_NO_EXT is set" in result["warnings"][0]


@pytest.mark.skipif(backend() == "reference", reason="the operators are not built")
def test_with_the_library_nothing_is_said(run_workload: Callable[..., dict]) -> None:
    result = run_workload()
    assert result["backend"] == "compiled"
    assert result["warnings"] == []


def test_backend_knows_devices() -> None:
    assert backend("cpu") in ("compiled", "reference")
    assert backend("xpu") == "reference"
    assert (cpu_isa() == "none") == (backend() == "reference")
