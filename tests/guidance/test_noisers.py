"""Noisy states: DDIM in both directions, and inversion."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.noisers import Noisy, fixed_noise, inverted, levels, moved, noisy_state, object_std
from threedgen.guidance.sds import SDS
from threedgen.priors.analytic import scaled_linear

ABAR = scaled_linear()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state_at(t: int, views: int = 2) -> Noisy:
    return noisy_state(random(views, 3, 4, 4), torch.full((views,), t), random(views, 3, 4, 4, seed=1), ABAR, views)


def test_levels_keep_the_variance_and_never_vanish():
    for t in (0, 500, 999):
        alpha, sigma = levels(torch.tensor([t]), random(1, 1, 1, 1), ABAR)
        assert alpha**2 + sigma**2 == pytest.approx(1)
    _, sigma = levels(torch.tensor([0]), random(1, 1, 1, 1), torch.ones(1))
    assert sigma > 0


def test_the_estimate_from_the_drawn_noise_is_the_latent():
    state = state_at(700)
    torch.testing.assert_close(state.estimate(state.noise), state.z)


@pytest.mark.parametrize("target", [100, 700, 950])
def test_moving_along_the_drawn_noise_keeps_latent_and_noise(target):
    there = moved(state_at(700), state_at(700).noise, torch.full((2,), target), ABAR)
    expected = state_at(target)
    torch.testing.assert_close(there.z_t, expected.z_t)
    torch.testing.assert_close(there.alpha, expected.alpha)
    torch.testing.assert_close(there.noise, expected.noise)


def test_moving_back_along_the_same_prediction_undoes_the_move():
    start, eps = state_at(400), random(2, 3, 4, 4, seed=3)
    there = moved(start, eps, torch.full((2,), 900), ABAR)
    torch.testing.assert_close(moved(there, eps, start.t, ABAR).z_t, start.z_t)


def round_trip(stride: int) -> float:
    """RMS error after t 0 -> 600 -> 0 with the exact scores of a two-dimensional Gaussian, relative to its samples."""
    mean, spread = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([1.0, 0.3], dtype=torch.float64)

    def eps(state: Noisy) -> torch.Tensor:
        offset = state.z_t - state.alpha * mean[:, None, None]
        return state.sigma * offset / (state.alpha**2 * spread[:, None, None] ** 2 + state.sigma**2)

    z = mean[:, None, None] + spread[:, None, None] * random(256, 2, 1, 1)
    state = noisy_state(z, torch.zeros(256, dtype=torch.long), random(256, 2, 1, 1, seed=1), ABAR, 1)
    start = state.z_t
    for t in (*range(stride, 601, stride), *range(600 - stride, -1, -stride)):
        state = moved(state, eps(state), torch.full((256,), t), ABAR)
    return (state.z_t - start).square().mean().sqrt().item()


def test_the_error_of_a_round_trip_is_of_first_order_in_the_stride():
    errors = {stride: round_trip(stride) for stride in (5, 20, 50, 100, 200)}
    assert list(errors.values()) == sorted(errors.values())
    assert errors[5] < 0.02
    assert errors[20] / errors[5] == pytest.approx(4, rel=0.25)
    assert errors[200] > 0.1


@pytest.mark.parametrize("prior", PRIORS)
def test_a_fine_inversion_followed_back_gives_the_latent(prior):
    bench = Bench(PRIORS[prior]())
    errors = []
    for stride in (100, 20, 5):
        state = inverted(bench.step(SDS(), 500), stride=stride, most=1000 // stride)
        start = bench.noised(0, bench.noise("inversion"))
        z_t = state.z_t
        for t in range(500, 0, -stride):
            z_t = bench.ddim(z_t, bench.eps("null", z_t, t), t, t - stride)
        errors.append((z_t - start).square().mean().sqrt().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02


def test_the_noise_of_an_inverted_state_is_the_prediction_of_its_last_move():
    bench = Bench()
    before = inverted(bench.step(SDS(), 400), stride=100, most=10)
    after = inverted(bench.step(SDS(), 500), stride=100, most=10)
    torch.testing.assert_close(after.noise, bench.eps("null", before.z_t, 400))
    torch.testing.assert_close(after.z_t, bench.ddim(before.z_t, after.noise, 400, 500))
    assert after.t.tolist() == [500] * 4
    assert torch.equal(after.z, bench.z)


def test_an_inversion_of_no_moves_is_a_noisy_latent():
    bench = Bench()
    for t, most in ((0, 5), (300, 0)):
        state = inverted(bench.step(SDS(), t), stride=100, most=most)
        torch.testing.assert_close(state.z_t, bench.noised(t, bench.noise("inversion")))
        torch.testing.assert_close(state.noise, bench.noise("inversion"))


def test_a_guided_inversion_takes_two_predictions_a_move_and_a_plain_one_takes_one():
    for cfg, expected in ((1.0, 4), (-7.5, 8)):
        bench, rows = Bench(), []
        predict = bench.prior.predict_noise
        bench.prior.predict_noise = lambda z_t, t, cond, rows=rows, predict=predict: rows.append(len(z_t)) or predict(z_t, t, cond)
        inverted(bench.step(SDS(), 300), stride=100, most=3, cond="text", cfg=cfg)
        assert rows == [expected] * 3


def test_fixed_noise_is_that_of_the_seed():
    noises = []
    for index, seed in ((0, 0), (9, 0), (0, 1)):
        bench = Bench(index=index, seed=seed)
        noises.append(fixed_noise(bench.step(SDS(), 300)).noise)
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])
    assert torch.equal(noises[0][0], noises[0][1])


def test_the_spread_of_an_object_is_over_all_of_its_views():
    z = random(6, 3, 4, 4)
    std = object_std(z, 3)
    assert std.shape == (6, 1, 1, 1)
    torch.testing.assert_close(std[:, 0, 0, 0], torch.stack([z[:3].std()] * 3 + [z[3:].std()] * 3))
