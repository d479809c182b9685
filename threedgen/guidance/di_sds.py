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
    from threedgen.guidance.noisers import Noisy


@register("guidance", "di_sds")
@dataclass
class DISDS(SDS):
    """G = w(t) mask (eps_s(z_t, t | prompt, mask, masked image, depth) - eps): SDS on an inpainting network with depth control.

    Inputs: "mask" [B,1,H,W], 1 where the scene is to be painted; "source" [B,3,H,W], the unedited views; "depth" [B,K,H,W].
    """

    needs: ClassVar[tuple[str, ...]] = ("mask", "source", "depth")

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        mask, source = step.input("mask").to(step.z), step.input("source").to(step.z)
        # 0.5 is the grey that inpainting networks were given in place of the masked region.
        known = step.teacher.prior.encode(source * (1 - mask) + 0.5 * mask)
        return super().conditions(term, step) | {"concat": beside(mask, known), "control": step.input("depth").to(step.z)}

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return super().residual(eps, state, step) * shrunk(step.input("mask"), step.z)


def shrunk(mask: Tensor, latents: Tensor) -> Tensor:
    """[B,1,h,w] the nearest entries of a mask at the size of latents [B,C,h,w]."""
    import torch

    return torch.nn.functional.interpolate(mask.to(latents), latents.shape[-2:])


def beside(mask: Tensor, latents: Tensor) -> Tensor:
    """[B,1+C,h,w] mask, then the latents of the masked image: the order of inpainting networks."""
    import torch

    return torch.cat([shrunk(mask, latents), latents], 1)
