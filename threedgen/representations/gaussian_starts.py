"""What a cloud of Gaussians begins as: points in a ball, on the surface of a mesh, or of a point cloud file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from skimage import measure
from torch import Tensor

from threedgen.config.schema import GaussiansSettings
from threedgen.errors import UserError
from threedgen.representations.base import Mesh
from threedgen.representations.initial_shape import Distance
from threedgen.representations.mesh import face_normals, sample_faces
from threedgen.representations.mesh_loading import load_mesh

GREY = 0.5
THICKNESS = 0.2  # of a disc on a surface, of its radius
HULL_CELLS = 80  # of the grid on which a hull is found
SHADES = 0.1  # of the random colours of a ball around grey


@dataclass(frozen=True)
class Start:
    """Points [N,3] in the world with colours rgb [N,3] in [0,1] and standard deviations [N].

    With unit normals [N,3] they are discs that lie on a surface, else balls.
    """

    points: Tensor
    rgb: Tensor
    deviations: Tensor
    normals: Tensor | None = None

    def log_scales(self) -> Tensor:
        """[N,3] logarithms of the standard deviations along the axes; those of a disc are thin along the last."""
        scales = self.deviations.log()[:, None].repeat(1, 3)
        return scales if self.normals is None else scales + torch.tensor([0.0, 0.0, math.log(THICKNESS)])

    def quaternions(self) -> Tensor:
        """[N,4] (w, x, y, z) that turn the last axis to the normal, or to its opposite."""
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(self.points)
        normals = up if self.normals is None else self.normals
        x, y, z = (normals * torch.where(normals[:, 2:] < 0, -1, 1)).unbind(-1)
        return torch.nn.functional.normalize(torch.stack([1 + z, -y, x, torch.zeros_like(z)], -1), dim=-1)


def start_of(settings: GaussiansSettings, rng: torch.Generator, hull: Distance | None = None) -> Start:
    """What the settings ask for.

    Args:
        hull: distances to what the start "hull" lies on, the visual hull of the images that are fitted.

    Raises:
        UserError: the file cannot be read, or holds neither a mesh nor points; nothing lies in the hull.
        ValueError: there is no hull.
    """
    if settings.start == "hull":
        if hull is None:
            raise ValueError("the start hull needs the distances to one")
        return on_hull(hull, settings.count, rng)
    if settings.start == "sphere":
        return ball(settings.count, settings.start_radius, rng)
    file = Path(settings.start)
    if file.suffix.lower() == ".ply" and (cloud := _points_of(file)) is not None:
        return cloud
    return on_mesh(load_mesh(file, fit_radius=settings.start_radius), settings.count, rng)


def on_hull(hull: Distance, count: int, rng: torch.Generator) -> Start:
    """Grey discs half a cell of a grid outside of a shape in the unit cube, so that what is thin gets some; UserError if it is empty."""
    axis = torch.linspace(-1, 1, HULL_CELLS + 1)
    distance = hull(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)).view(3 * (len(axis),))
    pitch = 2 / HULL_CELLS
    if not distance.min() < 0.5 * pitch < distance.max():
        raise UserError("the silhouettes have no space in common: check alpha and cameras, or choose representation.start sphere")
    vertices, faces, _, _ = measure.marching_cubes(distance.numpy(), 0.5 * pitch)
    return on_mesh(Mesh(torch.from_numpy(vertices.copy()) * pitch - 1, torch.from_numpy(faces.astype(np.int64))), count, rng)


def ball(count: int, radius: float, rng: torch.Generator) -> Start:
    """Points uniform in a ball, nearly grey (DreamGaussian, arXiv 2309.16653)."""
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1)
    points = direction * radius * torch.rand(count, 1, generator=rng) ** (1 / 3)
    rgb = GREY + SHADES * (torch.rand(count, 3, generator=rng) - 0.5)
    return Start(points, rgb, spacing(points))


def on_mesh(mesh: Mesh, count: int, rng: torch.Generator, albedo: Callable[[Tensor], Tensor] | None = None) -> Start:
    """Discs uniform on the surface, as large as the gaps between them, with its colours.

    Args:
        mesh: in the world, on the CPU.
        count: of the points, at least 4.
        rng: of the places.
        albedo: colours [N,3] in [0,1] of world points [N,3], as `Representation.albedo`; without it those of the mesh's texture or its
            vertices, or grey.

    Raises:
        UserError: the mesh has no area.
    """
    normals = face_normals(mesh.vertices, mesh.faces)
    if not normals.any():
        raise UserError(f"Gaussians cannot start on a mesh without area ({len(mesh.faces)} faces)")
    face, weights = sample_faces(mesh, count, rng)
    points = (weights[..., None] * mesh.vertices[mesh.faces[face]]).sum(1)
    rgb = _colours(mesh, face, weights) if albedo is None else albedo(points).cpu()
    return Start(points, rgb, spacing(points), torch.nn.functional.normalize(normals[face], dim=-1, eps=1e-30))


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
