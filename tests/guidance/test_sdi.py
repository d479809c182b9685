"""Score Distillation via Inversion."""

import itertools

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.sdi import SDI
from threedgen.guidance.sds import SDS

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


@BOTH_PRIORS
@pytest.mark.parametrize(("moves", "stops"), [(10, [0, 50, 150, 250, 350, 450]), (3, [0, 117, 450])])
@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_sdi_pulls_to_the_estimate_from_the_state_inverted_against_the_prompt(prior, moves, stops, eta):
    bench, t = Bench(PRIORS[prior]()), 450
    z_t = bench.noised(0, bench.noise("inversion"))
    for start, stop in itertools.pairwise(stops):
        z_t = bench.ddim(z_t, bench.cfg(z_t, start, -7.5), start, stop)
    alpha, sigma = bench.alpha(t), bench.sigma(t)
    kappa = (z_t - alpha * bench.z) / sigma
    kappa = (1 - eta**2) ** 0.5 * kappa + eta * bench.noise("eta")
    z_t = alpha * bench.z + sigma * kappa
    estimate = (z_t - sigma * bench.cfg(z_t, t, 7.5)) / alpha
    rule = SDI(t_sampler="uniform", t_min=0.45, t_max=0.45, moves=moves, eta=eta)
    torch.testing.assert_close(bench.latent(rule), bench.z - estimate, rtol=1e-8, atol=1e-9)
    bench.assert_residual(rule, alpha / sigma * (bench.z - estimate), t)


@BOTH_PRIORS
def test_fresh_noise_alone_makes_it_sds_in_reconstruction_form(prior):
    bench, t = Bench(PRIORS[prior]()), 600
    z_t = bench.noised(t, bench.noise("eta"))
    residual = bench.cfg(z_t, t, 7.5) - bench.noise("eta")
    bench.assert_residual(SDI(eta=1.0, t_sampler="uniform", t_min=0.6, t_max=0.6), residual, t)
    bench.draws.normal = lambda purpose, shape, normal=bench.draws.normal: normal("noise", shape)
    sds = SDS(weight="sigma_over_alpha", t_min=0.6, t_max=0.6)
    torch.testing.assert_close(bench.latent(SDI(eta=1.0, t_min=0.6, t_max=0.6)), bench.latent(sds), rtol=1e-9, atol=1e-9)


def test_more_moves_than_timesteps_still_invert():
    bench = Bench()
    bench.prior.alphas_cumprod = bench.prior.alphas_cumprod[::100].clone()
    fine, coarse = SDI(moves=1000, eta=0.0, t_min=0.5, t_max=0.5), SDI(moves=10, eta=0.0, t_min=0.5, t_max=0.5)
    torch.testing.assert_close(bench.latent(fine), bench.latent(coarse))


def test_an_inversion_by_two_predictions_needs_two_branches():
    with pytest.raises(ValueError, match="it needs cfg_mode two_branch, or inversion_cfg 1"):
        SDI(cfg_mode="none").check()
    SDI(cfg_mode="none", inversion_cfg=1.0).check()
