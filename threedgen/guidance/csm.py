"""Classifier Score Matching (TV-3DG, arXiv 2410.21299)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

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

    Semantic-geometry calibration is a pair of schedules, in our interpretation, for the publication gives no formula: in the last
    two fifths of the steps the weight of the image prompt falls, and Perp-Neg acts with the text alone. For 5,000 steps:
    `image_scale: [3000, 0.5, 0.2, 5000]`, `perp_neg: [3000, 0.0, 1.0, 3500]`.
    """

    difference: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("rescale",)

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guidance_scale(step) * self.direction(eps, step, self.branches())
