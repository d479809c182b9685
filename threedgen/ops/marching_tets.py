"""Surfaces of signed distances on tetrahedral grids, differentiable (marching tetrahedra; DMTet, arXiv 2111.04276)."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from threedgen.ops._checks import check_device, check_dtype, check_floating, check_shape

ALL_INSIDE = 0x01010101
EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


def _even(order: tuple[int, ...]) -> bool:
    return sum(order[i] > order[j] for i in range(4) for j in range(i + 1, 4)) % 2 == 0


def _triangles(inside: tuple[int, ...]) -> list[list[int]]:
    """Up to two triangles of edge numbers for the corners of a tetrahedron that are inside, normals towards those outside."""
    outside = tuple(corner for corner in range(4) if corner not in inside)
    if not inside or not outside:
        return []
    # a, b, c, d in an even order, so that they see each other as the corners 0, 1, 2, 3 of a positive tetrahedron do
    few = min(inside, outside, key=len)
    a, b, c, d = next(p for p in permutations(range(4)) if _even(p) and set(p[: len(few)]) == set(few))

    def edge(i: int, j: int) -> int:
        return EDGES.index((min(i, j), max(i, j)))

    if len(few) == 1:
        triangle = [edge(a, b), edge(a, c), edge(a, d)]
        return [triangle if few == inside else triangle[::-1]]
    return [[edge(a, c), edge(a, d), edge(b, d)], [edge(a, c), edge(b, d), edge(b, c)]]


def _table() -> Tensor:
    """[16,2,3] edge numbers of the triangles of every set of corners inside (bit k is corner k), -1 where there is none."""
    table = torch.full((16, 2, 3), -1)
    for code in range(16):
        for slot, triangle in enumerate(_triangles(tuple(corner for corner in range(4) if code >> corner & 1))):
            table[code, slot] = torch.tensor(triangle)
    return table


TABLE = _table()


def marching_tets(sdf: Tensor, positions: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """The surface between the grid's vertices inside (sdf < 0) and outside.

    A vertex of the surface lies on an edge (a,b) of the grid where the linear interpolation of the two distances is 0, at
    (p_a s_b - p_b s_a) / (s_b - s_a). Vertices come in the order of their edges, faces in that of the tetrahedra, so results are
    reproducible. Where the grid's boundary is outside, the surface is closed; a distance of exactly 0 is outside, and gives faces without
    area that keep it closed.

    Args:
        sdf: [N] signed distances, negative inside, float32 or float64; with gradient.
        positions: [N,3] of the grid's vertices, dtype of `sdf`; with gradient.
        tets: [T,4] int64 vertex indices of positively oriented tetrahedra, as from `tet_grid`.

    Returns:
        vertices [V,3]; faces [F,3] int64, counter-clockwise seen from outside. Both are empty where there is no surface.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_shape("sdf", sdf, None)
    check_shape("positions", positions, len(sdf), 3)
    check_shape("tets", tets, None, 4)
    check_dtype("tets", tets, torch.int64)
    check_floating(sdf=sdf, positions=positions)
    check_device(sdf=sdf, positions=positions, tets=tets)
    inside = sdf.detach() < 0
    # four bytes read as one number: most tetrahedra are passed over here, which takes the most time
    signs = inside.byte().index_select(0, tets.flatten()).view(torch.int32)
    tets = tets.index_select(0, torch.nonzero((signs != 0) & (signs != ALL_INSIDE))[:, 0])
    code = (inside[tets] << torch.arange(4, device=tets.device)).sum(1)
    ends = tets[:, torch.tensor(EDGES, device=tets.device)].sort(-1).values
    key = ends[..., 0] * len(sdf) + ends[..., 1]
    crossed = inside[ends[..., 0]] != inside[ends[..., 1]]
    edge, place = key[crossed].unique(return_inverse=True)
    numbers = torch.full_like(key, -1).masked_scatter(crossed, place)
    chosen = TABLE.to(tets.device)[code]
    faces = numbers.gather(1, chosen.clamp_min(0).view(-1, 6)).view(-1, 2, 3)[chosen[..., 0] >= 0]
    a, b = torch.div(edge, max(len(sdf), 1), rounding_mode="floor"), edge % max(len(sdf), 1)
    # index_select adds gradients up in one order, however many threads there are; an index in brackets does not
    at_a, at_b = sdf.index_select(0, a)[:, None], sdf.index_select(0, b)[:, None]
    return (positions.index_select(0, a) * at_b - positions.index_select(0, b) * at_a) / (at_b - at_a), faces


def tet_grid(resolution: int) -> tuple[Tensor, Tensor]:
    """Body-centred tetrahedral grid over the cube [-1,1]^3.

    Vertices are the corners and the centres of resolution^3 cubic cells. Two cells with a common face share four tetrahedra around the
    line between their centres, all of one shape; on the boundary, a cell's face and its centre make two.

    Returns:
        positions [N,3] float32, N = (n+1)^3 + n^3; tets [T,4] int64, positively oriented: det(b-a, c-a, d-a) > 0.

    Raises:
        ValueError: the resolution is below 1.
    """
    if resolution < 1:
        raise ValueError(f"a tetrahedral grid needs at least one cell along an axis, got {resolution}")
    n = resolution
    corner = torch.arange((n + 1) ** 3).view(n + 1, n + 1, n + 1)
    centre = torch.arange(n**3).view(n, n, n) + (n + 1) ** 3
    axes = torch.linspace(-1, 1, n + 1), torch.linspace(-1 + 1 / n, 1 - 1 / n, n)
    positions = torch.cat([torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3) for axis in axes])
    tets = torch.cat([part for axis in range(3) for part in _across(corner.movedim(axis, 0), centre.movedim(axis, 0))])
    a, b, c, d = positions[tets].unbind(1)
    negative = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) < 0
    return positions, torch.where(negative[:, None], tets[:, [0, 1, 3, 2]], tets)


def _across(corner: Tensor, centre: Tensor) -> list[Tensor]:
    """Tetrahedra [T,4] at the faces of cells that are square to the first axis, between cells and on the boundary."""
    around = torch.stack([corner[:, :-1, :-1], corner[:, :-1, 1:], corner[:, 1:, 1:], corner[:, 1:, :-1]])
    parts = []
    for k in range(4):
        low, high = around[k, 1:-1], around[(k + 1) % 4, 1:-1]
        parts.append(torch.stack([centre[:-1], centre[1:], low, high], -1).view(-1, 4))
    for layer, cells in ((around[:, 0], centre[0]), (around[:, -1], centre[-1])):
        # the diagonal runs the same way on both sides, from corner 0 to corner 2
        parts += [torch.stack([cells, layer[0], layer[k], layer[k + 1]], -1).view(-1, 4) for k in (1, 2)]
    return parts
