"""Category Score Distillation Sampling (Sparse3D, arXiv 2308.14078)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy

CATEGORY = Term("category")


@register("guidance", "c_sds")
@dataclass
class CSDS(Rule):
    """G = w(t) (eps_s(z_t, t | control, prompt) - eps(z_t, t | category)).

    The control image of a view carries what the sparse input views say; the prediction for the bare category, without control, image
    prompt or negative prompt, plays the noise's part. Input: "control" [B,K,H,W].
    """

    needs: ClassVar[tuple[str, ...]] = ("control",)
    category: str = setting("", "word for the kind of the object")

    def texts(self) -> dict[str, str]:
        return {"category": self.category}

    def wishes(self) -> frozenset[str]:
        return super().wishes() | {"control"}

    def terms(self) -> tuple[Term, ...]:
        return (*self.branches(), CATEGORY)

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        if term == CATEGORY:
            return {}
        return super().conditions(term, step) | {"control": step.input("control").to(step.z)}

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guided(eps, state, step) - eps[CATEGORY]
