"""3D Gaussians (3D Gaussian Splatting, arXiv 2308.04079), rendered by splatting."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.spatial import KDTree
from torch import Tensor, nn

from threedgen.cameras import Cameras
from threedgen.config.schema import GaussiansSettings
from threedgen.draws import Draws
from threedgen.materials.background import Background
from threedgen.ops.splat import splat
from threedgen.representations import densification
from threedgen.representations.base import Forgotten, Mesh, Render, Representation
from threedgen.representations.extraction import extract_mesh
from threedgen.representations.gaussian_starts import spacing, start_of
from threedgen.representations.handed_over import sample_surface
from threedgen.representations.projection import Projected, project, rotations
from threedgen.representations.spherical_harmonics import ZERO, count_of, harmonics

SURFACE = 0.5  # sum of opacities at which a mesh has its surface
NEIGHBOURS = 16  # Gaussians that a point of the surface looks at
CHUNK_POINTS = 131_072
HANDED_OVER_OPACITY = 0.9  # of Gaussians on a surface that another representation hands over
# Their standard deviations, along the surface and across it, as shares of their distances; thinner ones would leave gaps in a mesh of them.
DISC = (0.7, 0.7, 0.4)
CELLS = 64  # of the grid that says where a mesh may lie


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

    def __init__(self, settings: GaussiansSettings, seed: int = 0) -> None:
        """UserError where the settings name a file that cannot be read."""
        super().__init__()
        self.settings = settings
        start = start_of(settings, torch.Generator().manual_seed(seed))
        places = max(settings.capacity, len(start.points))
        self.means = nn.Parameter(_padded(start.points, places))
        self.log_scales = nn.Parameter(_padded(start.deviations.log()[:, None].expand(-1, 3), places))
        self.quaternions = nn.Parameter(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(places, 1))
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
        due = s.densify_from <= step + 1 <= s.densify_until and (step + 1) % s.densify_every == 0
        if s.strategy == "none" or not due or not self.means.requires_grad:
            return {}
        rows = densification.STRATEGIES[s.strategy](self, step, draws.shared("densification"))
        return {getattr(self, name): rows for name in RATES}

    @torch.no_grad()
    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """As many Gaussians as a cloud starts with, discs spread over the surface with its colours, nearly opaque."""
        count = self.settings.count
        surface = sample_surface(mesh, count, rng)
        points, normals = surface.points.to(self.device), surface.normals.to(self.device)
        self.alive.copy_(torch.arange(len(self.alive)) < count)
        self.means[:count] = points
        self.log_scales[:count] = (spacing(surface.points)[:, None] * torch.tensor(DISC)).log().to(self.device)
        self.quaternions[:count] = turning_up_to(normals)
        self.base[:count, 0] = (albedo(points) - 0.5) / ZERO
        self.logits[:count] = math.log(HANDED_OVER_OPACITY / (1 - HANDED_OVER_OPACITY))

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """Surface on which the opacities of the Gaussians add up to 1/2 (or to a threshold), by marching cubes; UserError if there is none.

        The level set of the sum, as DreamGaussian takes it, and not a fusion of depth images: it needs no views, is closed, and follows
        Gaussians that lie on a surface to a standard deviation of their thin axis.
        """
        radius = max(1.0, float(self.means[self.alive].norm(dim=-1).max()) * 1.05) if bool(self.alive.any()) else 1.0
        level = SURFACE if threshold == "auto" else float(threshold)
        return extract_mesh(lambda x: self._near(x)[0], self._cells(radius), radius, resolution, level)

    def _cells(self, radius: float) -> Tensor:
        """[G,G,G] bool, the cells of the cube that lie within three standard deviations of a Gaussian."""
        axis = (torch.arange(CELLS) + 0.5) / CELLS * 2 * radius - radius
        centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        shown = self.opacity > densification.FAINT
        reach = 3 * self.log_scales[shown].exp().amax(-1).cpu() + math.sqrt(3) * radius / CELLS
        cells = torch.zeros(CELLS**3, dtype=torch.bool)
        if len(reach):
            tree = KDTree(centres.numpy())
            for found in tree.query_ball_point(self.means[shown].cpu().numpy(), reach.numpy()):
                cells[found] = True
        return cells.view(CELLS, CELLS, CELLS).to(self.device)

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] at world points [N,3]: that of the Gaussians around, without what depends on the view."""
        with torch.no_grad():
            return torch.cat([self._near(p)[1] for p in points.split(CHUNK_POINTS)])

    def _near(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Sum of opacities [N] and mean colour [N,3] of the nearest Gaussians at points [N,3]."""
        alive = self.alive.nonzero()[:, 0]
        means, inverse = self.means[alive], torch.linalg.inv(self.axes()[alive])
        count = min(NEIGHBOURS, len(alive))
        found = torch.from_numpy(KDTree(means.cpu().numpy()).query(points.cpu().numpy(), k=count)[1]).view(-1, count).to(self.device)
        squared = (inverse[found] @ (points[:, None] - means[found])[..., None]).square().sum((-1, -2))
        share = self.opacity[alive][found] * torch.exp(-0.5 * squared)
        colour = (ZERO * self.base[alive, 0] + 0.5).clamp(0, 1)[found]
        # Far from all Gaussians the nearest one alone decides.
        weight = share + 1e-12 * (torch.arange(count, device=self.device) == 0)
        return share.sum(1), (weight[..., None] * colour).sum(1) / weight.sum(1, keepdim=True)


def turning_up_to(normals: Tensor) -> Tensor:
    """[N,4] quaternions of rotations that turn z to unit normals [N,3]: about half way between the two, by half a turn."""
    half = torch.nn.functional.normalize(normals + normals.new_tensor([0.0, 0.0, 1.0 + 1e-6]), dim=-1)
    return torch.nn.functional.pad(half, (1, 0))


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
