"""SDS, its reconstruction form and SJC against their formulas on exact scores."""

import itertools

import pytest
import torch

from tests.guidance.bench import PRIORS, WEIGHTS, Bench
from threedgen.guidance.reconstruction import Reconstruction
from threedgen.guidance.rule import perpendicular
from threedgen.guidance.sds import SDS
from threedgen.guidance.sjc import SJC

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


@BOTH_PRIORS
@pytest.mark.parametrize(("weight", "cfg"), list(itertools.product(WEIGHTS, [0.0, 1.0, 7.5])))
def test_sds_is_the_guided_prediction_less_the_noise(prior, weight, cfg):
    bench, t = Bench(PRIORS[prior]()), 400
    residual = bench.cfg(bench.noised(t), t, cfg) - bench.noise()
    bench.assert_residual(SDS(cfg=cfg, weight=weight, t_min=0.4, t_max=0.4), residual, t)


@BOTH_PRIORS
def test_sds_with_sigma_over_alpha_is_the_gradient_of_the_squared_distance_to_the_estimate(prior):
    bench, t = Bench(PRIORS[prior]()), 600
    z_t = bench.noised(t)
    estimate = (z_t - bench.sigma(t) * bench.cfg(z_t, t, 3.0)) / bench.alpha(t)
    z = bench.z.requires_grad_()
    (expected,) = torch.autograd.grad(0.5 * (z - estimate).square().sum(), z)
    torch.testing.assert_close(bench.latent(SDS(cfg=3.0, weight="sigma_over_alpha", t_min=0.6, t_max=0.6)), expected)


@BOTH_PRIORS
@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_reconstruction_pulls_to_the_estimate_with_the_spread_of_the_text_estimate(prior, rescale):
    bench, t = Bench(PRIORS[prior]()), 500
    z_t = bench.noised(t)
    text, guided = ((z_t - bench.sigma(t) * eps) / bench.alpha(t) for eps in (bench.eps("text", z_t, t), bench.cfg(z_t, t, 20.0)))
    estimate = rescale * guided * text.std() / guided.std() + (1 - rescale) * guided
    rule = Reconstruction(cfg=20.0, rescale=rescale, t_min=0.5, t_max=0.5)
    torch.testing.assert_close(bench.latent(rule), bench.z - estimate)
    bench.assert_residual(rule, bench.alpha(t) / bench.sigma(t) * (bench.z - estimate), t)


def test_reconstruction_lands_on_the_pixels_by_default():
    bench = Bench(views=2)
    assert Reconstruction().space == "pixel"
    bench.prior.encode = lambda rgb: 2 * rgb.detach() - 1  # an encoder without a derivative
    assert bench.gradient(Reconstruction()).abs().max() > 1e-3


@BOTH_PRIORS
@pytest.mark.parametrize("reduced", [True, False])
def test_sjc_is_the_score_in_variance_exploding_coordinates(prior, reduced):
    bench, t = Bench(PRIORS[prior]()), 300
    scale = bench.sigma(t) / bench.alpha(t)
    y = bench.z + scale * bench.noise()
    denoised = y - scale * bench.cfg(y / (1 + scale**2).sqrt(), t, 5.0)
    residual = -(denoised - (bench.z if reduced else y)) / scale
    bench.assert_residual(SJC(cfg=5.0, t_min=0.3, t_max=0.3, variance_reduction=reduced), residual, t)


@BOTH_PRIORS
def test_sjc_with_variance_reduction_is_sds_with_weight_one(prior):
    bench = Bench(PRIORS[prior]())
    shared = {"weight": "one", "cfg": 30.0, "t_min": 0.01, "t_max": 0.97}
    torch.testing.assert_close(bench.latent(SJC(**shared)), bench.latent(SDS(**shared)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [SDS(cfg=4.0, weight="one"), SJC(cfg=4.0), SJC(cfg=4.0, variance_reduction=False)])
def test_the_expectation_over_noise_on_a_gaussian_is_its_closed_form(rule):
    rule.t_min = rule.t_max = 0.5
    plain, mirrored, t = Bench(), Bench(mirrored=True), 500
    mean = plain.mean("negative") + 4.0 * (plain.mean("text") - plain.mean("negative"))
    alpha, sigma = plain.alpha(t), plain.sigma(t)
    spread = alpha**2 * 0.09 + sigma**2
    torch.testing.assert_close((plain.latent(rule) + mirrored.latent(rule)) / 2, sigma * alpha * (plain.z - mean) / spread)


@BOTH_PRIORS
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_perp_neg_adds_the_perpendicular_parts_of_the_negatives_row_by_row(prior, factor):
    bench, t = Bench(PRIORS[prior](), views=3), 700
    z_t = bench.noised(t)
    text, null, *negatives = (bench.eps(name, z_t, t) for name in ("text", "null", "perp_0", "perp_1"))
    weights = bench.teacher.prompts.perp_neg_weights(bench.cameras.c2w).double()
    residual = torch.zeros_like(z_t)
    for row in range(3):
        towards = text[row] - null[row]
        total = towards.clone()
        for place, negative in enumerate(negatives):
            e = negative[row] - null[row]
            part = e - (e * towards).sum() / (towards * towards).sum() * towards
            assert (part * towards).sum().abs() < 1e-9
            total = total + factor * weights[row, place] * part
        residual[row] = null[row] + 6.0 * total - bench.noise()[row]
    bench.assert_residual(SDS(cfg=6.0, perp_neg=factor, t_min=0.7, t_max=0.7), residual, t)


def test_perp_neg_at_weight_zero_is_sds_against_the_null_prompt():
    bench = Bench()
    bench.texts["negative"] = ""
    torch.testing.assert_close(bench.latent(SDS(perp_neg=[0, 0.0, 0.0, 100])), bench.latent(SDS()))


def test_the_perpendicular_part_of_what_is_parallel_is_nothing():
    e = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert perpendicular(-3 * e, e).abs().max() < 1e-12
    assert torch.equal(perpendicular(e, 0 * e), e)
