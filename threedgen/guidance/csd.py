"""Classifier Score Distillation (arXiv 2310.19415)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import WEIGHTS, Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "csd")
@dataclass
class CSD(Rule):
    """G = w(t) (a_text eps_text + a_negative eps_negative + a_null eps_null + a_noise eps).

    (1, 0, -1, 0) is the classifier score alone; (s, 0, 1 - s, -1) is SDS with guidance scale s. With Perp-Neg the perpendicular parts
    of the view-dependent negatives are added. `cfg` plays no part.
    """

    difference: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ("cfg", "cfg_range", "rescale")
    weight: str = setting("one", "w(t); see sds", choices=WEIGHTS)
    text: Any = setting(1.0, "coefficient of the prompt's prediction", low=-100.0, high=1000.0, scheduled=True)
    negative: Any = setting(0.0, "coefficient of the negative prompt's prediction", low=-1000.0, high=100.0, scheduled=True)
    null: Any = setting(-1.0, "coefficient of the null prompt's prediction", low=-1000.0, high=100.0, scheduled=True)
    noise: Any = setting(0.0, "coefficient of the noise", low=-100.0, high=100.0, scheduled=True)

    def terms(self) -> tuple[Term, ...]:
        wanted = (Term("text"), Term("null")) + (() if self.negative == 0 else (Term("negative"),))
        return wanted + (self.branches() if self.perp_neg != 0 else ())

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        parts = {name: self.scheduled(name, step.index) * eps[Term(name)] for name in ("text", "negative", "null") if Term(name) in eps}
        total = sum(parts.values(), self.scheduled("noise", step.index) * state["t"].noise)
        if self.perp_neg != 0:
            total = total + self.direction(eps, step, self.branches()) - (eps[Term("text")] - eps[Term("null")])
        return total
