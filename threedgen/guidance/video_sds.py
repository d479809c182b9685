"""Video score distillation (MAV3D, arXiv 2301.11280; 4D-fy, arXiv 2311.17984)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.registry import register


@register("guidance", "video_sds")
@dataclass
class VideoSDS(SDS):
    """G = w(t) (eps_s - eps) on the frames of a clip: one timestep, noise of its own for each frame, the frames answered jointly.

    The rows of a step are consecutive frames from one camera; a video network is told no camera.
    """

    cfg: Any = setting(100.0, "guidance scale; see sds", low=-100.0, high=1000.0, scheduled=True)

    def wishes(self) -> frozenset[str]:
        return super().wishes() | {"no camera"}

    def branches(self, state: str = "t", cond: str = "text", negative: str = "negative", net: str = "prior") -> tuple[Term, ...]:
        return tuple(replace(t, camera=False) for t in super().branches(state, cond, negative, net))
