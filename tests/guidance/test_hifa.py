"""HiFA's losses on the latent and on the image."""

import itertools

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from threedgen.guidance.hifa import HiFA
from threedgen.guidance.reconstruction import Reconstruction

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)
AT = {"t_min": 0.6, "t_max": 0.6}


def denoised(bench: Bench, timesteps: list[int], cfg: float) -> torch.Tensor:
    """Estimate after DDIM steps with exact scores."""
    z_t = bench.noised(timesteps[0])
    for start, stop in itertools.pairwise(timesteps):
        z_t = bench.ddim(z_t, bench.cfg(z_t, start, cfg), start, stop)
    last = timesteps[-1]
    return (z_t - bench.sigma(last) * bench.cfg(z_t, last, cfg)) / bench.alpha(last)


@BOTH_PRIORS
@pytest.mark.parametrize(("count", "timesteps"), [(1, [600]), (2, [600, 300]), (4, [600, 450, 300, 150])])
def test_the_estimate_is_denoised_in_several_steps(prior, count, timesteps):
    bench = Bench(PRIORS[prior]())
    residual = bench.alpha(600) / bench.sigma(600) * (bench.z - denoised(bench, timesteps, 9.0))
    bench.assert_residual(HiFA(denoise=count, cfg=9.0, **AT), residual, 600)


@BOTH_PRIORS
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_one_denoising_step_is_the_reconstruction_form(prior, rescale):
    bench = Bench(PRIORS[prior]())
    one = bench.latent(HiFA(denoise=1, cfg=20.0, rescale=rescale, **AT))
    torch.testing.assert_close(one, bench.latent(Reconstruction(cfg=20.0, rescale=rescale, **AT)), rtol=1e-9, atol=1e-9)


def test_the_loss_is_its_printed_sum_of_squares():
    bench, rule = Bench(), HiFA(denoise=2, cfg=3.0, **AT)
    estimate = denoised(bench, [600, 300], 3.0)
    rgb = bench.rgb.permute(0, 3, 1, 2)
    latent = (2 * rgb - 1 - estimate).square().sum() / 2
    image = (rgb - (estimate / 2 + 0.5).clamp(0, 1)).square().sum() / 2
    (expected,) = torch.autograd.grad(0.05 * (latent + 0.1 * image), bench.rgb)
    torch.testing.assert_close(bench.gradient(rule), expected.permute(0, 3, 1, 2))


def test_more_steps_with_exact_scores_end_nearer_to_the_solution_of_the_ode():
    bench, t = Bench(), 900
    # The ODE keeps (z_t - alpha m) / sqrt(alpha^2 v + sigma^2) of a Gaussian.
    spread = (bench.alpha(t) ** 2 * 0.09 + bench.sigma(t) ** 2).sqrt()
    exact = bench.mean("text") + 0.3 / spread * (bench.noised(t) - bench.alpha(t) * bench.mean("text"))
    errors = []
    for count in (1, 4, 16, 64):
        rule = HiFA(denoise=count, cfg=1.0, t_min=0.9, t_max=0.9)
        errors.append((bench.z - bench.latent(rule) - exact).square().mean().sqrt().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_the_timestep_falls_with_the_square_root_of_the_progress():
    timesteps = [int(Bench(index=index, total=101).distill(HiFA(denoise=1)).step.t[0]) for index in (0, 25, 100)]
    assert timesteps == [980, 640, 300]


@pytest.mark.parametrize("mode", ["embedded", "none"])
def test_every_denoising_step_is_guided_in_the_way_of_the_prior(mode):
    bench, rows = Bench(), []
    told = {"guidance": torch.full((4,), 5.0)} if mode == "embedded" else {}
    z_t = bench.noised(600)
    z_t = bench.ddim(z_t, bench.eps("text", z_t, 600, **told), 600, 300)
    estimate = (z_t - bench.sigma(300) * bench.eps("text", z_t, 300, **told)) / bench.alpha(300)
    predict = bench.prior.predict_noise
    bench.prior.predict_noise = lambda z_t, t, cond: rows.append(len(z_t)) or predict(z_t, t, cond)
    torch.testing.assert_close(bench.latent(HiFA(denoise=2, cfg=5.0, cfg_mode=mode, **AT)), bench.z - estimate)
    assert rows == [4, 4]


def test_perp_neg_guides_every_denoising_step():
    bench = Bench(PRIORS["mixture"]())
    off, on = (bench.latent(HiFA(denoise=2, perp_neg=share, **AT)) for share in (0.0, 1.0))
    assert not torch.allclose(off, on)
