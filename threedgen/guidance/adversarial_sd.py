"""Adversarial Score Distillation (arXiv 2312.00739)."""

from __future__ import annotations

from dataclasses import dataclass

from threedgen.config.schema import setting
from threedgen.guidance.vsd import VSD
from threedgen.registry import register


@register("guidance", "adversarial_sd")
@dataclass
class AdversarialSD(VSD):
    """The residual of VSD; the critic's loss is |eps_phi - eps|^2 + gamma |eps_phi - eps_text|^2.

    Its optimum is the renderings' score pushed away from the prior's: (eps* + gamma eps_text) / (1 + gamma).
    """

    gamma: float = setting(-0.75, "weight of the distance to the prior; above -1, or the critic diverges", low=-0.999, high=100.0)

    def prior_weight(self) -> float:
        return self.gamma
