"""A run's directory: what lies where, and who may write there.

outputs/<config>/<slug>-<hash>/
    config.yaml        the resolved settings
    sources.json       where each setting came from
    command.txt        the command line that made the run
    environment.json   versions, processor, device
    status.json        state, stage, step, seconds left
    prompts/           cached prompt embeddings
    logs/              TensorBoard and CSV
    previews/          images of the object while it is made
    checkpoints/       state of each stage; in before/ what was there when a stage was done anew
    export/            the asset and its turntable
    metrics.json       of a fit to images: likeness of the test views
    placement.json     of a fit to images: how the data lies in the scene
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.errors import UserError
from threedgen.storage import sweep, write_json


class RunFolder:
    """Paths of a run; creates the folder and holds its lock while a run works in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prompts, self.logs, self.previews = path / "prompts", path / "logs", path / "previews"
        self.checkpoints, self.export = path / "checkpoints", path / "export"
        self.status: dict[str, Any] = {}

    def write_status(self, state: str, **facts: Any) -> None:
        """Write status.json; facts of this run's earlier states that are not given again stay."""
        self.status |= {"state": state} | facts
        write_json(self.path / "status.json", self.status)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder, and clear what a killed run left half written.

        Raises:
            UserError: it cannot be written, or another live process owns it.
        """
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "w")  # noqa: SIM115 (held until the block ends)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}; choose another folder with output=PATH") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another process is working in {self.path}; wait for it, or change seed or output") from error
            sweep(self.path)
            yield


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware a run was made with."""
    from importlib import metadata

    import torch

    from threedgen import __version__
    from threedgen.ops import backend

    packages = ("torch", "pytorch-lightning", "diffusers", "transformers", "numpy", "trimesh", "xatlas")
    return {
        "threedgen": __version__,
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "kernels": backend(device),
    }


def processor_name() -> str:
    """Model name of the processor, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
