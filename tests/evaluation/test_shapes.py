"""Distances between surfaces against closed forms."""

import pytest
import torch
import trimesh

from threedgen.cameras import orbit_cameras
from threedgen.errors import UserError
from threedgen.evaluation.shapes import f_score, likeness, surface_points
from threedgen.evaluation.visible import seen_by, visible_points
from threedgen.representations.base import Mesh


def sphere(radius: float = 1.0, shift: float = 0.0) -> Mesh:
    ball = trimesh.creation.icosphere(4, radius)
    return Mesh(torch.tensor(ball.vertices).float() + torch.tensor([shift, 0.0, 0.0]), torch.tensor(ball.faces))


def test_f_score_of_a_mesh_with_itself_is_one():
    assert f_score(sphere(), sphere(), samples=4000) == 1.0


@pytest.mark.parametrize(("shift", "share"), [(0.15, 0.667), (0.3, 0.333), (0.6, 0.167)])
def test_f_score_of_a_shifted_sphere(shift: float, share: float):
    """A point at angle a from the shift lies |shift cos a| from the other sphere (to first order), and cos a is uniform on a
    sphere: the share within 0.1 (5 % of the diameter) is 0.1 / shift."""
    assert f_score(sphere(shift=shift), sphere(), samples=4000) == pytest.approx(share, abs=0.06)


def test_f_score_of_nested_spheres_is_all_or_nothing():
    assert f_score(sphere(1.05), sphere(), samples=4000) > 0.99
    assert f_score(sphere(1.25), sphere(), samples=4000) == 0.0


def test_f_score_threshold_is_a_share_of_the_longest_side_of_the_reference():
    long = Mesh(sphere().vertices * torch.tensor([4.0, 1.0, 1.0]), sphere().faces)
    moved = Mesh(long.vertices + torch.tensor([0.0, 0.0, 10.0]), long.faces)
    assert f_score(moved, long, threshold=1.3, samples=500) == 1.0
    assert f_score(moved, long, threshold=0.9, samples=500) == 0.0


def test_surface_points_are_uniform_by_area_and_keyed():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]))
    points = surface_points(mesh, 20_000, 3, "test").position
    large = points[:, 0] > 4
    assert float(large.double().mean()) == pytest.approx(0.75, abs=0.01)
    assert torch.allclose(points[~large].mean(0), torch.tensor([1 / 3, 1 / 3, 0.0], dtype=torch.float64), atol=0.01)
    assert torch.equal(points, surface_points(mesh, 20_000, 3, "test").position)


@pytest.mark.parametrize("vertices", [torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
def test_f_score_without_a_surface(vertices: torch.Tensor):
    with pytest.raises(UserError, match="without a surface"):
        f_score(Mesh(vertices, torch.tensor([[0, 1, 2]])), sphere())


def test_a_surface_is_like_itself_whichever_way_it_is_wound():
    points = surface_points(sphere(), 4000, 0, "test")
    assert vars(likeness(points, points, 2.0)) == pytest.approx({"f_score": 1.0, "chamfer": 0.0, "normal_consistency": 1.0})
    turned = Mesh(sphere().vertices, sphere().faces.flip(1))
    assert likeness(surface_points(turned, 4000, 0, "test"), points, 2.0).normal_consistency > 0.99


def test_nested_spheres_are_their_difference_apart():
    """Dense points on spheres of radius 1 and 1.1: every nearest distance is 0.1, and normals agree."""
    inner, outer = (surface_points(sphere(radius), 60_000, 0, "test") for radius in (1.0, 1.1))
    found = likeness(outer, inner, 2.0, threshold=0.049)
    assert found.chamfer == pytest.approx(0.05, rel=0.02)
    assert found.normal_consistency > 0.999
    assert found.f_score == 0.0
    assert likeness(outer, inner, 2.0, threshold=0.052).f_score > 0.99


def test_parallel_and_crossed_planes():
    square = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    raised = Mesh(square.vertices + torch.tensor([0, 0, 0.3]), square.faces)
    points = [surface_points(mesh, 2000, 0, "test") for mesh in (square, raised)]
    assert likeness(*points, 1.0).chamfer == pytest.approx(0.3)
    upright = Mesh(square.vertices[:, [2, 0, 1]], square.faces)
    assert likeness(points[0], surface_points(upright, 2000, 0, "test"), 1.0).normal_consistency == pytest.approx(0.0, abs=1e-9)


def test_nothing_to_compare_is_said():
    points = surface_points(sphere(), 10, 0, "test")
    with pytest.raises(UserError, match="no point"):
        likeness(points, points[torch.zeros(10, dtype=torch.bool)], 2.0)


def test_one_camera_sees_a_cap_of_a_sphere_and_nothing_inside():
    """From a distance d a sphere of radius r shows the cap with cos a > r / d; a sphere within it is never seen."""
    both = Mesh(torch.cat([sphere().vertices, sphere(0.5).vertices]), torch.cat([sphere().faces, sphere().faces + len(sphere().vertices)]))
    cameras = orbit_cameras([0.0], 0.0, 4.0, 40.0, 256, 256)
    outer, inner = (surface_points(sphere(radius), 4000, 0, "test").position for radius in (1.0, 0.5))
    seen = seen_by(both, outer, cameras, 0.03)
    assert seen[outer[:, 0] > 0.5].all()  # nearer to the outline a pixel holds more than the tolerance
    assert not seen[outer[:, 0] < 0.2].any()
    assert not seen_by(both, inner, cameras, 0.03).any()


def test_most_of_a_sphere_is_visible_from_four_sides():
    cameras = orbit_cameras([0.0, 90.0, 180.0, 270.0], 0.0, 4.0, 40.0, 128, 128)
    assert len(visible_points(sphere(), cameras, 1000, 0.05, 0, "test")) > 800
