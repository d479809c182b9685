"""Closed-form distributions that rules and systems are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras import Cameras, orbit_cameras
from threedgen.draws import Draws, generator
from threedgen.priors.analytic import GaussianMixturePrior, ImageMixturePrior
from threedgen.priors.base import Conditioning


class Prompts:
    """Embeddings of a closed-form prior under the names rules use."""

    def __init__(self, prior: GaussianMixturePrior, prompt: str, negative: str = "", **further: str) -> None:
        texts = {"text": prompt, "plain": prompt, "null": "", "negative": negative, **further}
        self.embeddings = {name: prior.encode_text([text]) for name, text in texts.items()}

    def rows(self, name: str, c2w: Tensor) -> Tensor:
        return self.embeddings[name].expand(len(c2w), -1, -1)

    def perp_neg_weights(self, c2w: Tensor) -> Tensor:
        """Two negative weights that differ from camera to camera."""
        return -0.5 - c2w[:, :2, 3].abs()


class CountingPrior:
    """Any prior, with a record of its network calls: rows, timesteps and conditioning of each."""

    def __init__(self, prior: GaussianMixturePrior) -> None:
        self.prior, self.calls = prior, []

    def __getattr__(self, name: str):
        return getattr(self.prior, name)

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.calls.append((len(z_t), t.clone(), cond))
        return self.prior.predict_noise(z_t, t, cond)


class ChannelCritic(nn.Module):
    """A critic of a closed-form prior: its prediction plus a trained map of the channels, which starts as zero."""

    def __init__(self, prior: GaussianMixturePrior) -> None:
        super().__init__()
        self.predict = prior.predict_noise
        self.block = nn.Module()
        self.block.mix = nn.Parameter(torch.zeros(3, 3))
        self.bias = nn.Parameter(torch.zeros(3))

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        mixed = torch.einsum("oc,bchw->bohw", self.block.mix.to(z_t), z_t)
        return self.predict(z_t, t, cond) + mixed + self.bias.to(z_t)[:, None, None]

    def close(self) -> None:
        """Nothing of it lies on the prior."""


class ToldGaussianPrior(GaussianMixturePrior):
    """A Gaussian whose mean is moved by all that a network can be told, by each in a way of its own.

    Text and image tokens are shifts of the three channels; "" is no shift. A guidance scale multiplies the shift of the text.
    """

    def __init__(self, size: int = 6, seed: int = 0, std: float = 0.3) -> None:
        rng = torch.Generator().manual_seed(seed)
        super().__init__(torch.rand(1, 3, size, size, generator=rng, dtype=torch.float64) - 0.5, [std])

    def encode_text(self, texts: list[str]) -> Tensor:
        shifts = [torch.randn(1, 3, generator=generator(0, 0, 0, text), dtype=torch.float64) * bool(text) for text in texts]
        return 0.2 * torch.stack(shifts)

    def mean(self, cond: Conditioning) -> Tensor:
        """[B,3,R,R] mean for each row."""
        shift = cond.text.sum(1)
        if cond.guidance is not None:
            shift = shift * cond.guidance[:, None]
        if cond.negative is not None:
            shift = shift - cond.negative_scale[:, None] * cond.negative.sum(1)
        if cond.image is not None:
            shift = shift + cond.image_scale[:, None] * cond.image.sum(1)
        if cond.c2w is not None:
            shift = shift + 0.05 * cond.c2w[:, :3, 3] + 0.01 * cond.fovy[:, None]
        mean = self.means + shift[:, :, None, None]
        for share, told in ((0.03, cond.concat), (0.07, cond.control)):
            if told is not None:
                order = torch.arange(1, told.shape[1] + 1, dtype=told.dtype)[:, None, None]
                mean = mean + share * F.interpolate((order * told).sum(1, keepdim=True), mean.shape[-2:])
        return mean

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        abar = self.alphas_cumprod[t].to(z_t.dtype)[:, None, None, None]
        spread = abar * self.variances[0].to(z_t.dtype) + 1 - abar
        return (1 - abar).sqrt() * (z_t - abar.sqrt() * self.mean(cond).to(z_t.dtype)) / spread


class ParticlesScore:
    """Exact score of particles: told the camera, of a Gaussian around that view's latent; else of all views together.

    With `std` 0 and the camera told it predicts the very noise that was drawn.
    """

    def __init__(self, prior: GaussianMixturePrior, z: Tensor, c2w: Tensor, std: float = 0.0) -> None:
        self.alphas_cumprod, self.z, self.c2w, self.std = prior.alphas_cumprod, z, c2w, std
        self.all = GaussianMixturePrior(z, [std] * len(z))

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        together = self.all.predict_noise(z_t, t, Conditioning(self.all.encode_text([""] * len(z_t))))
        same = (cond.c2w[:, None] == self.c2w[None]).flatten(2).all(2)
        abar = self.alphas_cumprod[t].to(z_t.dtype)[:, None, None, None]
        mean = self.z[same.int().argmax(1)].to(z_t.dtype)
        alone = (1 - abar).sqrt() * (z_t - abar.sqrt() * mean) / (abar * self.std**2 + 1 - abar)
        return torch.where(same.any(1)[:, None, None, None], alone, together)


class FreeCritic(nn.Module):
    """A critic that predicts one trainable array whatever it sees, and remembers what it was told last."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.prediction = nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64))

    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.seen = (z_t, t, cond)
        return self.prediction.expand_as(z_t)

    def close(self) -> None:
        """Nothing of it lies on the prior."""


def gaussian_prior(size: int = 6, seed: int = 0) -> GaussianMixturePrior:
    """A float64 Gaussian over images around a random mean."""
    rng = torch.Generator().manual_seed(seed)
    return GaussianMixturePrior(torch.rand(1, 3, size, size, generator=rng, dtype=torch.float64) - 0.5, [0.3])


def two_image_prior(size: int = 6) -> ImageMixturePrior:
    """Two "objects": a plain red and a plain blue image, whatever the camera."""
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)

    def images_at(c2w: Tensor, fovy: Tensor, resolution: int) -> Tensor:
        return colours[:, None, :, None, None].expand(2, len(c2w), 3, resolution, resolution)

    return ImageMixturePrior(images_at, ["red", "blue"], size)


def coloured_views_prior(size: int = 6) -> ImageMixturePrior:
    """Three "objects" of noisy pixels, faintly red, green and blue, that change with the camera: no camera decides which it is."""
    colours = torch.eye(3, dtype=torch.float64)

    def images_at(c2w: Tensor, fovy: Tensor, resolution: int) -> Tensor:
        light = 0.5 + 0.04 * c2w[:, :3, 3].double().sum(1)[:, None, None, None]
        row = torch.linspace(-1, 1, resolution, dtype=torch.float64)[:, None].expand(resolution, resolution)
        return torch.stack([light + colour[None, :, None, None] * (0.06 + 0.04 * row) for colour in colours])

    return ImageMixturePrior(images_at, ["red", "green", "blue"], size, tau=0.4)


def views_and_draws(views: int = 4, size: int = 6, seed: int = 0, step: int = 0) -> tuple[Cameras, Draws]:
    """A ring of cameras and the draws of a step."""
    azimuth = [360.0 * v / views for v in range(views)]
    return orbit_cameras(azimuth, 15.0, 2.6, 40.0, size, size), Draws(seed, step, range(views))
