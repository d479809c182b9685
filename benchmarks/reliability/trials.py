"""Runs small enough to be made by the hundred: what the scripts of this folder have in common.

A trial is a run of the command line in a process of its own. The processes are forked from one that has loaded the libraries, which is
what takes the time of a small run; from there on they are what `python launch.py` is.
"""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from threedgen import cli  # noqa: E402
from threedgen.cameras import orbit  # noqa: E402
from threedgen.runs import checkpoints, run  # noqa: E402, F401

EVERY = 4  # steps between two checkpoints
STEPS = 24
STAGE = "stages.fit"
COMMON = [
    "threads=1",
    f"{STAGE}.steps={STEPS}",
    f"{STAGE}.guidance.rays=64",
    f"{STAGE}.guidance.views=1",
    f"preview_every={STEPS // 2}",
    f"checkpoint_every={EVERY}",
    "export.resolution=16",
    "export.faces=100",
    "export.texture=64",
    "export.turntable_frames=1",
    "export.turntable_resolution=32",
    "export.threshold=0.02",
]
FIELD = ("levels=3", "log2_table=10", "base_resolution=4", "max_resolution=16", "hidden=8", "samples=16", "occupancy_resolution=8")
CLOUD = ("count=60", "capacity=80", "densify_from=2", "densify_every=3", "opacity=0.5")
GRID = ("resolution=8", "levels=3", "log2_table=8")
KINDS = {
    "hashgrid": [f"{STAGE}.representation.{word}" for word in FIELD],
    "gaussians": ["representation=gaussians", *(f"{STAGE}.representation.{word}" for word in CLOUD)],
    "dmtet": ["representation=dmtet", *(f"{STAGE}.representation.{word}" for word in GRID)],
}


def posed_ball(folder: Path, views: int = 6, size: int = 16) -> Path:
    """A folder of posed images of a ball, the smallest that can be fitted; returned again."""
    (folder / "images").mkdir(parents=True)
    c2w = orbit(torch.arange(views) * 360.0 / views, torch.full((views,), 15.0), torch.full((views,), 2.6))
    frames = []
    for number in range(views):
        image = Image.new("RGBA", (size, size))
        ImageDraw.Draw(image).ellipse([size * 0.25, size * 0.25, size * 0.75, size * 0.75], fill=(200, 40 * number, 90, 255))
        image.save(folder / "images" / f"{number}.png")
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": c2w[number].tolist()})
    focal = size / 2 / math.tan(math.radians(20))
    camera = {"w": size, "h": size, "fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2, "camera_model": "OPENCV"}
    (folder / "transforms.json").write_text(json.dumps(camera | {"frames": frames}))
    return folder


def command(kind: str, data: Path, output: Path, *more: str) -> list[str]:
    """Words of the command line for a fit of a kind of representation."""
    return ["--config", "fit", f"data={data}", f"output={output}", *KINDS[kind], *COMMON, *more]


@dataclass
class Trial:
    """A run that goes on in another process.

    Attributes:
        pid: of the process.
        log: file with what it says.
        events: what it told so far, as (name, step): "started", "begun", "step", "save", "saved".
        moments: of the events, in seconds of the monotonic clock.
        code: how it ended; negative for the signal that killed it.
    """

    pid: int
    log: Path
    pipe: int
    started: float = field(default_factory=time.monotonic)
    events: list[tuple[str, int]] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    code: int | None = None
    _rest: bytes = b""

    def until(self, done: Callable[[str, int], bool] | None = None, seconds: float = 120.0) -> bool:
        """Read events until one satisfies `done`, the process ends or the time is over; whether the first was the case."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.pipe], [], [], left)[0]:
                return False
            content = os.read(self.pipe, 65536)
            if not content:
                return False
            *lines, self._rest = (self._rest + content).split(b"\n")
            told = [line.decode().split() for line in lines]
            found = [(name, int(step)) for name, step, _ in told]
            self.events += found
            self.moments += [float(moment) for *_, moment in told]
            if done is not None and any(done(name, step) for name, step in found):
                return True
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def end(self, seconds: float = 120.0) -> int:
        """Wait for the end of the process; its code. A process that hangs is killed, and its code is -9."""
        self.until(seconds=seconds)
        self.kill()  # one that has ended is not changed by it
        os.close(self.pipe)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def last(self, name: str, default: int = 0) -> int:
        """Step of the last event of a name."""
        return next((step for found, step in reversed(self.events) if found == name), default)

    def said(self) -> str:
        """Everything the run wrote to stdout and stderr."""
        return self.log.read_text(errors="backslashreplace")


def start(words: Sequence[str], log: Path, temporary: Path | None = None, prepare: Callable[[], Any] | None = None) -> Trial:
    """Start a run.

    Args:
        words: of the command line.
        log: file for what the run says.
        temporary: the folder that TMPDIR names.
        prepare: called in the new process before the run begins.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return Trial(pid, log, reader)
    code = 70
    try:
        os.close(reader)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if temporary is not None:
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        tell(writer)
        if prepare is not None:
            prepare()
        code = cli.main(list(words))
        sys.stdout.flush()
    finally:
        os._exit(code)


def tell(writer: int) -> None:
    """Have a run tell where it is: one line for each event."""

    def say(name: str, step: int) -> None:
        os.write(writer, f"{name} {step} {time.monotonic()}\n".encode())

    work, write = cli._run, checkpoints.write_checkpoint
    begin, step_done = checkpoints.Checkpoints.on_train_start, checkpoints.Checkpoints.on_train_batch_end

    def _run(*rest: Any) -> None:
        say("started", 0)
        work(*rest)

    def on_train_start(self: Any, trainer: Any, system: Any) -> None:
        begin(self, trainer, system)
        say("begun", self.state.step if self.state else 0)

    def on_train_batch_end(self: Any, trainer: Any, *rest: Any) -> None:
        say("step", trainer.global_step)
        step_done(self, trainer, *rest)

    def write_checkpoint(system: Any, optimizer: Any, step: int, *rest: Any) -> None:
        say("save", step)
        write(system, optimizer, step, *rest)
        say("saved", step)

    cli._run = _run
    checkpoints.Checkpoints.on_train_start = on_train_start
    checkpoints.Checkpoints.on_train_batch_end = on_train_batch_end
    checkpoints.write_checkpoint = write_checkpoint


def other_filesystem(near: Path) -> Path | None:
    """A folder on another file system than `near`, where there is one."""
    candidates = [Path(name) for name in ("/dev/shm", "/tmp", "/var/tmp", str(Path.home()))]
    writable = [path for path in candidates if path.is_dir() and os.access(path, os.W_OK)]
    return next((path for path in writable if path.stat().st_dev != near.stat().st_dev), None)


def only_folder(output: Path) -> Path | None:
    """Folder of the one run below an output folder, once there is one."""
    return next((status.parent for status in output.glob("*/*/status.json")), None)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with the same keys below their names."""
    names = list(rows[0])
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def count_from(words: Sequence[str], usual: int) -> int:
    """The one argument of a script: how many trials."""
    return int(words[0]) if words else usual


def workplace() -> tempfile.TemporaryDirectory[str]:
    """A folder for the runs of a script, gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="threedgen-reliability-")


def emptied(folder: Path) -> Path:
    """A folder without content."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
