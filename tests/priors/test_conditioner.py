"""Guidance scales as inputs, channels beside the noisy latent, and what a prior says it can be told."""

import pytest
import torch
from diffusers import LatentConsistencyModelPipeline

from tests.tiny import save_control, save_image_adapter, save_prior, seeded
from threedgen.draws import generator
from threedgen.errors import UserError
from threedgen.priors.base import Conditioning
from threedgen.priors.guidance_scale import guidance_embedding
from threedgen.priors.loading import load_prior

T = torch.tensor([3, 500, 999])


def normal(*shape: int, key: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    priors = {}

    def make(**kwargs):
        key = tuple(sorted(kwargs.items()))
        if key not in priors:
            priors[key] = load_prior(str(seeded(save_prior, tmp_path_factory.mktemp("prior"), **kwargs)), precision="float32")
        return priors[key]

    return make


def predict(prior, **given) -> torch.Tensor:
    return prior.predict_noise(normal(3, 4, 8, 8), T, Conditioning(normal(3, 32, 16, key="text"), **given))


@pytest.mark.parametrize("size", [8, 9, 256])
def test_the_embedding_of_the_scale_is_that_of_diffusers(size):
    guidance = torch.tensor([1.0, 2.5, 8.0, 0.0])
    theirs = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, guidance - 1, size)
    torch.testing.assert_close(guidance_embedding(guidance, size), theirs, atol=2e-3, rtol=0)
    assert torch.equal(guidance_embedding(guidance[:1], size)[0, : size // 2], torch.zeros(size // 2)), "w = 0: every sine is 0"


def test_the_scale_is_an_input_a_row(made):
    prior = made(time_cond=8)
    scale = torch.tensor([1.0, 4.0, 7.5])
    found = predict(prior, guidance=scale)
    text, embedding = normal(3, 32, 16, key="text"), guidance_embedding(scale, 8)
    assert torch.equal(found, prior.unet(normal(3, 4, 8, 8), T, text, timestep_cond=embedding).sample)
    changed = (found - predict(prior)).flatten(1).abs().amax(1) > 1e-5
    assert changed.tolist() == [False, True, True], "no scale is a scale of 1"


def test_stacking_leaves_terms_without_a_scale_unguided():
    parts = [Conditioning(normal(2, 3, 4), guidance=torch.full((2,), 7.5)), Conditioning(normal(2, 3, 4))]
    assert Conditioning.stack(parts).guidance.tolist() == [7.5, 7.5, 1.0, 1.0]


def test_a_plain_unet_takes_no_scale(made):
    with pytest.raises(UserError, match="does not take the guidance scale as an input: use cfg_mode=two_branch"):
        predict(made(), guidance=torch.ones(3))


@pytest.mark.parametrize("further", [4, 5])
def test_further_channels_follow_the_noisy_latent(made, further):
    prior, concat = made(in_channels=4 + further), normal(3, further, 8, 8, key="concat")
    assert prior.latent_channels == 4
    assert prior.encode(torch.rand(1, 3, 16, 16)).shape == (1, 4, 8, 8)
    expected = prior.unet(torch.cat([normal(3, 4, 8, 8), concat], 1), T, normal(3, 32, 16, key="text")).sample
    assert torch.equal(predict(prior, concat=concat), expected)


@pytest.mark.parametrize(
    ("further", "given", "line"),
    [
        (5, 0, "a mask and masked latents .guidance di_sds"),
        (4, 0, "guidance zero123"),
        (0, 4, "takes 0 channels beside the noisy latent and was given 4"),
        (5, 4, "was given 4"),
    ],
)
def test_channels_that_do_not_fit_are_refused(made, further, given, line):
    with pytest.raises(UserError, match=line):
        predict(made(in_channels=4 + further), concat=normal(3, given, 8, 8) if given else None)


def test_a_unet_of_another_autoencoder_is_refused(tmp_path):
    folder = seeded(save_prior, tmp_path / "prior", in_channels=3)
    with pytest.raises(UserError, match="unet takes 3 channels and gives 4, but vae makes 4"):
        load_prior(str(folder))


def test_a_reference_is_given_without_the_scale_of_latents(made):
    prior, rgb = made(in_channels=8), normal(2, 3, 16, 16).sigmoid()
    torch.testing.assert_close(prior.encode_beside(rgb), prior.vae.encode(2 * rgb - 1).latent_dist.mode())


@pytest.mark.parametrize(
    ("kwargs", "able"),
    [
        ({}, set()),
        ({"camera": True}, {"camera"}),
        ({"camera": True, "multiview": True}, {"camera", "multiview"}),
        ({"time_cond": 8}, {"guidance"}),
        ({"in_channels": 9}, {"concat:5"}),
        ({"in_channels": 8}, {"concat:4"}),
    ],
)
def test_a_prior_says_what_it_can_be_told(made, kwargs, able):
    assert made(**kwargs).capabilities == {"negative", "no camera"} | able


def test_a_critic_is_told_what_its_prior_is(tmp_path):
    folder = seeded(save_prior, tmp_path / "prior", in_channels=9, time_cond=8)
    seeded(save_control, folder / "controlnet")
    seeded(save_image_adapter, folder / "ip_adapter")
    prior = load_prior(str(folder), precision="bfloat16")
    given = {
        "concat": normal(3, 5, 8, 8, key="concat"),
        "control": normal(3, 3, 16, 16, key="control").sigmoid(),
        "image": normal(3, 4, 16, key="image"),
        "image_scale": torch.full((3,), 0.5),
        "negative": normal(3, 32, 16, key="negative"),
        "negative_scale": torch.full((3,), 0.3),
        "guidance": torch.full((3,), 5.0),
    }
    before, critic = predict(prior, **given), prior.critic(rank=2)
    predicted = critic.predict_noise(normal(3, 4, 8, 8), T, Conditioning(normal(3, 32, 16, key="text"), **given))
    assert torch.equal(predicted, before)
    assert torch.equal(predict(prior, **given), before)
    predicted.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for name, p in critic.named_parameters() if name.endswith("up.weight"))
