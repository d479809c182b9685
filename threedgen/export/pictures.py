"""Pictures of eight bits a channel."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor


def to_image(rgb: Tensor) -> Image.Image:
    """[H,W,3] in [0,1] as an 8-bit image, rounded to nearest."""
    return Image.fromarray(np.rint(rgb.detach().cpu().double().clamp(0, 1).numpy() * 255).astype(np.uint8))
