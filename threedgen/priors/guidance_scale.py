"""The guidance scale as an input of a network that was distilled to take it (arXiv 2210.03142, 2310.04378)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PERIODS = 10_000
STRETCH = 1000


def guidance_embedding(guidance: Tensor, size: int) -> Tensor:
    """[B,size] float32 sines, then cosines, of w = guidance - 1 at falling frequencies; guidance [B], 1 is none."""
    half = size // 2
    frequency = torch.arange(half, device=guidance.device).mul(-math.log(PERIODS) / max(half - 1, 1)).exp()
    phase = STRETCH * (guidance.float() - 1)[:, None] * frequency
    return F.pad(torch.cat([phase.sin(), phase.cos()], 1), (0, size % 2))
