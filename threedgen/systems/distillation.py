"""The Lightning module that distils a prior, or fits images, into a representation; the one place that sees all parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from threedgen import ranks
from threedgen.cameras import OrbitSampler
from threedgen.config.schema import StageSettings
from threedgen.data.posed_images import PosedImages
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.core import Teacher
from threedgen.representations.base import Representation
from threedgen.schedule import at
from threedgen.systems.fitting import fit_objective
from threedgen.systems.objectives import check_latents, objective_of
from threedgen.systems.regularizers import needs_normals, penalties
from threedgen.systems.safe_step import are_finite, buffers_of, halve_chunks, is_out_of_memory, norm_of, put_back

BROKEN = "the parameters are not finite"


class Distillation(pl.LightningModule):
    """One stage: cameras -> render -> guidance -> loss, with penalties, schedules and the representation's own upkeep.

    The teacher is a prior with its prompts, or the posed images of a fit; cameras and objective are those it asks for.
    A batch is the index of the step; nothing but (seed, step, view) decides what is drawn. Where several processes share the steps
    (threedgen.ranks), each renders a part of the views and has the gradient of these; all of them take the same steps, to the bit.

    Attributes:
        refused: why the last step was left out; empty where it was taken. BROKEN where the parameters are not finite any more.
        gradient: its norm in the last step.
        chunk: samples rendered at once, if memory ran out; 0 otherwise.
    """

    def __init__(self, settings: StageSettings, representation: Representation, teacher: Teacher | PosedImages, seed: int) -> None:
        super().__init__()
        self.settings, self.representation, self.seed = settings, representation, seed
        self.refused, self.gradient, self.chunk, self.seen = "", 0.0, 0, list[Tensor]()
        for group in representation.param_groups(0.0, 0.0):
            for parameter in group["params"]:
                parameter.requires_grad_(self.trains(group))
        self.sampler = OrbitSampler(settings.cameras)
        if isinstance(teacher, PosedImages):
            self.objective = fit_objective(settings, teacher)
        else:
            check_latents(settings, teacher.prior)
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
        self.seen = [loss.detach(), *(lesson.info[name].detach() for name in ("critic",) if name in lesson.info)]
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step without gradients changes nothing, so that is what one becomes whose numbers are not finite."""
        ranks.add_gradients(self.representation.parameters())
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.gradient = norm_of(gradients)
        if not are_finite(self.seen):
            self.refused = "the loss is not finite"
        elif not math.isfinite(self.gradient):
            self.refused = "the gradient is not finite"
        if self.refused:
            optimizer.zero_grad(set_to_none=True)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """The optimizer's step and the representation's upkeep, so that callbacks which follow see a step that is complete.

        A step that runs out of memory is done again in smaller parts. Of one that is `refused` nothing is left but its number; draws
        are keyed on it, so the next one is another.
        """
        before, self.refused = buffers_of(self.representation), ""
        while self.runs_out_of_memory(lambda: super(Distillation, self).optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)):
            put_back(self.representation, before)
            optimizer.zero_grad(set_to_none=True)
            self.chunk = halve_chunks(self.representation.scenes, self.global_step)
        if self.refused:
            put_back(self.representation, before)
        else:
            self.add_notes(before)
            self.keep_up()
        if not are_finite(self.representation.parameters()):
            self.refused = BROKEN

    def add_notes(self, before: dict[str, Tensor]) -> None:
        """Put together what the processes have noted of their views since the buffers were like this (`Representation.noted`)."""
        for name, value in before.items() if ranks.count() > 1 else ():
            if name.rpartition(".")[2] in self.representation.scenes[0].noted:
                buffer = self.representation.get_buffer(name)
                buffer.copy_(value + ranks.added(buffer - value))

    def keep_up(self) -> None:
        """The representation's upkeep, with the moments forgotten of rows that stand for something else now."""
        forgotten = self.representation.after_step(self.global_step, self.draws(self.global_step))
        state = self.trainer.optimizers[0].state
        for parameter, rows in forgotten.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if parameter in state:
                    state[parameter][name][rows] = 0

    def runs_out_of_memory(self, step: Callable[[], None]) -> bool:
        """Try a step; whether there was too little memory for it. What it held is free again on return."""
        try:
            step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if ranks.count() > 1:  # the others wait for the results of this pass
                raise UserError("memory ran out: lower cameras.resolution, or set devices=1, which tries again in smaller parts") from error
            return True
        return False
