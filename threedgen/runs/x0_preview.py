"""Pictures of what the prior takes the current renderings for, beside them: to see where a guidance pulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F

from threedgen import ranks
from threedgen.guidance.estimates import clean_estimates
from threedgen.runs.callbacks import PREVIEW_SIZE, PREVIEW_VIEWS, write_picture
from threedgen.runs.folder import RunFolder
from threedgen.schedule import milestone
from threedgen.systems.distillation import Distillation

LEVELS = 6


class X0Previews(Callback):
    """Writes previews/<stage>-x0-<step>.png every so many steps. Nothing of the run depends on it."""

    def __init__(self, folder: RunFolder, stage: str, every: int) -> None:
        self.folder, self.stage, self.every = folder, stage, every

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, Distillation)
        if self.every and trainer.global_step % self.every == 0:
            path = self.folder.previews / f"{self.stage}-x0-{trainer.global_step:06d}.png"
            with ranks.alone():
                write_x0_preview(pl_module, trainer.global_step - 1, path)


def write_x0_preview(system: Distillation, step: int, path: Path) -> None:
    """A picture with a row per view: the rendering, then the decoded estimates from the lowest noise level to the highest."""
    cells = x0_grid(system, step)
    sized = F.interpolate(cells.flatten(0, 1), (PREVIEW_SIZE, PREVIEW_SIZE), mode="bilinear", antialias=True)
    rows = sized.unflatten(0, cells.shape[:2])
    write_picture(rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2), path)


@torch.no_grad()
def x0_grid(system: Distillation, step: int) -> Tensor:
    """[V,1+6,3,R,R] in [0,1]: renderings of fixed cameras all around, and what the prior takes them for after a step.

    The prior sees as many views at a time as in a step of the run, spread evenly; of several scenes, the first one. Guidance is plain
    CFG at the rule's scale, also for rules that leave parts of it out (CSD, NFSD).
    """
    settings = system.settings
    views = settings.cameras.views
    groups = -(-PREVIEW_VIEWS // views)
    around = system.sampler.turntable(groups * views, int(milestone(settings.cameras.resolution, step))).to(system.device)
    rows = []
    for group in range(groups):
        cameras = around[list(range(group, groups * views, groups))]
        render = system.representation.render(cameras)
        seen, estimates = clean_estimates(
            settings.guidance,
            system.objective.teacher,
            render.rgb,
            cameras,
            system.draws(step),
            levels=LEVELS,
            total=settings.steps,
            latent=render.latent,
        )
        shown = F.interpolate(seen, estimates.shape[-2:], mode="bilinear", antialias=True)
        rows.append(torch.cat([shown[None], estimates]).transpose(0, 1))
    return torch.stack(rows, 1).flatten(0, 1)
