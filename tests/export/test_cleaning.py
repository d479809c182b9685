"""Cleaning and simplification, also of hostile meshes."""

import math

import pytest
import torch

from tests.export.shapes import box, joined, sphere, volume
from threedgen.errors import UserError
from threedgen.export import clean_mesh, simplify_mesh
from threedgen.representations.base import Mesh


def test_a_clean_mesh_keeps_its_shape():
    cleaned = clean_mesh(box())
    assert (len(cleaned.vertices), len(cleaned.faces)) == (8, 12)
    assert volume(cleaned) == pytest.approx(1.0)


def test_duplicates_and_degenerate_faces_go():
    cube = box()
    split = cube.vertices[cube.faces.flatten()]
    soup = torch.arange(36).view(12, 3)
    line = torch.tensor([[0, 1, 1], [0, 0, 0]])
    between = torch.cat([split, (split[:1] + split[1:2]) / 2])
    sliver = torch.tensor([[0, 1, 36]])
    cleaned = clean_mesh(Mesh(between, torch.cat([soup, soup[:5], soup[:3].flip(-1), line, sliver])))
    assert (len(cleaned.vertices), len(cleaned.faces)) == (8, 12)
    assert volume(cleaned) == pytest.approx(1.0)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_vertices_that_are_not_finite_take_only_their_faces_along(poison: float):
    mesh = sphere()
    mesh.vertices[7] = poison
    around = (mesh.faces == 7).any(-1).sum()
    cleaned = clean_mesh(mesh)
    assert len(cleaned.faces) == len(mesh.faces) - around
    assert torch.isfinite(cleaned.vertices).all()


def test_small_floaters_go_and_large_parts_stay():
    mesh = joined(sphere(0.5), sphere(0.03, (0.9, 0.0, 0.0)), sphere(0.3, (0.0, 0.9, 0.0)))
    cleaned = clean_mesh(mesh)
    assert volume(cleaned) == pytest.approx(4 / 3 * math.pi * (0.5**3 + 0.3**3), rel=0.02)
    assert len(clean_mesh(mesh, min_share=0.0).faces) == len(mesh.faces)


def test_parts_that_are_inside_out_are_turned():
    inverted = Mesh(sphere().vertices, sphere().faces.flip(-1))
    assert volume(clean_mesh(inverted)) == pytest.approx(volume(sphere()), rel=1e-5)
    other = sphere(0.5, (2.0, 0.0, 0.0))
    mixed = joined(sphere(), Mesh(other.vertices, other.faces.flip(-1)))
    assert volume(clean_mesh(mixed)) == pytest.approx(volume(sphere()) + volume(sphere(0.5)), rel=1e-5)


@pytest.mark.parametrize("inside_out", [False, True])
def test_cavities_go(inside_out: bool):
    hollow = joined(sphere(), Mesh(sphere(0.5).vertices, sphere(0.5).faces.flip(-1)))
    if inside_out:
        hollow.faces = hollow.faces.flip(-1)
    assert volume(clean_mesh(hollow)) == pytest.approx(volume(sphere()), rel=1e-5)


def test_an_open_and_non_manifold_mesh_survives():
    fin = Mesh(torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, -0.5], [1.0, 1.0, 0.0]]), torch.tensor([[0, 1, 2]]))
    cleaned = clean_mesh(joined(box(), fin))
    assert (len(cleaned.vertices), len(cleaned.faces)) == (9, 13)
    assert len(clean_mesh(fin).faces) == 1


def test_vertex_colours_follow_their_vertices():
    mesh = sphere()
    mesh.vertex_rgb = mesh.vertices * 0.5 + 0.5
    cleaned = clean_mesh(joined_with_colours(mesh))
    assert cleaned.vertex_rgb is not None
    assert torch.allclose(cleaned.vertex_rgb, cleaned.vertices * 0.5 + 0.5)


def joined_with_colours(mesh: Mesh) -> Mesh:
    """The mesh after three vertices that no face uses."""
    assert mesh.vertex_rgb is not None
    return Mesh(torch.cat([torch.full((3, 3), 9.0), mesh.vertices]), mesh.faces + 3, torch.cat([torch.zeros(3, 3), mesh.vertex_rgb]))


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)),
        Mesh(torch.eye(3), torch.zeros(0, 3, dtype=torch.long)),
        Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])),
        Mesh(torch.tensor([[0.0, 0, 0], [1, 1, 1], [2, 2, 2]]), torch.tensor([[0, 1, 2]])),
        Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]])),
    ],
    ids=["nothing", "no faces", "a point", "a line", "nan"],
)
def test_nothing_left(mesh: Mesh):
    with pytest.raises(UserError, match="no surface"):
        clean_mesh(mesh)


def test_simplification_keeps_budget_and_shape():
    mesh = sphere(level=5)
    small = simplify_mesh(mesh, 1000)
    assert 900 <= len(small.faces) <= 1000
    assert volume(small) == pytest.approx(volume(mesh), rel=0.02)
    again = simplify_mesh(mesh, 1000)
    assert torch.equal(small.vertices, again.vertices)
    assert torch.equal(small.faces, again.faces)


def test_simplification_below_the_budget_only_cleans():
    assert len(simplify_mesh(box(), 1000).faces) == 12
