"""Closed-form distributions that rules and systems are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threedgen.cameras import Cameras, orbit_cameras
from threedgen.draws import Draws
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
        return -torch.ones(len(c2w), 2)


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


def views_and_draws(views: int = 4, size: int = 6, seed: int = 0, step: int = 0) -> tuple[Cameras, Draws]:
    """A ring of cameras and the draws of a step."""
    azimuth = [360.0 * v / views for v in range(views)]
    return orbit_cameras(azimuth, 15.0, 2.6, 40.0, size, size), Draws(seed, step, range(views))
