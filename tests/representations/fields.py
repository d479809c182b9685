"""Small fields that the tests of this room look at."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import Cameras, orbit_cameras
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
    field.refresh_occupancy()
    return field


def points_in_ball(count: int, radius: float, seed: int = 0) -> Tensor:
    """[N,3] uniform in the ball."""
    rng = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    return directions * radius * torch.rand(count, 1, generator=rng) ** (1 / 3)


def ring(views: int = 2, size: int = 12, distance: float = 2.6) -> Cameras:
    return orbit_cameras([360.0 * v / views for v in range(views)], 20.0, distance, 40.0, size, size)


def random_rays(count: int, seed: int = 0, distance: float = 2.6) -> tuple[Tensor, Tensor]:
    """Rays from a sphere around the scene towards points in it."""
    rng = torch.Generator().manual_seed(seed)
    origins = F.normalize(torch.randn(count, 3, generator=rng), dim=-1) * distance
    return origins, F.normalize(points_in_ball(count, 0.8, seed + 1) - origins, dim=-1)
