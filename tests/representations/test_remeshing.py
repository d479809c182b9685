"""Remeshing keeps a surface closed, manifold and where it is, and brings edges to the wanted lengths."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from threedgen.representations.mesh import face_normals
from threedgen.representations.remeshing import Triangles, collapse, edges_of, flip, remesh, split

ROWS = 6000


def triangles(mesh: trimesh.Trimesh, wanted: float, rows: int = ROWS) -> Triangles:
    values = torch.zeros(rows, 4)
    values[: len(mesh.vertices), :3] = torch.tensor(mesh.vertices).float()
    values[:, 3] = wanted
    return Triangles(values, torch.tensor(mesh.faces), torch.zeros(rows, dtype=torch.bool))


def lengths(mesh: Triangles) -> Tensor:
    edges = edges_of(mesh.faces, len(mesh.values))
    return (mesh.position[edges.start] - mesh.position[edges.end]).norm(dim=-1)


def euler(mesh: Triangles) -> int:
    return int(mesh.alive.sum()) - len(edges_of(mesh.faces, len(mesh.values)).key) + len(mesh.faces)


def volume(mesh: Triangles) -> float:
    a, b, c = mesh.position.double()[mesh.faces].unbind(1)
    return float((torch.linalg.cross(a, b) * c).sum() / 6)


def assert_manifold(mesh: Triangles) -> None:
    """Edges have two faces (`edges_of` raises otherwise), no face is there twice, and the faces around a vertex make one fan."""
    edges_of(mesh.faces, len(mesh.values))
    assert len(mesh.faces.sort(1).values.unique(dim=0)) == len(mesh.faces)
    solid = trimesh.Trimesh(mesh.position.numpy(), mesh.faces.numpy(), process=False)
    assert solid.is_watertight
    assert solid.is_winding_consistent


BALL = trimesh.creation.icosphere(3)
TORUS = trimesh.creation.torus(1.0, 0.4, major_sections=40, minor_sections=20)


@pytest.mark.parametrize(("solid", "characteristic"), [(BALL, 2), (TORUS, 0)])
@pytest.mark.parametrize("wanted", [0.07, 0.12, 0.2])
def test_edges_come_to_the_wanted_length_and_the_surface_stays(solid: trimesh.Trimesh, characteristic: int, wanted: float) -> None:
    before = mesh = triangles(solid, wanted)
    for _ in range(6):
        mesh = remesh(mesh, 20_000)
        assert_manifold(mesh)
    assert euler(mesh) == characteristic
    length = lengths(mesh)
    assert float(((length > 0.7 * wanted) & (length < 4 / 3 * wanted)).double().mean()) > 0.75
    assert float(length.max()) < 1.7 * wanted
    assert volume(mesh) == pytest.approx(volume(before), rel=max(0.01, 0.8 * wanted**2))
    if characteristic == 2:
        assert float((face_normals(mesh.position, mesh.faces) * mesh.position[mesh.faces].mean(1)).sum(-1).min()) > 0


def test_it_follows_a_field_of_lengths() -> None:
    mesh = triangles(BALL, 0.1)
    for _ in range(8):
        mesh.values[:, 3] = torch.where(mesh.position[:, 2] > 0, 0.06, 0.25)
        mesh = remesh(mesh, 20_000)
    edges, length = edges_of(mesh.faces, ROWS), lengths(mesh)
    height = (mesh.position[edges.start, 2] + mesh.position[edges.end, 2]) / 2
    assert length[height > 0.5].mean() < 0.08
    assert length[height < -0.5].mean() > 0.2


def test_a_noisy_surface_stays_manifold_over_many_turns() -> None:
    rng = torch.Generator().manual_seed(0)
    mesh = triangles(BALL, 0.12)
    for _ in range(25):
        mesh.position.add_(0.02 * torch.randn(ROWS, 3, generator=rng))
        mesh = remesh(mesh, 20_000)
        assert_manifold(mesh)
    assert euler(mesh) == 2


def test_the_same_surface_comes_out_every_time() -> None:
    first, second = (remesh(triangles(TORUS, 0.1), 20_000) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert torch.equal(first.faces, second.faces)


def test_splitting_changes_no_place_of_the_surface_and_marks_the_new_rows() -> None:
    before = triangles(trimesh.creation.box((1.0, 1.0, 1.0)), 0.3)
    after = split(before, 20_000)
    assert volume(after) == pytest.approx(1.0, abs=1e-6)
    assert float(face_normals(after.position, after.faces).norm(dim=-1).sum() / 2) == pytest.approx(6.0, abs=1e-5)
    assert torch.equal(after.fresh.nonzero()[:, 0], torch.arange(8, 8 + int(after.fresh.sum())))
    assert len(after.faces) == 12 + 2 * int(after.fresh.sum())
    assert_manifold(after)


@pytest.mark.parametrize(("rows", "faces"), [(700, 20_000), (ROWS, 1500)])
def test_it_stops_where_no_row_or_no_face_is_left(rows: int, faces: int) -> None:
    mesh = triangles(BALL, 0.02, rows)
    for _ in range(3):
        mesh = remesh(mesh, faces)
    assert_manifold(mesh)
    assert len(mesh.faces) <= faces
    assert int(mesh.alive.sum()) == rows or len(mesh.faces) >= faces - 2


def test_a_tetrahedron_is_not_collapsed() -> None:
    corners = [[1.0, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]
    solid = trimesh.Trimesh(corners, [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], process=False)
    assert len(collapse(triangles(solid, 100.0)).faces) == 4


def test_a_flip_gives_the_delaunay_edge_of_a_flat_quadrilateral() -> None:
    """A flat double pyramid whose long diagonal is an edge: the short one takes its place on both sides but is made once only."""
    points = [[0.0, 0, 0], [4, 0, 0], [2, 1, 0], [2, -1, 0], [2, 0, -5]]
    solid = trimesh.Trimesh(points, [[0, 1, 2], [1, 0, 3], [0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4]], process=False)
    flipped = flip(triangles(solid, 1.0))
    assert_manifold(flipped)
    edges = edges_of(flipped.faces, ROWS)
    assert 2 * ROWS + 3 in edges.key.tolist()
    assert 0 * ROWS + 1 not in edges.key.tolist()
    assert abs(volume(flipped)) == pytest.approx(abs(volume(triangles(solid, 1.0))))


def test_an_open_or_crossed_surface_is_refused() -> None:
    with pytest.raises(ValueError, match="closed"):
        edges_of(torch.tensor([[0, 1, 2]]), 3)
    with pytest.raises(ValueError, match="closed"):
        edges_of(torch.tensor([[0, 1, 2], [0, 1, 2]]), 3)
    assert math.isclose(len(edges_of(torch.tensor([[0, 1, 2], [1, 0, 2]]), 3).key), 3)
