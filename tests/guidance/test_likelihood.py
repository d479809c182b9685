"""The estimated density ratio against closed forms."""

import pytest
import torch

from tests.guidance.bench import Bench
from tests.oracles import CountingPrior, ParticlesScore
from threedgen.draws import Draws
from threedgen.guidance.adversarial_sd import AdversarialSD
from threedgen.guidance.core import Step, Teacher
from threedgen.guidance.likelihood import further_noised, log_density_ratio
from threedgen.guidance.noisers import levels
from threedgen.guidance.rule import Term
from threedgen.guidance.vsd import VSD, divergence_weight
from threedgen.playground.cases import Case
from threedgen.playground.prior import Mixture, PlanePrior, PlanePrompts, component, two_classes
from threedgen.playground.run import Plane

COUNT = 4096


def mixture(*parts) -> Mixture:
    means, covariances = (torch.tensor(values, dtype=torch.float64) for values in zip(*parts, strict=True))
    return Mixture(means, covariances, torch.full((len(parts),), 1 / len(parts), dtype=torch.float64).log())


P = mixture(component((1.0, -0.5), (0.8, 0.5), 30))
Q = mixture(component((0.2, 0.3), (0.6, 0.9)))
TWO_MODES = two_classes().of_class("left")


def plane_step(t: int, z_t: torch.Tensor, seed: int = 0, index: int = 0) -> Step:
    """A step whose rows are at noisy points; the renders themselves play no part."""
    prior = PlanePrior(P, {"left": [0]})
    draws = Draws(seed, index, range(len(z_t)))
    return Step(VSD(), Teacher(prior, PlanePrompts(prior)), z_t, torch.full((len(z_t),), t), None, draws)


def noise(marginal: Mixture, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    alpha, sigma = (x[:, :, 0, 0] for x in levels(t, z_t, two_classes().alphas_cumprod))
    return marginal.noise(z_t[:, :, 0, 0], alpha, sigma)[:, :, None, None]


def estimates(p: Mixture, q: Mixture, step: Step, count: int = 8) -> torch.Tensor:
    states = further_noised(step, step.z, count)
    real, fake = ([noise(marginal, state.z_t, state.t) for state in states] for marginal in (p, q))
    return log_density_ratio(states, real, fake, step)


def true_ratio(p: Mixture, q: Mixture, z_t: torch.Tensor, t: int) -> torch.Tensor:
    alpha, sigma = (x[:, :, 0, 0] for x in levels(torch.full((len(z_t),), t), z_t, two_classes().alphas_cumprod))
    return p.log_density(z_t[:, :, 0, 0], alpha, sigma) - q.log_density(z_t[:, :, 0, 0], alpha, sigma)


def points(*places: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float64)[:, :, None, None]


@pytest.mark.parametrize("t", [20, 300, 700])
@pytest.mark.parametrize(("p", "q"), [(P, Q), (Q, P), (TWO_MODES, Q)], ids=["gaussians", "swapped", "mixture"])
def test_the_mean_of_the_estimates_is_the_log_density_ratio(p, q, t):
    """Rows are independent estimates; the part of the ratio at the end of the schedule is left out on both sides."""
    for place in points((1.5, -1.0), (-1.6, 1.2), (0.3, 0.2)):
        z_t = place.expand(COUNT, -1, -1, -1)
        found = estimates(p, q, plane_step(t, z_t))
        error = float(found.std()) / COUNT**0.5
        expected = float(true_ratio(p, q, z_t[:1], t)) - float(ratio_left_out(p, q, z_t[:1], t))
        assert abs(float(found.mean()) - expected) < 4 * error + 0.003
        assert float(found.mean()) * expected > 0 or abs(expected) < 4 * error + 0.003


def ratio_left_out(p: Mixture, q: Mixture, z_t: torch.Tensor, t: int) -> torch.Tensor:
    """E log p_T/q_T at the last timestep, from points at t."""
    abar, rng = two_classes().alphas_cumprod, torch.Generator().manual_seed(0)
    square, last = abar[-1] / abar[t], len(abar) - 1
    n = torch.randn(2000, 2, 1, 1, generator=rng, dtype=torch.float64)
    n = torch.cat([n, -n])
    return true_ratio(p, q, square.sqrt() * z_t + (1 - square).sqrt() * n, last).mean()


def test_sixteen_times_the_samples_have_a_quarter_of_the_error_or_less():
    z_t = points((1.5, -1.0)).expand(COUNT, -1, -1, -1)
    few, many = (float(estimates(P, Q, plane_step(50, z_t), count).std()) for count in (2, 32))
    assert many < few / 4 * 1.1


def test_two_densities_that_are_one_have_ratio_one_exactly():
    z_t = torch.randn(40, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(estimates(P, P, plane_step(50, z_t)), torch.zeros(40).double())


def test_swapped_densities_have_the_opposite_ratio_exactly():
    z_t = torch.randn(40, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(estimates(P, Q, plane_step(50, z_t)), -estimates(Q, P, plane_step(50, z_t)))


def test_the_draws_are_of_the_seed_and_the_step():
    z_t = points((1.5, -1.0), (0.0, 0.0))
    one = estimates(P, Q, plane_step(50, z_t, seed=1, index=5))
    assert torch.equal(one, estimates(P, Q, plane_step(50, z_t, seed=1, index=5)))
    for seed, index in ((2, 5), (1, 6)):
        assert not torch.isclose(one, estimates(P, Q, plane_step(50, z_t, seed=seed, index=index))).any()


@pytest.mark.parametrize("t", [0, 1, 500, 997, 998])
def test_further_noise_takes_the_noisy_point_to_the_marginal_of_a_later_timestep(t):
    z_t = torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = plane_step(t, z_t)
    alpha, sigma = levels(step.t, z_t, step.alphas_cumprod)
    states = further_noised(step, z_t, 8)
    assert len(states) == 8
    for state, mirrored in zip(states[:4], states[4:], strict=True):
        assert state.t.min() >= t
        assert state.t.max() <= 999
        assert torch.equal(state.t, mirrored.t)
        assert torch.equal(state.noise, -mirrored.noise)
        alpha_u, sigma_u = levels(state.t, z_t, step.alphas_cumprod)
        torch.testing.assert_close(state.z_t, state.alpha * z_t + state.sigma * state.noise)
        torch.testing.assert_close(state.alpha * alpha, alpha_u)
        torch.testing.assert_close(state.alpha**2 * sigma**2 + state.sigma**2, sigma_u**2)


def test_the_timesteps_are_spread_over_all_that_are_left():
    step = plane_step(100, torch.zeros(500, 2, 1, 1, dtype=torch.float64))
    u = torch.stack([state.t for state in further_noised(step, step.z, 16)[:8]])
    assert (u[1:].min(1).values >= u[:-1].max(1).values - 1).all()
    assert u.min() < 105
    assert u.max() == 999


def test_after_the_last_timestep_nothing_is_known():
    z_t = points((1.5, -1.0), (0.0, 0.0))
    assert torch.equal(estimates(P, Q, plane_step(999, z_t)), torch.zeros(2).double())


# In a step of VSD

EXACT = {"t_min": 0.05, "t_max": 0.05, "cfg": 1.0, "critic_cfg": 0.0}


def ratio_of(rule: VSD, count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Estimated and true log-ratio of a rule's step on the plane."""
    plane = Plane(two_classes(), Case("", "", rule, student="generator", start="flaws"), count, 0)
    plane.critic.look(plane.start, plane.student.marginal())
    t = torch.full((count,), 50)
    step = Step(rule, plane.teacher, plane.start[:, :, None, None], t, plane.cameras, plane.draws(0))
    states, _ = rule.states(step)
    found = rule.log_ratio(plane.teacher.predict(rule.terms(), states, step), states, step)
    z_t = states["t"].z_t
    true = plane.prior.log_density(z_t, t, step.text("text")) - plane.critic.log_density(z_t, t)
    return found, true


@pytest.mark.parametrize("kind", [VSD, AdversarialSD])
def test_the_ratio_in_a_step_is_that_of_the_text_and_the_renderings(kind):
    """Whatever the guidance scale, and for Adversarial SD's pushed critic too."""
    rule = kind(**EXACT | {"cfg": 7.5}, divergence="forward_kl", ratio_samples=1024)
    found, true = ratio_of(rule)
    near = true > -6
    assert near.sum() > 20
    assert (found - true)[near].abs().mean() < 0.25
    assert (found - true)[near].mean().abs() < 0.1


def bench(**settings) -> Bench:
    made = Bench(**settings)
    made.trained["critic"] = ParticlesScore(made.prior, 0.9 * made.z + 0.02, made.cameras.c2w, 0.28)
    return made


def test_the_weights_of_a_step_are_of_its_ratio():
    made, rule = bench(), VSD(divergence="jensen_shannon", t_min=0.8, t_max=0.8)
    step = made.step(rule, 800)
    states, _ = rule.states(step)
    eps = step.teacher.predict(rule.terms(), states, step)
    h = divergence_weight("jensen_shannon", rule.log_ratio(eps, states, step))
    assert h.std() > 1e-4
    gap = made.cfg(states["t"].z_t, 800, 7.5) - eps[Term("plain", net="critic")]
    made.assert_residual(rule, (h / h.mean())[:, None, None, None] * gap, 800)


@pytest.mark.parametrize(("critic_cfg", "critics"), [(1.0, 1), (0.0, 1), (0.5, 2)])
def test_the_samples_go_with_the_other_predictions_in_one_call_of_each_network(critic_cfg, critics):
    made = bench()
    made.prior, made.trained["critic"] = CountingPrior(made.prior), CountingPrior(made.trained["critic"])
    made.latent(VSD(divergence="forward_kl", ratio_samples=6, critic_cfg=critic_cfg))
    assert [rows for rows, _, _ in made.prior.calls] == [4 * (2 + 6)]
    assert [rows for rows, _, _ in made.trained["critic"].calls] == [4 * critics * (1 + 6)]


@pytest.mark.parametrize("settings", [{"divergence": "reverse_kl"}, {"divergence": "forward_kl", "ratio": "heuristic"}])
def test_nothing_is_sampled_that_is_not_used(settings):
    assert VSD(**settings).terms() == VSD().terms()


def test_an_odd_number_of_samples_is_refused():
    with pytest.raises(ValueError, match="must be even, got 7"):
        VSD(ratio_samples=7).check()
    VSD(ratio_samples=6).check()
