"""Metrics against closed forms."""

import math

import pytest
import torch
import trimesh

from threedgen.errors import UserError
from threedgen.evaluation.metrics import f_score, foreground_psnr, nearest_distance, psnr, surface_points
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
    points = surface_points(mesh, 20_000, 3, "test")
    large = points[:, 0] > 4
    assert float(large.double().mean()) == pytest.approx(0.75, abs=0.01)
    assert torch.allclose(points[~large].mean(0), torch.tensor([1 / 3, 1 / 3, 0.0], dtype=torch.float64), atol=0.01)
    assert torch.equal(points, surface_points(mesh, 20_000, 3, "test"))


def test_nearest_distance():
    points = torch.tensor([[0.0, 0, 0], [3, 4, 0]])
    assert nearest_distance(points, torch.tensor([[0.0, 0, 1], [9, 9, 9]])).tolist() == pytest.approx([1.0, math.sqrt(26)])


@pytest.mark.parametrize("vertices", [torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
def test_f_score_without_a_surface(vertices: torch.Tensor):
    with pytest.raises(UserError, match="without a surface"):
        f_score(Mesh(vertices, torch.tensor([[0, 1, 2]])), sphere())


def test_psnr_of_a_constant_error():
    image = torch.full((2, 4, 4, 3), 0.5)
    assert psnr(image + 0.1, image) == pytest.approx(20.0, abs=1e-4)
    assert psnr(image, image) == math.inf


def test_foreground_psnr_ignores_the_background_and_counts_a_wrong_silhouette():
    white, alpha = torch.ones(1, 4, 4, 3), torch.zeros(1, 4, 4, 1)
    reference, reference_alpha = white.clone(), alpha.clone()
    reference[:, :2] = 0.5
    reference_alpha[:, :2] = 1
    right = reference.clone()
    right[:, :2] += 0.1
    assert foreground_psnr(right, reference_alpha, reference, reference_alpha) == pytest.approx(20.0, abs=1e-4)
    assert foreground_psnr(white, alpha, reference, reference_alpha) == pytest.approx(-20 * math.log10(0.5), abs=1e-4)
    with pytest.raises(UserError, match="neither"):
        foreground_psnr(white, alpha, white, alpha)
