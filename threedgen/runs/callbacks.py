"""What happens around the steps of a stage: progress, status, previews, checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, TQDMProgressBar
from safetensors.torch import save_file

from threedgen.runs.folder import RunFolder, replacing, write_json
from threedgen.systems.distillation import Distillation

PREVIEW_VIEWS = 4


class Progress(TQDMProgressBar):
    """One bar a stage: step, rate, time left, loss."""

    def __init__(self, stage: str) -> None:
        super().__init__(refresh_rate=5)
        self.stage = stage

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.set_description(self.stage)
        return bar

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description(self.stage)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        terms = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("loss")}
        return {k: f"{float(v):.3g}" for k, v in terms.items()}


class Status(Callback):
    """Keeps status.json current: state, stage, step, seconds gone and left."""

    def __init__(self, folder: RunFolder, stage: str, every_seconds: float = 2.0) -> None:
        self.folder, self.stage, self.every = folder, stage, every_seconds
        self.started = self.written = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.monotonic()
        self.write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if time.monotonic() - self.written >= self.every:
            self.write(trainer)

    def write(self, trainer: pl.Trainer) -> None:
        done, total = trainer.global_step, trainer.max_steps
        gone = time.monotonic() - self.started
        left = gone / done * (total - done) if done else None
        write_json(
            self.folder.path / "status.json",
            {"state": "running", "stage": self.stage, "step": done, "steps": total, "seconds": round(gone, 1), "seconds_left": left},
        )
        self.written = time.monotonic()


class Previews(Callback):
    """Writes a strip of views every so many steps: previews/<stage>-<step>.png."""

    def __init__(self, folder: RunFolder, stage: str, every: int) -> None:
        self.folder, self.stage, self.every = folder, stage, every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, Distillation)
        if self.every and trainer.global_step % self.every == 0:
            write_preview(pl_module, self.folder.previews / f"{self.stage}-{trainer.global_step:06d}.png")


@torch.no_grad()
def write_preview(system: Distillation, path: Path, size: int = 128) -> None:
    """Views of the object side by side, written as PNG."""
    cameras = system.sampler.turntable(PREVIEW_VIEWS, size).to(system.device)
    strip = torch.cat(list(system.representation.render(cameras).rgb), dim=1)
    with replacing(path) as temporary:
        Image.fromarray((strip.clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)).save(temporary, format="PNG")


class Checkpoints(Callback):
    """Writes the state of a stage as safetensors every so many steps, at its end and when it is interrupted."""

    def __init__(self, folder: RunFolder, stage: str, every: int) -> None:
        self.path, self.every = folder.checkpoints / f"{stage}.safetensors", every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.every and trainer.global_step % self.every == 0 and trainer.global_step < trainer.max_steps:
            write_checkpoint(pl_module, trainer.global_step, self.path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        write_checkpoint(pl_module, trainer.global_step, self.path)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        write_checkpoint(pl_module, trainer.global_step, self.path)


def write_checkpoint(system: pl.LightningModule, step: int, path: Path) -> None:
    """State of representation and target bank in one safetensors file, the step in its metadata."""
    state = {name: value.detach().cpu().contiguous() for name, value in system.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={"format": "threedgen-stage-1", "step": str(step)})
