"""Sums of the opacities of Gaussians on a grid."""

from __future__ import annotations

import torch
from torch import Tensor

FAINTEST = 0.01  # opacity below which the flank of a Gaussian is left out of a sum
CHUNK = 2**21  # pairs of a Gaussian and a grid point at a time


@torch.no_grad()
def opacity_grid(means: Tensor, axes: Tensor, opacity: Tensor, radius: float, resolution: int) -> Tensor:
    """[R,R,R] sums of opacity exp(-d^2 / 2) at the vertices of a grid over the cube of half side `radius`, R = `resolution`.

    Args:
        means: [N,3]; axes: [N,3,3], rotation times standard deviations; opacity: [N] in [0,1].
        radius: world units.
        resolution: vertices along an axis, at least 2.
    """
    spacing = 2 * radius / (resolution - 1)
    total = means.new_zeros(resolution**3)
    # Along a world axis the ellipsoid of d reaches d times the length of that row of A.
    reach = (2 * (opacity / FAINTEST).clamp(min=1).log()).sqrt()[:, None] * axes.norm(dim=-1)
    low = ((means - reach + radius) / spacing).ceil().clamp(min=0)
    high = ((means + reach + radius) / spacing).floor().clamp(max=resolution - 1)
    there = ((opacity > FAINTEST) & (high >= low).all(-1)).nonzero()[:, 0]
    low, size = low[there].long(), (high - low)[there].long() + 1
    inverse = torch.linalg.pinv(axes[there])
    for part in _chunks(size.prod(-1)):
        count = size[part].prod(-1)
        which = part[0] + torch.repeat_interleave(torch.arange(len(part), device=means.device), count)
        within = torch.arange(len(which), device=means.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
        z, rest = within % size[which, 2], within // size[which, 2]
        index = low[which] + torch.stack([rest // size[which, 1], rest % size[which, 1], z], -1)
        offset = index * spacing - radius - means[there[which]]
        squared = (inverse[which] @ offset[..., None]).square().sum((-1, -2))
        flat = (index[:, 0] * resolution + index[:, 1]) * resolution + index[:, 2]
        total.index_add_(0, flat, opacity[there[which]] * torch.exp(-0.5 * squared))
    return total.view(resolution, resolution, resolution)


def _chunks(counts: Tensor) -> list[Tensor]:
    """Consecutive indices whose counts add up to about CHUNK."""
    number = (counts.cumsum(0) - 1) // CHUNK
    sizes = number.unique_consecutive(return_counts=True)[1].tolist()
    return list(torch.arange(len(counts), device=counts.device).split(sizes))
