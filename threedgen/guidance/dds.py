"""Delta Denoising Score (arXiv 2304.07090)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import WEIGHTS, Rule, Term
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy


@register("guidance", "dds")
@dataclass
class DDS(Rule):
    """G = w(t) (eps_s(z_t, t, prompt) - eps_s(z'_t, t, source prompt)), z' the latents of the unedited scene, same noise and timestep."""

    needs: ClassVar[tuple[str, ...]] = ("source",)
    weight: str = setting("one", "w(t); see sds", choices=WEIGHTS)
    source_prompt: str = setting("", "what the unedited scene shows")

    def texts(self) -> dict[str, str]:
        return {"source": self.source_prompt}

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        from threedgen.guidance.noisers import random_noise

        before = step.teacher.prior.encode(step.input("source").to(step.z))
        return {"t": random_noise(step), "source": random_noise(replace(step, z=before))}, {}

    def terms(self) -> tuple[Term, ...]:
        return self.branches() + self.branches("source", "source")

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        return self.guided(eps, state, step) - self.guided(eps, state, step, "source", "source")
