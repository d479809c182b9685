"""Remeshing of a closed surface towards given edge lengths by splits, collapses and flips (continuous remeshing, Palfinger 2022).

Every operation works on all edges at once. Those that would get into each other's way wait for the next round: of two neighbours the
one with the lower rank goes first, and ranks are unique, so the result is the same every time. What goes in as a closed manifold comes
out as one: a collapse keeps the link condition (Dey et al. 1999), a flip makes no edge twice, and neither turns a face over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.representations.mesh import face_normals

LONG, SHORT = 4 / 3, 4 / 5  # of the wanted length: from there an edge is split, or collapsed (Botsch and Kobbelt 2004)
COLLAPSE_ROUNDS, FLIP_ROUNDS = 3, 2
MOST_NEIGHBOURS = 10  # of the vertex that a collapse leaves
LEAST_COSINE = 0.3  # between the normal of a face after a collapse and before, or that of the surface there
SMOOTH = 0.7  # cosine between two faces above which the edge between them is no feature and may be flipped
LEAST_EXCESS = 1e-3  # radians by which the angles opposite to an edge must exceed 180 degrees


@dataclass(frozen=True)
class Triangles:
    """A closed surface in rows of fixed number.

    Attributes:
        values: [P,K] of each row: its position [3], then the wanted length of edges there, then what is to be interpolated along.
        faces: [F,3] int64 rows. Rows that no face names are free.
        fresh: [P] bool, rows that stand for another vertex than before.
    """

    values: Tensor
    faces: Tensor
    fresh: Tensor

    @property
    def position(self) -> Tensor:
        return self.values[:, :3]

    @property
    def alive(self) -> Tensor:
        """[P] bool, rows that a face names."""
        return torch.zeros_like(self.fresh).index_fill(0, self.faces.flatten(), True)


@dataclass(frozen=True)
class Edges:
    """Edges of a closed surface, each once.

    Attributes:
        start, end: [E] rows; face `left` has start before end, face `right` end before start.
        left, right: [E] faces; their third corners are `above` and `below` [E].
        of_face: [F,3] the edge from corner k to corner k + 1.
        key: [E] min * P + max of the ends, ascending.
    """

    start: Tensor
    end: Tensor
    left: Tensor
    right: Tensor
    above: Tensor
    below: Tensor
    of_face: Tensor
    key: Tensor


def remesh(mesh: Triangles, most_faces: int) -> Triangles:
    """One turn: long edges split, short ones collapsed, edges flipped where that widens the angles.

    Args:
        most_faces: splits beyond are left out, the longest edges go first; so are those for which no row is free.

    Raises:
        ValueError: the surface is not closed, or an edge has more than two faces.
    """
    mesh = split(mesh, most_faces)
    for _ in range(COLLAPSE_ROUNDS):
        mesh = collapse(mesh)
    for _ in range(FLIP_ROUNDS):
        mesh = flip(mesh)
    return mesh


def edges_of(faces: Tensor, rows: int) -> Edges:
    """The edges of a closed surface; ValueError where one has not two faces that run along it in opposite directions."""
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    key, edge, count = torch.unique(torch.minimum(start, end) * rows + torch.maximum(start, end), return_inverse=True, return_counts=True)
    first, second = edge.sort(stable=True).indices.view(-1, 2).T if bool((count == 2).all()) else (edge[:0], edge[:1])
    if len(first) != len(key) or not torch.equal(start[first], end[second]):
        raise ValueError("the surface is not a closed, consistently wound manifold")
    third = faces.roll(-2, 1).flatten()
    return Edges(start[first], end[first], first // 3, second // 3, third[first], third[second], edge.view(-1, 3), key)


def split(mesh: Triangles, most_faces: int) -> Triangles:
    """Every edge longer than 4/3 of its wanted length gets a vertex in the middle; faces are cut into two, three or four."""
    edges = edges_of(mesh.faces, len(mesh.values))
    ratio = _lengths(mesh, edges) / _wanted(mesh, edges)
    free = torch.nonzero(~mesh.alive)[:, 0]
    allowed = max(0, min(len(free), (most_faces - len(mesh.faces)) // 2))
    longest = ratio.argsort(descending=True, stable=True)[:allowed]
    chosen = longest[ratio[longest] > LONG].sort().values
    if not len(chosen):
        return mesh
    rows = free[: len(chosen)]
    values = mesh.values.index_copy(0, rows, (mesh.values[edges.start[chosen]] + mesh.values[edges.end[chosen]]) / 2)
    middle = torch.full_like(edges.key, -1).index_copy(0, chosen, rows)[edges.of_face]
    return Triangles(values, _cut(values[:, :3], mesh.faces, middle), mesh.fresh.index_fill(0, rows, True))


def _cut(position: Tensor, faces: Tensor, middle: Tensor) -> Tensor:
    """Faces cut at the middles [F,3] of their edges, -1 where an edge stays whole."""
    count = (middle >= 0).sum(1)
    parts = [faces[count == 0]]
    for cuts in (1, 2, 3):
        here = count == cuts
        corner, middles = faces[here], middle[here]
        # turned so that the first edges are the cut ones
        first = torch.where(middles >= 0, 0, 1).argmax(1) + 1 if cuts == 2 else (middles >= 0).int().argmax(1)
        order = (first[:, None] + torch.arange(3, device=faces.device)) % 3
        (a, b, c), (ab, bc, ca) = corner.gather(1, order).T, middles.gather(1, order).T
        if cuts == 1:
            new = [(a, ab, c), (ab, b, c)]
        elif cuts == 2:
            nearer = (position[a] - position[bc]).norm(dim=-1) < (position[ab] - position[c]).norm(dim=-1)
            new = [(ab, b, bc), (a, ab, torch.where(nearer, bc, c)), (torch.where(nearer, a, ab), bc, c)]
        else:
            new = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        parts.append(torch.stack([torch.stack(face, -1) for face in new], 1).view(-1, 3))
    return torch.cat(parts)


def collapse(mesh: Triangles) -> Triangles:
    """Edges shorter than 4/5 of their wanted length shrink to their middles, as far as they leave each other in peace."""
    edges = edges_of(mesh.faces, len(mesh.values))
    ratio = _lengths(mesh, edges) / _wanted(mesh, edges)
    candidates = torch.nonzero(ratio < SHORT)[:, 0]
    around = _Around.of(mesh.faces, len(mesh.values))
    candidates = candidates[_keeps_manifold(edges, candidates, around, len(mesh.values))]
    candidates = candidates[_keeps_faces(mesh, edges, candidates, around)]
    candidates = candidates[ratio[candidates].argsort(stable=True)]
    a, b, rank = edges.start[candidates], edges.end[candidates], torch.arange(len(candidates), device=candidates.device)
    first = torch.full_like(around.count, len(rank))
    first = first.scatter_reduce(0, a, rank, "amin").scatter_reduce(0, b, rank, "amin")
    of_face = first[mesh.faces].amin(1, keepdim=True).expand(-1, 3)
    nearby = first.scatter_reduce(0, mesh.faces.flatten(), of_face.flatten(), "amin")
    alone = (nearby[a] == rank) & (nearby[b] == rank)
    a, b = a[alone], b[alone]
    values = mesh.values.index_copy(0, a, (mesh.values[a] + mesh.values[b]) / 2)
    faces = torch.arange(len(values), device=a.device).index_copy(0, b, a)[mesh.faces]
    return replace(mesh, values=values, faces=faces[(faces != faces.roll(1, 1)).all(1)])


@dataclass(frozen=True)
class _Around:
    """The corners [3F] of faces sorted by row: those of row r are order[begin[r] : begin[r] + count[r]]."""

    order: Tensor
    begin: Tensor
    count: Tensor

    @classmethod
    def of(cls, faces: Tensor, rows: int) -> _Around:
        count = torch.bincount(faces.flatten(), minlength=rows)
        return cls(faces.flatten().sort(stable=True).indices, count.cumsum(0) - count, count)

    def corners(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Corners at each of some rows, and the place in `rows` that each belongs to."""
        count = self.count[rows]
        place = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
        within = torch.arange(len(place), device=rows.device) - (count.cumsum(0) - count)[place]
        return self.order[self.begin[rows][place] + within], place


def _keeps_manifold(edges: Edges, chosen: Tensor, around: _Around, rows: int) -> Tensor:
    """Whether the ends of edges have no common neighbour but the two of their faces, and all around keep at least three neighbours."""
    a, b = edges.start[chosen], edges.end[chosen]
    valence = around.count
    left = valence[a] + valence[b] - 4
    enough = (left >= 3) & (left <= MOST_NEIGHBOURS) & (valence[edges.above[chosen]] > 3) & (valence[edges.below[chosen]] > 3)
    corner, place = around.corners(a)
    neighbour = _next(corner, edges)
    other = b[place]
    key = torch.minimum(neighbour, other) * rows + torch.maximum(neighbour, other)
    at = torch.searchsorted(edges.key, key).clamp_max(len(edges.key) - 1)
    common = torch.zeros_like(a).index_add(0, place, (edges.key[at] == key).long())
    return enough & (common == 2)


def _next(corner: Tensor, edges: Edges) -> Tensor:
    """Row of the corner that follows in the face of a corner: the far end of its edge."""
    edge, face = edges.of_face.flatten()[corner], corner // 3
    return torch.where(edges.left[edge] == face, edges.end[edge], edges.start[edge])


def _keeps_faces(mesh: Triangles, edges: Edges, chosen: Tensor, around: _Around) -> Tensor:
    """Whether the faces around edges keep their sides and get no long edge when the edge shrinks to its middle."""
    position, faces = mesh.position, mesh.faces
    flat = face_normals(position, faces)
    smooth = F.normalize(torch.zeros_like(position).index_add(0, faces.flatten(), flat.repeat_interleave(3, 0)), dim=-1, eps=1e-20)
    outward = smooth[edges.start[chosen]] + smooth[edges.end[chosen]]
    middle = (position[edges.start[chosen]] + position[edges.end[chosen]]) / 2
    kept = torch.ones(len(chosen), dtype=torch.bool, device=faces.device)
    for end in (edges.start, edges.end):
        corner, place = around.corners(end[chosen])
        face = corner // 3
        stays = (face != edges.left[chosen][place]) & (face != edges.right[chosen][place])
        corner, place, face = corner[stays], place[stays], face[stays]
        at, ahead, behind = (position[faces[face, (corner + k) % 3]] for k in range(3))
        before = torch.linalg.cross(ahead - at, behind - at)
        after = torch.linalg.cross(ahead - middle[place], behind - middle[place])
        # the normal of a sliver says little, so one of the two that should stay alike is enough
        alike = torch.stack([F.cosine_similarity(after, n, dim=-1, eps=1e-20) for n in (before, outward[place])]).amax(0)
        turned = alike < LEAST_COSINE
        length = (ahead - middle[place]).norm(dim=-1)
        wanted = (mesh.values[end[chosen][place], 3] + mesh.values[faces[face, (corner + 1) % 3], 3]) / 2
        kept[place[turned | (length > LONG * wanted)]] = False
    return kept


def flip(mesh: Triangles) -> Triangles:
    """Edges whose opposite angles add up to more than 180 degrees (not Delaunay) turn to join the other two corners of their faces."""
    edges = edges_of(mesh.faces, len(mesh.values))
    a, b, c, d = (mesh.position[row] for row in (edges.start, edges.end, edges.above, edges.below))
    excess = _angle(c, a, b) + _angle(d, a, b) - torch.pi
    normal = [F.normalize(torch.linalg.cross(q - p, r - p), dim=-1, eps=1e-20) for p, q, r in ((a, b, c), (b, a, d), (a, d, c), (d, b, c))]
    mean = normal[0] + normal[1]
    upright = ((normal[0] * normal[1]).sum(-1) > SMOOTH) & ((normal[2] * mean).sum(-1) > 1) & ((normal[3] * mean).sum(-1) > 1)
    rows = len(mesh.values)
    valence = torch.bincount(mesh.faces.flatten(), minlength=rows)
    key = torch.minimum(edges.above, edges.below) * rows + torch.maximum(edges.above, edges.below)
    absent = edges.key[torch.searchsorted(edges.key, key).clamp_max(len(edges.key) - 1)] != key
    allowed = (excess > LEAST_EXCESS) & upright & absent & (valence[edges.start] > 3) & (valence[edges.end] > 3)
    chosen = torch.nonzero(allowed)[:, 0]
    chosen = chosen[excess[chosen].argsort(descending=True, stable=True)]
    quad = torch.stack([edges.start, edges.end, edges.above, edges.below], 1)[chosen]
    rank = torch.arange(len(chosen), device=chosen.device)[:, None].expand(-1, 4)
    first = torch.full_like(valence, len(chosen)).scatter_reduce(0, quad.flatten(), rank.flatten(), "amin")
    alone = (first[quad] == rank).all(1)
    chosen, (a, b, c, d) = chosen[alone], quad[alone].T
    faces = mesh.faces.index_copy(0, edges.left[chosen], torch.stack([a, d, c], 1))
    return replace(mesh, faces=faces.index_copy(0, edges.right[chosen], torch.stack([d, b, c], 1)))


def _angle(at: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """[N] angle in radians between p and q, seen from a point."""
    p, q = p - at, q - at
    return torch.atan2(torch.linalg.cross(p, q).norm(dim=-1), (p * q).sum(-1))


def _lengths(mesh: Triangles, edges: Edges) -> Tensor:
    """[E]"""
    return (mesh.position[edges.start] - mesh.position[edges.end]).norm(dim=-1)


def _wanted(mesh: Triangles, edges: Edges) -> Tensor:
    """[E] mean of the lengths wanted at both ends."""
    return (mesh.values[edges.start, 3] + mesh.values[edges.end, 3]) / 2
