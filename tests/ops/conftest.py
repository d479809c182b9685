from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture
def run_workload(tmp_path: Path) -> Callable[..., dict]:
    """Runs workload.py in a fresh process with environment variables and returns what it saved; its last line of stderr on failure."""

    def run(**environment: str) -> dict:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.pt"
        variables = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), **environment}
        result = subprocess.run([sys.executable, HERE / "workload.py", file], env=variables, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(result.stderr.strip().splitlines()[-1])
        return torch.load(file)

    return run
