"""What a critic learns: the noise in the renderings of the particles."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from threedgen.guidance.core import Step, Teacher
from threedgen.guidance.noisers import noisy_state
from threedgen.guidance.rule import Term
from threedgen.guidance.vsd import CRITIC, VSD


def critic_loss(teacher: Teacher, step: Step, number: int = 0) -> Tensor:
    """Mean squared error of the critic's noise prediction at a timestep and noise of its own, with gradient to the critic alone.

    Args:
        step: the particles' step; its clean latents are what the critic learns.
        number: of the critic step after this step; each has draws of its own.

    The timestep is uniform over the whole schedule. In a share `camera_dropout` of the steps the camera is withheld. For
    Adversarial SD the distance to the prior is added with a negative weight.
    """
    rule = step.rule
    assert isinstance(rule, VSD)
    t = torch.randint(len(step.alphas_cumprod), (), generator=step.draws.shared(f"critic_timestep_{number}"))
    noise = step.draws.normal(f"critic_noise_{number}", step.z.shape[1:]).to(step.z)
    noisy = noisy_state(step.z, t.expand(step.views).to(step.z.device), noise, step.alphas_cumprod, step.views)
    dropped = float(torch.rand((), generator=step.draws.shared(f"critic_camera_{number}"))) < rule.camera_dropout
    cond = teacher.conditioning(replace(CRITIC, camera=not dropped), step)
    predicted = teacher.network("critic").predict_noise(noisy.z_t, noisy.t, cond)
    loss = (predicted - noise).square().mean()
    if weight := rule.prior_weight():
        prior = teacher.predict((Term("text"),), {"t": noisy}, step)[Term("text")]
        loss = loss + weight * (predicted - prior).square().mean()
    return loss
