"""Classifier Score Matching (TV-3DG, arXiv 2410.21299)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from threedgen.guidance.ism import ISM
from threedgen.guidance.rule import Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "csm")
@dataclass
class CSM(ISM):
    """G = w(t) s (eps_text - eps_neg) at a state made by DDIM inversion: neither a difference term nor random noise.

    With an image prompt beside the text (`image_scale`) it is VPCSM. ISM is CSM plus eps_null(z_t, t) - eps_null(z_s, s).
    """

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guidance_scale(step) * self.direction(eps, step, self.branches())

    def check(self) -> None:
        super().check()
        if self.cfg_mode != "two_branch":
            raise ValueError("csm is a difference of predictions: it needs cfg_mode two_branch")
