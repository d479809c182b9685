"""Rules for networks that see several views or frames, or a reference image: MV-SDS, Zero-1-to-3 and video SDS."""

import pytest
import torch
from torch import Tensor

from tests.guidance.bench import PRIORS, Bench, random
from tests.oracles import CountingPrior, ToldGaussianPrior
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.core import of_pictures
from threedgen.guidance.mv_sds import MVSDS, tiled
from threedgen.guidance.video_sds import VideoSDS
from threedgen.guidance.zero123 import Zero123, relative
from threedgen.priors.base import Conditioning
from threedgen.priors.prompts import PromptBank

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)
AT = {"t_min": 0.5, "t_max": 0.5}
T = 500


# Multi-view


def untiled(x: Tensor) -> Tensor:
    """The four views [B,C,H,W] of each picture [B/4,C,2H,2W]; the inverse of `tiled`."""
    parts = x.unflatten(3, (2, -1)).unflatten(2, (2, -1))
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


@BOTH_PRIORS
def test_joint_views_share_the_statistics_of_the_rescale(prior):
    bench = Bench(PRIORS[prior]())
    z_t, alpha, sigma = bench.noised(T), bench.alpha(T), bench.sigma(T)
    text, guided = ((z_t - sigma * e) / alpha for e in (bench.eps("text", z_t, T), bench.cfg(z_t, T, 50.0)))
    estimate = 0.5 * guided * text.std() / guided.std() + 0.5 * guided
    bench.assert_residual(MVSDS(**AT), alpha / sigma * (bench.z - estimate), T)
    torch.testing.assert_close(bench.latent(MVSDS(**AT)), bench.z - estimate)


def test_joint_views_go_to_the_network_together_at_one_timestep():
    bench = Bench()
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(MVSDS())
    ((rows, t, cond),) = prior.calls
    assert (rows, cond.views, len(t.unique())) == (8, 4, 1)
    assert torch.equal(cond.c2w[:4], bench.cameras.c2w)


def test_untiling_is_the_inverse_of_tiling():
    x = random(8, 3, 5, 7)
    assert torch.equal(untiled(tiled(x)), x)
    picture = tiled(x)
    assert picture.shape == (2, 3, 10, 14)
    for view, (row, column) in enumerate([(0, 0), (0, 7), (5, 0), (5, 7)]):
        assert torch.equal(picture[0, :, row : row + 5, column : column + 7], x[view])
        assert torch.equal(picture[1, :, row : row + 5, column : column + 7], x[4 + view])


@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_the_gradient_of_a_tile_lands_on_its_view(space):
    bench = Bench(ToldGaussianPrior(size=12), views=8)
    rule = MVSDS(views="tiled", cfg=2.0, rescale=0.0, space=space, weight="sigma_over_alpha", **AT)
    z = 2 * tiled(bench.x) - 1
    noise = Draws(0, bench.index, range(2)).normal("noise", z.shape[1:]).double()
    z_t, told = bench.noised(T, noise, z), {"c2w": torch.zeros(2, 4, 4)}
    estimate = (z_t - bench.sigma(T) * bench.cfg(z_t, T, 2.0, **told)) / bench.alpha(T)
    if space == "latent":
        expected = 2 * untiled(z - estimate)
    else:
        expected = untiled(tiled(bench.x) - (estimate / 2 + 0.5).clamp(0, 1))
    torch.testing.assert_close(bench.gradient(rule), expected * 8 / 2)


def test_tiles_are_told_neither_camera_nor_view_words():
    bench = Bench(ToldGaussianPrior(size=12))
    bench.texts["plain"] = "blue"
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(MVSDS(views="tiled"))
    ((rows, _, cond),) = prior.calls
    assert rows == 2
    assert not cond.c2w.any()
    assert torch.equal(cond.text[:1], prior.encode_text(["blue"]))


def test_tiles_need_a_multiple_of_four_views():
    with pytest.raises(UserError, match=r"a multiple of 4 views a step, got 6: set cameras\.views"):
        Bench(views=6).distill(MVSDS(views="tiled"))
    with pytest.raises(ValueError, match="perp_neg needs views joint"):
        MVSDS(views="tiled", perp_neg=1.0).check()


def test_the_draws_of_a_picture_do_not_depend_on_how_views_are_split_over_devices():
    whole, half = of_pictures(Draws(3, 5, range(8)), 2), of_pictures(Draws(3, 5, range(4, 8)), 1)
    assert torch.equal(whole.normal("noise", (2,))[1:], half.normal("noise", (2,)))
    draws = Draws(3, 5, range(4))
    assert of_pictures(draws, 4) is draws


def test_the_mask_of_a_tile_is_that_of_its_view():
    bench = Bench(ToldGaussianPrior(size=12))
    mask = torch.zeros(4, 1, 6, 6)
    mask[2, :, :3] = 1
    gradient = bench.gradient(MVSDS(views="tiled", rescale=0.0), mask)
    assert gradient[2, :, :3].abs().min() > 0
    assert gradient[2, :, 3:].abs().max() < 1e-12
    assert gradient[[0, 1, 3]].abs().max() < 1e-12


# A reference image


def zero123() -> Bench:
    bench = Bench()
    bench.inputs = {"reference": random(1, 3, 6, 6), "reference_c2w": bench.cameras.c2w[1], "image": random(1, 2, 3, seed=9)}
    return bench


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_zero123_is_sds_on_a_network_told_the_reference_and_the_relative_pose(tokens, cfg):
    bench = zero123()
    rule = Zero123(cfg=cfg, image_scale=float(tokens), **AT)
    if not tokens:
        del bench.inputs["image"]
    z_t = bench.noised(T)
    pose = torch.linalg.inv(bench.cameras.c2w[1].double()) @ bench.cameras.c2w.double()
    told = {"c2w": pose.float(), "concat": (2 * bench.inputs["reference"] - 1).expand(4, -1, -1, -1)}
    if tokens:
        told |= {"image": bench.inputs["image"].expand(4, -1, -1), "image_scale": torch.ones(4)}
    seen, null = bench.eps("null", z_t, T, **told), bench.eps("null", z_t, T, camera=False)
    bench.assert_residual(rule, null + cfg * (seen - null) - bench.noise(), T, atol=1e-6)


def test_from_the_camera_of_the_reference_the_relative_pose_is_none():
    cameras = zero123().cameras
    pose = relative(cameras.c2w, cameras.c2w[1])
    torch.testing.assert_close(pose[1], torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.c2w[1] @ pose, cameras.c2w, atol=1e-5, rtol=0)


def test_zero123_finds_its_prompts_in_the_bank_of_a_run():
    rule, bench = Zero123(), zero123()
    bank = PromptBank(bench.prior, "anything", further=rule.texts())
    assert {term.cond for term in rule.terms()} <= set(bank.texts)
    for term in rule.terms():
        assert torch.equal(bank.rows(term.cond, bench.cameras.c2w), bench.prior.encode_text([""]).expand(4, -1, -1))


def test_a_zero123_without_guidance_is_asked_with_the_reference_alone():
    bench = zero123()
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(Zero123(cfg_mode="none"))
    ((rows, _, cond),) = prior.calls
    assert rows == 4
    assert cond.concat.abs().min() > 0


# Frames


@BOTH_PRIORS
def test_video_sds_is_sds_told_no_camera(prior):
    bench = Bench(PRIORS[prior]())
    z_t = bench.noised(T)
    text, negative = (bench.eps(name, z_t, T, camera=False) for name in ("text", "negative"))
    bench.assert_residual(VideoSDS(cfg=30.0, **AT), negative + 30.0 * (text - negative) - bench.noise(), T)


def test_the_frames_of_a_clip_have_one_timestep_and_noise_of_their_own():
    bench, rule = Bench(views=6), VideoSDS()
    step = bench.distill(rule).step
    assert len(step.t.unique()) == 1
    noise = rule.states(step)[0]["t"].noise
    assert min((noise[i] - noise[j]).abs().max() for i in range(6) for j in range(i)) > 0.1
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(rule)
    ((rows, _, cond),) = prior.calls
    assert (rows, cond.views) == (12, 6)


def test_no_camera_is_told_in_any_mode():
    for settings in ({"cfg_mode": "embedded"}, {"cfg_mode": "none"}, {"perp_neg": 1.0}):
        bench = Bench()
        bench.prior = prior = CountingPrior(bench.prior)
        bench.distill(VideoSDS(**settings))
        cond: Conditioning = prior.calls[0][2]
        assert not cond.c2w.any()
