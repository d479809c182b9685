"""Early warnings of runs that go wrong: empty scenes, fog, exploding gradients, objects with two faces."""

from __future__ import annotations

import math
import sys
from typing import Any, TextIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from threedgen.evaluation.health import SIZE, VIEWS, Health, health_of
from threedgen.runs.folder import RunFolder
from threedgen.systems.distillation import Distillation
from threedgen.systems.fitting import ImagesObjective

CHECKS = 8  # of the views in a run, the first after a quarter of the steps
SHORTEST = 100  # steps of a run whose views are looked at
FAST, SLOW = 0.2, 0.01  # share of a step in the two running means of the gradient
EXPLODED = 100.0  # ratio of the two


class HealthMonitor(Callback):
    """Says each sign once, in a line and in status.json under "warnings". Nothing of the run depends on it."""

    def __init__(self, folder: RunFolder, stream: TextIO | None = None) -> None:
        self.folder, self.stream = folder, sys.stderr if stream is None else stream
        self.said: dict[str, str] = {}
        self.growth = Growth()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Distillation)
        step, steps = trainer.global_step, trainer.max_steps
        if not pl_module.refused and self.growth.of(pl_module.gradient) > EXPLODED:
            self.warn("gradients", "the gradients explode: lower optimizer.lr, or the scale of the guidance", step)
        if steps >= SHORTEST and step >= steps // 4 and step % max(1, steps // CHECKS) == 0:
            signs = views_around(pl_module).signs()
            if isinstance(pl_module.objective, ImagesObjective):
                signs.pop("faces", None)  # the images say what the object looks like
            for name, sentence in signs.items():
                self.warn(name, sentence, step)

    def warn(self, name: str, sentence: str, step: int) -> None:
        if name in self.said:
            return
        self.said[name] = f"step {step}: {sentence}"
        start = "\n" if self.stream.isatty() else ""
        print(f"{start}threedgen: {self.said[name]}", file=self.stream, flush=True)
        self.folder.write_status("running", warnings=[*self.folder.status.get("warnings", []), self.said[name]])


class Growth:
    """How much larger a number is of late than it was: ratio of a fast and a slow running geometric mean, 1 at first."""

    def __init__(self) -> None:
        self.fast = self.slow = 0.0
        self.count = 0

    def of(self, number: float) -> float:
        """The ratio with one more number; zeros are passed over, as a schedule may switch a term off."""
        if number > 0:
            self.count += 1
            self.fast += max(FAST, 1 / self.count) * (math.log(number) - self.fast)
            self.slow += max(SLOW, 1 / self.count) * (math.log(number) - self.slow)
        return math.exp(min(self.fast - self.slow, 300.0))


@torch.no_grad()
def views_around(system: Distillation) -> Health:
    """Health of the first scene, at the middle of the sampler's ranges."""
    render = system.representation.scenes[0].render(system.sampler.turntable(VIEWS, SIZE).to(system.device))
    return health_of(render.rgb, render.alpha)
