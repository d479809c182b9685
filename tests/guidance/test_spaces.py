"""Where a gradient lands and what is done to it: crops, masks, the moving target and the pseudo-Huber distance."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.guidance.bench import Bench
from tests.oracles import ToldGaussianPrior
from threedgen.draws import Draws
from threedgen.guidance.core import cropped, huber_gradient
from threedgen.guidance.reconstruction import Reconstruction
from threedgen.guidance.sds import SDS

SPACES = pytest.mark.parametrize("space", ["latent", "pixel", "both"])
AT = {"t_min": 0.4, "t_max": 0.4}


def random(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_crop_is_the_same_window_of_all_views_and_at_least_the_smallest():
    x = torch.arange(20 * 20).reshape(1, 1, 20, 20).double()
    sides, corners = [], []
    for step in range(200):
        crop = cropped(x.expand(3, 1, 20, 20), 0.5, Draws(0, step, range(3)))
        assert torch.equal(crop[0], crop[2])
        assert torch.equal(crop, cropped(x.expand(3, 1, 20, 20), 0.5, Draws(0, step, range(3))))
        assert crop.shape[-1] == crop.shape[-2]
        sides.append(crop.shape[-1])
        row, column = divmod(int(crop[0, 0, 0, 0]), 20)
        assert torch.equal(crop[0, 0], x[0, 0, row : row + sides[-1], column : column + sides[-1]])
        corners += [row, column]
    assert (min(sides), max(sides)) == (10, 20)
    assert (min(corners), max(corners)) == (0, 10)


def test_no_crop_is_the_views_and_no_crop_leaves_them():
    x = random(2, 3, 6, 6)
    assert cropped(x, 1.0, Draws(0, 0, range(2))) is x
    for step in range(20):  # a side of at least eight pixels would not fit
        assert torch.equal(cropped(x, 0.1, Draws(0, step, range(2))), x)
        assert cropped(random(1, 3, 30, 12), 0.9, Draws(0, step, range(1))).shape[-1] <= 12


@SPACES
def test_outside_of_the_crop_there_is_no_gradient(space):
    bench = Bench(size=20)
    rule = SDS(crop=0.5, space=space, **AT)
    marked = torch.zeros(1, 1, 20, 20)
    inside = cropped(marked, 0.5, bench.draws)
    inside += 1  # a view of the marks
    assert 0 < marked.sum() < 400
    gradient = bench.gradient(rule)
    assert gradient[:, :, marked[0, 0] == 0].abs().max() == 0
    assert (gradient[:, :, marked[0, 0] == 1].abs().amax((0, 1)) > 0).all()


def test_a_crop_is_seen_at_the_size_of_the_prior():
    bench = Bench(size=20)
    out = bench.distill(SDS(crop=0.5, **AT))
    expected = 2 * F.interpolate(cropped(bench.x, 0.5, bench.draws), (6, 6), mode="bilinear", antialias=True) - 1
    torch.testing.assert_close(out.step.z, expected)


def test_a_crop_would_not_fit_inputs_beside_the_views():
    from threedgen.guidance.dds import DDS

    with pytest.raises(ValueError, match="crop must be 1"):
        DDS(crop=[0, 1.0, 0.5, 10]).check()
    DDS().check()


@SPACES
def test_a_mask_of_nothing_leaves_nothing_and_one_of_all_changes_nothing(space):
    bench, rule = Bench(), SDS(space=space, **AT)
    assert bench.gradient(rule, torch.zeros(4, 1, 6, 6)).abs().max() < 1e-12
    torch.testing.assert_close(bench.gradient(rule, torch.ones(4, 1, 6, 6)), bench.gradient(rule))


@SPACES
@pytest.mark.parametrize("factor", [1, 4])
def test_a_mask_is_a_factor_of_each_pixel(space, factor):
    bench, rule = Bench(), SDS(space=space, **AT)
    mask = random(4, 1, 6, 6)
    larger = F.interpolate(mask, scale_factor=factor)
    torch.testing.assert_close(bench.gradient(rule, larger), bench.gradient(rule) * mask)


@SPACES
def test_a_mask_is_cropped_with_the_views(space):
    bench = Bench(ToldGaussianPrior(size=10), size=20)
    bench.draws = Draws(0, 11, range(4))
    mask = torch.zeros(4, 1, 20, 20, dtype=torch.float64)
    mask[:, :, :10] = 1
    gradient = bench.gradient(SDS(crop=0.5, space=space, **AT), mask)
    marked = torch.zeros(1, 1, 20, 20)
    cropped(marked, 0.5, bench.draws).add_(1)
    rows = marked[0, 0].amax(1).nonzero()[:, 0].tolist()
    assert rows[0] < 8
    assert rows[-1] > 12
    assert gradient[:, :, 12:].abs().max() == 0
    assert gradient[:, :, rows[0] : 8].abs().max() > 0


def test_the_clip_comes_after_the_mask_and_before_the_scale():
    bench = Bench()
    free = bench.latent(SDS(**AT))
    mask, limit = random(4, 1, 6, 6), float(free.abs().median())
    clipped = bench.gradient(SDS(grad_clip=limit, scale=3.0, **AT), mask) / 2
    torch.testing.assert_close(clipped, 3.0 * (free * mask).clamp(-limit, limit))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_moving_target_keeps_its_share_of_the_render(share):
    bench = Bench()
    rule = Reconstruction(pixel_ema=share, cfg=1.0, **AT)
    torch.testing.assert_close(bench.gradient(rule), (1 - share) * bench.gradient(replace(rule, pixel_ema=0.0)))


def test_the_huber_gradient_is_that_of_the_pseudo_huber_distance_times_c():
    difference = random(3, 3, 4, 4).sub(0.5).requires_grad_()
    c = 0.00054 * 48**0.5
    distance = (difference.square().sum((1, 2, 3)) + c**2).sqrt() - c
    (expected,) = torch.autograd.grad(distance.sum(), difference)
    torch.testing.assert_close(huber_gradient(difference.detach()), c * expected)


def test_the_limits_of_the_huber_distance_are_the_square_and_the_length():
    difference = random(2, 3, 8, 8) - 0.5
    c = 0.00054 * 192**0.5
    torch.testing.assert_close(huber_gradient(1e-6 * difference), 1e-6 * difference, rtol=1e-5, atol=0)
    torch.testing.assert_close(huber_gradient(1e6 * difference).flatten(1).norm(dim=1), torch.full((2,), c).double())
    assert torch.equal(huber_gradient(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def test_the_pixel_loss_may_be_huber():
    bench = Bench()
    plain = bench.gradient(Reconstruction(cfg=1.0, **AT))
    torch.testing.assert_close(bench.gradient(Reconstruction(cfg=1.0, pixel_loss="huber", **AT)), huber_gradient(plain))


def test_the_pixel_target_is_decoded_to_the_size_of_the_render():
    bench = Bench(size=12)
    rule = Reconstruction(cfg=1.0, rescale=0.0, **AT)
    z = bench.distill(rule).step.z
    z_t = bench.noised(400, z=z, noise=bench.draws.normal("noise", z.shape[1:]).double())
    estimate = (z_t - bench.sigma(400) * bench.eps("text", z_t, 400)) / bench.alpha(400)
    target = F.interpolate((estimate / 2 + 0.5).clamp(0, 1), (12, 12), mode="bilinear")
    torch.testing.assert_close(bench.gradient(rule), bench.x - target)
