"""VSD and its options on exact scores of prior and particles; ESD and Adversarial SD have its residual."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from tests.oracles import ParticlesScore
from threedgen.guidance.adversarial_sd import AdversarialSD
from threedgen.guidance.esd import ESD
from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import DIVERGENCES, VSD, divergence_weight

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)
AT = {"t_min": 0.5, "t_max": 0.5}
T = 500


def with_particles(prior: str = "gaussian", std: float = 0.1, **settings) -> Bench:
    """A bench whose critic is the exact score of particles near the renders."""
    bench = Bench(PRIORS[prior](), **settings)
    bench.trained["critic"] = ParticlesScore(bench.prior, 0.9 * bench.z + 0.02, bench.cameras.c2w, std)
    return bench


def critic(bench: Bench, z_t: torch.Tensor, camera: bool = True) -> torch.Tensor:
    return bench.eps("plain", z_t, T, net=bench.trained["critic"], camera=camera)


@BOTH_PRIORS
@pytest.mark.parametrize(("cfg", "critic_cfg"), [(7.5, 1.0), (1.0, 0.0), (7.5, 0.3), (7.5, 2.0)])
def test_vsd_is_the_guided_prior_less_the_guided_critic(prior, cfg, critic_cfg):
    bench = with_particles(prior)
    z_t = bench.noised(T)
    told, withheld = critic(bench, z_t), critic(bench, z_t, camera=False)
    assert (told - withheld).abs().max() > 1e-3
    residual = bench.cfg(z_t, T, cfg) - (withheld + critic_cfg * (told - withheld))
    bench.assert_residual(VSD(cfg=cfg, critic_cfg=critic_cfg, **AT), residual, T)


def test_the_scores_of_particles_are_exact():
    bench = with_particles(std=0.2)
    z, score = bench.noised(T), bench.trained["critic"]
    alpha, sigma = bench.alpha(T), bench.sigma(T)
    spread = alpha**2 * 0.04 + sigma**2

    def log_density(z_t: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Of rows under an even mixture of Gaussians around means [K,3,h,w]."""
        distance = (z_t[:, None] - alpha * means).square().flatten(2).sum(2)
        return (-0.5 * distance / spread).logsumexp(1).sum()

    leaf = z.clone().requires_grad_()
    (together,) = torch.autograd.grad(log_density(leaf, score.z), leaf)
    torch.testing.assert_close(critic(bench, z, camera=False), -sigma * together)
    for view in range(4):
        leaf = z[view : view + 1].clone().requires_grad_()
        (alone,) = torch.autograd.grad(log_density(leaf, score.z[view : view + 1]), leaf)
        torch.testing.assert_close(critic(bench, z)[view : view + 1], -sigma * alone)


@pytest.mark.parametrize("rule", [VSD, ESD, AdversarialSD])
def test_the_expectation_on_gaussians_is_its_closed_form(rule):
    plain, mirrored = with_particles(std=0.2), with_particles(std=0.2, mirrored=True)
    settings = rule(cfg=3.0, critic_cfg=1.0, weight="one", **AT)
    alpha, sigma = plain.alpha(T), plain.sigma(T)
    mean = plain.mean("negative") + 3.0 * (plain.mean("text") - plain.mean("negative"))
    of_prior = sigma * alpha * (plain.z - mean) / (alpha**2 * 0.09 + sigma**2)
    of_particles = sigma * alpha * (plain.z - plain.trained["critic"].z) / (alpha**2 * 0.04 + sigma**2)
    torch.testing.assert_close((plain.latent(settings) + mirrored.latent(settings)) / 2, of_prior - of_particles)


@BOTH_PRIORS
@pytest.mark.parametrize("settings", [{}, {"norm": "huber"}, {"norm": "dmd"}, {"divergence": "forward_kl"}])
def test_a_critic_that_is_the_prior_leaves_nothing(prior, settings):
    bench = Bench(PRIORS[prior]())
    bench.trained["critic"] = bench.prior
    assert bench.latent(VSD(cfg=1.0, **settings)).abs().max() < 1e-9


@BOTH_PRIORS
def test_particles_without_spread_make_it_sds(prior):
    bench = Bench(PRIORS[prior]())
    bench.trained["critic"] = ParticlesScore(bench.prior, bench.z, bench.cameras.c2w)
    torch.testing.assert_close(bench.latent(VSD(**AT)), bench.latent(SDS(**AT)), rtol=1e-9, atol=1e-9)


@BOTH_PRIORS
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_esd_mixes_the_critic_with_and_without_camera(prior, share):
    bench = with_particles(prior)
    z_t = bench.noised(T)
    entropic = share * critic(bench, z_t, camera=False) + (1 - share) * critic(bench, z_t)
    bench.assert_residual(ESD(critic_cfg=1 - share, **AT), bench.cfg(z_t, T, 7.5) - entropic, T)


def test_esd_with_lambda_zero_is_vsd():
    bench = with_particles()
    assert torch.equal(bench.latent(ESD(critic_cfg=1.0)), bench.latent(VSD()))
    assert not torch.allclose(bench.latent(ESD()), bench.latent(VSD()))


def test_adversarial_sd_has_the_residual_of_vsd_whatever_gamma():
    bench = with_particles()
    assert torch.equal(bench.latent(AdversarialSD(gamma=-0.75)), bench.latent(VSD()))


def test_the_critic_is_asked_without_view_words_and_without_camera_only_where_that_counts():
    assert VSD().terms() == (Term("text"), Term("negative"), Term("plain", net="critic"))
    assert VSD(critic_cfg=0.5).terms()[3:] == (Term("plain", net="critic", camera=False),)
    assert VSD(critic_cfg=[0, 1.0, 0.5, 10]).terms()[3:] == (Term("plain", net="critic", camera=False),)


# Normalised gaps


@BOTH_PRIORS
def test_the_norm_of_dmd_is_its_printed_formula(prior):
    bench = with_particles(prior)
    z_t, z = bench.noised(T), bench.z
    real, fake = ((z_t - bench.sigma(T) * eps) / bench.alpha(T) for eps in (bench.cfg(z_t, T, 7.5), critic(bench, z_t)))
    expected = torch.stack([((z[i] - real[i]) - (z[i] - fake[i])) / (z[i] - real[i]).abs().mean() for i in range(4)])
    torch.testing.assert_close(bench.latent(VSD(norm="dmd", weight="sigma_over_alpha", **AT)), expected)


class Stretched:
    """A network whose prediction lies k times as far from the drawn noise."""

    def __init__(self, network, noise: torch.Tensor, k: float) -> None:
        self.network, self.noise, self.k = network, noise, k

    def __getattr__(self, name: str):
        return getattr(self.network, name)

    def predict_noise(self, z_t, t, cond):
        noise = self.noise.repeat(len(z_t) // len(self.noise), 1, 1, 1)
        return noise + self.k * (self.network.predict_noise(z_t, t, cond) - noise)


@pytest.mark.parametrize(("norm", "factor"), [("none", 5.0), ("dmd", 1.0)])
def test_the_norm_of_dmd_does_not_feel_how_far_both_scores_lie_from_the_noise(norm, factor):
    bench, rule = with_particles(), VSD(norm=norm, **AT)
    plain = bench.latent(rule)
    prior, score = bench.prior, bench.trained["critic"]
    bench.prior, bench.trained["critic"] = (Stretched(network, bench.noise(), 5.0) for network in (prior, score))
    torch.testing.assert_close(bench.latent(rule), factor * plain)


def single(**settings) -> tuple[Bench, torch.Tensor]:
    """A bench with particles at the renders themselves, and the residual of SDS there."""
    bench = Bench(**settings)
    bench.trained["critic"] = ParticlesScore(bench.prior, bench.z, bench.cameras.c2w)
    return bench, bench.latent(SDS(weight="one", **AT))


@pytest.mark.parametrize("c", [0.00054, 0.5, 10.0])
def test_a_single_particle_of_sim_is_huber_normalised_sds(c):
    bench, sds = single()
    actual = bench.latent(VSD(norm="huber", huber=c, weight="one", **AT))
    expected = torch.stack([row / (row.square().sum() + c**2 * row.numel()).sqrt() for row in sds])
    torch.testing.assert_close(actual, expected)
    assert actual.flatten(1).norm(dim=1).max() <= 1


@pytest.mark.parametrize("norm", ["huber", "dmd"])
def test_a_divergence_weighs_the_views_after_they_are_normalised(norm):
    bench = with_particles()
    settings = {"norm": norm, "ratio": "heuristic", "weight": "one", **AT}
    plain, weighed = (bench.latent(VSD(divergence=name, **settings)) for name in ("reverse_kl", "forward_kl"))
    ratio = weighed.flatten(1).norm(dim=1) / plain.flatten(1).norm(dim=1)
    assert ratio.mean().item() == pytest.approx(1.0)
    assert ratio.std() > 0.05


def test_the_limits_of_the_huber_norm_are_a_unit_vector_and_sds():
    bench, sds = single()
    unit = bench.latent(VSD(norm="huber", huber=0.0, weight="one", **AT))
    torch.testing.assert_close(unit.flatten(1).norm(dim=1), torch.ones(4).double())
    c = 1e6
    far = bench.latent(VSD(norm="huber", huber=c, weight="one", **AT)) * c * sds[0].numel() ** 0.5
    torch.testing.assert_close(far, sds, rtol=1e-6, atol=1e-8)


# f-divergences

GENERATORS = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "softened_kl": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    "hellinger": lambda r: 2 * (1 - r.sqrt()).square(),
    "neyman": lambda r: (r - 1).square() / (2 * r),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_weight_of_a_divergence_is_the_second_derivative_of_its_generator(name):
    r = torch.tensor([0.01, 0.3, 1.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(GENERATORS[name](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(divergence_weight(name, r.detach().log()), second * r.detach().square())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_by_heuristic_a_divergence_weighs_the_views_by_how_much_less_noise_the_prior_sees(name):
    bench = with_particles("mixture", std=0.3)
    z_t = bench.noised(T)
    real, fake = bench.cfg(z_t, T, 7.5), critic(bench, z_t)
    size = torch.stack([(fake[i].square().mean() - real[i].square().mean()) / 2 for i in range(4)])
    r = (size - size.mean()).exp()
    h = {
        "reverse_kl": torch.ones(4),
        "forward_kl": r,
        "jeffreys": 1 + r,
        "jensen_shannon": r / (1 + r),
        "softened_kl": 1 / (1 + r),
        "hellinger": r**0.5,
        "neyman": 1 / r,
    }[name].double()
    assert name == "reverse_kl" or h.std() > 1e-4
    bench.assert_residual(VSD(divergence=name, ratio="heuristic", **AT), (h / h.mean())[:, None, None, None] * (real - fake), T)


def test_reverse_kl_is_vsd_to_the_bit():
    bench = with_particles()
    step = bench.step(VSD(), T)
    assert VSD().divergence_weight({}, {}, step) == 1.0


def test_one_view_alone_has_no_ranking():
    bench = Bench(views=1)
    bench.trained["critic"] = ParticlesScore(bench.prior, 0.5 * bench.z, bench.cameras.c2w)
    for name in DIVERGENCES:
        torch.testing.assert_close(bench.latent(VSD(divergence=name)), bench.latent(VSD()))


def test_density_ratios_stay_bounded_where_the_predictions_differ_wildly():
    bench, rule = with_particles(), VSD(divergence="forward_kl", ratio="heuristic", cfg=1.0)
    step = bench.step(rule, T)
    states, _ = rule.states(step)
    eps = {term: torch.zeros(4, 3, 6, 6) for term in rule.terms()}
    eps[Term("text")] = torch.stack([torch.full((3, 6, 6), v) for v in (0.0, 1e4, -1e4, 1.0)])
    weights = rule.divergence_weight(eps, states, step)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close((weights.max() / weights.min()).log(), torch.tensor(20.0))


# The path from the first renderings


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_path_goes_from_the_score_of_the_first_renderings_to_the_prior(share):
    bench = with_particles(index=50)
    bench.trained["start"] = ParticlesScore(bench.prior, torch.zeros_like(bench.z), bench.cameras.c2w, 0.5)
    z_t = bench.noised(T)
    start = bench.eps("plain", z_t, T, net=bench.trained["start"])
    residual = share * start + (1 - share) * bench.cfg(z_t, T, 7.5) - critic(bench, z_t)
    bench.assert_residual(VSD(path=[0, share - 0.1, share + 0.1, 100], path_steps=1, **AT), residual, T)


def test_a_path_needs_steps_on_the_first_renderings():
    with pytest.raises(ValueError, match="path needs path_steps"):
        VSD(path=0.5).check()
    VSD(path=0.5, path_steps=10).check()


def test_a_network_that_is_not_trained_along_is_named():
    with pytest.raises(ValueError, match="the network 'critic', but none of that name is trained"):
        Bench().latent(VSD())
