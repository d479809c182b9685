"""A control branch beside the UNet."""

import pytest
import torch
from diffusers import ControlNetModel

from tests.tiny import normal, save_control, save_prior, seeded
from threedgen.errors import UserError
from threedgen.priors import folder as files
from threedgen.priors.base import Conditioning
from threedgen.priors.diffusion import DiffusionPrior
from threedgen.priors.loading import load_prior

T = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = seeded(save_prior, tmp_path_factory.mktemp("prior"))
    seeded(save_control, place / "controlnet")
    return place


@pytest.fixture(scope="module")
def prior(folder):
    return load_prior(str(folder), precision="float32")


def predict(prior, control=None) -> torch.Tensor:
    return prior.predict_noise(normal(3, 4, 8, 8), T, Conditioning(normal(3, 32, 16, key="text"), control=control))


def test_the_residuals_are_added_inside_the_unet(folder, prior):
    control, z, text = normal(3, 3, 16, 16, key="control").sigmoid(), normal(3, 4, 8, 8), normal(3, 32, 16, key="text")
    with files.quiet():
        network = ControlNetModel.from_pretrained(folder / "controlnet").eval()
    with torch.no_grad():
        down, middle = network(z, T, text, control, return_dict=False)
        expected = prior.unet(z, T, text, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    torch.testing.assert_close(predict(prior, control), expected)
    assert (expected - predict(prior)).abs().max() > 1e-2


def test_a_row_without_a_control_image_is_the_bare_network_to_the_bit(prior):
    control = normal(3, 3, 16, 16, key="control").sigmoid()
    control[1] = 0
    found, bare = predict(prior, control), predict(prior)
    assert torch.equal(found[1], bare[1])
    assert not torch.equal(found[0], bare[0])
    assert not torch.equal(found[2], bare[2])
    assert torch.equal(predict(prior, torch.zeros(3, 3, 16, 16)), bare)


def test_control_images_are_fitted_in_size_and_channels(prior):
    grey = torch.tensor([0.2, 0.5, 0.9])[:, None, None, None]
    expected = predict(prior, grey.expand(3, 3, 16, 16))
    torch.testing.assert_close(predict(prior, grey.expand(3, 1, 40, 40)), expected)
    with pytest.raises(UserError, match="the control image has 2 channels, the control branch takes 3"):
        predict(prior, grey.expand(3, 2, 16, 16))


def test_the_branch_may_lie_elsewhere(tmp_path, folder, prior):
    bare = seeded(save_prior, tmp_path / "prior")
    control = normal(3, 3, 16, 16, key="control").sigmoid()
    apart = DiffusionPrior.from_folder(bare, precision="float32", control=folder / "controlnet")
    assert apart.capabilities == prior.capabilities == {"negative", "no camera", "control"}
    assert torch.equal(predict(apart, control), predict(prior, control))


def test_a_branch_is_told_the_camera_only_where_it_was_trained_on_it(tmp_path, folder):
    place = seeded(save_prior, tmp_path / "prior", camera=True)
    prior = DiffusionPrior.from_folder(place, precision="float32", control=folder / "controlnet")
    assert predict(prior, torch.ones(3, 3, 16, 16)).isfinite().all()


def test_without_a_branch_control_is_refused(tiny_folder):
    with pytest.raises(UserError, match="no control branch: put a ControlNet into its folder controlnet"):
        predict(load_prior(str(tiny_folder())), torch.ones(3, 3, 16, 16))


def test_a_branch_of_another_unet_is_refused(tmp_path):
    place = seeded(save_prior, tmp_path / "prior")
    seeded(save_control, place / "controlnet", width=24)
    with pytest.raises(UserError, match="does not fit this prior's unet: its cross_attention_dim is 24, the unet's 16"):
        load_prior(str(place))


def test_a_damaged_branch_is_named(tmp_path, folder):
    place = seeded(save_prior, tmp_path / "prior")
    seeded(save_control, place / "controlnet")
    (place / "controlnet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"controlnet/diffusion_pytorch_model.safetensors is missing"):
        load_prior(str(place))
