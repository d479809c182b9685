"""What a step of a fit to posed images optimizes: the colours of random rays, or of random whole views."""

from __future__ import annotations

import torch
from torch import Tensor

from threedgen.config.schema import StageSettings
from threedgen.data.posed_images import PosedImages
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.evaluation.ssim import ssim
from threedgen.guidance.images import Images
from threedgen.representations.base import Render, Representation
from threedgen.schedule import at, knots_of
from threedgen.systems.objectives import Lesson, Objective


class ImagesObjective(Objective):
    """Compares renderings with posed images, at pixels or views drawn for the step.

    The images stay outside of the state: a checkpoint does not hold them.
    """

    def __init__(self, guidance: Images, images: PosedImages) -> None:
        super().__init__()
        self.guidance, self.images, self.composited = guidance, images, images.has_alpha

    def forward(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        normals = normals or (self.images.normal is not None and at(self.guidance.normal, draws.step) > 0)
        if self.guidance.rays and representation.casts_rays:
            return self.on_rays(representation, draws, normals)
        return self.on_views(representation, draws, normals)

    def on_rays(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        """Rays through pixels drawn uniformly from all images."""
        images, count = self.images, self.guidance.rays
        views, height, width = images.rgb.shape[:3]
        rng = draws.shared("image_rays")
        pixel = torch.randint(views * height * width, (count,), generator=rng).to(images.rgb.device)
        place = (pixel // (height * width), pixel // width % height, pixel % width)
        origins, directions = images.cameras.rays_through(*place)
        jitter = torch.rand(count, generator=draws.shared("ray_jitter")).to(origins)
        render = representation.render_rays(origins, directions, jitter, normals=normals)
        backdrop = draws.shared_uniform("image_background", (count, 3))
        return Lesson(*self.compared(render, place, backdrop, draws.step))

    def on_views(self, representation: Representation, draws: Draws, normals: bool) -> Lesson:
        """Whole views, each at most once a step."""
        images = self.images
        order = torch.randperm(len(images), generator=draws.shared("image_views"))
        views = order[: self.guidance.views].to(images.rgb.device)
        render = representation.render(images.cameras[views], draws=draws, normals=normals)
        backdrop = draws.shared_uniform("image_background", (len(views), 1, 1, 3))
        return Lesson(*self.compared(render, (views,), backdrop, draws.step))

    def compared(self, render: Render, place: tuple[Tensor, ...], backdrop: Tensor, step: int) -> tuple[Tensor, Render, dict[str, Tensor]]:
        """Loss of a rendering against the pixels at a place, the rendering, and the terms to log.

        Args:
            render: over black where images have alpha.
            place: index of the pixels, or of the views.
            backdrop: colour put behind rendering and image where images have alpha.
        """
        images = self.images
        alpha, target, seen = images.alpha[place], images.rgb[place], render.rgb
        if self.composited:
            target, seen = target * alpha + (1 - alpha) * backdrop, seen + (1 - render.alpha) * backdrop
        counts = torch.ones_like(alpha) if images.mask is None else images.mask[place]
        terms = {
            "l1": lambda: mean_where(counts, (seen - target).abs()),
            "l2": lambda: mean_where(counts, (seen - target).square()),
            "ssim": lambda: 1 - ssim(seen * counts, target * counts).mean(),
            "mask": lambda: mean_where(counts, (render.alpha - alpha).square()),
            "depth": lambda: depth_error(render, images.depth[place], counts),  # type: ignore[index]
            "normal": lambda: normal_error(render, images.normal[place], alpha, counts),  # type: ignore[index]
        }
        absent = {"ssim": seen.dim() != 4, "mask": not self.composited, "depth": images.depth is None, "normal": images.normal is None}
        weights = {name: at(getattr(self.guidance, name), step) for name in terms if not absent.get(name)}
        values = {name: terms[name]() for name, weight in weights.items() if weight > 0}
        loss = torch.stack([weights[name] * value for name, value in values.items()]).sum()
        return loss, render, {f"images/{name}": value.detach() for name, value in values.items()}


def mean_where(counts: Tensor, values: Tensor) -> Tensor:
    """Mean of values [...,C] over the pixels that count [...,1]; 0 without any."""
    return (values.mean(-1, keepdim=True) * counts).sum() / counts.sum().clamp_min(1)


def depth_error(render: Render, depth: Tensor, counts: Tensor) -> Tensor:
    """Mean absolute difference of the depth along the rays where it is known (above 0)."""
    return mean_where(counts * (depth > 0), (render.depth - depth).abs())


def normal_error(render: Render, normal: Tensor, alpha: Tensor, counts: Tensor) -> Tensor:
    """Mean squared difference of the normals [...,3], both times their coverage; nothing where the image's are unknown."""
    assert render.normal is not None
    known = (normal != 0).any(-1, keepdim=True)
    return mean_where(counts, known * (render.normal - normal * alpha).square())


def fit_objective(stage: StageSettings, images: PosedImages) -> ImagesObjective:
    """The objective of a stage that fits images.

    Raises:
        UserError: images with alpha are to be fitted over something else than black: what is behind the object is not known.
    """
    background = getattr(stage.representation, "background", "black")
    if images.has_alpha and background != "black":
        raise UserError(f"the images have alpha, which the fit itself composites: set representation.background to black, not {background}")
    if images.normal is None and any(weight > 0 for _, weight in knots_of(stage.guidance.normal)):
        raise UserError("guidance.normal has a weight, but the images were read without normal maps: give the first stage a weight as well")
    return ImagesObjective(stage.guidance, images)
