"""From a density field to a mesh: threshold, floater removal, marching cubes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from skimage import measure
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.representations.base import Mesh, Render, Samples
from threedgen.representations.visibility import without_hidden_space

FLOATER_SHARE = 0.05
VISIBLE = 0.7
SMOOTHING = 1.0  # standard deviation in grid cells: below what marching cubes resolves, above the noise of a fitted field


def sample_grid(density: Callable[[Tensor], Tensor], occupied: Tensor, radius: float, resolution: int) -> Tensor:
    """[N,N,N] density at the vertices of a grid over the cube of half side `radius`; 0 in cells known to be empty."""
    axis = torch.linspace(-radius, radius, resolution, device=occupied.device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    cells = ((points / radius + 1) * (0.5 * occupied.shape[0])).long().clamp(0, occupied.shape[0] - 1)
    live = occupied[cells[:, 0], cells[:, 1], cells[:, 2]] & (points.norm(dim=-1) < radius)
    values = points.new_zeros(len(points))
    values[live] = density(points[live])
    return values.reshape(resolution, resolution, resolution)


def auto_threshold(render: Render, step_length: float) -> float:
    """Density of the surface that rays saw: what the visible part of nearly every opaque ray reaches.

    A ray counts if its alpha exceeds 1/2; its visible part ends where 7/10 of its light are gone. The threshold is the density
    that 98 % of these rays reach there, less a tenth: lower ones would add haze, higher ones tear holes.

    Args:
        render: of rays from all around, with samples.
        step_length: distance of the samples along a ray.

    Raises:
        UserError: no ray is opaque.
    """
    assert render.samples is not None
    highest = torch.cat([_highest_density(samples, step_length) for samples in render.samples.parts()])
    reached = highest[render.alpha[:, 0] > 0.5]
    if not len(reached):
        raise UserError("the scene is empty: no ray meets anything opaque; train for more steps, or set export.threshold to a number")
    return 0.9 * torch.quantile(reached, 0.02).item()


def _highest_density(samples: Samples, step_length: float) -> Tensor:
    """[R] largest density in the visible part of each ray, float64."""
    before = F.pad(samples.weights.double().cumsum(0), (1, 0))
    gone = (before[:-1] - before[samples.offsets[:-1]][samples.ray]).clamp(0, 1 - 1e-9)
    sigma = -torch.log1p(-(samples.weights / (1 - gone)).clamp(max=1 - 1e-9)) / step_length
    sigma[gone > VISIBLE] = 0
    return sigma.new_zeros(len(samples.directions)).scatter_reduce(0, samples.ray, sigma, "amax")


def without_floaters(inside: np.ndarray) -> np.ndarray:
    """The cells [N,N,N] bool of the components that hold at least a twentieth of the largest one's volume."""
    labels = np.asarray(measure.label(inside, connectivity=1))
    if not inside.any():
        return inside
    volumes = np.bincount(labels.ravel())
    volumes[0] = 0
    return (volumes >= FLOATER_SHARE * volumes.max())[labels]


def extract_mesh(density: Callable[[Tensor], Tensor], occupied: Tensor, radius: float, resolution: int, level: float) -> Mesh:
    """Surface where the density crosses the threshold, in world axes, faces outward.

    Args:
        density: [N] at world points [N,3].
        occupied: [G,G,G] cells of the cube that may hold matter.
        radius: half side of the cube.
        resolution: grid vertices along an axis.
        level: density of the surface.

    Raises:
        UserError: nothing reaches the threshold.
    """
    return surface_of(sample_grid(density, occupied, radius, resolution), radius, level)


def surface_of(values: Tensor, radius: float, level: float) -> Mesh:
    """Surface where values [N,N,N] at the vertices of a grid over the cube of half side `radius` cross a level, as `extract_mesh`."""
    values = values.cpu().double()
    # Opacity relative to the level: 1/2 on the surface, saturated inside. So the smoothing below moves the surface little, however
    # high the density is behind it.
    solid = 1 - torch.exp2(-values / level).numpy()
    inside = solid >= 0.5
    if not inside.any():
        raise UserError(
            f"the scene is empty: its highest density {values.max().item():.3g} is below the surface threshold {level:.3g}; "
            "train for more steps, or set export.threshold lower"
        )
    kept = without_floaters(inside)
    solid[ndimage.binary_dilation(inside & ~kept) & ~kept] = 0
    # Fields are hollow, and their walls have cracks. What nobody can see is filled, so that no triangle and no texel is spent on it.
    solid[without_hidden_space(kept, max(1, len(values) // 64)) & ~kept] = 1
    # A shell of zeros closes surfaces that touch the cube's faces.
    solid = ndimage.gaussian_filter(np.pad(solid, 1), SMOOTHING)
    if solid.max() <= 0.5:
        raise UserError(f"what lies above the surface threshold {level:.3g} is too thin for the grid: raise export.resolution")
    return _surface(solid, 0.5, radius)


def extract_distance_mesh(distance: Callable[[Tensor], Tensor], radius: float, resolution: int, device: torch.device | str = "cpu") -> Mesh:
    """Surface at signed distance 0, without floaters and what nobody can see, in world axes, faces outward.

    Args:
        distance: [N] at world points [N,3], negative inside.
        radius: half side of the cube; beyond the sphere of this radius nothing is inside.
        resolution: grid vertices along an axis.

    Raises:
        UserError: no distance is negative.
    """
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    values = sample_grid(lambda points: -distance(points), everywhere, radius, resolution).cpu().numpy()
    cell = 2 * radius / (resolution - 1)
    depth = np.where(values == 0, -cell, values).clip(-2 * cell, 2 * cell)  # what sample_grid left out is outside
    inside = depth > 0
    if not inside.any():
        raise UserError("the scene is empty: no distance is negative; train for more steps, or with a lower learning rate")
    kept = without_floaters(inside)
    depth[inside & ~kept] = -cell
    depth[without_hidden_space(kept, max(1, resolution // 64)) & ~kept] = cell
    return _surface(np.pad(depth, 1, constant_values=-cell), 0.0, radius)


def _surface(values: np.ndarray, level: float, radius: float) -> Mesh:
    """Where values, on a grid over the cube with one more shell around it, cross a level; faces towards smaller ones."""
    spacing = 2 * radius / (values.shape[0] - 3)
    vertices, faces, _, _ = measure.marching_cubes(values.astype(np.float32), level, gradient_direction="ascent")
    world = (torch.from_numpy(vertices.copy()) - 1) * spacing - radius
    return Mesh(world.float(), torch.from_numpy(faces.astype(np.int64)))
