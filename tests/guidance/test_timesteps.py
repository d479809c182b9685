"""Samplers of the timestep."""

import math

import pytest
import torch

from threedgen.draws import Draws
from threedgen.guidance.sds import SDS
from threedgen.guidance.timesteps import LOG_MEAN, LOG_STD, SAMPLERS, sample_timestep
from threedgen.priors.analytic import scaled_linear

ABAR = scaled_linear()
RATIO = (0.5 * ((1 - ABAR) / ABAR).log()).tolist()


def timesteps(sampler: str, steps, total: int = 1000, abar: torch.Tensor = ABAR, **settings) -> list[int]:
    rule = SDS(t_sampler=sampler, **settings)
    return [int(sample_timestep(rule, abar, Draws(0, step, range(3)), total)[0]) for step in steps]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.02, 0.98), (0.3, 0.3), (0.999, 1.0), (0.2513, 0.2519)])
@pytest.mark.parametrize("count", [1000, 50, 1])
def test_timesteps_keep_to_their_range(sampler, low, high, count):
    abar = ABAR[:: 1000 // count].clone()
    found = timesteps(sampler, range(0, 40, 3), 40, abar, t_min=low, t_max=high)
    assert min(found) >= min(round(low * count), count - 1)
    assert max(found) <= min(max(round(high * count), round(low * count)), count - 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_views_share_a_timestep_that_is_keyed_on_the_step(sampler):
    rule = SDS(t_sampler=sampler)
    draws = Draws(7, 30, range(5))
    one, two = (sample_timestep(rule, ABAR, draws, 100) for _ in range(2))
    assert one.shape == (5,)
    assert one.dtype == torch.long
    assert len(one.unique()) == 1
    assert torch.equal(one, two)


@pytest.mark.parametrize("sampler", ["hifa", "dreamtime", "linear"])
def test_what_follows_the_progress_falls_from_the_largest_to_the_smallest_and_draws_nothing(sampler):
    settings = {"t_min": 0.1, "t_max": 0.9}
    found = timesteps(sampler, range(0, 1000, 9), **settings)
    assert found == sorted(found, reverse=True)
    assert found[0] == 900
    assert timesteps(sampler, [999, 5000], **settings) == [100, 100]
    rule = SDS(t_sampler=sampler, **settings)
    other = [int(sample_timestep(rule, ABAR, Draws(99, step, range(3)), 1000)[0]) for step in range(0, 1000, 9)]
    assert other == found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stage_of_one_step_has_a_timestep(sampler):
    (t,) = timesteps(sampler, [0], total=1)
    assert 20 <= t <= 980


def test_linear_is_a_line_and_hifa_a_square_root():
    steps = range(0, 1000, 111)
    assert timesteps("linear", steps, t_min=0.25, t_max=0.98) == [round(980 - 730 * s / 999) for s in steps]
    assert timesteps("hifa", steps, t_min=0.3, t_max=0.98) == [round(980 - 680 * math.sqrt(s / 999)) for s in steps]


def dreamtime_weight(t: int) -> float:
    spread = math.sqrt((1 - ABAR[t]) / ABAR[t])
    if t < 500:
        return spread * math.exp(-((t - 500) ** 2) / (2 * 100**2))
    return spread * (math.exp(-((t - 800) ** 2) / (2 * 300**2)) if t > 800 else 1)


def test_dreamtime_spends_its_steps_by_its_weights():
    weights = {t: dreamtime_weight(t) for t in range(20, 981)}
    total = sum(weights.values())
    for step in (0, 100, 500, 900, 999):
        (t,) = timesteps("dreamtime", [step])
        above = sum(w for at, w in weights.items() if at >= t) / total
        others = [sum(w for at, w in weights.items() if at >= near) / total for near in (t - 1, t + 1) if near in weights]
        assert all(abs(above - step / 999) <= abs(other - step / 999) + 1e-12 for other in others)


def test_dreamtime_is_the_same_curve_on_a_schedule_of_other_length():
    long, short = (timesteps("dreamtime", range(0, 1000, 50), abar=ABAR[::k].clone()) for k in (1, 5))
    assert all(abs(a - 5 * b) <= 10 for a, b in zip(long, short, strict=True))


def test_dreamtime_runs_where_its_weights_are_all_but_zero():
    found = timesteps("dreamtime", range(0, 100, 10), 100, t_min=0.0, t_max=0.02)
    assert found[0] <= 20
    assert found == sorted(found, reverse=True)


def test_uniform_covers_its_range_evenly():
    found = torch.tensor(timesteps("uniform", range(3000), t_min=0.2, t_max=0.6)).double()
    assert (found.min(), found.max()) == (pytest.approx(200, abs=3), pytest.approx(600, abs=3))
    counts = torch.histc(found, 8, 200, 600)
    assert ((counts - 375).abs() < 5 * 375**0.5).all()


def test_the_last_timestep_is_no_likelier_than_the_others():
    found = timesteps("uniform", range(4000), t_min=0.99, t_max=1.0)
    counts = [found.count(t) for t in range(990, 1000)]
    assert sum(counts) == 4000
    assert all(abs(c - 400) < 5 * 400**0.5 for c in counts)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.7)])
def test_log_normal_has_the_histogram_of_a_truncated_normal(low, high):
    found = timesteps("log_normal", range(1500), t_min=low, t_max=high)
    normal = torch.distributions.Normal(torch.tensor(LOG_MEAN), torch.tensor(LOG_STD))
    first, last = round(low * 1000), min(round(high * 1000), 999)

    def mass(a: int, b: int) -> float:
        return float(normal.cdf(torch.tensor(RATIO[b])) - normal.cdf(torch.tensor(RATIO[a])))

    for share in (0.1, 0.3, 0.5, 0.8):
        middle = round(first + share * (last - first))
        expected = mass(first, middle) / mass(first, last)
        actual = sum(t <= middle for t in found) / 1500
        assert actual == pytest.approx(expected, abs=0.05)


def test_the_range_follows_its_schedule():
    found = timesteps("uniform", range(200, 400), t_min=[0, 0.5, 0.1, 100], t_max=[0, 0.9, 0.2, 100])
    assert min(found) >= 100
    assert max(found) <= 200
    assert timesteps("uniform", [50], t_min=[0, 0.5, 0.1, 100], t_max=[0, 0.5, 0.1, 100]) == [300]
