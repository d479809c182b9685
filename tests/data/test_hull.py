"""The visual hull against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.data.hull import hull_distance
from threedgen.data.posed_images import PosedImages
from threedgen.errors import UserError

VIEWS, SIZE, DISTANCE = 12, 96, 2.6


def ball_images(radius: float) -> PosedImages:
    """Silhouettes of a ball: rays that pass the origin at less than its radius."""
    cameras = orbit_cameras([360.0 * k / VIEWS for k in range(VIEWS)], 20.0, DISTANCE, 40.0, SIZE, SIZE)
    origins, directions = cameras.rays()
    nearest = torch.linalg.cross(origins, directions).norm(dim=-1, keepdim=True)
    alpha = (nearest < radius).float()
    return PosedImages([str(k) for k in range(VIEWS)], torch.ones(*alpha.shape[:3], 3), alpha, None, None, cameras)


def test_distances_to_the_hull_of_a_ball_are_those_to_the_ball_near_the_ring_of_cameras() -> None:
    """Around the axis of the views the cones touch the ball in circles; across the mean ray distances are exact to a pixel."""
    distance = hull_distance(ball_images(0.5))
    angles = torch.arange(12) * math.pi / 6
    pixel = 2 * DISTANCE * math.tan(math.radians(20)) / SIZE
    upward = torch.tensor([0.0, 0.0, 1.0])
    for radius in (0.3, 0.45, 0.55, 0.7):
        ring = radius * torch.stack([angles.cos(), angles.sin(), torch.zeros(12)], -1)
        assert (distance(ring) - (radius - 0.5)).abs().max() < 0.03 + pixel
        assert distance(ring + 2 * upward).min() > 0
    assert distance(torch.zeros(1, 3)).item() == pytest.approx(-0.5, abs=0.05)


def test_a_point_that_most_views_do_not_hold_is_outside() -> None:
    assert (hull_distance(ball_images(0.5))(torch.tensor([[0.0, 0.0, 5.0], [9.0, 0.0, 0.0]])) > 0).all()


def test_images_without_alpha_have_no_hull() -> None:
    images = ball_images(9.0)
    assert not images.has_alpha
    with pytest.raises(UserError, match="no alpha"):
        hull_distance(images)
