"""What `make` hands to the program and what it says where something is missing; nothing is installed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

ECHO = f"""#!{sys.executable}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


def make(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, free of what a make around the tests passes on."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PROMPT", "CI")}
    return subprocess.run(["make", *words], cwd=folder, env=inherited | variables, capture_output=True, text=True, check=False)


def executable(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path):
    """A checkout with nothing in it but what make looks at."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def installed(bare):
    """A checkout whose environment is made; its python prints what it is given."""
    executable(bare / ".venv/bin/python", ECHO)
    (bare / "threedgen").mkdir()
    for name in (".venv/torch", ".venv/package", "threedgen/_C.abi3.so"):  # in the order they are made
        (bare / name).touch()
    return bare


@pytest.mark.parametrize(
    "prompt",
    [
        "a red apple",
        "$HOME $(shell id) ${x} $$",
        "`id` $(id)",
        "\"double\" 'single' \\",
        "1:30 # yes % * ; & | < >",
        "a=b := c ?= d",
        "pomme é 苹果",
    ],
)
def test_a_prompt_arrives_byte_for_byte(installed, prompt):
    for done in (make(installed, "demo", f"PROMPT={prompt}"), make(installed, "demo", PROMPT=prompt)):
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == ["launch.py", "--config", "quickstart.yaml", f"prompt={prompt}"]


def test_without_a_prompt_there_is_one(installed):
    assert json.loads(make(installed).stdout)[-1] == "prompt=a wooden barrel"


def test_what_is_made_is_not_made_again(installed):
    assert "Nothing to be done" in make(installed, "install").stdout


@pytest.mark.parametrize(("ci", "required"), [("", "0"), ("false", "0"), ("0", "0"), ("true", "1"), ("1", "1")])
def test_in_ci_kernels_are_required(installed, ci, required):
    (installed / "threedgen/_C.abi3.so").unlink()
    assert f"THREEDGEN_REQUIRE_EXT={required} " in make(installed, "install", "--dry-run", CI=ci).stdout


def test_kernels_that_were_not_built_are_a_warning(installed):
    (installed / "threedgen/_C.abi3.so").unlink()
    done = make(installed, "install")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the kernels were not built")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("sys.version_info = (3, 9)", "threedgen needs Python 3.11 or newer"),
        ("sys.modules['ensurepip'] = None", "apt install python3-venv"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_one_line(bare, change, says):
    python = executable(bare / "python", f"""#!/bin/sh\nexec {sys.executable} -c "import sys; {change}; exec(sys.argv[2])" "$@"\n""")
    done = make(bare, "demo", f"PYTHON={python}")
    assert done.returncode == 2
    first, *rest = done.stderr.splitlines()
    assert says in first
    assert [line.startswith("make: ***") for line in rest] == [True]
    assert not (bare / ".venv").exists()
