"""Classifier scores at random noise: CSD and NFSD."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.csd import CSD
from threedgen.guidance.nfsd import NFSD
from threedgen.guidance.sds import SDS

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


@BOTH_PRIORS
@pytest.mark.parametrize("weight", ["one", "sigma2"])
@pytest.mark.parametrize("coefficients", [(1.0, 0.0, -1.0, 0.0), (1.05, -0.5, -0.55, 0.0), (3.0, -1.0, 2.0, -4.0), (0.0, 2.0, 0.0, 0.5)])
def test_csd_is_the_sum_of_its_four_parts(prior, weight, coefficients):
    bench, t = Bench(PRIORS[prior]()), 400
    z_t = bench.noised(t)
    parts = [bench.eps(name, z_t, t) for name in ("text", "negative", "null")] + [bench.noise()]
    residual = sum(a * e for a, e in zip(coefficients, parts, strict=True))
    text, negative, null, noise = coefficients
    rule = CSD(text=text, negative=negative, null=null, noise=noise, weight=weight, t_min=0.4, t_max=0.4, cfg=99.0)
    bench.assert_residual(rule, residual, t)


@BOTH_PRIORS
@pytest.mark.parametrize("s", [1.0, 7.5, 100.0])
def test_csd_with_the_coefficients_of_sds_is_sds(prior, s):
    bench = Bench(PRIORS[prior]())
    bench.texts["negative"] = ""
    csd = CSD(text=s, negative=0.0, null=1 - s, noise=-1.0, weight="sigma2")
    torch.testing.assert_close(bench.latent(csd), bench.latent(SDS(cfg=s)), rtol=1e-9, atol=1e-10)


@BOTH_PRIORS
def test_pure_csd_is_sds_without_the_difference_term(prior):
    bench = Bench(PRIORS[prior]())
    bench.texts["negative"] = ""
    shared = {"weight": "one", "t_min": 0.6, "t_max": 0.6}
    difference = bench.latent(SDS(cfg=0.0, **shared))  # eps_null - eps
    classifier = bench.latent(CSD(**shared))
    for s in (1.0, 7.5):
        torch.testing.assert_close(s * classifier, bench.latent(SDS(cfg=s, **shared)) - difference, rtol=1e-9, atol=1e-9)


def test_the_coefficients_of_csd_follow_their_schedules():
    bench = Bench(index=50)
    moving = CSD(negative=[0, 0.0, -1.0, 100], null=[0, -1.0, 0.0, 100])
    torch.testing.assert_close(bench.latent(moving), bench.latent(CSD(negative=-0.5, null=-0.5)))


@BOTH_PRIORS
def test_perp_neg_adds_its_perpendicular_part_to_csd(prior):
    bench = Bench(PRIORS[prior]())
    shared = {"weight": "one", "t_min": 0.6, "t_max": 0.6}
    plain, perp = bench.latent(CSD(**shared)), bench.latent(CSD(perp_neg=3.0, **shared))
    bench.texts["negative"] = ""
    of_sds = bench.latent(SDS(cfg=1.0, perp_neg=3.0, **shared)) - bench.latent(SDS(cfg=1.0, **shared))
    torch.testing.assert_close(perp - plain, of_sds, rtol=1e-9, atol=1e-9)
    assert (((perp - plain) * plain).sum((1, 2, 3)).abs() < 1e-9).all()


def test_the_classifier_score_of_a_gaussian_does_not_depend_on_the_noise():
    plain, mirrored, t = Bench(), Bench(mirrored=True), 500
    rule = CSD(t_min=0.5, t_max=0.5)
    alpha, sigma = plain.alpha(t), plain.sigma(t)
    expected = sigma * alpha * (plain.mean("null") - plain.mean("text")) / (alpha**2 * 0.09 + sigma**2)
    for bench in (plain, mirrored):
        torch.testing.assert_close(bench.latent(rule), expected.expand_as(plain.z))


@BOTH_PRIORS
@pytest.mark.parametrize("t", [50, 199, 200, 201, 800])
def test_nfsd_switches_its_domain_part_at_the_threshold(prior, t):
    bench = Bench(PRIORS[prior]())
    z_t = bench.noised(t)
    null = bench.eps("null", z_t, t)
    domain = null if t < 200 else null - bench.eps("flaws", z_t, t)
    residual = domain + 7.5 * (bench.eps("text", z_t, t) - null)
    bench.assert_residual(NFSD(t_min=t / 1000, t_max=t / 1000), residual, t)


def test_the_threshold_of_nfsd_is_a_setting():
    bench = Bench()
    z_t = bench.noised(400)
    null = bench.eps("null", z_t, 400)
    residual = null + 2.0 * (bench.eps("text", z_t, 400) - null)
    bench.assert_residual(NFSD(switch=0.5, cfg=2.0, t_min=0.4, t_max=0.4), residual, 400)


def test_nfsd_names_the_prompt_of_flaws():
    assert NFSD(flaws="ugly").texts() == {"flaws": "ugly"}
    assert "blurry" in NFSD().texts()["flaws"]


@pytest.mark.parametrize(("t", "domain"), [(100, "null"), (600, "flaws")])
def test_the_expectation_of_nfsd_on_a_gaussian_is_its_closed_form(t, domain):
    plain, mirrored = Bench(), Bench(mirrored=True)
    rule = NFSD(weight="one", cfg=3.0, t_min=t / 1000, t_max=t / 1000)
    alpha, sigma = plain.alpha(t), plain.sigma(t)
    share = sigma * alpha / (alpha**2 * 0.09 + sigma**2)
    away = plain.z - plain.mean("null") if domain == "null" else plain.mean("flaws") - plain.mean("null")
    expected = share * (away + 3.0 * (plain.mean("null") - plain.mean("text")))
    torch.testing.assert_close((plain.latent(rule) + mirrored.latent(rule)) / 2, expected)


@BOTH_PRIORS
def test_perp_neg_changes_the_classifier_part_of_nfsd_alone(prior):
    bench = Bench(PRIORS[prior]())
    shared = {"weight": "one", "t_min": 0.6, "t_max": 0.6}
    added = bench.latent(NFSD(cfg=2.0, perp_neg=1.5, **shared)) - bench.latent(NFSD(cfg=2.0, **shared))
    of_csd = bench.latent(CSD(perp_neg=1.5, **shared)) - bench.latent(CSD(**shared))
    torch.testing.assert_close(added, 2.0 * of_csd, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", [CSD, NFSD])
@pytest.mark.parametrize("mode", ["embedded", "none"])
def test_a_difference_of_predictions_needs_two_branches(rule, mode):
    with pytest.raises(ValueError, match="it needs cfg_mode two_branch"):
        rule(cfg_mode=mode).check()
