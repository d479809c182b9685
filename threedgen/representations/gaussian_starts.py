"""What a cloud of Gaussians begins as: points in a ball, on the surface of a mesh, or of a point cloud file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor

from threedgen.config.schema import GaussiansSettings
from threedgen.errors import UserError
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import sample_faces
from threedgen.representations.mesh_loading import load_mesh

GREY = 0.5
SHADES = 0.1  # of the random colours of a ball around grey


@dataclass(frozen=True)
class Start:
    """Points [N,3] in the world with colours rgb [N,3] in [0,1] and standard deviations [N]."""

    points: Tensor
    rgb: Tensor
    deviations: Tensor


def start_of(settings: GaussiansSettings, rng: torch.Generator) -> Start:
    """What the settings ask for.

    Raises:
        UserError: the file cannot be read, or holds neither a mesh nor points.
    """
    if settings.start == "sphere":
        return ball(settings.count, settings.start_radius, rng)
    file = Path(settings.start)
    if file.suffix.lower() == ".ply" and (cloud := _points_of(file)) is not None:
        return cloud
    return on_mesh(load_mesh(file, fit_radius=settings.start_radius), settings.count, rng)


def ball(count: int, radius: float, rng: torch.Generator) -> Start:
    """Points uniform in a ball, nearly grey (DreamGaussian, arXiv 2309.16653)."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    points = direction * radius * torch.rand(count, 1, generator=rng) ** (1 / 3)
    rgb = GREY + SHADES * (torch.rand(count, 3, generator=rng) - 0.5)
    return Start(points, rgb, spacing(points))


def on_mesh(mesh: Mesh, count: int, rng: torch.Generator) -> Start:
    """Points uniform on the surface, with its colours."""
    face, weights = sample_faces(mesh, count, rng)
    points = (weights[..., None] * mesh.vertices[mesh.faces[face]]).sum(1)
    return Start(points, _colours(mesh, face, weights), spacing(points))


def _colours(mesh: Mesh, face: Tensor, weights: Tensor) -> Tensor:
    """[N,3] colours of points given by their face [N] and weights [N,3] of its vertices; grey where the mesh has none."""
    if mesh.texture is not None and mesh.uv is not None:
        uv = (weights[..., None] * mesh.uv[mesh.faces[face]]).sum(1)
        size = torch.tensor([mesh.texture.shape[1], mesh.texture.shape[0]])
        column, row = (uv * size).long().clamp(min=torch.zeros(2, dtype=torch.long), max=size - 1).unbind(-1)
        return mesh.texture[row, column]
    if mesh.vertex_rgb is not None:
        return (weights[..., None] * mesh.vertex_rgb[mesh.faces[face]]).sum(1)
    return torch.full((len(face), 3), GREY)


def _points_of(file: Path) -> Start | None:
    """The points of a PLY file; None where it holds a mesh."""
    try:
        loaded = trimesh.load(file)
    except Exception as error:
        raise UserError(f"{file}: not a point cloud that can be read ({error})") from None
    if not isinstance(loaded, trimesh.PointCloud):
        return None
    points = torch.from_numpy(np.asarray(loaded.vertices, dtype=np.float32))
    if len(points) < 4 or not points.isfinite().all():
        raise UserError(f"{file}: a cloud of at least 4 finite points is needed, got {len(points)}")
    colours = np.asarray(loaded.colors)
    rgb = torch.from_numpy(colours[:, :3].astype(np.float32) / 255) if len(colours) == len(points) else torch.full_like(points, GREY)
    return Start(points, rgb, spacing(points))


def spacing(points: Tensor) -> Tensor:
    """[N] root mean square distance of each point to its three nearest neighbours."""
    distance, _ = KDTree(points.numpy()).query(points.numpy(), k=4)
    squared = torch.from_numpy(np.square(distance[:, 1:]).mean(1)).float()
    return squared.clamp(min=1e-7).sqrt()
