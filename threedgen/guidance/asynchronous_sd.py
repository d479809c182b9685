"""Asynchronous Score Distillation (ScaleDreamer, arXiv 2407.02040)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from threedgen.config.schema import setting
from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy

LATER = Term("text", "later")


@register("guidance", "asynchronous_sd")
@dataclass
class AsynchronousSD(Rule):
    """G = w(t) (eps_s(z_t, t) - eps_text(z_u, u)), u = t + shift (t - t_min) U(0,1), both states of the same noise.

    The frozen network at a larger timestep plays the part of the particles' score; nothing is trained.
    """

    shift: float = setting(0.1, "largest shift of the timestep, as a share of t - t_min", low=0.0, high=1.0)

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.noisers import random_noise

        lowest = self.scheduled("t_min", step.index) * len(step.alphas_cumprod)
        share = self.shift * step.draws.shared_uniform("shift")
        shift = (share * (step.t - lowest).clamp(min=0)).round().long()
        later = (step.t + shift).clamp(max=len(step.alphas_cumprod) - 1)
        return {"t": random_noise(step), "later": random_noise(replace(step, t=later))}, {}

    def terms(self) -> tuple[Term, ...]:
        return (*self.branches(), LATER)

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guided(eps, state, step) - eps[LATER]
