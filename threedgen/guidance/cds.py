"""Consistency Distillation Sampling (Consistent3D, arXiv 2401.09050)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import T_SAMPLERS, WEIGHTS, Rule, Term
from threedgen.registry import register
from threedgen.schedule import knots_of

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "cds")
@dataclass
class CDS(Rule):
    """G = w (eps_s(z_t, t) - eps_s(z_s, s)): fixed noise for the whole run, s < t, z_s by one step of the ODE from z_t.

    The sampled timestep is s; t lies an interval above it.
    """

    weight: str = setting("one", "w(t); see sds", choices=WEIGHTS)
    t_min: Any = setting(0.1, "smallest s, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_max: Any = setting(0.7, "largest s, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_sampler: str = setting("hifa", "s of a step; see sds", choices=T_SAMPLERS)
    cfg: Any = setting([0, 101, 51, 3000], "guidance scale; see sds", low=-100.0, high=1000.0, scheduled=True)
    grad_clip: Any = setting([0, 2.0, 8.0, 1000], "largest absolute value of an entry of the gradient", low=0.0, scheduled=True)
    interval: list[float] = setting([0.1, 0.3], "range of t - s, as a share of the schedule", low=0.0, high=1.0, length=2, ascending=True)

    def check(self) -> None:
        super().check()
        highest = max(value for _, value in knots_of(self.t_max))
        if self.interval[0] <= 0 or highest + self.interval[1] > 1 + 1e-9:
            raise ValueError(f"interval {self.interval} must begin above 0, and end within the schedule above t_max ({highest})")

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.noisers import fixed_noise, moved

        count = len(step.alphas_cumprod)
        gap = round(float(step.draws.shared_uniform("interval", (), *self.interval)) * count)
        upper = (step.t + gap).clamp(max=count - 1)
        far = fixed_noise(replace(step, t=upper))
        eps = step.teacher.predict(self.branches(), {"t": far}, step)
        near = moved(far, self.guided(eps, {"t": far}, step), step.t, step.alphas_cumprod)
        return {"t": far, "s": near}, eps

    def terms(self) -> tuple[Term, ...]:
        return self.branches() + self.branches("s")

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guided(eps, state, step) - self.guided(eps, state, step, "s")
