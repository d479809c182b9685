"""Projection of Gaussians: closed forms, agreement with the cameras' own rays, gradients."""

import math

import pytest
import torch

from threedgen.cameras import Cameras, orbit, orbit_cameras
from threedgen.ops.project_gaussians import BLUR
from threedgen.representations.projection import project, rotations

CAMERAS = orbit_cameras([0.0, 130.0], elevation=25.0, distance=2.6, fovy=40.0, height=48, width=64)


def double(cameras: Cameras) -> Cameras:
    return Cameras(cameras.c2w.double(), cameras.fovy.double(), cameras.height, cameras.width)


def test_a_point_on_the_ray_of_a_pixel_is_projected_to_its_centre():
    row, column = torch.tensor([3, 20, 47]), torch.tensor([60, 31, 0])
    for view in range(2):
        origins, directions = double(CAMERAS).rays_through(torch.full((3,), view), row, column)
        points = origins + torch.tensor([[1.0], [2.5], [4.0]]) * directions
        seen = project(points, torch.eye(3, dtype=torch.float64).expand(3, 3, 3), double(CAMERAS)[[view]])
        torch.testing.assert_close(seen.mean[0], torch.stack([column, row], -1) + 0.5, rtol=1e-5, atol=1e-4, check_dtype=False)
        forward = -double(CAMERAS).c2w[view, :3, 2]
        torch.testing.assert_close(seen.depth[0], (points - origins) @ forward, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("deviation", [0.01, 0.2])
def test_a_ball_in_the_middle_is_a_disc(deviation: float):
    """Standard deviation f s / z in pixels, and the blur."""
    axes = torch.eye(3, dtype=torch.float64)[None] * deviation
    seen = project(torch.zeros(1, 3, dtype=torch.float64), axes, double(CAMERAS))
    variance = (24 / math.tan(math.radians(20)) * deviation / 2.6) ** 2
    want = torch.tensor([1 / (variance + BLUR), 0.0, 1 / (variance + BLUR)], dtype=torch.float64)
    torch.testing.assert_close(seen.conic, want.expand(2, 1, 3), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen.shrink, torch.full((2, 1), variance / (variance + BLUR), dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_covariance_is_that_of_projected_points():
    """To first order: points of a small Gaussian off the axis, projected one by one."""
    rng = torch.Generator().manual_seed(0)
    axes = 0.004 * torch.randn(3, 3, generator=rng, dtype=torch.float64)
    mean = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
    cloud = torch.randn(20_000, 3, generator=rng, dtype=torch.float64)
    cloud = (cloud - cloud.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(cloud.T.cov())).T
    cameras = double(CAMERAS).resized(480, 640)
    pixels = project(mean + cloud @ axes.T, torch.eye(3, dtype=torch.float64).expand(len(cloud), 3, 3), cameras).mean
    seen = project(mean[None], axes[None], cameras)
    for view in range(2):
        xx, xy, yy = seen.conic[view, 0]
        got = torch.linalg.inv(torch.stack([torch.stack([xx, xy]), torch.stack([xy, yy])]))
        want = pixels[view].T.cov() + BLUR * torch.eye(2)
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02 * float(want.diagonal().min()))


def test_what_lies_behind_the_camera_is_not_drawn():
    position = CAMERAS.positions[:1]
    seen = project(torch.cat([position * 1.2, position, position * 0.5]), torch.eye(3).expand(3, 3, 3), CAMERAS[[0]])
    assert (seen.depth[0] > 0).tolist() == [False, False, True]
    assert all(value.isfinite().all() for value in seen)


def test_gradcheck():
    rng = torch.Generator().manual_seed(1)
    means = (torch.rand(4, 3, generator=rng, dtype=torch.float64) - 0.5).requires_grad_()
    axes = (0.2 * torch.randn(4, 3, 3, generator=rng, dtype=torch.float64)).requires_grad_()
    cameras = double(CAMERAS)
    assert torch.autograd.gradcheck(lambda m, a: tuple(project(m, a, cameras)), (means, axes))


def test_rotations_turn_as_quaternions_do():
    half = math.radians(50) / 2
    turn = rotations(torch.tensor([[3 * math.cos(half), 0.0, 0.0, 3 * math.sin(half)]]))[0]
    want = [math.cos(2 * half), math.sin(2 * half), 0.0]
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor(want))
    random = rotations(torch.randn(7, 4, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(random @ random.mT, torch.eye(3).expand(7, 3, 3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(random), torch.ones(7))


def test_images_are_neither_mirrored_nor_upside_down():
    """Seen from +x, +y is to the right and +z up."""
    camera = Cameras(orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 3.0)), torch.full((1,), 0.7), 64, 64)
    seen = project(torch.tensor([[0.0, 0.3, 0.0], [0.0, 0.0, 0.3]]), torch.eye(3).expand(2, 3, 3), camera)
    offset = 32 * 0.3 / 3 / math.tan(0.35)
    torch.testing.assert_close(seen.mean[0], 32 + torch.tensor([[offset, 0.0], [0.0, -offset]]), rtol=0, atol=1e-4)
