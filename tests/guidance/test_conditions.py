"""Rules that condition the prior on more than text and camera, from the render to its gradient, on tiny networks read from folders."""

from __future__ import annotations

import pytest
import torch

from tests.oracles import CountingPrior, views_and_draws
from tests.tiny import save_control, save_image_adapter, save_prior, seeded
from threedgen.errors import UserError
from threedgen.guidance.asynchronous_sd import AsynchronousSD
from threedgen.guidance.c_sds import CATEGORY, CSDS
from threedgen.guidance.core import Teacher, distill
from threedgen.guidance.csm import CSM
from threedgen.guidance.dds import DDS
from threedgen.guidance.di_sds import DISDS
from threedgen.guidance.sds import SDS
from threedgen.guidance.zero123 import Zero123
from threedgen.priors.loading import load_prior
from threedgen.priors.prompts import PromptBank

VIEWS = 2
FIXED = {"t_min": 0.5, "t_max": 0.5}


def images(channels: int, seed: int, count: int = VIEWS) -> torch.Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Priors by what they take; each is saved and read once."""
    priors = {}

    def make(control: bool = False, image: bool = False, **kwargs) -> CountingPrior:
        key = (control, image, *sorted(kwargs.items()))
        if key not in priors:
            folder = seeded(save_prior, tmp_path_factory.mktemp("prior"), **kwargs)
            if control:
                seeded(save_control, folder / "controlnet")
            if image:
                seeded(save_image_adapter, folder / "ip_adapter")
            priors[key] = load_prior(str(folder), precision="float32")
        return CountingPrior(priors[key])

    return make


def gradient(rule, prior: CountingPrior, inputs=None, negative: str = "blurry") -> torch.Tensor:
    """[B,H,W,3] gradient of a step with respect to the render; the record of network calls starts anew."""
    rgb = images(3, 7).permute(0, 2, 3, 1).contiguous().requires_grad_()
    cameras, draws = views_and_draws(VIEWS, 16)
    prior.calls.clear()
    prompts = PromptBank(prior, "a red ball", negative, further=rule.texts())
    out = distill(rule, Teacher(prior, prompts), rgb, cameras, draws, inputs=inputs)
    (found,) = torch.autograd.grad(out.loss, rgb)
    assert found.isfinite().all()
    assert found.abs().max() > 0
    return found


def scene(**changes) -> dict[str, torch.Tensor]:
    mask = torch.zeros(VIEWS, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    return {"mask": mask, "source": images(3, 1), "depth": images(1, 2)} | changes


def view(**changes) -> dict[str, torch.Tensor]:
    return {"reference": images(3, 3, 1), "reference_c2w": views_and_draws(3, 16)[0].c2w[1]} | changes


CASES = {
    "di_sds": (DISDS(**FIXED), {"control": True, "in_channels": 9}, scene, ("mask", "source", "depth")),
    "zero123": (Zero123(**FIXED), {"camera": True, "in_channels": 8}, view, ("reference", "reference_c2w")),
    "c_sds": (CSDS(**FIXED, category="a ball"), {"control": True}, lambda **c: {"control": images(3, 4)} | c, ("control",)),
    "csm": (
        CSM(image_scale=0.7, moves=1, **FIXED),
        {"image": True},
        lambda **c: {"image": images(1, 5, 1).reshape(1, -1, 16)[:, :4]} | c,
        ("image",),
    ),
    "sds with an image": (
        SDS(image_scale=0.7, **FIXED),
        {"image": True},
        lambda **c: {"image": images(1, 5, 1).reshape(1, -1, 16)[:, :4]} | c,
        ("image",),
    ),
}


@pytest.mark.parametrize(("name", "wanted"), [(n, i) for n, case in CASES.items() for i in case[3]])
def test_the_gradient_follows_each_input_and_misses_it_clearly(made, name, wanted):
    rule, kind, inputs, _ = CASES[name]
    prior = made(**kind)
    first, given = gradient(rule, prior, inputs()), inputs()[wanted]
    assert torch.equal(first, gradient(rule, prior, inputs()))
    other = gradient(rule, prior, inputs(**{wanted: given.flip(-1) if wanted != "reference_c2w" else views_and_draws(3, 16)[0].c2w[2]}))
    if wanted == "mask":
        other = gradient(rule, prior, inputs(mask=given.roll(3, -1)))
    assert (other - first).abs().max() > 1e-3 * first.abs().max()
    with pytest.raises(UserError, match=f"this guidance needs '{wanted}' images, and the run has none"):
        gradient(rule, prior, {key: value for key, value in inputs().items() if key != wanted})


@pytest.mark.parametrize("name", [n for n in CASES if n != "csm"])
def test_all_predictions_of_a_step_are_one_call(made, name):
    rule, kind, inputs, _ = CASES[name]
    prior = made(**kind)
    gradient(rule, prior, inputs())
    assert [rows for rows, _, _ in prior.calls] == [VIEWS * len(rule.terms())]


def test_inpainting_is_told_mask_then_masked_latents(made):
    prior, inputs = made(control=True, in_channels=9), scene()
    gradient(DISDS(**FIXED), prior, inputs)
    concat = prior.calls[0][2].concat
    small = torch.zeros(VIEWS, 1, 8, 8)
    small[..., 2:6, 2:6] = 1
    assert torch.equal(concat[:VIEWS, :1], small)
    hidden = torch.where(inputs["mask"] == 1, 0.5, inputs["source"])
    torch.testing.assert_close(concat[:VIEWS, 1:], prior.encode(hidden))
    assert torch.equal(concat[VIEWS:], concat[:VIEWS]), "the branch without prompt sees the same scene"


def test_the_scene_is_encoded_once_a_step(made, monkeypatch):
    prior, encoded = made(control=True, in_channels=9), []
    encode = prior.prior.encode
    monkeypatch.setattr(prior.prior, "encode", lambda rgb: encoded.append(len(rgb)) or encode(rgb))
    gradient(DISDS(**FIXED), prior, scene())
    assert len(encoded) == 2, "the render, and the scene"


def test_painting_stays_inside_the_mask(made):
    prior = made(control=True, in_channels=9)
    rgb = images(3, 7).permute(0, 2, 3, 1).contiguous().requires_grad_()
    cameras, draws = views_and_draws(VIEWS, 16)
    rule = DISDS(space="pixel", **FIXED)
    z = prior.encode(rgb.permute(0, 3, 1, 2)).detach()
    teacher = Teacher(prior, PromptBank(prior, "a red ball"))
    step = distill(rule, teacher, rgb, cameras, draws, inputs=scene()).step
    states, eps = rule.states(step)
    residual = rule.residual(eps | teacher.predict(rule.terms(), states, step), states, step)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:6, 2:6] = True
    assert residual.shape == z.shape
    assert (residual[..., ~inside] == 0).all()
    assert (residual[..., inside] != 0).all()


def test_the_category_sees_the_bare_network(made):
    prior, rule = made(control=True, image=True), CSDS(**FIXED, category="a ball", image_scale=0.5, negative_attention=0.3)
    tokens = images(1, 5, 1).reshape(1, -1, 16)[:, :4]
    gradient(rule, prior, {"control": images(3, 4), "image": tokens})
    cond, place = prior.calls[0][2], rule.terms().index(CATEGORY)
    rows = slice(place * VIEWS, (place + 1) * VIEWS)
    assert cond.control[:VIEWS].abs().sum() > 0
    for name in ("control", "image_scale", "negative_scale"):
        assert (getattr(cond, name)[rows] == 0).all(), name


def test_an_image_to_view_network_is_told_the_unscaled_reference_and_its_null_branch_nothing(made):
    prior, inputs = made(camera=True, in_channels=8), view()
    gradient(Zero123(**FIXED), prior, inputs)
    cond = prior.calls[0][2]
    mode = prior.vae.encode(2 * inputs["reference"] - 1).latent_dist.mode()
    torch.testing.assert_close(cond.concat[:VIEWS], mode.expand(VIEWS, -1, -1, -1))
    back = inputs["reference_c2w"] @ cond.c2w[:VIEWS]
    torch.testing.assert_close(back, views_and_draws(VIEWS, 16)[0].c2w, atol=1e-5, rtol=1e-4)
    assert (cond.concat[VIEWS:] == 0).all()
    assert (cond.c2w[VIEWS:] == 0).all()
    assert torch.equal(cond.text[:VIEWS], cond.text[VIEWS:]), "no prompt on either branch"


def test_an_image_to_view_network_may_take_image_tokens(made):
    prior = made(camera=True, in_channels=8, image=True)
    tokens = prior.encode_image(images(3, 3, 1))
    rule = Zero123(image_scale=1.0, **FIXED)
    seen = gradient(rule, prior, view(image=tokens))
    cond = prior.calls[0][2]
    assert torch.equal(cond.image, torch.cat([tokens.expand(VIEWS, -1, -1), torch.zeros(VIEWS, 4, 16)]))
    assert not torch.equal(seen, gradient(Zero123(**FIXED), prior, view()))


def test_the_image_prompt_is_seen_beside_the_prompt_alone(made):
    prior, tokens = made(image=True), images(1, 5, 1).reshape(1, -1, 16)[:, :4]
    gradient(SDS(image_scale=0.7, **FIXED), prior, {"image": tokens})
    cond = prior.calls[0][2]
    assert torch.equal(cond.image, torch.cat([tokens.expand(VIEWS, -1, -1), torch.zeros(VIEWS, 4, 16)]))
    assert cond.image_scale.tolist() == [pytest.approx(0.7)] * 2 * VIEWS


def test_a_distilled_network_is_guided_by_its_input(made):
    prior, plain = made(time_cond=8), made()
    gradients = {scale: gradient(SDS(cfg_mode="embedded", cfg=scale, **FIXED), prior) for scale in (1.0, 7.5)}
    (rows, _, cond), *rest = prior.calls
    assert (rows, rest) == (VIEWS, [])
    assert cond.guidance.tolist() == [7.5] * VIEWS
    assert not torch.equal(*gradients.values())
    with pytest.raises(UserError, match="does not take the guidance scale as an input: use cfg_mode=two_branch"):
        gradient(SDS(cfg_mode="embedded", **FIXED), plain)


def test_only_guided_terms_are_given_the_scale(made):
    prior = made(time_cond=8)
    gradient(AsynchronousSD(cfg_mode="embedded", cfg=5.0, **FIXED), prior)
    assert prior.calls[0][2].guidance.tolist() == [5.0] * VIEWS + [1.0] * VIEWS, "the later prediction has no guidance"
    gradient(DDS(cfg_mode="embedded", cfg=5.0, source_prompt="a ball", **FIXED), prior, {"source": images(3, 1)})
    assert prior.calls[0][2].guidance.tolist() == [5.0] * 2 * VIEWS


def test_two_branches_of_a_distilled_network_are_unguided(made):
    prior = made(time_cond=8)
    two = gradient(SDS(cfg=1.0, **FIXED), prior)
    assert prior.calls[0][2].guidance is None
    assert torch.allclose(two, gradient(SDS(cfg_mode="embedded", cfg=1.0, **FIXED), prior), atol=1e-5)


@pytest.mark.parametrize("mode", ["two_branch", "none"])
def test_the_push_is_from_the_negative_prompt_and_on_the_prompt_alone(made, mode):
    prior = made()

    def pushed(push: float, negative: str) -> torch.Tensor:
        return gradient(SDS(cfg_mode=mode, cfg=1.0, negative_attention=push, **FIXED), prior, negative=negative)

    assert not torch.equal(pushed(0.3, "blurry"), pushed(0.0, "blurry"))
    assert not torch.equal(pushed(0.3, "blurry"), pushed(0.3, "a green cube"))
    scale = prior.calls[0][2].negative_scale.tolist()
    assert scale == [pytest.approx(0.3)] * VIEWS + ([0.0] * VIEWS if mode == "two_branch" else [])


def test_the_push_goes_along_with_joint_views_and_an_image(made):
    prior = made(camera=True, multiview=True, image=True)
    tokens = prior.encode_image(images(3, 3, 1))
    rule = SDS(negative_attention=0.3, image_scale=0.6, **FIXED)
    assert not torch.equal(gradient(rule, prior, {"image": tokens}), gradient(SDS(image_scale=0.6, **FIXED), prior, {"image": tokens}))


def test_a_crop_is_refused_where_images_lie_beside_the_views():
    with pytest.raises(ValueError, match="crop must be 1: it would cut the rendered views, but not their mask, source, depth"):
        DISDS(crop=0.5).check()
    SDS(crop=0.5).check()
