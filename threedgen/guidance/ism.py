"""Interval Score Matching (LucidDreamer, arXiv 2311.11284)."""

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


@register("guidance", "ism")
@dataclass
class ISM(Rule):
    """G = w(t) (eps_s(z_t, t) - eps_null(z_s, s)) on one deterministic trajectory, s = t - delta.

    z_s comes from the clean latent by DDIM inversion with the null prompt; the prediction that moves it on to t is the one subtracted.
    """

    weight: str = setting("sigma_over_alpha", "w(t); see sds", choices=WEIGHTS)
    t_max: Any = setting([0, 0.98, 0.5, 1500], "largest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    scale: Any = setting(0.1, "factor on the loss", low=0.0, scheduled=True)
    delta: Any = setting([0, 100, 80, 1500], "interval between the two timesteps", unit="timesteps", low=1, high=1000, scheduled=True)
    stride: int = setting(200, "length of a move of the inversion", unit="timesteps", low=1, high=1000)
    moves: int = setting(5, "largest number of moves of the inversion before the interval", low=0, high=1000)
    offset: float = setting(0.1, "scale of a constant offset per channel in the noise the inversion starts with", low=0.0, high=1.0)

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.noisers import inverted

        delta = max(round(self.scheduled("delta", step.index)), 1)
        return {"t": inverted(step, stride=self.stride, most=self.moves, last=delta, spread=self.offset)}, {}

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        # The noise of an inverted state is the prediction of its last move.
        return self.guided(eps, state, step) - state["t"].noise
