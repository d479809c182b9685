"""What closed surfaces are measured by."""

from __future__ import annotations

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from threedgen.ops import adjacent_edges


def volume_of(vertices: Tensor, faces: Tensor) -> Tensor:
    """Signed volume, positive where faces are counter-clockwise seen from outside."""
    a, b, c = vertices[faces].unbind(1)
    return (a * torch.linalg.cross(b, c)).sum() / 6


def area_of(vertices: Tensor, faces: Tensor) -> Tensor:
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1).sum() / 2


def euler(vertices: Tensor, faces: Tensor) -> int:
    edges = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2).sort(-1).values.unique(dim=0)
    return len(vertices) - len(edges) + len(faces)


def assert_closed(faces: Tensor) -> None:
    """Every edge belongs to two faces, which run along it in opposite directions."""
    assert (adjacent_edges(faces) >= 0).all()
    directed = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2)
    assert len(directed.unique(dim=0)) == len(directed)


def fans(faces: Tensor) -> int:
    """Rings of faces around vertices: of a manifold as many as there are vertices, more where sheets touch in one."""
    top = int(faces.max()) + 1
    at = torch.cat([faces.roll(-k, 1) for k in range(3)])
    _, ends = torch.stack([at[:, 0] * top + at[:, 1], at[:, 0] * top + at[:, 2]]).unique(return_inverse=True)
    size = int(ends.max()) + 1
    return connected_components(coo_matrix((torch.ones(ends.shape[1]).numpy(), ends.numpy()), (size, size)), directed=False)[0]
