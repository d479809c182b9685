"""Score Distillation Sampling (DreamFusion, arXiv 2209.14988), with its reconstruction form and CFG rescale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Noisy


@register("guidance", "sds")
@dataclass
class SDS(Rule):
    """G = w(t) (eps_s - eps), eps_s = eps_neg + s (eps_text - eps_neg), eps_neg that of the negative prompt (empty: the null prompt).

    With `weight: sigma_over_alpha` this is the reconstruction form: G = z - z0_hat, the gradient of |z - z0_hat|^2 / 2.
    """

    rescale: Any = setting(
        0.0, "share of the CFG standard-deviation rescale (arXiv 2305.08891, MVDream)", low=0.0, high=1.0, scheduled=True
    )

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: int) -> Tensor:
        noisy = state["t"]
        guided = self.guided(eps, noisy, step)
        return guided - noisy.noise

    def guided(self, eps: dict[Term, Tensor], noisy: Noisy, step: int) -> Tensor:
        """Noise prediction with classifier-free guidance, rescaled where asked."""
        text, negative = (eps[term] for term in self.terms)
        guided = negative + self.scheduled("cfg", step) * (text - negative)
        return noisy.rescaled(guided, text, self.scheduled("rescale", step))
