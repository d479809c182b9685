"""Which faces of a mesh share an edge."""

from __future__ import annotations

import torch
from torch import Tensor


def adjacent_edges(faces: Tensor) -> Tensor:
    """The other side of every edge of a mesh.

    Edge k of a face is the one opposite to its corner k. Vertices are told apart by index alone: along a texture seam, where they are
    doubled, there is no other side.

    Args:
        faces: [F,3] int64 vertex indices; windings do not matter.

    Returns:
        [F,3] int64, 3 g + m where edge k is also edge m of face g; -1 where it belongs to one face alone, or to more than two.
    """
    edges = torch.stack([faces.roll(-1, 1), faces.roll(-2, 1)], -1).sort(-1).values.view(-1, 2)
    key = edges[:, 0] * (faces.max() + 1 if len(faces) else 1) + edges[:, 1]
    key, order = key.sort(stable=True)
    _, count = key.unique_consecutive(return_counts=True)
    start = (count.cumsum(0) - count)[count == 2]
    first, second = order[start], order[start + 1]
    other = torch.full_like(order, -1)
    other[first], other[second] = second, first
    return other.view(-1, 3)
