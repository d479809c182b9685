"""Consistency Distillation Sampling."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.draws import Draws
from threedgen.guidance.cds import CDS

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


def fixed(bench: Bench) -> torch.Tensor:
    return Draws(bench.seed, 0, (0,)).normal("fixed_noise", bench.z.shape[1:]).double().expand_as(bench.z)


@BOTH_PRIORS
@pytest.mark.parametrize(("s", "gap", "t"), [(300, 0.2, 500), (100, 0.1, 200), (900, 0.3, 999)])
def test_cds_compares_two_points_of_one_trajectory(prior, s, gap, t):
    bench = Bench(PRIORS[prior]())
    z_t = bench.noised(t, fixed(bench))
    eps = bench.cfg(z_t, t, 50.0)
    # Euler's step in variance-exploding coordinates y = z / alpha over sigma / alpha.
    ratio = [bench.sigma(at) / bench.alpha(at) for at in (s, t)]
    z_s = bench.alpha(s) * (z_t / bench.alpha(t) + (ratio[0] - ratio[1]) * eps)
    rule = CDS(cfg=50.0, interval=[gap, gap], t_sampler="uniform", t_min=s / 1000, t_max=s / 1000, grad_clip=0.0)
    bench.assert_residual(rule, eps - bench.cfg(z_s, s, 50.0), t)


@BOTH_PRIORS
def test_without_an_interval_nothing_is_left(prior):
    bench = Bench(PRIORS[prior]())
    assert bench.latent(CDS(interval=[0.0, 0.0], grad_clip=0.0)).abs().max() < 1e-9


def test_the_interval_is_drawn_from_its_range_step_by_step():
    gaps = []
    for index in range(200):
        bench = Bench(index=index, views=1)
        rule = CDS(t_min=0.3, t_max=0.3)
        states, _ = rule.states(bench.step(rule, 300))
        assert int(states["s"].t[0]) == 300
        gaps.append(int(states["t"].t[0]) - 300)
    assert min(gaps) >= 100
    assert max(gaps) <= 300
    assert max(gaps) - min(gaps) > 180


def test_the_noise_is_the_same_for_all_steps_and_views():
    rule, noises = CDS(), []
    for index in (0, 7):
        bench = Bench(index=index)
        noises.append(rule.states(bench.step(rule, 300))[0]["t"].noise)
    assert torch.equal(noises[0], noises[1])
    assert torch.equal(noises[0][0], noises[0][3])


def test_the_predictions_of_the_ode_step_are_not_asked_for_twice():
    bench = Bench()
    rows = []
    predict = bench.prior.predict_noise
    bench.prior.predict_noise = lambda z_t, t, cond: rows.append(len(z_t)) or predict(z_t, t, cond)
    bench.distill(CDS())
    assert rows == [8, 8]


def test_the_defaults_are_those_of_the_coarse_stage():
    rule = CDS()
    assert [rule.scheduled("cfg", step) for step in (0, 3000)] == [101, 51]
    assert [rule.scheduled("grad_clip", step) for step in (0, 500, 1000)] == [2, 5, 8]
    assert (rule.t_min, rule.t_max, rule.t_sampler, rule.weight) == (0.1, 0.7, "hifa", "one")
