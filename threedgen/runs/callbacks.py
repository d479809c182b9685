"""What happens around the steps of a stage: progress, status, previews."""

from __future__ import annotations

import datetime
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from threedgen.export.pictures import to_image
from threedgen.runs.folder import RunFolder
from threedgen.storage import replacing
from threedgen.systems.distillation import Distillation

PREVIEW_VIEWS, PREVIEW_SIZE = 4, 128
REDRAW_SECONDS = 0.2
PLAIN_LINES = 10


class Progress(Callback):
    """Step, rate, time left and loss terms of a stage: one redrawn line on a terminal, else a plain line every tenth of the steps."""

    def __init__(self, stage: str, stream: TextIO | None = None) -> None:
        self.stage, self.stream = stage, sys.stderr if stream is None else stream
        self.redrawn = self.stream.isatty()
        self.started, self.drawn, self.width, self.first = time.monotonic(), 0.0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        done, total = trainer.global_step, trainer.max_steps
        if self.redrawn and (done == total or time.monotonic() - self.drawn >= REDRAW_SECONDS):
            self.redraw(self.line(trainer))
        elif not self.redrawn and done * PLAIN_LINES // total > (done - 1) * PLAIN_LINES // total:
            print(self.line(trainer), file=self.stream, flush=True)

    def line(self, trainer: pl.Trainer) -> str:
        """What is shown after a step."""
        done, total = trainer.global_step, trainer.max_steps
        rate = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = datetime.timedelta(seconds=round((total - done) / rate))
        terms = {name.removeprefix("loss/"): float(v) for name, v in trainer.callback_metrics.items() if name.startswith("loss")}
        losses = "  ".join(f"{name} {value:.3g}" for name, value in terms.items())
        return f"{self.stage}: step {done}/{total}  {done / total:4.0%}  {rate:.1f} steps/s  {left} left  {losses}"

    def redraw(self, line: str) -> None:
        """Put the line in place of the one before."""
        line = line[: shutil.get_terminal_size().columns - 1]
        self.stream.write("\r" + line.ljust(self.width))
        self.stream.flush()
        self.width, self.drawn = len(line), time.monotonic()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finish()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.finish()

    def finish(self) -> None:
        """Leave the last line standing."""
        if self.width:
            self.stream.write("\n")
            self.width = 0


class Status(Callback):
    """Keeps status.json current: state, stage, step, seconds gone and left."""

    def __init__(self, folder: RunFolder, stage: str, every_seconds: float = 2.0) -> None:
        self.folder, self.stage, self.every = folder, stage, every_seconds
        self.started = self.written = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if time.monotonic() - self.written >= self.every:
            self.write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.write(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        done, total = trainer.global_step, trainer.max_steps
        gone = time.monotonic() - self.started
        left = round(gone / done * (total - done), 1) if done else None
        self.folder.write_status("running", stage=self.stage, step=done, steps=total, seconds=round(gone, 1), seconds_left=left)
        self.written = time.monotonic()


class Previews(Callback):
    """Writes a strip of views every so many steps: previews/<stage>-<step>.png."""

    def __init__(self, folder: RunFolder, stage: str, every: int) -> None:
        self.folder, self.stage, self.every = folder, stage, every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Distillation)
        if self.every and trainer.global_step % self.every == 0:
            write_preview(pl_module, self.folder.previews / f"{self.stage}-{trainer.global_step:06d}.png")


@torch.no_grad()
def write_preview(system: Distillation, path: Path) -> None:
    """Views of the object side by side, written as PNG; of several scenes, a row for each."""
    cameras = system.sampler.turntable(PREVIEW_VIEWS, PREVIEW_SIZE).to(system.device)
    strips = [torch.cat(list(scene.render(cameras).rgb), dim=1) for scene in system.representation.scenes]
    write_picture(torch.cat(strips), path)


def write_picture(rgb: torch.Tensor, path: Path) -> None:
    """A picture [H,W,3] in [0,1] as PNG, whole or not at all."""
    with replacing(path) as temporary:
        to_image(rgb).save(temporary, format="PNG")
