"""Score Jacobian Chaining (arXiv 2212.00774)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import WEIGHTS, Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "sjc")
@dataclass
class SJC(Rule):
    """G = -(D(y_s) - y) / s in variance-exploding coordinates y_s = z + s n, s = sigma/alpha, D the denoised y_s.

    Without variance reduction the score is taken at the noisy point, -(D - y_s) / s; the two differ by the noise alone.
    """

    weight: str = setting("one", "w(t); see sds", choices=WEIGHTS)
    t_min: Any = setting(0.01, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_max: Any = setting(0.97, "largest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    variance_reduction: bool = setting(True, "whether the score is taken against the clean latent, which cancels the noise")

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        noisy = state["t"]
        scale = noisy.sigma / noisy.alpha
        denoised = noisy.estimate(self.guided(eps, state, step))
        start = noisy.z if self.variance_reduction else noisy.z_t / noisy.alpha
        return (start - denoised) / scale
