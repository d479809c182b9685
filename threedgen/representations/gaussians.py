"""3D Gaussians (3D Gaussian Splatting, arXiv 2308.04079), rendered by splatting."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn

from threedgen.cameras import Cameras, orbit, orbit_cameras
from threedgen.config.schema import GaussiansSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.materials.background import Background
from threedgen.ops.splat import splat
from threedgen.representations import densification
from threedgen.representations.base import Blobs, Forgotten, Mesh, Render, Representation
from threedgen.representations.extraction import surface_of
from threedgen.representations.gaussian_starts import Start, on_mesh, start_of
from threedgen.representations.initial_shape import Distance
from threedgen.representations.mesh import render_mesh
from threedgen.representations.opacity_grid import opacity_grid
from threedgen.representations.projection import Projected, project, rotations
from threedgen.representations.spherical_harmonics import ZERO, count_of, harmonics

THINNEST = 0.7  # cells of the grid of a mesh that are added to every Gaussian, as a standard deviation
VIEWS, VIEW_PIXELS = 48, 320  # pictures that colour a mesh, and their side
SURE_DEPTH = 0.03  # world units between a point and what a view shows there at which the view counts half
GOLDEN_DEGREES = 180.0 * (3.0 - math.sqrt(5.0))
CHUNK_POINTS = 131_072
HANDED_OVER_OPACITY = 0.9  # of Gaussians on a surface that another representation hands over
MOST = 0.99  # share of the Gaussians that a mesh reaches for, where they leave the unit sphere
LEVELS = (0.07, 0.12, 0.2, 0.35, 0.6, 1.0)  # of the sum of opacities at which a surface is looked for
OUTLINES, OUTLINE_PIXELS = 12, 128  # views that decide between them, and their side


# Learning rates as shares of the stage's: those of DreamGaussian (arXiv 2309.16653) relative to that of colours.
RATES = {"means": 0.1, "log_scales": 0.5, "quaternions": 0.5, "logits": 5.0, "base": 1.0, "rest": 0.05}


class GaussianCloud(Representation):
    """A cloud with a fixed number of places, some of them free: densification fills free places, pruning frees them.

    So parameters and the optimizer's moments keep their shapes over a run, and its state can be saved at any step.

    Parameters, P places: means [P,3]; log_scales [P,3] of the standard deviations; quaternions [P,4]; logits [P] of the opacity; base
    [P,1,3] and rest [P,K-1,3], coefficients of spherical harmonics, of which colour is 1/2 plus the sum, at least 0.

    Buffers: alive [P] bool; degree, the degree of harmonics in use; grad_sum, grad_count [P], statistics for densification.
    """

    alive: Tensor
    degree: Tensor
    grad_sum: Tensor
    grad_count: Tensor

    def __init__(self, settings: GaussiansSettings, seed: int = 0, hull: Distance | None = None, start: Start | None = None) -> None:
        """At the start of the settings, or at one that is given, for instance on the surface of another representation.

        Args:
            hull: distances to the visual hull of the images that are fitted, where the settings start there.
            start: that is taken in place of the settings'.

        Raises:
            UserError: the settings name a file that cannot be read.
        """
        super().__init__()
        self.settings = settings
        if start is None:
            start = start_of(settings, torch.Generator().manual_seed(seed), hull)
        places = max(settings.capacity, len(start.points))
        self.means = nn.Parameter(_padded(start.points, places))
        self.log_scales = nn.Parameter(_padded(start.log_scales(), places))
        self.quaternions = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(places, 1))
        self.quaternions.data[: len(start.points)] = start.quaternions()
        self.logits = nn.Parameter(torch.full((places,), math.log(settings.opacity / (1 - settings.opacity))))
        self.base = nn.Parameter(_padded((start.rgb - 0.5) / ZERO, places)[:, None])
        self.rest = nn.Parameter(torch.zeros(places, count_of(settings.sh_degree) - 1, 3))
        self.background = Background(settings.background)
        self.register_buffer("alive", torch.arange(places) < len(start.points))
        self.register_buffer("degree", torch.tensor(0 if settings.sh_every else settings.sh_degree))
        self.register_buffer("grad_sum", torch.zeros(places))
        self.register_buffer("grad_count", torch.zeros(places))

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def opacity(self) -> Tensor:
        """[P] in [0,1]; 0 in free places."""
        return torch.sigmoid(self.logits) * self.alive

    def axes(self) -> Tensor:
        """[P,3,3] rotation times standard deviations, so that axes axes^T is the covariance."""
        return rotations(self.quaternions) * self.log_scales.exp()[:, None]

    def colours(self, directions: Tensor) -> Tensor:
        """[B,P,3] colours seen along unit directions [B,P,3], at least 0."""
        degree = int(self.degree)
        seen = ZERO * self.base[:, 0] + 0.5
        if degree:
            values = harmonics(directions, degree)[..., 1:]
            seen = seen + torch.einsum("bpk,pkc->bpc", values, self.rest[:, : values.shape[-1]])
        return seen.clamp(min=0).expand(*directions.shape[:2], 3)

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` a random background is drawn, without nothing is random."""
        axes = self.axes()
        seen = project(self.means, axes, cameras)
        if torch.is_grad_enabled() and seen.mean.requires_grad and self.settings.strategy == "adc":
            visible = self._visible(seen, cameras)  # now: a hook that held `seen` would keep the whole graph alive
            seen.mean.register_hook(lambda grad: self._note(grad, visible, cameras))
        offset = self.means - cameras.positions[:, None]
        distance = offset.norm(dim=-1, keepdim=True)
        directions = offset / distance.clamp(min=1e-9)
        features = [self.colours(directions), distance]
        if normals:
            features.append(facing(thinnest(axes, self.log_scales), directions))
        opacity = self.opacity * seen.shrink if self.settings.antialiased else self.opacity.expand_as(seen.depth)
        out, clear = splat(seen.mean, seen.conic, opacity, torch.cat(features, -1), seen.depth, cameras.height, cameras.width)
        return Render(
            rgb=out[..., :3] + clear[..., None] * self.background.behind(cameras.rays()[1], draws),
            alpha=1 - clear[..., None],
            depth=out[..., 3:4],
            normal=out[..., 4:7] if normals else None,
            blobs=Blobs(self.log_scales[self.alive].exp(), self.opacity[self.alive]),
        )

    @torch.no_grad()
    def _visible(self, seen: Projected, cameras: Cameras) -> Tensor:
        """[B,P] bool, whether a Gaussian has its centre in the image."""
        size = seen.mean.new_tensor([cameras.width, cameras.height])
        return (seen.depth > 0) & ((seen.mean >= 0) & (seen.mean < size)).all(-1) & self.alive

    @torch.no_grad()
    def _note(self, grad: Tensor, visible: Tensor, cameras: Cameras) -> None:
        """Adds up the gradients to the projected centres, in halves of the image, of the Gaussians in view."""
        half = 0.5 * grad.new_tensor([cameras.width, cameras.height])
        self.grad_sum += ((grad * half).norm(dim=-1) * visible).sum(0)
        self.grad_count += visible.sum(0)

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """A group a parameter, with its share of the learning rate (see RATES)."""
        groups = [
            {"params": [getattr(self, name)], "lr": lr * share, "share": share, "name": name, "part": part_of(name)}
            for name, share in RATES.items()
            if getattr(self, name).numel()
        ]
        learned = list(self.background.parameters())
        return groups + ([{"params": learned, "lr": lr_background, "name": "background"}] if learned else [])

    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Unlocks the next degree of harmonics, and densifies, where it is time."""
        s = self.settings
        if s.sh_every and (step + 1) % s.sh_every == 0:
            self.degree.add_(1).clamp_(max=s.sh_degree)
        if not self.means.requires_grad:  # the stage trains the colours alone
            return {}
        if s.strategy == "mcmc":
            densification.explore(self, step, draws.shared("exploration"))
        due = s.densify_from <= step + 1 <= s.densify_until and (step + 1) % s.densify_every == 0
        if s.strategy == "none" or not due:
            return {}
        rows = densification.STRATEGIES[s.strategy](self, step, draws.shared("densification"))
        return {getattr(self, name): rows for name in RATES}

    @torch.no_grad()
    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """As many Gaussians as a cloud starts with, discs spread over the surface with its colours, nearly opaque."""
        start = on_mesh(mesh, self.settings.count, rng, lambda points: albedo(points.to(self.device)))
        count = len(start.points)
        self.alive.copy_(torch.arange(len(self.alive)) < count)
        self.means[:count] = start.points.to(self.device)
        self.log_scales[:count] = start.log_scales().to(self.device)
        self.quaternions[:count] = start.quaternions().to(self.device)
        self.base[:count, 0] = ((start.rgb - 0.5) / ZERO).to(self.device)
        self.logits[:count] = math.log(HANDED_OVER_OPACITY / (1 - HANDED_OVER_OPACITY))

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """Surface on which the opacities of the Gaussians add up to a threshold, by marching cubes; UserError if there is none.

        The level set of the sum, as DreamGaussian takes it, and not a fusion of depth images: it is closed, and follows Gaussians that lie
        on a surface to a standard deviation of their thin axis. Which level looks opaque depends on how many faint Gaussians lie behind
        one another: "auto" is the one whose silhouettes are nearest to those of the cloud.
        """
        shown = self.opacity > densification.FAINT
        distances = self.means[shown].norm(dim=-1)
        # Strays far out, behind all cameras, must not make the grid coarse.
        radius = max(1.0, float(distances.quantile(MOST)) * 1.05) if len(distances) else 1.0
        # No thinner than the grid can show, or fins and leaves would fall between its points.
        scales = (self.log_scales[shown].mul(2).exp() + (THINNEST * 2 * radius / resolution) ** 2).sqrt()
        axes = rotations(self.quaternions[shown]) * scales[:, None]
        sums = opacity_grid(self.means[shown], axes, self.opacity[shown], radius, resolution)
        axis = torch.linspace(-radius, radius, resolution, device=sums.device).square()
        sums = torch.where(axis[:, None, None] + axis[:, None] + axis < radius**2, sums, 0)
        if threshold == "auto":
            return self._nearest_in_outline(sums, radius)
        return surface_of(sums, radius, float(threshold))

    def _nearest_in_outline(self, sums: Tensor, radius: float) -> Mesh:
        """Of the surfaces of some levels the one that covers what the cloud covers, seen from around."""
        azimuths = [360.0 * k / OUTLINES for k in range(OUTLINES)]
        views = orbit_cameras(azimuths, elevation=15.0, distance=2.6 * radius, fovy=50.0, height=OUTLINE_PIXELS, width=OUTLINE_PIXELS)
        wanted = self.render(views.to(self.device)).alpha > 0.5
        meshes = [surface_of(sums, radius, LEVELS[0])]  # where there is nothing at the lowest level, that is an error
        for level in LEVELS[1:]:
            with suppress(UserError):
                meshes.append(surface_of(sums, radius, level))

        def agreement(mesh: Mesh) -> float:
            covered = render_mesh(mesh, views).alpha.to(self.device) > 0.5
            return float((covered & wanted).sum() / (covered | wanted).sum().clamp(min=1))

        return max(meshes, key=agreement)

    @torch.no_grad()
    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] at world points [N,3] near the surface: what views from all around show there, where they see the point.

        Not that of the Gaussians which hold the point: they take a colour of their own each, and only the blend of many is the image's.
        A view counts less the more its depth differs from the point's distance, so that what hides a point hardly colours it.
        """
        views = around(VIEWS, 2.6 * max(1.0, float(points.norm(dim=-1).max()) if len(points) else 1.0), VIEW_PIXELS).to(self.device)
        seen = torch.cat([self._colour_and_depth(views[[k]]) for k in range(len(views))])
        return torch.cat([_blended(p, views, seen) for p in points.split(CHUNK_POINTS)]) if len(points) else points

    def _colour_and_depth(self, cameras: Cameras) -> Tensor:
        """[B,5,H,W] colour in [0,1] and distance, both of what is there alone, and alpha."""
        render = self.render(cameras)
        behind = (1 - render.alpha) * self.background.behind(cameras.rays()[1], None)
        sure = render.alpha.clamp(min=1e-4)
        return torch.cat([((render.rgb - behind) / sure).clamp(0, 1), render.depth / sure, render.alpha], -1).permute(0, 3, 1, 2)


def around(count: int, distance: float, size: int) -> Cameras:
    """Cameras spread evenly over a sphere, which all see the unit sphere's share of `distance` / 2.6."""
    share = (torch.arange(count) + 0.5) / count
    elevation, azimuth = torch.rad2deg(torch.asin(2 * share - 1)), torch.arange(count) * GOLDEN_DEGREES % 360.0
    return Cameras(orbit(azimuth, elevation, torch.full((count,), distance)), torch.full((count,), math.radians(46.0)), size, size)


def _blended(points: Tensor, views: Cameras, seen: Tensor) -> Tensor:
    """[N,3] means of what views show at points [N,3], weighted by how well they see them; `seen` [B,5,H,W] as `_colour_and_depth`."""
    total, weights = torch.zeros_like(points), points.new_zeros(len(points), 1)
    for view in range(len(views)):
        (pixel,), _ = views[[view]].project(points)
        place = (2 * pixel / pixel.new_tensor([views.width, views.height]) - 1)[None, None]
        values = torch.nn.functional.grid_sample(seen[view : view + 1], place, padding_mode="border", align_corners=False)[0, :, 0].T
        missed = ((points - views.positions[view]).norm(dim=-1) - values[:, 3]) / SURE_DEPTH
        weight = (values[:, 4].square() / (1 + missed.square().square()))[:, None] + 1e-12
        total += weight * values[:, :3]
        weights += weight
    return total / weights


def part_of(parameter: str) -> str:
    """Whether a parameter is of the geometry or of the appearance."""
    return "appearance" if parameter in ("base", "rest") else "geometry"


def _padded(values: Tensor, places: int) -> Tensor:
    """[P,...]: values [N,...] and zeros in the free places."""
    return torch.cat([values, values.new_zeros(places - len(values), *values.shape[1:])])


def thinnest(axes: Tensor, log_scales: Tensor) -> Tensor:
    """[P,3] unit direction in which a Gaussian is thinnest: the normal of the disc that it nearly is."""
    index = log_scales.argmin(-1)
    return torch.nn.functional.normalize(axes.mT[torch.arange(len(axes), device=axes.device), index], dim=-1)


def facing(normals: Tensor, directions: Tensor) -> Tensor:
    """[B,P,3] the normals [P,3], or their opposites, that face eyes looking along directions [B,P,3]."""
    away = (normals * directions).sum(-1, keepdim=True) > 0
    return torch.where(away, -normals, normals)
