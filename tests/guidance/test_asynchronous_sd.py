"""Asynchronous Score Distillation."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.asynchronous_sd import AsynchronousSD

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


def later(bench: Bench, t: int, t_min: int, shift: float) -> int:
    share = torch.rand((), generator=bench.draws.shared("shift")).item()
    return min(t + round(shift * share * (t - t_min)), 999)


@pytest.mark.parametrize(("t", "shift"), [(400, 0.1), (400, 1.0), (980, 0.9), (20, 0.5), (999, 1.0)])
def test_the_later_state_has_the_same_noise_at_a_shifted_timestep(t, shift):
    bench, rule = Bench(), AsynchronousSD(shift=shift)
    state = rule.states(bench.step(rule, t))[0]
    assert torch.equal(state["t"].noise, state["later"].noise)
    assert state["later"].t.tolist() == [later(bench, t, 20, shift)] * 4


@BOTH_PRIORS
def test_the_gradient_is_the_formula_at_the_timesteps_of_the_step(prior):
    bench = Bench(PRIORS[prior]())
    rule = AsynchronousSD(shift=0.5, t_min=0.1, t_max=0.9)
    t = int(bench.distill(rule).step.t[0])
    u = later(bench, t, 100, 0.5)
    assert u > t
    residual = bench.cfg(bench.noised(t), t, 7.5) - bench.eps("text", bench.noised(u), u)
    bench.assert_residual(rule, residual, t)


@BOTH_PRIORS
def test_without_a_shift_and_guidance_nothing_is_left(prior):
    bench = Bench(PRIORS[prior]())
    assert bench.latent(AsynchronousSD(shift=0.0, cfg=1.0)).abs().max() < 1e-9


def test_the_expectation_on_a_gaussian_is_its_closed_form():
    plain, mirrored = Bench(), Bench(mirrored=True)
    rule = AsynchronousSD(shift=1.0, cfg=3.0, weight="one", t_min=0.1, t_max=0.5)
    t = int(plain.distill(rule).step.t[0])
    u = later(plain, t, 100, 1.0)

    def share(at: int) -> torch.Tensor:
        return plain.sigma(at) * plain.alpha(at) / (plain.alpha(at) ** 2 * 0.09 + plain.sigma(at) ** 2)

    mean = plain.mean("negative") + 3.0 * (plain.mean("text") - plain.mean("negative"))
    expected = share(t) * (plain.z - mean) - share(u) * (plain.z - plain.mean("text"))
    torch.testing.assert_close((plain.latent(rule) + mirrored.latent(rule)) / 2, expected)


def test_the_later_prediction_is_not_guided_where_the_scale_is_an_input():
    bench = Bench()
    rule = AsynchronousSD(cfg_mode="embedded", cfg=4.0, shift=0.5, t_min=0.1, t_max=0.9)
    t = int(bench.distill(rule).step.t[0])
    u = later(bench, t, 100, 0.5)
    guided = bench.eps("text", bench.noised(t), t, guidance=torch.full((4,), 4.0))
    bench.assert_residual(rule, guided - bench.eps("text", bench.noised(u), u), t)
