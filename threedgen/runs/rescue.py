"""What becomes of a run whose numbers are not finite: a step left out, a state put back, an end with a reason."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from threedgen.errors import UserError
from threedgen.runs.checkpoints import newest, restore
from threedgen.systems.distillation import BROKEN, Distillation

TRIES = 3


class Rescue(Callback):
    """Says which steps were left out, puts the newest checkpoint back where the parameters are broken, ends the run after three in a row.

    A checkpoint is only written of parameters that are finite. What is put back depends on the newest checkpoint alone; so a run that
    goes on makes the same bytes, unless a signal had it write one more. Comes before the callback that writes them.
    """

    def __init__(self, path: Path, settings: str = "", stream: TextIO | None = None) -> None:
        """Of the stage's checkpoints: where the newest lies, and the hash of their settings."""
        self.path, self.settings, self.stream = path, settings, sys.stderr if stream is None else stream
        self.tries, self.chunk = 0, 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Distillation)
        if pl_module.chunk != self.chunk:
            self.chunk = pl_module.chunk
            self.say(f"step {trainer.global_step}: memory ran out; from here on {self.chunk} samples are rendered at once")
        self.tries = self.tries + 1 if pl_module.refused else 0
        if not self.tries:
            return
        where = f"step {trainer.global_step}: {pl_module.refused}"
        if self.tries == TRIES:
            raise UserError(f"{where}, nor was it in the {TRIES - 1} steps before: lower optimizer.lr, or the scale of the guidance")
        if pl_module.refused != BROKEN:
            self.say(f"{where}; the step is left out")
            return
        state = newest(self.path, self.settings)
        if state is None:
            raise UserError(f"{where}, and there is no checkpoint to go back to: lower optimizer.lr, or set checkpoint_every")
        restore(pl_module, trainer.optimizers[0], state)
        self.say(f"{where}; they are again what they were after step {state.step}")

    def say(self, line: str) -> None:
        """A line of its own, also below a line that is redrawn."""
        start = "\n" if self.stream.isatty() else ""
        print(f"{start}threedgen: {line}", file=self.stream, flush=True)
