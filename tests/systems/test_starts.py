import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.systems.objectives import background_mask, hull_coverage


def silhouettes(inside, views: int = 4, size: int = 64):
    """Background masks [V,S,S] of a solid given by its indicator function, from a ring of cameras, and the cameras."""
    cameras = orbit_cameras([360.0 * v / views for v in range(views)], 15.0, 2.6, 40.0, size, size)
    origins, directions = cameras.rays()
    t = torch.linspace(1.6, 3.6, 160)
    points = origins[..., None, :] + t[:, None] * directions[..., None, :]
    return ~inside(points).any(-1), cameras


def slab(points: torch.Tensor) -> torch.Tensor:
    """An upright slab off the axis: no two of its quarter turns look alike."""
    return (points[..., 0].sub(0.4).abs() < 0.1) & (points[..., 1].abs() < 0.5) & (points[..., 2].abs() < 0.5)


def test_views_of_one_solid_are_filled_by_their_hull():
    empty, cameras = silhouettes(slab)
    assert hull_coverage(empty, cameras) > 0.9


def test_views_of_different_orientations_are_not():
    empty, cameras = silhouettes(slab)
    assert hull_coverage(empty[[1, 0, 3, 2]], cameras) < 0.7
    assert hull_coverage(empty[[0, 0, 0, 0]], cameras) < hull_coverage(empty, cameras) - 0.2


def test_an_empty_image_does_not_count_as_agreement():
    empty, cameras = silhouettes(slab)
    assert hull_coverage(torch.ones_like(empty), cameras) == pytest.approx(0.0)


def test_a_white_object_on_white_keeps_its_inside_where_it_has_an_outline():
    image = torch.ones(1, 32, 32, 3)
    image[0, 8:24, 8:24] = 0.2
    image[0, 10:22, 10:22] = 1.0
    mask = background_mask(image)[0]
    assert mask[0, 0]
    assert not mask[8:24, 8:24].any()
    assert mask.sum() == 32 * 32 - 16 * 16
