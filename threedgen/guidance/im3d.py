"""Iterative multi-view diffusion and reconstruction (IM-3D, arXiv 2402.08682): the prior answers with images, not gradients.

Round 0 samples the joint views of one camera set; every later round renders new views, noises them, denoises them in a few
steps and adds them to a bank of target images, on which the representation is fitted between the rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.guidance.rule import GuidanceSettings, Rule
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.cameras import Cameras
    from threedgen.draws import Draws
    from threedgen.guidance.core import Teacher


@register("guidance", "im3d")
@dataclass
class IM3D(GuidanceSettings):
    """Settings of the rounds; `t_max` is the noise level of a round, `t_min` the level at which denoising ends."""

    t_max: Any = setting(
        [0, 0.7, 0.25, 600], "noise level of a round after the first, share of the schedule", low=0.0, high=1.0, scheduled=True
    )
    t_min: Any = setting(0.02, "noise level of the last denoising step, share of the schedule", low=0.0, high=1.0, scheduled=True)
    rescale: Any = setting(
        0.5, "share of the CFG standard-deviation rescale (arXiv 2305.08891, MVDream)", low=0.0, high=1.0, scheduled=True
    )
    keep: Any = setting(
        0.0, "share of the rendering that is kept in a target (a moving target, as PS-KD)", low=0.0, high=0.999, scheduled=True
    )
    boot: bool = setting(
        False, "keep the share of the rendering by which the noise falls to the next round, in place of `keep` (BOOT, arXiv 2306.05544)"
    )
    warm_up: int = setting(0, "steps of NFSD that shape the blob before round 0; rounds count from there", unit="steps", low=0)
    first_fit: int = setting(120, "fitting steps after round 0", unit="steps", low=1)
    fit: int = setting(40, "fitting steps after a later round", unit="steps", low=1)
    first_denoise: int = setting(20, "denoising steps of round 0", low=1, high=1000)
    denoise: int = setting(6, "denoising steps of a later round", low=1, high=1000)
    bank: int = setting(6, "newest rounds that are kept as targets", unit="rounds", low=1, high=1000)
    empty: float = setting(0.2, "weight of the penalty on matter where a target shows plain background", low=0.0)
    rays: int = setting(3072, "random rays of the bank that a fitting step renders", unit="rays", low=16)

    def wishes(self) -> frozenset[str]:
        return frozenset({"multiview", "camera"})

    def check(self) -> None:
        super().check()
        if self.boot and self.keep != 0:
            raise ValueError("boot takes the place of keep: leave keep at 0")

    def check_stage(self, views: int, steps: int) -> None:
        if self.warm_up >= steps:
            raise ValueError(f"warm_up ({self.warm_up}) must be below the {steps} steps of the stage: no round would come after it")
        rounds = [step for step in range(self.warm_up + 1, steps) if self.asks(step)]
        if self.boot and any(self.scheduled("t_max", step + self.fit) >= self.scheduled("t_max", step) for step in rounds):
            raise ValueError("boot needs a t_max that falls from round to round: where it stands still, all of the rendering is kept")

    def asks(self, step: int) -> bool:
        """Whether a round begins at this step."""
        since = step - self.warm_up
        return since == 0 or (since >= self.first_fit and (since - self.first_fit) % self.fit == 0)

    def starts_anew(self, step: int) -> bool:
        """Whether this step's round paints the object from nothing: the first one of a run that was not warmed up."""
        return step == 0

    def shaping(self) -> Rule:
        """What shapes the blob before round 0: noise-free score distillation in pixel space, the upper noise levels falling to half.

        It takes matter away as well as it adds some, so that round 0 has an outline to keep, or an empty page.
        """
        from threedgen.guidance.nfsd import NFSD

        falling = [0, 0.98, 0.5, max(self.warm_up, 1)]
        return NFSD(cfg=self.scheduled("cfg", 0), t_max=falling, space="pixel", weight="sigma_over_alpha")

    def texts(self) -> dict[str, str]:
        return self.shaping().texts() if self.warm_up else {}

    def targets(self, teacher: Teacher, rgb: Tensor, cameras: Cameras, draws: Draws) -> Tensor:
        """Target images [B,3,H,W] for the views rendered as rgb [B,H,W,3].

        Without a warm-up, round 0 starts from the noised rendering of the initial blob, not from pure noise: a schedule that leaves
        signal at its last step would turn the missing background into grey.
        """
        import torch

        from threedgen.guidance.core import Step
        from threedgen.guidance.noisers import random_noise

        step, last = draws.step, len(teacher.prior.alphas_cumprod) - 1
        anew = self.starts_anew(step)
        level = 1.0 if anew else self.scheduled("t_max", step)
        count = self.first_denoise if anew else self.denoise
        end = self.scheduled("t_min", step)
        timesteps = [round(last * (level + (end - level) * i / max(count - 1, 1))) for i in range(count)]
        x = rgb.permute(0, 3, 1, 2)
        z = teacher.prior.encode(x)
        t = torch.full((len(z),), timesteps[0], dtype=torch.long, device=z.device)
        at = Step(self, teacher, z, t, cameras, draws)
        z = at.denoised(random_noise(at), timesteps, self.scheduled("cfg", step), self.scheduled("rescale", step))
        target = teacher.prior.decode(z).clamp(0, 1)
        kept = torch.nn.functional.interpolate(x, target.shape[-2:], mode="bilinear")
        return target.lerp(kept, self.kept_share(step, teacher.prior.alphas_cumprod)) if not anew else target

    def kept_share(self, step: int, alphas_cumprod: Tensor) -> float:
        """Share of the rendering in a target of a round after the first; by BOOT rho(next round) / rho(this one), rho = sigma/alpha."""
        if not self.boot:
            return self.scheduled("keep", step)
        last = len(alphas_cumprod) - 1
        now, following = (alphas_cumprod[round(last * self.scheduled("t_max", at))].item() for at in (step, step + self.fit))
        return min((((1 - following) / following) / ((1 - now) / now)) ** 0.5, 1.0)
