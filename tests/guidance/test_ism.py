"""ISM and CSM: noisy states by DDIM inversion."""

import itertools

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.csm import CSM
from threedgen.guidance.ism import ISM
from threedgen.guidance.sds import SDS

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


def inversion(bench: Bench, stops: list[int], offset: float = 0.0):
    """z at the last stop, and the null predictions of the moves, written as a loop over DDIM steps."""
    channel = torch.randn(3, 1, 1, generator=bench.draws.shared("inversion_offset")).double()
    z_t = bench.noised(stops[0], bench.noise("inversion") + offset * channel)
    predictions = []
    for start, stop in itertools.pairwise(stops):
        predictions.append(bench.eps("null", z_t, start))
        z_t = bench.ddim(z_t, predictions[-1], start, stop)
    return z_t, predictions


CASES = [
    (700, {"delta": 100}, [0, 200, 400, 600, 700]),
    (650, {"delta": 80, "stride": 200}, [0, 170, 370, 570, 650]),
    (650, {"delta": 80, "stride": 100, "moves": 2}, [370, 470, 570, 650]),
    (650, {"delta": 80, "moves": 0}, [570, 650]),
    (60, {"delta": 100}, [0, 60]),
]


@BOTH_PRIORS
@pytest.mark.parametrize(("t", "settings", "stops"), CASES)
def test_ism_is_the_guided_prediction_less_the_null_prediction_an_interval_below(prior, t, settings, stops):
    bench = Bench(PRIORS[prior]())
    z_t, predictions = inversion(bench, stops, 0.1)
    residual = bench.cfg(z_t, t, 7.5) - predictions[-1]
    bench.assert_residual(ISM(t_min=t / 1000, t_max=t / 1000, **settings), residual, t)


@BOTH_PRIORS
def test_csm_is_the_classifier_part_at_the_inverted_state(prior):
    bench, t = Bench(PRIORS[prior]()), 700
    z_t, _ = inversion(bench, [0, 200, 400, 600, 700])
    residual = 7.5 * (bench.eps("text", z_t, t) - bench.eps("negative", z_t, t))
    bench.assert_residual(CSM(t_min=0.7, t_max=0.7, delta=100, offset=0.0), residual, t)


@BOTH_PRIORS
def test_ism_is_csm_plus_the_difference_of_the_null_predictions(prior):
    bench, t = Bench(PRIORS[prior]()), 700
    bench.texts["negative"] = ""
    z_t, predictions = inversion(bench, [0, 200, 400, 600, 700], 0.1)
    w = bench.sigma(t) / bench.alpha(t)
    shared = {"t_min": 0.7, "t_max": 0.7, "delta": 100}
    expected = bench.latent(CSM(**shared)) + w * (bench.eps("null", z_t, t) - predictions[-1])
    torch.testing.assert_close(bench.latent(ISM(**shared)), expected, rtol=1e-8, atol=1e-9)


def test_with_a_scale_of_one_and_equal_prompts_only_the_interval_is_left():
    bench = Bench()
    bench.texts |= {"text": "", "negative": ""}
    gradient = [bench.latent(ISM(t_min=0.7, t_max=0.7, delta=delta)).abs().max() for delta in (200, 50, 10, 2)]
    assert gradient == sorted(gradient, reverse=True)
    assert gradient[-1] < gradient[0] / 50


@pytest.mark.parametrize(("rule", "factor"), [(ISM, 100), (CSM, 100)])
def test_the_residual_varies_far_less_over_the_seeds_than_that_of_sds(rule, factor):
    shared = {"cfg": 7.5, "t_min": 0.7, "t_max": 0.7, "weight": "one"}

    def spread(rule) -> float:
        found = []
        for seed in range(12):
            bench = Bench()
            bench.draws.seed = seed
            found.append(bench.latent(rule))
        return torch.stack(found).var(0).mean().item()

    assert spread(rule(**shared)) * factor < spread(SDS(**shared))


def test_the_defaults_are_those_of_lucid_dreamer():
    rule = ISM()
    assert [rule.scheduled("delta", step) for step in (0, 1500, 3000)] == [100, 80, 80]
    assert [rule.scheduled("t_max", step) for step in (0, 750, 1500)] == pytest.approx([0.98, 0.74, 0.5])
    assert (rule.weight, rule.scale, rule.cfg, rule.stride, rule.moves, rule.offset) == ("sigma_over_alpha", 0.1, 7.5, 200, 5, 0.1)


@pytest.mark.parametrize("mode", ["embedded", "none"])
def test_csm_needs_two_branches(mode):
    with pytest.raises(ValueError, match="a difference of predictions: it needs cfg_mode two_branch"):
        CSM(cfg_mode=mode).check()


def test_the_offset_is_one_number_a_channel_and_the_same_for_all_views():
    bench, t = Bench(), 300
    rule = ISM(t_min=0.3, t_max=0.3, delta=300, moves=0, stride=1)
    shifted = rule.states(bench.step(rule, t))[0]["t"].z_t - ISM(delta=300, moves=0, offset=0.0).states(bench.step(rule, t))[0]["t"].z_t
    assert shifted.std((0, 2, 3)).max() < 1e-9
    assert shifted.mean((0, 2, 3)).abs().min() > 1e-6
