"""Depth-guided inpainting score distillation, DI-SDS (objects painted into scenes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "di_sds")
@dataclass
class DISDS(SDS):
    """G = m w(t) (eps_s(z_t, t | prompt, mask, masked image, depth) - eps): SDS inside a mask, on an inpainting network with depth control.

    Inputs: "mask" [B,1,H,W], at least 0.5 where the scene is to be painted; "source" [B,3,H,W] in [0,1], the unedited views;
    "depth" [B,1,H,W] or [B,K,H,W] in [0,1], in the form the control branch was trained on: usually disparity, bright is near.
    """

    needs: ClassVar[tuple[str, ...]] = ("mask", "source", "depth")

    def wishes(self) -> frozenset[str]:
        return super().wishes() | {"concat:5", "control"}

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        return super().conditions(term, step) | {"concat": beside(step), "control": step.input("depth").to(step.z)}

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        mask = beside(step)[:, :1]
        return mask * super().residual(eps, state, step)


def beside(step: Step) -> Tensor:
    """[B,1+C,h,w] mask of zeros and ones, nearest to the latents' size, then the latents of the masked image: the order of inpainting
    networks."""
    import torch

    def make() -> Tensor:
        mask = (step.input("mask") >= 0.5).to(step.z)
        # 0.5 is the grey that inpainting networks were given in place of the masked region.
        known = step.teacher.prior.encode(step.input("source").to(step.z) * (1 - mask) + 0.5 * mask)
        return torch.cat([torch.nn.functional.interpolate(mask, known.shape[-2:]), known], 1)

    return step.once("beside", make)
