"""What a step optimizes: the loss of a residual rule on fresh views, or the fit to a bank of target images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from skimage import measure
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen import ranks
from threedgen.cameras import Cameras, OrbitSampler
from threedgen.config.schema import LatentFieldSettings, StageSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.core import GuidanceOutput, Step, Teacher, distill
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.rule import Rule
from threedgen.guidance.vsd import VSD
from threedgen.guidance.wishes import check_fit
from threedgen.priors.base import Prior
from threedgen.registry import name_of
from threedgen.representations.base import Render, Representation
from threedgen.systems.critic import CriticTrainer
from threedgen.systems.safe_step import are_finite

BACKGROUND_TOLERANCE = 0.08


@dataclass
class Lesson:
    """Loss of a step, the rendering it was taken on, and 0-dimensional tensors to log."""

    loss: Tensor
    render: Render
    info: dict[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """What a step optimizes, and the teacher it asks."""

    teacher: Teacher

    def forward(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        """The step's loss; `normals` asks for a rendering with normals."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave the teacher as it was, when the last step is done."""


def views_of(representation: Representation, cameras: Cameras, draws: Draws | None, normals: bool = False) -> Render:
    """A rendering of all views, of which this process has made its part.

    Args:
        draws: whose views are the cameras, or from which what all views share is drawn; None where nothing is random.
    """
    own = ranks.part(len(cameras))
    return representation.render(cameras[own], draws=None if draws is None else draws.of(own), normals=normals).gathered(len(cameras))


def rays_of(representation: Representation, origins: Tensor, directions: Tensor, draws: Draws, normals: bool) -> Render:
    """What single rays [R,3] see, of which this process has cast its part."""
    jitter, own = torch.rand(len(origins), generator=draws.shared("ray_jitter")).to(origins), ranks.part(len(origins))
    return representation.render_rays(origins[own], directions[own], jitter[own], normals=normals).gathered(len(origins))


class ResidualObjective(Objective):
    """Renders the views of the step and asks the rule for its gradient."""

    def __init__(self, rule: Rule, sampler: OrbitSampler, teacher: Teacher, total: int, seed: int = 0) -> None:
        super().__init__()
        check_teachable(rule, teacher.prior)
        self.rule, self.sampler, self.total = rule, sampler, total
        self.trainer = CriticTrainer(rule, teacher, seed) if isinstance(rule, VSD) else None
        self.teacher = teacher if self.trainer is None else self.trainer.teacher

    def forward(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        cameras = self.sampler.sample(draws, turn=draws.step // len(representation.scenes))
        render = views_of(representation, cameras, draws, normals)
        if self.trainer is not None and self.trainer.rule.path_steps and draws.step == 0:
            self.trainer.begin(self.first_renderings(representation, draws, self.trainer.rule.path_steps))
        out = self.distilled(render, cameras, draws)
        if self.trainer is not None:
            out.info["critic"] = self.trainer.after(out.step)
        return Lesson(out.loss, render, out.info)

    def close(self) -> None:
        """Take the critic off the prior."""
        if self.trainer is not None:
            self.trainer.close()

    @torch.no_grad()
    def first_renderings(self, representation: Representation, draws: Draws, count: int) -> Iterator[Step]:
        """The untrained scenes as the first steps will see them, in turn."""
        for number in range(count):
            early = Draws(draws.seed, number, draws.views, draws.device)
            cameras = self.sampler.sample(early, turn=number // len(representation.scenes))
            yield self.distilled(views_of(representation, cameras, early), cameras, early).step

    def distilled(self, render: Render, cameras: Cameras, draws: Draws) -> GuidanceOutput:
        return distill(self.rule, self.teacher, render.rgb, cameras, draws, total=self.total, latent=render.latent)


class TargetBank(nn.Module):
    """The newest target images of a run with their cameras, a ring of rounds; part of the checkpoint.

    Buffers: images [K,V,S,S,3], empty [K,V,S,S] (where they show background), c2w [K,V,4,4], fovy [K,V], rounds (how many were
    added so far).
    """

    images: Tensor
    empty: Tensor
    c2w: Tensor
    fovy: Tensor
    rounds: Tensor

    def __init__(self, capacity: int, views: int, size: int) -> None:
        super().__init__()
        self.register_buffer("images", torch.zeros(capacity, views, size, size, 3))
        self.register_buffer("empty", torch.zeros(capacity, views, size, size, dtype=torch.bool))
        self.register_buffer("c2w", torch.zeros(capacity, views, 4, 4))
        self.register_buffer("fovy", torch.zeros(capacity, views))
        self.register_buffer("rounds", torch.zeros((), dtype=torch.long))

    def add(self, images: Tensor, cameras: Cameras) -> None:
        """Put the images [V,3,S,S] of a round in place of the oldest."""
        slot = int(self.rounds) % len(self.images)
        self.images[slot] = images.permute(0, 2, 3, 1)
        self.empty[slot] = background_mask(self.images[slot])
        self.c2w[slot], self.fovy[slot] = cameras.c2w, cameras.fovy
        self.rounds += 1

    def random_rays(self, count: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origins, directions, target colours [R,3] of random pixels of the bank, whether they are background [R]; keyed on the step."""
        filled, views, size = min(int(self.rounds), len(self.images)), self.images.shape[1], self.images.shape[2]
        pixel = torch.randint(filled * views * size * size, (count,), generator=draws.shared("bank_rays")).to(self.images.device)
        view, row, column = pixel // (size * size), pixel // size % size, pixel % size
        cameras = Cameras(self.c2w.flatten(0, 1), self.fovy.flatten(0, 1), size, size)
        origins, directions = cameras.rays_through(view, row, column)
        at = (view, row, column)
        return origins, directions, self.images.flatten(0, 1)[at], self.empty.flatten(0, 1)[at]

    def random_views(self, count: int, draws: Draws) -> tuple[Cameras, Tensor, Tensor]:
        """Cameras, target images [N,S,S,3] and background [N,S,S] of random views of the bank, each at most once; keyed on the step."""
        filled = min(int(self.rounds), len(self.images)) * self.images.shape[1]
        chosen = torch.randperm(filled, generator=draws.shared("bank_views"))[:count].to(self.images.device)
        images, size = self.images.flatten(0, 1)[chosen], self.images.shape[2]
        cameras = Cameras(self.c2w.flatten(0, 1)[chosen], self.fovy.flatten(0, 1)[chosen], size, size)
        return cameras, images, self.empty.flatten(0, 1)[chosen]


def background_mask(images: Tensor) -> Tensor:
    """[V,H,W] where images [V,H,W,3] show plain background: what resembles the image's edge and reaches it without a break.

    So a white object on white keeps its inside. Resembling is a largest channel difference of at most 0.08 to the edge's median.
    """
    edge = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1).median(1).values
    alike = ((images - edge[:, None, None]).abs().amax(-1) <= BACKGROUND_TOLERANCE).cpu().numpy()
    masks = []
    for image in alike:
        labels = np.asarray(measure.label(image, connectivity=1))
        outer = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
        masks.append(np.isin(labels, outer[outer > 0]))
    return torch.from_numpy(np.stack(masks)).to(images.device)


class ReconstructionObjective(Objective):
    """Fits random rays of the target bank, or as many pixels of whole views where the representation renders no single rays.

    At the steps where a round begins it asks the guidance for new targets first. The steps of a warm-up distil instead.
    """

    def __init__(self, guidance: IM3D, sampler: OrbitSampler, teacher: Teacher) -> None:
        super().__init__()
        check_teachable(guidance, teacher.prior)
        self.guidance, self.sampler, self.teacher = guidance, sampler, teacher
        self.shaping = ResidualObjective(guidance.shaping(), sampler, teacher, guidance.warm_up) if guidance.warm_up else None
        self.asked = -1  # the step of the newest round
        self.bank = TargetBank(guidance.bank, sampler.settings.views, teacher.prior.native_resolution)

    @torch.no_grad()
    def ask(self, representation: Representation, draws: Draws) -> bool:
        """Put the targets of a new round into the bank, where they are finite; whether they are."""
        cameras = self.sampler.sample(draws, turn=int(self.bank.rounds))
        rgb = views_of(representation, cameras, None).rgb
        targets = self.guidance.targets(self.teacher, rgb, cameras, draws)
        if not are_finite([targets]):
            return False
        self.bank.add(targets, cameras)
        self.asked = draws.step
        return True

    def forward(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        if self.shaping is not None and draws.step < self.guidance.warm_up:
            lesson = self.shaping(representation, draws, normals)
            # Mean over the entries, as the fits that follow: Adam's moments are kept from one to the other.
            return replace(lesson, loss=lesson.loss / lesson.render.rgb[0].numel())
        due = self.guidance.asks(draws.step) or not int(self.bank.rounds)
        answered = self.asked == draws.step or not due or self.ask(representation, draws)  # once, also where the step is done again
        if not int(self.bank.rounds):
            render = views_of(representation, self.sampler.sample(draws), draws, normals)
            return Lesson(render.rgb.sum() * torch.nan, render)
        render, target, empty = self.seen(representation, draws, normals)
        loss = F.l1_loss(render.rgb, target) + F.mse_loss(render.rgb, target)
        loss = loss + self.guidance.empty * (render.alpha[..., 0] * empty).mean()
        if not answered:
            loss = loss * torch.nan
        return Lesson(loss, render, {"round": self.bank.rounds.float()})

    def seen(self, representation: Representation, draws: Draws, normals: bool) -> tuple[Render, Tensor, Tensor]:
        """A rendering of what is fitted in this step, its target colours, and where these are background."""
        if representation.casts_rays:
            origins, directions, target, empty = self.bank.random_rays(self.guidance.rays, draws)
            return rays_of(representation, origins, directions, draws, normals), target, empty
        pixels = self.bank.images.shape[2] ** 2
        cameras, target, empty = self.bank.random_views(max(1, self.guidance.rays // pixels), draws)
        return views_of(representation, cameras, draws, normals), target, empty


def check_latents(settings: StageSettings, prior: Prior) -> None:
    """UserError where a stage renders latents, and not those of the prior."""
    representation = settings.representation
    if not isinstance(representation, LatentFieldSettings):
        return
    if representation.channels != prior.latent_channels:
        raise UserError(
            f"representation.channels is {representation.channels}, and latents of the prior have {prior.latent_channels}: "
            f"set it to {prior.latent_channels}, or choose another prior"
        )
    resolution = settings.cameras.resolution
    sizes = set(resolution.values()) if isinstance(resolution, Mapping) else {resolution}
    if representation.shows == "latent" and sizes != {prior.latent_size}:
        raise UserError(
            f"cameras.resolution is {resolution}, and latents of the prior have {prior.latent_size} pixels a side: "
            f"set it to {prior.latent_size}, or representation.shows to rgb"
        )


def check_teachable(guidance: Rule | IM3D, prior: Prior) -> None:
    """UserError where a prior cannot teach what a guidance wishes, or the guidance needs more than a run from text has."""
    check_fit(guidance, prior)
    if needs := (*getattr(guidance, "needs", ()), *(["image"] if "image" in guidance.wishes() else [])):
        raise UserError(f"guidance {name_of(guidance)} needs {', '.join(needs)}: a text-to-3D run has only renderings")


def objective_of(guidance: Rule | IM3D, sampler: OrbitSampler, teacher: Teacher, total: int, seed: int = 0) -> Objective:
    """The objective a guidance asks for: residual rules give gradients, the others target images."""
    if isinstance(guidance, Rule):
        return ResidualObjective(guidance, sampler, teacher, total, seed)
    return ReconstructionObjective(guidance, sampler, teacher)
