"""Surfaces of signed distances on a grid of cubes, differentiable: dual marching cubes with weights (FlexiCubes, arXiv 2308.05371).

A corner k of a cube lies at x = k & 1, y = k >> 1 & 1, z = k >> 2 & 1. Edge 4 a + s runs along axis a, and s says where around it the cube
lies, counter-clockwise seen from the end of the axis. Face 2 a + h is the lower (h = 0) or upper (h = 1) one across axis a.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.ops._checks import check_device, check_floating, check_shape

AROUND = ((1, 1), (0, 1), (0, 0), (1, 0))  # corners of a square, counter-clockwise
WEIGHTS = 21  # of a cube: 8 corners, 12 edges, the cube itself
REACH = 0.99  # of weights around 1: none comes to 0


def _corner(axis: int, along: int, second: int, third: int) -> int:
    """The corner at these places along an axis and along the two that follow it in the cycle x, y, z."""
    return along << axis | second << (axis + 1) % 3 | third << (axis + 2) % 3


EDGES = tuple((_corner(axis, 0, *place), _corner(axis, 1, *place)) for axis in range(3) for place in AROUND)
FACES = tuple(tuple(_corner(axis, side, *place) for place in AROUND) for axis in range(3) for side in range(2))


def _face_edges(face: tuple[int, ...]) -> list[int]:
    """Numbers of a face's edges, number k from its corner k to the next."""
    return [EDGES.index((min(ends), max(ends))) for ends in zip(face, face[1:] + face[:1], strict=True)]


def _partner(inside: list[bool], edge: int, apart: bool) -> int:
    """The edge of a square that the surface goes to from a crossed one: the other end of a run of corners inside (or outside)."""
    step = 1 if inside[(edge + 1) % 4] is apart else -1
    corner = (edge + 1) % 4 if step > 0 else edge
    while inside[(corner + step) % 4] is apart:
        corner = (corner + step) % 4
    return corner if step > 0 else (corner - 1) % 4


@lru_cache(maxsize=1)
def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """What the surface does in a cube, by its corners inside (code, bit k for corner k) and its turned faces (bit f for face f).

    A face whose corners are inside and outside by turns is crossed twice; there, corners inside are kept apart, and where the face is
    turned, those outside. The crossed edges of a cube then form loops, around each of which there is a sheet of the surface.

    Returns:
        sheets [256,64,12], numbers 0 to 3 of the sheet at an edge, -1 where it is not crossed; doubtful [256,6], whether a face is crossed
        twice; joined [256,64,6], whether both times by one sheet.
    """
    codes, turns = torch.arange(256)[:, None], torch.arange(64)
    inside = [codes >> k & 1 for k in range(8)]
    crossed = torch.stack([(inside[a] != inside[b])[:, 0] for a, b in EDGES], -1)[:, None].expand(256, 64, 12)
    links = []  # [256,64,12] edge that is reached over one of the two faces at an edge, itself where it is not crossed
    for number, face in enumerate(FACES):
        numbers = _face_edges(face)
        to = torch.empty(2, 16, 4, dtype=torch.int64)
        for square in range(16):
            signs = [bool(square >> k & 1) for k in range(4)]
            for k in range(4):
                cut = signs[k] != signs[(k + 1) % 4]
                for turned in (0, 1):
                    to[turned, square, k] = numbers[_partner(signs, k, not turned) if cut else k]
        link = torch.arange(12).repeat(256, 64, 1)
        link[..., numbers] = to[turns >> number & 1, sum(inside[corner] << k for k, corner in enumerate(face))]
        links.append(link)
    first = torch.arange(12).repeat(256, 64, 1)
    for _ in range(6):  # the smallest number of an edge runs both ways around loops of up to 12 edges
        for link in links:
            first = torch.minimum(first, first.gather(-1, link))
    leads = crossed & (first == torch.arange(12))
    sheets = (leads.cumsum(-1) - 1).gather(-1, first).where(crossed, -1)
    doubtful = torch.stack([crossed[:, 0, _face_edges(face)].all(-1) for face in FACES], -1)
    one = torch.stack([(sheets[..., e] == sheets[..., e[:1]]).all(-1) for e in map(_face_edges, FACES)], -1)
    return sheets, doubtful, one & doubtful[:, None]


def _turned(cubes: Tensor, code: Tensor, cells: int) -> Tensor:
    """[M] faces to turn (bit f for face f) so that no edge of the surface belongs to more than two quadrilaterals.

    Two neighbours whose common face is crossed twice, in both by one sheet, would have two edges of the surface in the same place. Turning
    the face splits the sheet of either. Faces are turned one after another, at once only those that have no cube in common; each turn makes
    two sheets more, of which there are at most four in a cube, so this ends.

    Args:
        cubes: [M] sorted numbers of the cubes with a surface; code: [M] their corners inside; cells: of the grid along an axis.
    """
    _, doubtful, joined = (table.to(cubes.device) for table in _tables())
    turned = torch.zeros_like(code)
    groups = []
    for axis in range(3):
        stride = cells ** (2 - axis)
        place = torch.div(cubes, stride, rounding_mode="floor") % cells
        for odd in (0, 1):
            low = torch.nonzero(doubtful[code, 2 * axis + 1] & (place % 2 == odd) & (place < cells - 1))[:, 0]
            if len(low):
                groups.append((axis, low, torch.searchsorted(cubes, cubes[low] + stride)))
    again = True
    while again:
        again = False
        for axis, low, high in groups:
            below, above = 2 * axis + 1, 2 * axis
            bad = joined[code[low], turned[low], below] & joined[code[high], turned[high], above]
            turned[low[bad]] ^= 1 << below
            turned[high[bad]] ^= 1 << above
            again |= bool(bad.any())
    return turned


def flexicubes(sdf: Tensor, positions: Tensor, weights: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """The surface between the grid's vertices inside (sdf < 0) and outside.

    Each sheet of the surface in a cube has one vertex, the mean with the weights beta of where its edges are crossed; an edge is crossed
    where the linear interpolation of alpha times the distance is 0. Around each crossed edge, the vertices of four cubes form a
    quadrilateral. A vertex in its middle, between the means of its diagonals, makes it four triangles; the weights of the diagonals are the
    products of gamma at their ends, so that a crease can lie along either.

    Vertices come in the order of the cubes and of the edges, so results are reproducible. Where the grid's boundary is outside, the surface
    is a closed manifold: around each edge there are two faces, around each vertex one ring. Quadrilaterals around edges on the boundary are
    left out. A distance of exactly 0 is outside.

    Args:
        sdf: [N] signed distances at the vertices of `cube_grid(cells)`, negative inside, float32 or float64; with gradient.
        positions: [N,3] of the grid's vertices, dtype of `sdf`; with gradient.
        weights: [cells^3,21] of any size, for each cube 8 of its corners, alpha = 1 + 0.99 tanh(w), 12 of its edges, beta likewise, and
            one for gamma = sigmoid(w), dtype of `sdf`; with gradient. Zeros give dual marching cubes.
        cells: cubes of the grid along an axis.

    Returns:
        vertices [V,3]; faces [F,3] int64, counter-clockwise seen from outside. Both are empty where there is no surface.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    check_shape("sdf", sdf, (cells + 1) ** 3)
    check_shape("positions", positions, len(sdf), 3)
    check_shape("weights", weights, cells**3, WEIGHTS)
    check_floating(sdf=sdf, positions=positions, weights=weights)
    check_device(sdf=sdf, positions=positions, weights=weights)
    cubes, code = _with_surface(sdf.detach() < 0, cells)
    sheets = _tables()[0].to(sdf.device)[code, _turned(cubes, code, cells)]
    count = sheets.amax(-1) + 1
    row, edge = torch.nonzero(sheets >= 0).unbind(-1)  # the crossed edges of the cubes, each once for every cube
    vertex = (count.cumsum(0) - count)[row] + sheets[row, edge]
    corners = _corners(cubes, cells)
    ends = torch.tensor(EDGES, device=sdf.device)[edge]
    alpha, beta, gamma = weights.index_select(0, cubes).split([8, 12, 1], -1)
    at_corners = _rows(sdf, corners) * (1 + REACH * torch.tanh(alpha))
    s_a, s_b = _rows(at_corners.flatten(), 8 * row[:, None] + ends)[..., None].unbind(1)
    a, b = _rows(positions, corners[row[:, None], ends]).unbind(1)
    share = 1 + REACH * torch.tanh(_rows(beta.flatten(), 12 * row + edge))[:, None]
    crossings = torch.cat([(a * s_b - b * s_a) / (s_b - s_a), torch.ones_like(share)], -1) * share
    mean, total = sdf.new_zeros(int(count.sum()), 4).index_add(0, vertex, crossings).split([3, 1], -1)
    vertices = mean / total
    quads = _quads(corners[row, ends[:, 0]], edge, sdf.detach() < 0)
    log_gamma = _rows(F.logsigmoid(gamma[:, 0]), row[quads])
    odds = log_gamma[:, 0] + log_gamma[:, 2] - log_gamma[:, 1] - log_gamma[:, 3]
    even, odd = (_rows(vertices, vertex[quads[:, pair]]).mean(1) for pair in ([0, 2], [1, 3]))
    middle = torch.lerp(odd, even, torch.sigmoid(odds)[:, None])
    around = vertex[quads]
    centre = (len(vertices) + torch.arange(len(quads), device=sdf.device))[:, None].expand(-1, 4)
    return torch.cat([vertices, middle]), torch.stack([around, around.roll(-1, 1), centre], -1).view(-1, 3)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values[index], whose gradient is added up in one order, however many threads there are."""
    return values.index_select(0, index.flatten()).view(*index.shape, *values.shape[1:])


def _with_surface(inside: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """[M] the cubes that are neither all inside nor all outside, and their corners inside, bit k for corner k."""
    grid = inside.view(cells + 1, cells + 1, cells + 1).byte()
    code = grid.new_zeros(cells, cells, cells)
    for k in range(8):
        x, y, z = k & 1, k >> 1 & 1, k >> 2 & 1
        code |= grid[x : x + cells, y : y + cells, z : z + cells] << k
    cubes = torch.nonzero((code.flatten() != 0) & (code.flatten() != 255))[:, 0]
    return cubes, code.flatten()[cubes].long()


def _corners(cubes: Tensor, cells: int) -> Tensor:
    """[M,8] vertices of the grid at the corners of cubes [M]."""
    side = cells + 1
    x, rest = torch.div(cubes, cells**2, rounding_mode="floor"), cubes % cells**2
    y, z = torch.div(rest, cells, rounding_mode="floor"), rest % cells
    offsets = torch.tensor([(k & 1) * side**2 + (k >> 1 & 1) * side + (k >> 2 & 1) for k in range(8)], device=cubes.device)
    return (x * side**2 + y * side + z)[:, None] + offsets


def _quads(low: Tensor, edge: Tensor, inside: Tensor) -> Tensor:
    """[Q,4] for each edge of the grid with four cubes the rows of its crossings in them, counter-clockwise seen from outside.

    Args:
        low: [K] vertex of the grid where the edge begins; edge: [K] its number in the cube; inside: [N] of the grid's vertices.
    """
    axis, slot = torch.div(edge, 4, rounding_mode="floor"), edge % 4
    key, order = (((axis * len(inside)) + low) * 4 + slot).sort()
    _, which, count = torch.div(key, 4, rounding_mode="floor").unique_consecutive(return_inverse=True, return_counts=True)
    quads = order[count[which] == 4].view(-1, 4)
    return torch.where(inside[low[quads[:, :1]]], quads, quads.flip(1))


def cube_grid(cells: int) -> Tensor:
    """[(cells+1)^3,3] float32 vertices of a grid of cubes over [-1,1]^3, z running fastest; ValueError below one cell."""
    if cells < 1:
        raise ValueError(f"a grid of cubes needs at least one cell along an axis, got {cells}")
    axis = torch.linspace(-1, 1, cells + 1)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
