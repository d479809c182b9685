"""Deterministic sampling with noise predictions: the formulas, free of any model.

`alpha_bar` is an entry of `Prior.alphas_cumprod`, a number or a tensor that broadcasts against the latents:
z_t = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) eps.
"""

from __future__ import annotations

import torch
from torch import Tensor


def timesteps(t_start: int, steps: int) -> list[int]:
    """`steps` falling timesteps from t_start, evenly spaced so that one more spacing ends below 0, at the clean latent.

    The "trailing" spacing of arXiv 2305.08891: the first prediction is made exactly where the noise was added.
    ValueError unless 1 <= steps <= t_start + 1.
    """
    if not 1 <= steps <= t_start + 1:
        raise ValueError(f"{steps} steps do not fit between timestep {t_start} and 0")
    return [round((t_start + 1) * (steps - k) / steps) - 1 for k in range(steps)]


def add_noise(z0: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The noisy latent made of a clean one and noise."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=z0.dtype, device=z0.device)
    return alpha_bar.sqrt() * z0 + (1 - alpha_bar).sqrt() * eps


def predict_z0(z_t: Tensor, eps: Tensor, alpha_bar: Tensor | float) -> Tensor:
    """The clean latent that a noisy one and its noise imply."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=z_t.dtype, device=z_t.device)
    return (z_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def ddim_step(z_t: Tensor, eps: Tensor, alpha_bar_from: Tensor | float, alpha_bar_to: Tensor | float) -> Tensor:
    """One deterministic step of DDIM (arXiv 2010.02502) to less noise, or to more (inversion); `alpha_bar_to` 1 is clean."""
    return add_noise(predict_z0(z_t, eps, alpha_bar_from), eps, alpha_bar_to)


def cfg(eps_null: Tensor, eps_text: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598); scale 1 is the text prediction itself."""
    return eps_null + scale * (eps_text - eps_null)


def rescale(z0_cfg: Tensor, z0_text: Tensor, amount: float, views: int = 1) -> Tensor:
    """Clean latents [B,C,h,w] under guidance, their contrast drawn back towards the unguided ones.

    Large guidance scales burn colours; each group of `views` consecutive rows is scaled by one factor, so that views keep
    their relation (arXiv 2305.08891, as MVDream applies it, arXiv 2308.16512).

    Args:
        z0_cfg, z0_text: implied by the guided and by the text prediction.
        amount: 0 leaves z0_cfg, 1 gives each group the standard deviation it has in z0_text.
        views: rows in a group.
    """
    spread_text = z0_text.reshape(-1, views * z0_text[0].numel()).std(1)
    spread_cfg = z0_cfg.reshape(-1, views * z0_cfg[0].numel()).std(1)
    factor = (spread_text / spread_cfg).repeat_interleave(views)[:, None, None, None]
    return z0_cfg * (amount * factor + 1 - amount)
