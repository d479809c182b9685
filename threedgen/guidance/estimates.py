"""What the prior takes renderings for: one-step estimates of the clean image at several noise levels, to debug a guidance by."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.draws import Draws
from threedgen.guidance.core import Step, Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.noisers import noisy_state
from threedgen.guidance.rule import GuidanceSettings, Rule


@torch.no_grad()
def clean_estimates(
    guidance: Rule | IM3D,
    teacher: Teacher,
    rgb: Tensor,
    cameras: Cameras,
    draws: Draws,
    *,
    levels: int,
    total: int = 1,
    latent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One-step estimates under the guidance's own guided prediction, at noise levels from its t_min to its t_max of the step.

    The renderings get random noise, whatever noise the rule itself works with: the same at all levels and at all steps of a run, so
    that pictures can be compared.

    Args:
        rgb: [B,H,W,3] in [0,1], views of one object.
        cameras: of the views.
        draws: keyed on the step, one row a view.
        levels: how many noise levels, at least 2.
        total: steps of the stage.
        latent: [B,h,w,C] of the views, where latents were rendered; else `rgb` is encoded.

    Returns:
        What the prior sees of the views [V,3,H,W] (V = B, unless the rule puts several views in one image), and the decoded estimates
        [levels,V,3,R,R], lowest level first; all in [0,1].
    """
    x = rgb.permute(0, 3, 1, 2)
    if isinstance(guidance, Rule):
        x, cameras = guidance.images(x, cameras)
    rows = draws.views[: len(x)]
    z = teacher.prior.encode(x) if latent is None else latent.permute(0, 3, 1, 2)
    noise = Draws(draws.seed, 0, rows, draws.device).normal("clean_estimates", z.shape[1:]).to(z)
    draws = Draws(draws.seed, draws.step, rows, draws.device)
    found = []
    for t in timesteps(guidance, teacher, draws.step, levels):
        step = Step(guidance, teacher, z, torch.full((len(z),), t, device=z.device), cameras, draws, total)
        found.append(teacher.prior.decode(clean_latents(guidance, step, noise)).clamp(0, 1))
    return x, torch.stack(found)


def timesteps(guidance: GuidanceSettings, teacher: Teacher, step: int, levels: int) -> list[int]:
    """Timesteps evenly from t_min to t_max of a step."""
    count = len(teacher.prior.alphas_cumprod)
    low, high = (guidance.scheduled(name, step) for name in ("t_min", "t_max"))
    shares = [low + (high - low) * place / (levels - 1) for place in range(levels)]
    return [min(round(share * count), count - 1) for share in shares]


def clean_latents(guidance: Rule | IM3D, step: Step, noise: Tensor) -> Tensor:
    """[V,C,h,w] clean latents that the guidance's prediction at the step's timestep means."""
    state = noisy_state(step.z, step.t, noise, step.alphas_cumprod, step.views)
    if isinstance(guidance, Rule):
        eps = step.predict(*guidance.branches(), t=state)
        return state.estimate(guidance.guided(eps, {"t": state}, step))
    return step.denoised(state, [int(step.t[0])], guidance.scheduled("cfg", step.index), guidance.scheduled("rescale", step.index))
