"""Small fields that the tests of this room look at."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from threedgen.config.schema import HashGridSettings
from threedgen.representations.hashgrid import HashGridField

SMALL = HashGridSettings(levels=4, log2_table=10, base_resolution=4, max_resolution=16, hidden=8, occupancy_resolution=16, samples=64)


def blob_field(**changes: object) -> HashGridField:
    """A fresh small field: the density blob, and colours near grey."""
    return HashGridField(dataclasses.replace(SMALL, **changes), seed=0)


def rough_field(**changes: object) -> HashGridField:
    """A field with features as large as trained ones have them, so that density and colour vary in space."""
    field = blob_field(**changes)
    with torch.no_grad():
        field.table.normal_(0, 0.5, generator=torch.Generator().manual_seed(7))
    field.refresh_occupancy(torch.full((field.settings.occupancy_resolution**3, 3), 0.5))
    return field


def points_in_ball(count: int, radius: float, seed: int = 0) -> Tensor:
    """[N,3] uniform in the ball."""
    rng = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    return directions * radius * torch.rand(count, 1, generator=rng) ** (1 / 3)
