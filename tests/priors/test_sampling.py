"""Sampling formulas in float64 against closed forms and the scheduler of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler

from threedgen.draws import generator
from threedgen.priors.sampling import add_noise, cfg, ddim_step, predict_z0, rescale, timesteps


def normal(key: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 4, 20, 30, 1000])
def test_timesteps_from_the_end_are_the_trailing_spacing(steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert timesteps(999, steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize(("t_start", "steps"), [(700, 6), (250, 6), (13, 14), (0, 1)])
def test_timesteps_start_where_the_noise_is_and_fall(t_start, steps):
    ts = timesteps(t_start, steps)
    assert ts[0] == t_start
    assert len(ts) == steps
    assert all(a > b for a, b in zip(ts, [*ts[1:], -1], strict=True))
    assert max(a - b for a, b in zip(ts, [*ts[1:], -1], strict=True)) <= -(-(t_start + 1) // steps) + 1


@pytest.mark.parametrize("steps", [0, 12])
def test_more_steps_than_timesteps_are_refused(steps):
    with pytest.raises(ValueError, match="do not fit"):
        timesteps(10, steps)


def test_noise_and_its_removal_are_inverse():
    z0, eps = normal("z0", 2, 4, 8, 8), normal("eps", 2, 4, 8, 8)
    for a in (0.9985, 0.5, 0.0047):
        torch.testing.assert_close(predict_z0(add_noise(z0, eps, a), eps, a), z0, atol=1e-12, rtol=1e-12)


def test_ddim_is_the_schedulers_step():
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    z, eps = normal("z", 2, 4, 8, 8), normal("eps", 2, 4, 8, 8)
    ts = timesteps(999, 4)
    ends = [scheduler.alphas_cumprod[t] for t in ts[1:]] + [1.0]
    for t, end in zip(ts, ends, strict=True):
        ours = ddim_step(z, eps, scheduler.alphas_cumprod[t], end)
        torch.testing.assert_close(ours, scheduler.step(eps, t, z).prev_sample, atol=1e-6, rtol=1e-5)


def test_ddim_with_the_right_noise_walks_along_the_ray_in_any_direction():
    z0, eps = normal("z0", 2, 4, 8, 8), normal("eps", 2, 4, 8, 8)
    there = ddim_step(add_noise(z0, eps, 0.3), eps, 0.3, 0.8)
    torch.testing.assert_close(there, add_noise(z0, eps, 0.8), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ddim_step(there, eps, 0.8, 0.3), add_noise(z0, eps, 0.3), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ddim_step(there, eps, 0.8, 1.0), z0, atol=1e-12, rtol=1e-12)


def test_guidance_scale_one_is_text_and_zero_is_null():
    null, text = normal("null", 2, 4, 8, 8), normal("text", 2, 4, 8, 8)
    torch.testing.assert_close(cfg(null, text, 1.0), text)
    assert torch.equal(cfg(null, text, 0.0), null)
    torch.testing.assert_close(cfg(null, text, 7.5), 7.5 * text - 6.5 * null)


def test_rescale_gives_each_group_the_texts_spread():
    text, guided = normal("text", 8, 4, 8, 8), 3 * normal("guided", 8, 4, 8, 8) + 1
    guided[:4] *= 2
    full = rescale(guided, text, 1.0, views=4)
    for group in (slice(0, 4), slice(4, 8)):
        torch.testing.assert_close(full[group].std(), text[group].std())
        ratio = full[group] / guided[group]
        torch.testing.assert_close(ratio, ratio[0, 0, 0, 0].expand_as(ratio))
    assert torch.equal(rescale(guided, text, 0.0, views=4), guided)
    torch.testing.assert_close(rescale(guided, text, 0.25, views=4), 0.25 * full + 0.75 * guided)
    torch.testing.assert_close(rescale(text, text, 0.7, views=1), text)
