"""Gaussians as cameras see them: EWA projection (Zwicker et al. 2001) as in 3D Gaussian Splatting (arXiv 2308.04079)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threedgen.cameras import Cameras

BLUR = 0.3  # variance in squared pixels that every Gaussian gets, so that none falls between the pixels
NEAREST = 0.05  # depth in world units from which on Gaussians are drawn
BEYOND = 1.3  # of the half field of view: up to there the slope of the projection is followed


@dataclass
class Projected:
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
    x, y, z = cameras.from_eye(means).unbind(-1)
    drawn = z > NEAREST
    z = torch.where(drawn, z, 1)
    focal = cameras.focal[:, None]
    limit_x, limit_y = 0.5 * BEYOND * cameras.width / focal, 0.5 * BEYOND * cameras.height / focal
    slope_x, slope_y = x / z, y / z
    mean = cameras.pixels(slope_x, slope_y)
    slope_x, slope_y = slope_x.clamp(-limit_x, limit_x), slope_y.clamp(-limit_y, limit_y)
    # Rows of the Jacobian of the projection, in world axes: focal / z (r_x - slope_x r_z), and the same for y.
    scale = (focal / z)[..., None]
    right, down, forward = cameras.image_axes()[:, None].unbind(-2)
    jacobian = torch.stack([scale * (right - slope_x[..., None] * forward), scale * (down - slope_y[..., None] * forward)], -2)
    spread = jacobian @ axes
    xx, yy = spread.square().sum(-1).unbind(-1)
    xy = (spread[..., 0, :] * spread[..., 1, :]).sum(-1)
    sharp = (xx * yy - xy * xy).clamp(min=0)
    xx, yy = xx + BLUR, yy + BLUR
    determinant = xx * yy - xy * xy
    conic = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    # The smallest normal number keeps the slope of the root finite where a Gaussian is seen edge on.
    shrink = (sharp / determinant).clamp(min=1e-12).sqrt()
    return Projected(mean, conic, torch.where(drawn, z, 0), shrink)


def rotations(quaternions: Tensor) -> Tensor:
    """[N,3,3] rotations of quaternions [N,4] (w, x, y, z), of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)
