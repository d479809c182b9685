"""From a density field to a mesh: threshold, floater removal, marching cubes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from skimage import measure
from torch import Tensor

from threedgen.errors import UserError
from threedgen.representations.base import Mesh

FLOATER_SHARE = 0.05


def sample_grid(density: Callable[[Tensor], Tensor], occupied: Tensor, radius: float, resolution: int) -> Tensor:
    """[N,N,N] density at the vertices of a grid over the cube of half side `radius`; 0 in cells known to be empty."""
    axis = torch.linspace(-radius, radius, resolution, device=occupied.device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    cells = ((points / radius + 1) * (0.5 * occupied.shape[0])).long().clamp(0, occupied.shape[0] - 1)
    live = occupied[cells[:, 0], cells[:, 1], cells[:, 2]] & (points.norm(dim=-1) < radius)
    values = points.new_zeros(len(points))
    values[live] = density(points[live])
    return values.reshape(resolution, resolution, resolution)


def auto_threshold(step_length: float) -> float:
    """Density at which a ray becomes opaque within four of its steps: 1 - exp(-sigma 4 step) = 1/2.

    It follows from what the optimization saw (its sampling distance), not from the field's extreme values, so that thin parts
    survive and haze does not.
    """
    return math.log(2) / (4 * step_length)


def without_floaters(inside: np.ndarray) -> np.ndarray:
    """The cells [N,N,N] bool of the components that hold at least a twentieth of the largest one's volume."""
    labels, count = ndimage.label(inside)
    if count == 0:
        return inside
    volumes = np.bincount(labels.ravel())
    volumes[0] = 0
    return (volumes >= FLOATER_SHARE * volumes.max())[labels]


def extract_mesh(
    density: Callable[[Tensor], Tensor], occupied: Tensor, radius: float, step_length: float, resolution: int, threshold: float | str
) -> Mesh:
    """Surface where the density crosses the threshold, in world axes, faces outward.

    Args:
        density: [N] at world points [N,3].
        occupied: [G,G,G] cells of the cube that may hold matter.
        radius: half side of the cube.
        step_length: distance of the samples that rendering used, for the automatic threshold.
        resolution: grid vertices along an axis.
        threshold: density of the surface, or "auto".

    Raises:
        UserError: nothing reaches the threshold.
    """
    level = auto_threshold(step_length) if threshold == "auto" else float(threshold)
    values = sample_grid(density, occupied, radius, resolution).cpu()
    inside = (values >= level).numpy()
    if not inside.any():
        raise UserError(
            f"the scene is empty: its highest density {float(values.max()):.3g} is below the surface threshold {level:.3g}; "
            "train for more steps, or set export.threshold lower"
        )
    keep = ndimage.binary_dilation(without_floaters(inside))
    solid = np.where(keep, values.numpy(), 0.0).astype(np.float32)
    # A shell of zeros closes surfaces that touch the cube's faces.
    solid = np.pad(solid, 1)
    spacing = 2 * radius / (resolution - 1)
    vertices, faces, _, _ = measure.marching_cubes(solid, level, gradient_direction="ascent")
    world = (torch.from_numpy(vertices.copy()) - 1) * spacing - radius
    return Mesh(world.float(), torch.from_numpy(faces.astype(np.int64)))

