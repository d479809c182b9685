"""Bringing data into the unit sphere, and back."""

from dataclasses import replace

import pytest
import torch

from tests.data.folders import barrel_views, ring
from threedgen.cameras import Cameras
from threedgen.data.placement import FITTED_RADIUS, Placement, carved_bounds, nearest_to_axes, place
from threedgen.data.posed_images import PosedImages
from threedgen.errors import UserError

OFFSET = (3.0, -2.0, 5.0)


def barrel(views: int = 12, size: int = 64) -> PosedImages:
    """A barrel of radius 0.8 around OFFSET."""
    cameras, images = barrel_views(ring(views, size, size), OFFSET)
    rgba = torch.stack([torch.from_numpy(image).float() / 255 for image in images])
    return PosedImages([str(k) for k in range(views)], rgba[..., :3], rgba[..., 3:], None, None, cameras)


def test_optical_axes_meet_in_the_point_they_look_at():
    cameras = ring(5)
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] += torch.tensor(OFFSET)
    assert nearest_to_axes(replace(cameras, c2w=c2w)).tolist() == pytest.approx(OFFSET, abs=1e-5)


def test_two_skew_axes_are_halved():
    """The axes x and, one above it, y: the nearest point to both lies half way up."""
    looks = torch.tensor([[[0.0, 0, -1], [1, 0, 0], [0, -1, 0]], [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]])
    c2w = torch.eye(4).repeat(2, 1, 1)
    c2w[0, :3, 2], c2w[1, :3, 2] = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    c2w[0, :3, 3], c2w[1, :3, 3] = torch.tensor([5.0, 0, 0]), torch.tensor([0.0, 5, 1])
    assert looks.shape == (2, 3, 3)
    assert nearest_to_axes(Cameras(c2w, torch.ones(2), 8, 8)).tolist() == pytest.approx([0, 0, 0.5], abs=1e-6)


def test_cameras_that_look_in_parallel_have_no_centre():
    cameras = ring(1)
    side_by_side = Cameras(cameras.c2w.repeat(3, 1, 1), cameras.fovy.repeat(3), 24, 24)
    side_by_side.c2w[:, 0, 3] += torch.arange(3)
    with pytest.raises(UserError, match=r"look in parallel.*give guidance\.center"):
        nearest_to_axes(side_by_side)


def test_the_hull_holds_the_object_closely():
    """No camera looks from below, so that the hull of the barrel ends there in a cone; elsewhere it is as wide as itself."""
    middle, radius = carved_bounds(barrel(), torch.tensor(OFFSET, dtype=torch.float64) + 0.1)
    assert (middle - torch.tensor(OFFSET))[:2].norm() < 0.03
    assert -0.12 < float(middle[2]) - OFFSET[2] < 0
    assert 0.8 <= radius < 1.0


def test_an_object_with_alpha_comes_to_fill_the_sphere():
    images = barrel()
    found = place(images, [], "auto")
    assert 0.7 < 0.8 * found.scale <= FITTED_RADIUS
    scene = found.images(images)
    assert scene.cameras.positions.norm(dim=-1).tolist() == pytest.approx([2.6 * found.scale] * len(images), rel=0.05)


def test_without_alpha_the_sphere_the_cameras_see_gets_its_radius():
    """From distance d, a plane of half height d tan(fov / 2) fills the picture."""
    images = replace(barrel(), alpha=torch.ones(12, 64, 64, 1))
    found = place(images, [], "auto")
    assert found.center.tolist() == pytest.approx(OFFSET, abs=1e-4)
    assert found.scale == pytest.approx(FITTED_RADIUS / (2.6 * torch.tan(images.cameras.fovy[0] / 2).item()), rel=1e-4)


def test_what_is_given_is_taken():
    images = barrel()
    assert place(images, [1.0, 2.0, 3.0], 0.5) == Placement(pytest.approx(torch.tensor([1.0, 2.0, 3.0])), 0.5)
    assert place(images, [], 0.5).scale == 0.5
    moved = place(images, [OFFSET[0] + 0.5, *OFFSET[1:]], "auto")
    assert moved.scale < place(images, [], "auto").scale, "the farthest point is farther from there"


def test_data_from_scene_is_the_way_back():
    placement = Placement(torch.tensor(OFFSET, dtype=torch.float64), 0.25)
    cameras = ring(3)
    scene = torch.nn.functional.pad(placement.cameras(cameras).positions.double(), (0, 1), value=1.0)
    assert torch.allclose((scene @ placement.data_from_scene().T)[:, :3], cameras.positions.double(), atol=1e-5)


def test_depths_shrink_with_the_scene():
    images = replace(barrel(), depth=torch.full((12, 64, 64, 1), 2.0))
    depth = Placement(torch.zeros(3, dtype=torch.float64), 0.25).images(images).depth
    assert depth is not None
    assert float(depth.mean()) == pytest.approx(0.5)


def test_silhouettes_that_contradict_each_other_are_refused():
    images = barrel()
    with pytest.raises(UserError, match="no point of space lies in all silhouettes"):
        carved_bounds(replace(images, alpha=torch.zeros_like(images.alpha)), torch.tensor(OFFSET, dtype=torch.float64))
