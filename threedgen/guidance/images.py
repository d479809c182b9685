"""Fitting to posed images: the loss of the pixels themselves, without a prior.

Not a rule of distillation: the settings of what a step compares with the images of `data`. Images with alpha are composited over a
colour that is drawn anew in every step, behind the rendering and the image alike, so that matter cannot hide as background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from threedgen.config.schema import POSED_IMAGES, setting
from threedgen.registry import register
from threedgen.schedule import at, knots_of


@register("guidance", "images")
@dataclass
class Images:
    """Settings of the fit: what is compared, how much of it a step sees, and where the data lies in the scene."""

    l1: Any = setting(1.0, "weight of the mean absolute difference of the colours", low=0.0, scheduled=True)
    l2: Any = setting(1.0, "weight of the mean squared difference of the colours", low=0.0, scheduled=True)
    ssim: Any = setting(
        0.2, "weight of 1 - SSIM, where whole views are rendered (arXiv 2308.04079); random rays have none", low=0.0, scheduled=True
    )
    mask: Any = setting(0.1, "weight of the mean squared difference of coverage and alpha, for images with alpha", low=0.0, scheduled=True)
    depth: Any = setting(0.0, "weight of the mean absolute difference of the depths, for data with depth", low=0.0, scheduled=True)
    normal: Any = setting(
        0.0, "weight of the mean squared difference of the normals, for data with normal maps (normal_file_path)", low=0.0, scheduled=True
    )
    rays: int = setting(
        4096, "random rays of a step; 0 renders whole views, as a representation without rays always does", unit="rays", low=0
    )
    views: int = setting(1, "whole views of a step", low=1, high=64)
    hold_out: int = setting(8, "every so many-th image is kept for the test, where the data names no test images", low=2, high=1000)
    downscale: int = setting(
        1, "side of the square of pixels that is averaged to one when the images are read", unit="pixels", low=1, high=64
    )
    depth_unit: float = setting(0.001, "length of one unit of a depth file, in units of the data's cameras", low=1e-9, high=1e9)
    center: list[float] = setting([], "point of the data that becomes the origin; [] finds it", unit="data units")
    scale: Any = setting("auto", "scene radii of one unit of the data; auto makes the object fit", low=1e-9, high=1e9, choices=("auto",))

    needs: ClassVar[tuple[str, ...]] = (POSED_IMAGES,)

    def check(self) -> None:
        """ValueError where nothing is compared, or the centre is no point."""
        if len(self.center) not in (0, 3):
            raise ValueError(f"center must be [x, y, z], or [] to find it, got {self.center}")
        compared = [self.l1, self.l2] if self.rays else [self.l1, self.l2, self.ssim]
        for knot, _ in (pair for number in compared for pair in knots_of(number)):
            if not any(at(number, int(knot)) for number in compared):
                raise ValueError(f"the colours are compared by nothing at step {int(knot)}: set l1 or l2 above 0")

    def hears_negative(self) -> bool:
        """No prompt plays a part."""
        return False
