"""Colours in space on a multiresolution hash grid (Instant-NGP, arXiv 2201.05989), for representations whose shape is elsewhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.config.schema import HashEncodingSettings
from threedgen.ops.hash_grid import HashGridSpec, hash_grid


def hash_grid_spec(s: HashEncodingSettings) -> HashGridSpec:
    """The levels of the grid that settings ask for."""
    return HashGridSpec(s.levels, s.features, s.log2_table, s.base_resolution, s.max_resolution)


class ColorField(nn.Module):
    """Colour [N,3] in [0,1] at points [N,3] of the cube of half side `radius`, near grey at first."""

    def __init__(self, spec: HashGridSpec, hidden: int, radius: float, rng: torch.Generator) -> None:
        super().__init__()
        self.spec, self.radius = spec, radius
        self.table = nn.Parameter((torch.rand(spec.rows, spec.features, generator=rng) * 2 - 1) * 1e-4)
        self.hidden = nn.Parameter(torch.randn(hidden, spec.width, generator=rng) * math.sqrt(2 / spec.width))
        self.head = nn.Parameter(torch.randn(3, hidden, generator=rng) * math.sqrt(1 / hidden))
        self.head_bias = nn.Parameter(torch.zeros(3))

    def forward(self, points: Tensor) -> Tensor:
        features = hash_grid((points / (2 * self.radius) + 0.5).clamp(0, 1), self.table, self.spec)
        return torch.sigmoid(F.linear(F.relu(F.linear(features, self.hidden)), self.head, self.head_bias))
