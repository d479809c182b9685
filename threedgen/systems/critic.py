"""The score of the renderings that is trained along with them (the critic of VSD and its relatives)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from threedgen.guidance.core import Step, Teacher
from threedgen.guidance.critics import critic_loss
from threedgen.guidance.vsd import VSD
from threedgen.systems.safe_step import are_finite


class Moments(nn.Module):
    """AdamW's memory of a network as buffers, so that state dict and checkpoints hold it: plain tensors under the parameters' names.

    Buffers `<parameter>/<exp_avg | exp_avg_sq | step>`, dots of the parameter's name as slashes: zeros before the first step.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, parameter in network.named_parameters():
            for kind in ("exp_avg", "exp_avg_sq"):
                self.register_buffer(buffer_name(name, kind), torch.zeros_like(parameter, requires_grad=False))
            self.register_buffer(buffer_name(name, "step"), torch.zeros((), device=parameter.device))

    def lend_to(self, optimizer: torch.optim.Optimizer, network: nn.Module) -> None:
        """Make the buffers the state that the optimizer updates in place; again after they were moved or replaced."""
        for name, parameter in network.named_parameters():
            optimizer.state[parameter] = {kind: self.get_buffer(buffer_name(name, kind)) for kind in ("exp_avg", "exp_avg_sq", "step")}


def buffer_name(parameter: str, kind: str) -> str:
    """Name of the buffer that holds a moment of a parameter; a buffer's name may not hold dots."""
    return f"{parameter.replace('.', '/')}/{kind}"


class CriticTrainer(nn.Module):
    """A critic with its optimizer: AdamW on the critic's own parameters, after each step of the particles.

    Attributes:
        critic: the trained network; shares the prior's weights.
        moments: the optimizer's state, part of this module's.
        start: the critic as it was fitted to the first renderings, where the rule wants the way from there (DisBack).
    """

    def __init__(self, rule: VSD, teacher: Teacher, seed: int = 0) -> None:
        super().__init__()
        self.rule = rule
        self.critic = teacher.prior.critic(rule.rank, rule.checkpointing, rule.buckets, seed)
        networks = {"critic": self.critic}
        if rule.path_steps:
            self.start = teacher.prior.critic(rule.rank, False, rule.buckets, seed).requires_grad_(False)
            networks["start"] = self.start
        self.teacher = replace(teacher, trained=networks)
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), lr=rule.scheduled("critic_lr", 0), fused=True)
        self.moments = Moments(self.critic)

    def close(self) -> None:
        """Take the networks off the prior."""
        for network in self.teacher.trained.values():
            network.close()

    def begin(self, steps: Iterable[Step]) -> None:
        """Fit the critic to first renderings, one update a step, and keep it as the start of the path."""
        for step in steps:
            self.update(step, self.rule.critic_steps)
        self.start.load_state_dict(self.critic.state_dict())

    def after(self, step: Step) -> Tensor:
        """The critic's steps after a step of the particles; their mean loss."""
        losses = [self.update(step, number) for number in range(self.rule.critic_steps)]
        return torch.stack(losses).mean() if losses else step.z.new_zeros(())

    def update(self, step: Step, number: int) -> Tensor:
        """One step of the critic; it is left out where it is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rule.scheduled("critic_lr", step.index)
        loss = critic_loss(self.teacher, step, number)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not are_finite([loss, *(parameter.grad for parameter in self.critic.parameters() if parameter.grad is not None)]):
            return loss.new_full((), torch.nan)
        self.moments.lend_to(self.optimizer, self.critic)
        self.optimizer.step()
        return loss.detach()
