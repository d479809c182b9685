"""Score Distillation Sampling (DreamFusion, arXiv 2209.14988)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "sds")
@dataclass
class SDS(Rule):
    """G = w(t) (eps_s - eps), eps_s = eps_neg + s (eps_text - eps_neg), eps_neg that of the negative prompt (empty: the null prompt).

    With `weight: sigma_over_alpha` this is the reconstruction form: G = z - z0_hat, the gradient of |z - z0_hat|^2 / 2.
    """

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guided(eps, state, step) - state["t"].noise
