"""An occupancy grid: which cells of the scene's cube may hold matter, so that rays skip the rest (Instant-NGP, arXiv 2201.05989)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OccupancyGrid(nn.Module):
    """Cells of the cube [-1,1]^3, indexed [x,y,z].

    Buffers (part of the state, so that a resumed run marches the same rays):
        opacity: [G,G,G] decayed maximum of the opacity of a cell, crossed along an axis.
        occupied: [G,G,G] bool.
    """

    opacity: Tensor
    occupied: Tensor

    def __init__(self, resolution: int, threshold: float = 0.015, decay: float = 0.9) -> None:
        super().__init__()
        self.resolution, self.threshold, self.decay = resolution, threshold, decay
        shape = (resolution,) * 3
        self.register_buffer("opacity", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

    def cell_points(self, jitter: Tensor) -> Tensor:
        """[G^3,3] one point in every cell; jitter [G^3,3] in [0,1), 0.5 is the centre."""
        axis = torch.arange(self.resolution, device=self.opacity.device)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        return (cells + jitter) * (2.0 / self.resolution) - 1.0

    @torch.no_grad()
    def update(self, density: Callable[[Tensor], Tensor], jitter: Tensor) -> None:
        """Refresh from the density [N], per unit of the cube's half side, at points [N,3].

        A cell counts as occupied where its opacity or a neighbour's reaches the threshold. Opacity is taken over a cell, not over
        a step of a ray: with short steps every step is nearly transparent, and all matter would be skipped.
        """
        sigma = density(self.cell_points(jitter)).reshape(self.opacity.shape)
        torch.maximum(self.opacity * self.decay, -torch.expm1(-sigma * (2.0 / self.resolution)), out=self.opacity)
        reached = (self.opacity > self.threshold).float()[None, None]
        self.occupied.copy_(F.max_pool3d(reached, 3, stride=1, padding=1)[0, 0] > 0)
