import itertools

import pytest
import torch

from tests.guidance.bench import Bench
from tests.oracles import CountingPrior, Prompts, gaussian_prior, two_image_prior, views_and_draws
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.noisers import moved, noisy_state
from threedgen.priors.base import Conditioning


def test_rounds_begin_at_zero_after_the_first_fit_and_then_regularly():
    rule = IM3D(first_fit=10, fit=4)
    assert [s for s in range(24) if rule.asks(s)] == [0, 10, 14, 18, 22]


def test_rounds_count_from_the_end_of_the_warm_up_and_the_first_of_them_keeps_what_is_there():
    rule = IM3D(first_fit=10, fit=4, warm_up=5)
    assert [s for s in range(24) if rule.asks(s)] == [5, 15, 19, 23]
    assert not rule.starts_anew(5)
    prior = CountingPrior(two_image_prior())
    grey = torch.full((4, 6, 6, 3), 0.5, dtype=torch.float64)
    rule = IM3D(first_denoise=5, denoise=3, t_max=0.8, warm_up=5)
    rule.targets(Teacher(prior, Prompts(prior.prior, "red")), grey, *views_and_draws(step=5))
    assert [int(prior.calls[0][1][0]), len(prior.calls)] == [round(0.8 * 999), 3]


def test_denoising_with_exact_scores_ends_at_the_prompted_image():
    prior = two_image_prior()
    cameras, draws = views_and_draws()
    grey = torch.full((4, 6, 6, 3), 0.5, dtype=torch.float64)
    targets = IM3D(cfg=1.0, rescale=0.0).targets(Teacher(prior, Prompts(prior, "blue")), grey, cameras, draws)
    assert torch.allclose(targets, torch.tensor([0.0, 0, 1]).view(3, 1, 1).expand(4, 3, 6, 6).double(), atol=1e-4)


def test_a_round_takes_as_many_calls_as_denoising_steps_at_decreasing_noise():
    prior = CountingPrior(two_image_prior())
    cameras, draws = views_and_draws(step=50)
    rule = IM3D(first_denoise=5, denoise=3, t_max=[0, 0.8, 0.4, 100], t_min=0.1)
    grey = torch.full((4, 6, 6, 3), 0.5, dtype=torch.float64)
    rule.targets(Teacher(prior, Prompts(prior.prior, "red")), grey, cameras, draws)
    steps = [int(t[0]) for _, t, _ in prior.calls]
    assert len(steps) == 3
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == round(0.6 * 999)
    assert steps[-1] == round(0.1 * 999)
    prior.calls.clear()
    rule.targets(Teacher(prior, Prompts(prior.prior, "red")), grey, *views_and_draws(step=0))
    assert [int(prior.calls[0][1][0]), len(prior.calls)] == [999, 5]


def test_an_empty_range_of_timesteps_is_refused():
    with pytest.raises(ValueError, match="t_min must not exceed t_max, but does at step 100"):
        IM3D(t_min=0.3, t_max=[0, 0.8, 0.2, 100]).check()
    IM3D(t_min=0.2, t_max=[0, 0.8, 0.2, 100]).check()


def test_boot_targets_along_a_grid_are_deterministic_denoising():
    """With one fixed noise, blending estimate and image by the ratio of the noise levels is DDIM on the image (BOOT, arXiv 2306.05544)."""
    prior = gaussian_prior()
    rule = IM3D(boot=True, fit=1, t_max=[0, 0.9, 0.1, 40])
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 3, 6, 6, generator=rng, dtype=torch.float64)
    image = torch.randn(1, 3, 6, 6, generator=rng, dtype=torch.float64)
    levels = [round(999 * rule.scheduled("t_max", step)) for step in range(41)]
    state = noisy_state(image, torch.tensor([levels[0]]), noise, prior.alphas_cumprod, 1)
    for step, following in enumerate(levels[1:]):
        noisy = noisy_state(image, torch.tensor([levels[step]]), noise, prior.alphas_cumprod, 1)
        estimate = noisy.estimate(prior.predict_noise(noisy.z_t, noisy.t, Conditioning(prior.encode_text([""]))))
        image = estimate.lerp(image, rule.kept_share(step, prior.alphas_cumprod))
        eps = prior.predict_noise(state.z_t, state.t, Conditioning(prior.encode_text([""])))
        state = moved(state, eps, torch.tensor([following]), prior.alphas_cumprod)
    carried = noisy_state(image, state.t, noise, prior.alphas_cumprod, 1)
    assert torch.allclose(carried.z_t, state.z_t, atol=1e-6)


def test_one_denoising_step_gives_the_rescaled_estimate_of_the_prior():
    bench = Bench(index=200)
    rule = IM3D(t_max=0.5, t_min=0.1, denoise=1, cfg=6.0, rescale=0.5)
    t = round(0.5 * 999)
    z_t, alpha, sigma = bench.noised(t), bench.alpha(t), bench.sigma(t)
    text, guided = ((z_t - sigma * e) / alpha for e in (bench.eps("text", z_t, t), bench.cfg(z_t, t, 6.0)))
    estimate = 0.5 * guided * text.std() / guided.std() + 0.5 * guided
    targets = rule.targets(bench.teacher, bench.rgb.detach(), bench.cameras, bench.draws)
    torch.testing.assert_close(targets, (estimate / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(("count", "timesteps"), [(2, [699, 100]), (3, [699, 400, 100])])
def test_several_steps_are_those_of_ddim(count, timesteps):
    bench = Bench(index=200)
    rule = IM3D(t_max=0.7, t_min=0.1, denoise=count, cfg=3.0, rescale=0.0)
    z_t = bench.noised(timesteps[0])
    for start, stop in itertools.pairwise(timesteps):
        z_t = bench.ddim(z_t, bench.cfg(z_t, start, 3.0), start, stop)
    last = timesteps[-1]
    estimate = (z_t - bench.sigma(last) * bench.cfg(z_t, last, 3.0)) / bench.alpha(last)
    targets = rule.targets(bench.teacher, bench.rgb.detach(), bench.cameras, bench.draws)
    torch.testing.assert_close(targets, (estimate / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize(("index", "share"), [(0, 0.0), (200, 0.3)])
def test_a_target_keeps_its_share_of_the_rendering_after_the_first_round(index, share):
    bench = Bench(index=index)
    full, kept = (
        IM3D(keep=keep, denoise=2, first_denoise=2).targets(bench.teacher, bench.rgb.detach(), bench.cameras, bench.draws)
        for keep in (0.0, 0.3)
    )
    torch.testing.assert_close(kept, (1 - share) * full + share * bench.x)


def test_the_same_seed_and_step_give_the_same_targets():
    one, two = (IM3D(denoise=2).targets(b.teacher, b.rgb.detach(), b.cameras, b.draws) for b in (Bench(index=200), Bench(index=200)))
    assert torch.equal(one, two)
