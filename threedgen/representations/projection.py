"""Gaussians as the cameras of this package see them, and rotations by quaternions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.ops.project_gaussians import project_gaussians


class Projected(NamedTuple):
    """B views of N Gaussians.

    Attributes:
        mean: [B,N,2] centres in pixels, x to the right, y down.
        conic: [B,N,3] entries xx, xy, yy of the inverse covariance, per squared pixel.
        depth: [B,N] along the viewing axis in world units; 0 where it is not drawn.
        shrink: [B,N] in (0,1], by how much the blur spreads what the Gaussian covers (Mip-Splatting, arXiv 2311.16493).
    """

    mean: Tensor
    conic: Tensor
    depth: Tensor
    shrink: Tensor


def project(means: Tensor, axes: Tensor, cameras: Cameras) -> Projected:
    """Projects Gaussians with covariance A A^T, differentiable in both arguments.

    Args:
        means: [N,3] in the world; axes: [N,3,3], A = rotation times standard deviations.
        cameras: B views.
    """
    turn, eye, focal = cameras.image_axes(), cameras.positions, cameras.focal
    return Projected(*project_gaussians(means, axes, turn, eye, focal, cameras.height, cameras.width))


def rotations(quaternions: Tensor) -> Tensor:
    """[N,3,3] rotations of quaternions [N,4] (w, x, y, z), of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)
