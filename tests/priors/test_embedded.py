"""The prior that comes with the package does what its model card says."""

import torch

from threedgen.cameras import orbit_cameras
from threedgen.draws import generator
from threedgen.priors.base import Conditioning


def blob(views: int) -> torch.Tensor:
    """[V,3,128,128] a shaded brown ball on white."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    inside = (x.square() + y.square() < 0.36).float()
    shade = (0.8 - 0.3 * (x + y)).clamp(0.2, 1.0)
    colour = torch.tensor([0.45, 0.28, 0.12])[:, None, None] * shade
    return (colour * inside + 1 - inside).expand(views, -1, -1, -1).contiguous()


def estimate(prior, z_t, t, text, views=4):
    """One-step denoised latents under a prompt."""
    c2w = orbit_cameras([0.0, 90.0, 180.0, 270.0], 20.0, 2.6, 40.0, 64, 64).c2w
    eps = prior.predict_noise(z_t, torch.full((len(z_t),), t), Conditioning(text.expand(len(z_t), -1, -1), c2w, views=views))
    a = prior.alphas_cumprod[t]
    return (z_t - (1 - a).sqrt() * eps) / a.sqrt()


def test_card(embedded):
    assert (embedded.native_resolution, embedded.latent_size, embedded.latent_channels) == (128, 32, 4)
    assert len(embedded.alphas_cumprod) == 1000
    assert embedded.view_training is not None
    assert embedded.view_training.multiview


def test_autoencoder_returns_what_it_was_given(embedded):
    image = blob(1)
    with torch.no_grad():
        error = (embedded.decode(embedded.encode(image)) - image).square().mean()
    assert -10 * error.log10() > 20.0, "dB; an image of the training's kind survives the round trip"


def test_denoising_finds_the_image_under_the_noise(embedded):
    """At four noise levels the estimate is much closer to the clean latent than the best guess without a model, the scaled input."""
    with torch.no_grad():
        z = embedded.encode(blob(4))
    eps = torch.randn(z.shape, generator=generator(0, 0, 0, "noise"))
    text = embedded.encode_text(["a brown ball"])
    for t in (200, 400, 600, 800):
        a = embedded.alphas_cumprod[t]
        z_t = a.sqrt() * z + (1 - a).sqrt() * eps
        power = z.square().mean()
        wiener = z_t * a.sqrt() * power / (a * power + 1 - a)
        assert (estimate(embedded, z_t, t, text) - z).square().mean() < 0.3 * (wiener - z).square().mean()


def test_prompts_matter(embedded):
    """From the same noise, blue and yellow balls are told apart on the axis the autoencoder keeps."""
    with torch.no_grad():
        z = embedded.encode(blob(4))
        eps = torch.randn(z.shape, generator=generator(0, 0, 0, "noise"))
        a = embedded.alphas_cumprod[800]
        z_t = a.sqrt() * z + (1 - a).sqrt() * eps
        blue, yellow = (
            embedded.decode(estimate(embedded, z_t, 800, text)) for text in embedded.encode_text(["a blue ball", "a yellow ball"]).split(1)
        )

    def blueness(images: torch.Tensor) -> torch.Tensor:
        centre = images[:, :, 48:80, 48:80]
        return (centre[:, 2] - centre[:, :2].mean(1)).mean((1, 2))

    assert (blueness(blue) > blueness(yellow) + 0.05).all()
