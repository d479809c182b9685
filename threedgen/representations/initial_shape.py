"""Signed distances of the shapes that a surface may start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from scipy import ndimage
from torch import Tensor
from trimesh.voxel import VoxelGrid

from threedgen.config.schema import ShapeSettings
from threedgen.representations.base import Mesh
from threedgen.representations.mesh_loading import load_mesh

Distance = Callable[[Tensor], Tensor]  # signed distances [N] of points [N,3], negative inside


def initial_distance(settings: ShapeSettings, points: Tensor, pitch: float, hull: Distance | None = None) -> Tensor:
    """[N] distances of points [N,3] to the shape of the settings, negative inside, world units.

    Args:
        pitch: side of the voxels that a mesh is turned into.
        hull: distances to what the shape "hull" is, the visual hull of the images that are fitted.

    Raises:
        UserError: the file of the shape cannot be read.
        ValueError: there is no hull.
    """
    if settings.shape == "hull":
        if hull is None:
            raise ValueError("the shape hull needs the distances to one")
        return hull(points)
    if settings.shape == "mesh":
        return mesh_distance(load_mesh(settings.shape_file, fit_radius=settings.shape_radius), points, pitch)
    return ellipsoid_distance(points, settings.shape_radius * torch.tensor(settings.shape_axes))


def ellipsoid_distance(points: Tensor, axes: Tensor) -> Tensor:
    """[N] distances of points [N,3] to the ellipsoid with semi-axes [3]: exact for a sphere, else to first order near the surface.

    It is f (f - 1) / |grad f| with f = |p / axes|, up to the factor f that keeps it finite at the centre.
    """
    scaled, slope = (points / axes).norm(dim=-1), (points / axes.square()).norm(dim=-1)
    return torch.where(slope > 0, scaled * (scaled - 1) / slope.clamp_min(1e-12), -axes.min())


def mesh_distance(mesh: Mesh, points: Tensor, pitch: float) -> Tensor:
    """[N] distances of points [N,3] to the solid that a mesh encloses, exact to about a voxel of side `pitch`.

    The mesh is voxelized and what its voxels enclose is filled, so that holes smaller than a voxel and inner walls do no harm.
    """
    voxels: VoxelGrid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).voxelized(pitch)  # type: ignore[assignment]
    solid = np.pad(voxels.fill().matrix, 1)
    # Distances run between centres of voxels: half a voxel to the border between them, and the border is half a voxel beyond the mesh.
    outside, inside = (np.asarray(ndimage.distance_transform_edt(part)) for part in (~solid, solid))
    distance = np.where(solid, 1 - inside, outside) * pitch
    place = (points.double().numpy() - voxels.translation) / pitch + 1
    clamped = place.clip(0, np.array(solid.shape) - 1)
    nearest = ndimage.map_coordinates(distance, clamped.T, order=1)
    return torch.from_numpy(nearest + np.linalg.norm(place - clamped, axis=-1) * pitch).float()
