"""Meshes in clip space that the tests of operators on pixels look at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops import rasterize


def soup(seed: int = 0, dtype: torch.dtype = torch.float64, images: int = 2, faces: int = 30) -> tuple[Tensor, Tensor]:
    """Random triangles that pierce each other, some partly outside of the image: clip [B,V,4], faces [F,3]."""
    rng = torch.Generator().manual_seed(seed)
    clip = torch.randn(images, 40, 4, generator=rng, dtype=torch.float64)
    clip[..., 3] = 1.5 * clip[..., 3].abs() + 0.4
    return clip.to(dtype), torch.randint(0, 40, (faces, 3), generator=rng)


def tilted(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """One large triangle in perspective."""
    world = torch.tensor([[-1.3, -1.1, -2.0], [2.4, -0.9, -6.0], [-0.4, 1.9, -3.0]], dtype=dtype)
    return torch.stack([world[:, 0], world[:, 1], -world[:, 2] - 0.2, -world[:, 2]], -1)[None], torch.tensor([[0, 1, 2]])


def disc(
    corners: int, radius: float, centre: tuple[float, float] = (0.0, 0.0), dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """A regular polygon around a middle vertex, w = 1."""
    angle = torch.arange(corners, dtype=dtype) * (2 * math.pi / corners)
    rim = torch.stack([angle.cos(), angle.sin()], -1) * radius
    flat = torch.cat([rim, rim.new_zeros(1, 2)]) + rim.new_tensor(centre)
    around = torch.arange(corners)
    faces = torch.stack([torch.full_like(around, corners), around, (around + 1) % corners], -1)
    return torch.cat([flat, flat.new_tensor([0.0, 1.0]).expand(corners + 1, 2)], -1)[None], faces


def scene(name: str, dtype: torch.dtype = torch.float64, size: tuple[int, int] = (19, 23)) -> tuple[Tensor, Tensor, Tensor]:
    """clip [B,V,4], faces [F,3] and the face [B,H,W] at every pixel of a named scene."""
    clip, faces = {
        "soup": lambda: soup(dtype=dtype),
        "dense": lambda: soup(3, dtype, images=1, faces=300),
        "tilted": lambda: tilted(dtype),
        "fine disc": lambda: disc(200, 0.7, (0.03, -0.02), dtype),
        "degenerate": lambda: (tilted(dtype)[0], torch.tensor([[0, 1, 1], [0, 1, 2], [2, 2, 2]])),
        "nothing seen": lambda: (tilted(dtype)[0] * torch.tensor([1, 1, 1, -1]), torch.tensor([[0, 1, 2]])),
        "no faces": lambda: (torch.zeros(2, 0, 4, dtype=dtype), torch.zeros(0, 3, dtype=torch.int64)),
    }[name]()
    return clip, faces, rasterize(clip, faces, *size)[0]


SCENES = ("soup", "dense", "tilted", "fine disc", "degenerate", "nothing seen", "no faces")
