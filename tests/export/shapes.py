"""Meshes that the tests of the export share."""

from __future__ import annotations

import torch
import trimesh

from threedgen.representations.base import Mesh


def from_trimesh(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(shape.vertices).float(), torch.tensor(shape.faces).long())


def box(extents: tuple[float, float, float] = (1.0, 1.0, 1.0), centre: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Mesh:
    shape = trimesh.creation.box(extents)
    shape.apply_translation(centre)
    return from_trimesh(shape)


def sphere(radius: float = 0.8, centre: tuple[float, float, float] = (0.0, 0.0, 0.0), level: int = 3) -> Mesh:
    shape = trimesh.creation.icosphere(level, radius)
    shape.apply_translation(centre)
    return from_trimesh(shape)


def joined(*meshes: Mesh) -> Mesh:
    offsets = torch.tensor([0] + [len(m.vertices) for m in meshes]).cumsum(0)
    faces = [m.faces + offset for m, offset in zip(meshes, offsets[:-1], strict=True)]
    return Mesh(torch.cat([m.vertices for m in meshes]), torch.cat(faces))


def volume(mesh: Mesh) -> float:
    """Signed volume, positive where faces look outward."""
    a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


def waves(points: torch.Tensor) -> torch.Tensor:
    """A smooth colour field in [0.1, 0.9]."""
    return 0.5 + 0.4 * torch.sin(2 * points + torch.tensor([0.0, 1.0, 2.0]))


def noise(side: int) -> torch.Tensor:
    """A texture [side,side,3] of uniform noise, always the same."""
    return torch.rand(side, side, 3, generator=torch.Generator().manual_seed(side))
