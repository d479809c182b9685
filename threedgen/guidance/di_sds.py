"""Depth-guided inpainting score distillation, DI-SDS (GSEdit-style inpainting of scenes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step


@register("guidance", "di_sds")
@dataclass
class DISDS(SDS):
    """G = w(t) (eps_s(z_t, t | prompt, mask, masked image, depth) - eps): the rule of SDS on an inpainting network with depth control.

    Inputs: "mask" [B,1,H,W], 1 where the scene is to be painted; "source" [B,3,H,W], the unedited views; "depth" [B,K,H,W].
    """

    needs: ClassVar[tuple[str, ...]] = ("mask", "source", "depth")

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        mask, source = step.input("mask").to(step.z), step.input("source").to(step.z)
        # 0.5 is the grey that inpainting networks were given in place of the masked region.
        known = step.teacher.prior.encode(source * (1 - mask) + 0.5 * mask)
        return super().conditions(term, step) | {"concat": beside(mask, known), "control": step.input("depth").to(step.z)}


def beside(mask: Tensor, latents: Tensor) -> Tensor:
    """[B,1+C,h,w] mask, nearest to the latents' size, then the latents of the masked image: the order of inpainting networks."""
    import torch

    return torch.cat([torch.nn.functional.interpolate(mask, latents.shape[-2:]), latents], 1)
