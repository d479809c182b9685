"""A run small enough for a test: the closed-form prior, a coarse field, a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from threedgen.config.loader import load

ROOT = Path(__file__).parents[2]
STAGE = "stages.coarse"
MICRO = [
    "prior=analytic",
    "threads=2",
    f"{STAGE}.steps=12",
    f"{STAGE}.cameras.resolution=16",
    f"{STAGE}.representation.levels=4",
    f"{STAGE}.representation.log2_table=10",
    f"{STAGE}.representation.max_resolution=32",
    f"{STAGE}.representation.hidden=8",
    f"{STAGE}.representation.samples=32",
    f"{STAGE}.representation.occupancy_resolution=16",
    "preview_every=6",
    "checkpoint_every=6",
    "export.resolution=24",
    "export.faces=300",
    "export.texture=64",
    "export.turntable_frames=2",
    "export.turntable_resolution=32",
]
PATIENCE = 120.0  # seconds until a started process must have got somewhere
RECONSTRUCTION = [f"{STAGE}.guidance.{k}" for k in ("warm_up=0", "first_fit=6", "fit=4", "first_denoise=3", "denoise=2", "rays=128")]


@pytest.fixture
def micro(tmp_path):
    """(overrides...) -> settings of a micro-run below tmp_path/runs, with the reconstruction guidance."""
    threads = torch.get_num_threads()

    def settings(*overrides: str, config: str = "quickstart"):
        own = RECONSTRUCTION if config == "quickstart" else []
        return load(config, ["prompt=a barrel", *MICRO, *own, f"output={tmp_path / 'runs'}", *overrides]).settings

    yield settings
    torch.set_num_threads(threads)


@pytest.fixture
def command(tmp_path):
    """(overrides...) -> a started process of the command line with the micro-run's settings."""
    started = []

    def start(*overrides: str) -> subprocess.Popen:
        words = [sys.executable, str(ROOT / "launch.py"), "--config", "quickstart", "prompt=a barrel", *MICRO, *RECONSTRUCTION]
        process = subprocess.Popen(
            [*words, f"output={tmp_path / 'runs'}", *overrides],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def only_run(root: Path) -> Path:
    """Folder of the one run below a folder."""
    [status] = root.rglob("status.json")
    return status.parent


def status_of(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def progress_and_other(stderr: str) -> tuple[list[str], list[str]]:
    """Lines of stderr that show progress, and the others."""
    lines = stderr.splitlines()
    return [line for line in lines if line.startswith("coarse: step ")], [line for line in lines if not line.startswith("coarse: step ")]


def wait_for_steps(process, root: Path, steps: int) -> Path:
    """Folder of the run, once its status says that so many steps are done; every status on the way is valid JSON."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        for file in root.rglob("status.json"):
            if json.loads(file.read_text()).get("step", -1) >= steps:
                return file.parent
        time.sleep(0.02)
    raise AssertionError(
        f"the run never got to step {steps}: {process.poll()} {process.communicate() if process.poll() is not None else ''}"
    )
