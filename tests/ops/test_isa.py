"""Kernels compiled for several instruction sets: each one agrees, a wrong choice is named, and none leaks into another."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from threedgen.ops import backend, cpu_isa

SOURCES = Path(__file__).parents[2] / "custom_cuda"
EXACT = ("offsets", "t")
needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built")
x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86-64 has several levels")


@needs_kernel
@x86
def test_levels_agree(run_workload: Callable[..., dict]) -> None:
    """Every level that this processor has, against the twin."""
    available = {"baseline": 1, "v3": 2, "v4": 3}
    twin = run_workload(THREEDGEN_NO_EXT="1")["tensors"]
    for level, rank in available.items():
        if rank > available[cpu_isa()]:
            continue
        result = run_workload(THREEDGEN_CPU_ISA=level)
        assert result["isa"] == level
        for name, want in twin.items():
            if name in EXACT:
                assert torch.equal(result["tensors"][name], want), name
            else:
                assert (result["tensors"][name] - want).norm() <= 2e-6 * want.norm(), name


@needs_kernel
def test_threads_do_not_change_a_bit(run_workload: Callable[..., dict]) -> None:
    one, two = (run_workload(OMP_NUM_THREADS=threads)["tensors"] for threads in "12")
    for name, want in one.items():
        assert torch.equal(two[name], want), name


@needs_kernel
def test_unknown_level_is_named(run_workload: Callable[..., dict]) -> None:
    with pytest.raises(RuntimeError, match="UserError: THREEDGEN_CPU_ISA='avx9' is unknown: use baseline, v3 or v4"):
        run_workload(THREEDGEN_CPU_ISA="avx9")


@needs_kernel
@pytest.mark.skipif(cpu_isa() == "v4", reason="this processor supports every level")
def test_unsupported_level_is_named(run_workload: Callable[..., dict]) -> None:
    with pytest.raises(RuntimeError, match="UserError: THREEDGEN_CPU_ISA=v4 is not supported by this processor"):
        run_workload(THREEDGEN_CPU_ISA="v4")


@x86
@pytest.mark.skipif(shutil.which("g++") is None or shutil.which("nm") is None, reason="needs g++ and nm")
@pytest.mark.parametrize("source", sorted(SOURCES.glob("cpu/*_kernels.cpp")), ids=lambda source: source.stem)
@pytest.mark.parametrize("optimize", ["-O0", "-O3"])
def test_no_code_for_one_level_can_be_linked_into_another(source: Path, optimize: str, tmp_path: Path) -> None:
    """The linker merges weak symbols of equal name, so a kernel file may define none, inlined or not."""
    output = tmp_path / "kernels.o"
    flags = ["-std=c++20", optimize, "-march=x86-64-v3", "-DTHREEDGEN_X86_VARIANTS", "-DTHREEDGEN_ISA=v3", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, "-c", source, "-o", output], check=True)
    symbols = subprocess.run(["nm", "--defined-only", output], check=True, capture_output=True, text=True).stdout.splitlines()
    kinds = {line.split()[-1]: line.split()[-2] for line in symbols}
    assert not [name for name, kind in kinds.items() if kind in "VvWwu"]
    assert all("2v3" in name for name, kind in kinds.items() if kind.isupper()), kinds
