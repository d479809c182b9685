"""Closed-form priors: distributions of images whose exact noise prediction is known, in any float format.

They live in pixel space, z = 2 rgb - 1. For z_t = a z0 + s eps with a² = alpha_bar and s² = 1 - alpha_bar the exact prediction is
eps = (z_t - a E[z0 | z_t]) / s (Tweedie's formula), which is -s times the score of the density of z_t. Where z0 comes from a mixture of
N(mu_k, v_k), z_t comes from one of N(a mu_k, a² v_k + s²) with the same weights, and so
eps = s sum_k p(k | z_t) (z_t - a mu_k) / (a² v_k + s²).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.errors import UserError
from threedgen.priors.base import Conditioning

TIMESTEPS = 1000
_ABSENT = -1e9  # log-weight of an object that the prompt does not name: more than any image can speak for it, yet finite


def scaled_linear(steps: int = TIMESTEPS, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """[T] float64 alphas_cumprod of Stable Diffusion's noise schedule: the square roots of the betas rise linearly."""
    betas = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64).square()
    return (1 - betas).cumprod(0)


class GaussianMixturePrior:
    """A mixture of Gaussians with independent pixels, whatever the prompt and the camera; with one component, a Gaussian.

    Rows of a group of `cond.views` are drawn from one component, so their evidence for it is added up. Attributes as in `Prior`.
    """

    latent_channels = 3
    capabilities = frozenset({"camera", "no camera", "multiview"})

    def __init__(
        self, means: Tensor, stds: Sequence[float], weights: Sequence[float] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """
        Args:
            means: [K,3,R,R] mean images in latent range [-1,1].
            stds: K standard deviations of the pixels; 0 is a known image.
            weights: K probabilities; None is uniform.
            device: where the prior computes.
        """
        self.device = torch.device(device)
        self.native_resolution = self.latent_size = means.shape[-1]
        self.alphas_cumprod = scaled_linear().to(self.device)
        self.means = means.to(self.device)
        self.variances = torch.tensor(stds, dtype=torch.float64, device=self.device).square()[:, None, None, None, None]
        probabilities = torch.ones(len(means)) if weights is None else torch.tensor(weights)
        self.log_weights = (probabilities / probabilities.sum()).log().to(self.device)
        self.text_fingerprint = _digest("gaussian mixture", *map(str, self.log_weights.tolist()))

    def encode(self, rgb: Tensor) -> Tensor:
        """[B,3,R,R] 2 rgb - 1 of images [B,3,H,W] in [0,1], resized to the prior's resolution; gradient flows to the images."""
        size = (self.latent_size, self.latent_size)
        if tuple(rgb.shape[-2:]) != size:
            rgb = F.interpolate(rgb, size, mode="bilinear", antialias=max(rgb.shape[-2:]) > size[0])
        return 2 * rgb - 1

    def encode_beside(self, rgb: Tensor) -> Tensor:
        """The same as `encode`: these latents have no scale of their own."""
        return self.encode(rgb)

    def decode(self, z: Tensor) -> Tensor:
        """[B,3,R,R] images (z + 1) / 2 clamped to [0,1]; gradient flows to the latents."""
        return (0.5 * z + 0.5).clamp(0, 1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,1,K] log-weights of the components; prompts mean nothing to this prior."""
        return self.log_weights.expand(len(texts), 1, -1)

    def components(self, cond: Conditioning) -> Tensor:
        """[K,B,3,R,R] (or B = 1) means of the components for the rows of a batch."""
        return self.means[:, None]

    def critic(self, rank: int, checkpointing: bool = False, buckets: int = 1, seed: int = 0) -> nn.Module:
        """A closed form has no weights that a critic could share: UserError."""
        raise UserError("a closed-form prior cannot train a critic: use prior=embedded or a model folder, or a guidance without one")

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """[B,3,R,R] exact noise in z_t at timesteps t [B], computed in the number format of z_t."""
        alpha_bar = self.alphas_cumprod[t].to(z_t.dtype)[:, None, None, None]
        means, variances = self.components(cond).to(z_t.dtype), self.variances.to(z_t.dtype)
        spread = alpha_bar * variances + 1 - alpha_bar
        offset = z_t - alpha_bar.sqrt() * means
        evidence = -0.5 * (offset.square() / spread + spread.log()).sum((2, 3, 4))
        grouped = evidence.unflatten(1, (-1, cond.views)).sum(2).repeat_interleave(cond.views, 1)
        posterior = (cond.text[:, 0].T.to(z_t.dtype) + grouped).softmax(0)[:, :, None, None, None]
        return (1 - alpha_bar).sqrt() * (posterior * offset / spread).sum(0)


class ImageMixturePrior(GaussianMixturePrior):
    """A finite mixture of known objects, seen from the camera of each row: text-to-3D with a ground truth.

    The prompt says which object; each of its images has independent Gaussian pixels of standard deviation `tau` around the known one.
    """

    capabilities = frozenset({"camera", "multiview"})

    def __init__(
        self,
        images_at: Callable[[Tensor, Tensor, int], Tensor],
        names: Sequence[str],
        resolution: int,
        tau: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """
        Args:
            images_at: (c2w [B,4,4], fovy [B] in radians, R) -> [K,B,3,R,R], images in [0,1] of the K objects from the cameras.
            names: K names; a prompt asks for the object whose name it contains ("a red apple": "red apple" rather than "apple").
            resolution: R, height and width of images and latents.
            tau: standard deviation of the pixels, in latent range [-1,1].
            device: where the prior computes.
        """
        super().__init__(torch.zeros(len(names), 3, resolution, resolution), [tau] * len(names), device=device)
        self.images_at, self.names = images_at, list(names)
        self.text_fingerprint = _digest("image mixture", *names)

    def encode_text(self, texts: list[str]) -> Tensor:
        """[N,1,K] log-weights of the objects: all on the named one, uniform for the null prompt; UserError where none is named."""
        return torch.stack([self._weights_of(text) for text in texts])[:, None]

    def _weights_of(self, text: str) -> Tensor:
        prompt = text.strip().casefold()
        if not prompt:
            return self.log_weights
        found = [name for name in self.names if name.casefold() in prompt]
        named = [name for name in found if not any(name.casefold() in other.casefold() for other in found if other != name)]
        if len(named) != 1:
            raise UserError(f"the analytic prior does not know '{text}': name exactly one of {', '.join(self.names)}")
        weights = torch.full_like(self.log_weights, _ABSENT)
        weights[self.names.index(named[0])] = 0.0
        return weights

    def components(self, cond: Conditioning) -> Tensor:
        """[K,B,3,R,R] known images from the cameras of the rows; ValueError without cameras.

        Each different camera is rendered once, because the terms of a step repeat its cameras.
        """
        if cond.c2w is None or cond.fovy is None:
            raise ValueError("the image mixture needs the cameras of the rows: cond.c2w and cond.fovy")
        cameras, rows = torch.cat([cond.c2w.flatten(1), cond.fovy[:, None]], 1).unique(dim=0, return_inverse=True)
        images = self.images_at(cameras[:, :16].reshape(-1, 4, 4), cameras[:, 16], self.latent_size)
        return (2 * images - 1)[:, rows].to(self.device)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
