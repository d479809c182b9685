"""Entropic Score Distillation (Taming Mode Collapse, arXiv 2401.00909)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threedgen.config.schema import setting
from threedgen.guidance.vsd import VSD
from threedgen.registry import register


@register("guidance", "esd")
@dataclass
class ESD(VSD):
    """G = w(t) (eps_s - [lambda eps_phi(none) + (1 - lambda) eps_phi(camera)]): VSD with guidance scale 1 - lambda on the critic's camera.

    lambda 0 is VSD, 1 knows the renderings of all cameras only, which rewards their variety. `critic_cfg` is 1 - lambda.
    """

    critic_cfg: Any = setting(0.5, "1 - lambda", low=0.0, high=1.0, scheduled=True)
