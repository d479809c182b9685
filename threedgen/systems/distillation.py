"""The Lightning module that distils a prior, or fits images, into a representation; the one place that sees all parts."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from threedgen.cameras import OrbitSampler
from threedgen.config.schema import StageSettings
from threedgen.data.posed_images import PosedImages
from threedgen.draws import Draws
from threedgen.guidance.core import Teacher
from threedgen.representations.base import Representation
from threedgen.schedule import at
from threedgen.systems.fitting import fit_objective
from threedgen.systems.objectives import objective_of
from threedgen.systems.regularizers import needs_normals, penalties


class Distillation(pl.LightningModule):
    """One stage: cameras -> render -> guidance -> loss, with penalties, schedules and the representation's own upkeep.

    The teacher is a prior with its prompts, or the posed images of a fit; cameras and objective are those it asks for.
    A batch is the index of the step; nothing but (seed, step, view) decides what is drawn.
    """

    def __init__(self, settings: StageSettings, representation: Representation, teacher: Teacher | PosedImages, seed: int) -> None:
        super().__init__()
        self.settings, self.representation, self.seed = settings, representation, seed
        for group in representation.param_groups(0.0, 0.0):
            for parameter in group["params"]:
                parameter.requires_grad_(self.trains(group))
        self.sampler = OrbitSampler(settings.cameras)
        if isinstance(teacher, PosedImages):
            self.objective = fit_objective(settings, teacher)
        else:
            self.objective = objective_of(settings.guidance, self.sampler, teacher, settings.steps, seed)

    def trains(self, group: dict) -> bool:
        """Whether the stage trains a group of parameters: all of them, or those of its part and the background."""
        return self.settings.train == "all" or group.get("part", self.settings.train) == self.settings.train

    def draws(self, step: int) -> Draws:
        """The draws of a step, for all of its views."""
        return Draws(self.seed, step, range(self.settings.cameras.views), self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        o = self.settings.optimizer
        groups = [group for group in self.representation.param_groups(at(o.lr, 0), at(o.lr_background, 0)) if self.trains(group)]
        return torch.optim.Adam(groups, betas=(o.betas[0], o.betas[1]), eps=o.eps, fused=True)

    def on_train_batch_start(self, batch: int, batch_idx: int) -> None:
        o = self.settings.optimizer
        for group in self.trainer.optimizers[0].param_groups:
            rate = o.lr_background if group["name"] == "background" else o.lr
            group["lr"] = group.get("share", 1.0) * at(rate, self.global_step)

    def training_step(self, batch: int, batch_idx: int) -> Tensor:
        step = self.global_step
        lesson = self.objective(self.representation, self.draws(step), needs_normals(self.settings.regularizers, step))
        terms = {"guidance": lesson.loss} | penalties(self.settings.regularizers, lesson.render, step)
        loss = torch.stack(list(terms.values())).sum()
        numbers = {f"loss/{name}": value.detach() for name, value in terms.items()} | lesson.info
        self.log_dict(numbers, batch_size=1)
        self.log("loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer's step and the representation's upkeep, so that callbacks which follow see a step that is complete."""
        super().optimizer_step(*args, **kwargs)
        forgotten = self.representation.after_step(self.global_step, self.draws(self.global_step))
        state = self.trainer.optimizers[0].state
        for parameter, rows in forgotten.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if parameter in state:
                    state[parameter][name][rows] = 0
