"""Samples along rays, where an occupancy grid says that there is something.

Letters: R rays, S samples of all rays, G cells per axis of the grid over the cube [-1,1]^3. Samples are packed ray by ray: those of ray
r are offsets[r]:offsets[r+1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from threedgen.ops import _library
from threedgen.ops._checks import check_device, check_dtype, check_floating, check_shape, check_step


def march_rays(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor, jitter: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """Distances near + (k + jitter) * step < far, k = 0, 1, ..., whose cell is occupied.

    Not differentiable. Compiled kernels and the torch twin keep exactly the same samples.

    Args:
        origins: [R,3] in world units, float32 or float64.
        directions: [R,3], unit.
        near, far: [R] distances between which samples may lie.
        occupancy: [G,G,G] bool, indexed [x,y,z]; cell i of an axis covers [-1 + 2i/G, -1 + 2(i+1)/G). Outside the cube nothing is kept.
        jitter: [R] in [0,1), the position of the samples inside their steps.
        step: length of a step in world units.

    Returns:
        offsets [R+1] int64 and t [S], increasing along each ray.

    Raises:
        ValueError: shape, dtype, device or step do not fit.
    """
    rays = origins.shape[0] if origins.dim() else 0
    check_shape("origins", origins, rays, 3)
    check_shape("directions", directions, rays, 3)
    for name, values in {"near": near, "far": far, "jitter": jitter}.items():
        check_shape(name, values, rays)
    cells = occupancy.shape[0] if occupancy.dim() else 0
    check_shape("occupancy", occupancy, cells, cells, cells)
    if cells == 0:
        raise ValueError("occupancy must have at least one cell")
    check_dtype("occupancy", occupancy, torch.bool)
    check_floating(origins=origins, directions=directions, near=near, far=far, jitter=jitter)
    check_device(origins=origins, directions=directions, near=near, far=far, occupancy=occupancy, jitter=jitter)
    check_step(step)
    _library.warn_if_reference(origins)
    with torch.no_grad():
        return torch.ops.threedgen.march_rays(origins, directions, near, far, occupancy, jitter, step)


def ray_indices(offsets: Tensor, samples: int) -> Tensor:
    """[S] int64, the ray of each of the packed samples, from offsets [R+1]; `samples` is S, which is known without asking the device."""
    rays = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rays, offsets.diff(), output_size=samples)


def march_rays_reference(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor, jitter: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """The twin of `march_rays` in torch: every step of every ray, then a mask."""
    cells = occupancy.shape[0]
    far = torch.minimum(far, origins.norm(dim=1) + (math.sqrt(3) + 1e-3))  # beyond it, unit directions have left the cube
    span = ((far - near) / step).nan_to_num(0.0)
    steps = max(0, int(span.max()) + 2) if len(span) else 0
    k = torch.arange(steps, device=origins.device, dtype=origins.dtype)
    t = near[:, None] + (k + jitter[:, None]) * step
    position = origins[:, None] + directions[:, None] * t[..., None]
    cell = (position + 1) * (0.5 * cells)
    kept = (t < far[:, None]) & ((cell >= 0) & (cell < cells)).all(-1)
    ray, column = kept.nonzero(as_tuple=True)
    x, y, z = cell[ray, column].long().unbind(-1)
    occupied = occupancy[x, y, z]
    counts = torch.bincount(ray[occupied], minlength=len(origins))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return offsets, t[ray[occupied], column[occupied]]


def _fake(
    origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupancy: Tensor, jitter: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    samples = torch.library.get_ctx().new_dynamic_size()
    return origins.new_empty(origins.shape[0] + 1, dtype=torch.int64), origins.new_empty(samples)


_library.register("march_rays", march_rays_reference, _fake)
