"""Image prompts against the loader of diffusers, and what is wrong with adapters."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor

from tests.tiny import adapter_tensors, normal, save_image_adapter, save_prior, seeded
from threedgen.errors import UserError
from threedgen.priors import folder as files
from threedgen.priors.base import Conditioning
from threedgen.priors.diffusion import DiffusionPrior
from threedgen.priors.image_prompt import load_encoder, prepared
from threedgen.priors.loading import load_prior

T = torch.tensor([3, 500, 999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = seeded(save_prior, tmp_path_factory.mktemp("prior"))
    seeded(save_image_adapter, place / "ip_adapter")
    return place


@pytest.fixture(scope="module")
def prior(folder):
    return load_prior(str(folder), precision="float32")


def predict(prior, **given) -> torch.Tensor:
    return prior.predict_noise(normal(3, 4, 8, 8), T, Conditioning(normal(3, 32, 16, key="text"), **given))


def reference(folder, embedding: torch.Tensor, scale: float) -> torch.Tensor:
    """The prediction of the same UNet with the adapter loaded by diffusers; embedding [B,E] is the encoder's."""
    with files.quiet():
        unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    tensors = load_file(folder / "ip_adapter" / "ip-adapter.safetensors")
    parts = {p: {k.removeprefix(f"{p}."): v for k, v in tensors.items() if k.startswith(p)} for p in ("image_proj", "ip_adapter")}
    unet._load_ip_adapter_weights([parts], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "to_k_ip"):
            processor.scale = [scale]
    with torch.no_grad():
        added = {"image_embeds": [embedding[:, None]]}
        return unet(normal(3, 4, 8, 8), T, normal(3, 32, 16, key="text"), added_cond_kwargs=added).sample


def embedding_of(folder, rgb: torch.Tensor) -> torch.Tensor:
    encoder = load_encoder(folder / "ip_adapter" / "image_encoder")
    return encoder(prepared(rgb, 28)).image_embeds


def test_the_prediction_is_that_of_diffusers(folder, prior):
    rgb = normal(3, 3, 28, 28, key="rgb").sigmoid()
    found = predict(prior, image=prior.encode_image(rgb), image_scale=torch.full((3,), 0.7))
    torch.testing.assert_close(found, reference(folder, embedding_of(folder, rgb), 0.7), atol=1e-5, rtol=1e-4)
    assert (found - predict(prior)).abs().max() > 1e-2


def test_zeros_are_the_null_image_the_adapter_was_trained_with(folder, prior):
    tokens = prior.encode_image(normal(3, 3, 28, 28, key="rgb").sigmoid())
    scale = torch.full((3,), 0.7)
    null = predict(prior, image=torch.zeros(3, 4, 16), image_scale=scale)
    torch.testing.assert_close(null, reference(folder, torch.zeros(3, 12), 0.7), atol=1e-5, rtol=1e-4)
    mixed = predict(prior, image=tokens * torch.tensor([1.0, 0.0, 1.0])[:, None, None], image_scale=scale)
    torch.testing.assert_close(mixed[1], null[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed[0], predict(prior, image=tokens, image_scale=scale)[0], atol=1e-5, rtol=1e-4)


def test_the_scale_is_a_rows_own_and_zero_is_no_image(prior):
    tokens = prior.encode_image(normal(1, 3, 28, 28, key="rgb").sigmoid()).expand(3, -1, -1)
    assert torch.equal(predict(prior, image=tokens, image_scale=torch.zeros(3)), predict(prior))
    changed = predict(prior, image=tokens, image_scale=torch.tensor([0.0, 1.0, 0.0])) - predict(prior)
    assert (changed.flatten(1).abs().amax(1) > 1e-6).tolist() == [False, True, False]


def test_image_and_negative_prompt_add_up_in_one_layer_and_are_told_apart(prior):
    tokens, ones = prior.encode_image(normal(1, 3, 28, 28).sigmoid()).expand(3, -1, -1), torch.ones(3)
    image = {"image": tokens, "image_scale": ones}
    push = {"negative": normal(3, 32, 16, key="negative"), "negative_scale": 0.5 * ones}
    assert torch.equal(predict(prior, **image, **(push | {"negative_scale": 0 * ones})), predict(prior, **image))
    both = predict(prior, **image, **push)
    assert (both - predict(prior, **image)).abs().max() > 1e-4
    assert (both - predict(prior, **push)).abs().max() > 1e-4


@pytest.mark.parametrize("size", [(224, 224), (60, 60), (301, 200)])
def test_images_are_prepared_as_the_encoder_was_trained(size):
    ramp = torch.linspace(0, 1, size[0])[:, None] * torch.linspace(1, 0.2, size[1])
    stripes = 0.5 + 0.4 * torch.sin(1.9 * torch.arange(size[1])).expand(size)
    pixels = (torch.stack([ramp, ramp.flip(0), stripes]) * 255).round().to(torch.uint8)
    image = Image.fromarray(np.asarray(pixels.permute(1, 2, 0)))
    theirs = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=56)(image, return_tensors="pt")["pixel_values"]
    ours = prepared(pixels[None].float() / 255, 56)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().mean() < 0.03, "a hundredth of the range of pixels, which the processor rounds to whole numbers"


def test_the_adapter_may_lie_elsewhere(tmp_path, folder):
    bare, elsewhere = seeded(save_prior, tmp_path / "prior"), tmp_path / "adapters"
    shutil.copytree(folder / "ip_adapter", elsewhere)
    rgb = normal(1, 3, 28, 28).sigmoid()
    tokens = load_prior(str(folder)).encode_image(rgb)
    assert torch.equal(DiffusionPrior.from_folder(bare, image_adapter=elsewhere).encode_image(rgb), tokens)
    assert torch.equal(DiffusionPrior.from_folder(bare, image_adapter=elsewhere / "ip-adapter.safetensors").encode_image(rgb), tokens)
    (elsewhere / "image_encoder").rename(bare / "image_encoder")
    assert torch.equal(DiffusionPrior.from_folder(bare, image_adapter=elsewhere).encode_image(rgb), tokens)


def test_without_an_adapter_images_are_refused(tiny_folder):
    bare = load_prior(str(tiny_folder()))
    assert "image" not in bare.capabilities
    with pytest.raises(UserError, match="no image adapter: put an IP-Adapter's weights and its image_encoder"):
        bare.encode_image(torch.zeros(1, 3, 28, 28))
    with pytest.raises(UserError, match="no image adapter"):
        predict(bare, image=torch.zeros(3, 4, 16))


def refused(tmp_path, tensors=None, extra=None) -> str:
    place = seeded(save_prior, tmp_path / "prior")
    adapter = place / "ip_adapter"
    seeded(save_image_adapter, adapter)
    if tensors is not None:
        save_file(tensors, adapter / "ip-adapter.safetensors")
    if extra:
        extra(adapter)
    with pytest.raises(UserError) as caught:
        load_prior(str(place)).encode_image(torch.zeros(1, 3, 28, 28))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    tensors = {k: v for k, v in adapter_tensors().items() if ".7." not in k}
    assert "does not fit this prior's unet" in refused(tmp_path, tensors)


def test_an_adapter_of_another_form_is_refused(tmp_path):
    tensors = {k.replace("proj.weight", "latents"): v for k, v in adapter_tensors().items()}
    assert "not of the plain IP-Adapter form" in refused(tmp_path, tensors)


def test_layers_that_are_numbered_otherwise_are_refused(tmp_path):
    tensors = {k.replace(".7.", ".9."): v for k, v in adapter_tensors().items()}
    assert "its layers are not ip_adapter.1, .3, .5" in refused(tmp_path, tensors)


def test_an_encoder_of_another_adapter_is_refused(tmp_path):
    assert "was made for another encoder" in refused(tmp_path, adapter_tensors(embedding=20))


def test_a_missing_encoder_is_named(tmp_path):
    assert "has no image encoder" in refused(tmp_path, extra=lambda adapter: shutil.rmtree(adapter / "image_encoder"))


def test_damaged_weights_are_named(tmp_path):
    assert "ip-adapter.safetensors cannot be read" in refused(
        tmp_path, extra=lambda adapter: (adapter / "ip-adapter.safetensors").write_bytes(b"short")
    )


def test_several_adapters_want_a_choice(tmp_path):
    def copy(adapter):
        shutil.copy(adapter / "ip-adapter.safetensors", adapter / "another.safetensors")

    assert "2 safetensors files, name one" in refused(tmp_path, extra=copy)
