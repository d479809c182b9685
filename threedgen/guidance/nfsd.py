"""Noise-Free Score Distillation (arXiv 2310.17590)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy

FLAWS = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"


@register("guidance", "nfsd")
@dataclass
class NFSD(Rule):
    """G = w(t) (delta_D + s delta_C): delta_C = eps_text - eps_null; delta_D = eps_null below `switch`, eps_null - eps_flaws above.

    To the closed-form prior, which knows its objects only, the prompt of flaws says nothing, and delta_D above `switch` is 0.
    A negative prompt plays no part: `flaws` is the rule's own.
    The noise part of the null prediction is left out: at little noise it is small, above it cancels against that of the prompt of flaws.
    """

    difference: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("rescale",)
    switch: Any = setting(0.2, "share of the schedule below which delta_D is the null prediction", low=0.0, high=1.0, scheduled=True)
    flaws: str = setting(FLAWS, "prompt of what no image should be")

    def texts(self) -> dict[str, str]:
        return {"flaws": self.flaws}

    def terms(self) -> tuple[Term, ...]:
        return (Term("null"), Term("flaws"), *(t for t in self.branches("t", "text", "null") if t != Term("null")))

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        null = eps[Term("null")]
        above = step.t >= self.scheduled("switch", step.index) * len(step.alphas_cumprod)
        domain = null - above[:, None, None, None].to(null) * eps[Term("flaws")]
        return domain + self.guidance_scale(step) * self.direction(eps, step, self.branches("t", "text", "null"))
