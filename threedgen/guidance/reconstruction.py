"""Reconstruction form of score distillation, with CFG rescale (MVDream, arXiv 2308.16512; StableDreamer, arXiv 2312.02189)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threedgen.config.schema import setting
from threedgen.guidance.sds import SDS
from threedgen.registry import register


@register("guidance", "reconstruction")
@dataclass
class Reconstruction(SDS):
    """G = z - z0_hat(eps_s), the render pulled to the one-step estimate whose standard deviation is that of the text's.

    In pixel space the gradient is x - decode(z0_hat), which needs no derivative of the encoder.
    """

    weight: str = setting("sigma_over_alpha", "w(t); sigma/alpha is what makes it a reconstruction", choices=("sigma_over_alpha",))
    space: str = setting("pixel", "where the gradient lands: latent, pixel, or both", choices=("latent", "pixel", "both"))
    rescale: Any = setting(
        0.5, "share of the CFG standard-deviation rescale (arXiv 2305.08891, MVDream)", low=0.0, high=1.0, scheduled=True
    )
