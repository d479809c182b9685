"""What all fields share that are rendered by samples along rays: the march through an occupancy grid, compositing, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.config.schema import VolumeSettings
from threedgen.draws import Draws
from threedgen.materials.background import Background
from threedgen.ops.composite import composite
from threedgen.ops.ray_march import march_rays, ray_indices
from threedgen.representations.base import Chunks, Forgotten, Render, Representation, Samples
from threedgen.representations.occupancy import OccupancyGrid
from threedgen.representations.recompute import recomputed

CHUNK_SAMPLES = 2**20
CHUNK_POINTS = 262_144
OCCUPANCY_EVERY = 16  # steps


@dataclass(frozen=True)
class Rays:
    """R rays: origins and unit directions [R,3], jitter [R] in [0,1) of a step, and the colour behind them [R,3] where it is drawn."""

    origins: Tensor
    directions: Tensor
    jitter: Tensor
    random_rgb: Tensor | None = None

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, rays: slice) -> Rays:
        behind = None if self.random_rgb is None else self.random_rgb[rays]
        return Rays(self.origins[rays], self.directions[rays], self.jitter[rays], behind)


@dataclass(frozen=True)
class March:
    """The places along rays at which a field is asked, packed ray by ray: offsets [R+1], ray [S], t [S], points [S,3], directions [R,3]."""

    offsets: Tensor
    ray: Tensor
    t: Tensor
    points: Tensor
    directions: Tensor


@dataclass(frozen=True)
class Matter:
    """What a field holds at the samples of a march.

    Attributes:
        sigma: [S] density, per world unit.
        rgb: [S,3], or whatever else the field composites in place of colours [S,C].
        t: [S] distances the samples stand for.
        normals: [S,3], where they were asked for.
        slopes: makes gradients [K,3] of a signed distance at some of the samples, where the field is one.
    """

    sigma: Tensor
    rgb: Tensor
    t: Tensor
    normals: Tensor | None = None
    slopes: Callable[[], Tensor] | None = None


class Volume(Representation):
    """A field over the sphere of `settings.radius`, rendered by samples along rays. A kind of field says what `matter` it holds.

    Attributes:
        chunk_samples: how many samples and rays are rendered at once; may be changed at any time. More of them are rendered in chunks
            of whole rays, with gradient as well: then each chunk is computed again in the backward pass, so that memory does not grow
            with the resolution, nor with how much of the space is occupied. Beyond rounding nothing depends on it.
    """

    def __init__(self, settings: VolumeSettings, occupancy_decay: float = 0.9) -> None:
        super().__init__()
        self.settings = settings
        self.background = Background(settings.background)
        self.occupancy = OccupancyGrid(settings.occupancy_resolution, decay=occupancy_decay)
        self.step_length = 2.0 * settings.radius / settings.samples
        self.chunk_samples = CHUNK_SAMPLES

    @property
    def device(self) -> torch.device:
        return self.occupancy.opacity.device

    def matter(self, march: March, normals: bool) -> Matter:
        """What the field holds at the places of a march; `normals` asks for unit normals."""
        raise NotImplementedError

    def field_groups(self) -> list[dict]:
        """What is optimized, the background apart: groups with their names, and their shares of the learning rate where they have one."""
        raise NotImplementedError

    def opacity_density(self, points: Tensor) -> Tensor:
        """[N] density at world points [N,3] that decides where rays look for samples."""
        raise NotImplementedError

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` the samples are jittered and a random background is drawn, without nothing is random."""
        origins, directions = (v.reshape(-1, 3) for v in cameras.rays())
        shape = (len(cameras), cameras.height, cameras.width)
        seen = self.render_rays(origins, directions, *self.ray_draws(shape, draws), normals)
        return seen.reshaped(shape)

    def ray_draws(self, shape: tuple[int, int, int], draws: Draws | None) -> tuple[Tensor, Tensor | None]:
        """Jitter [R] and, for random backgrounds, a colour [R,3] a view."""
        views, height, width = shape
        if draws is None:
            return torch.full((views * height * width,), 0.5, device=self.device), None
        jitter = draws.uniform("ray_jitter", (height, width)).reshape(-1)
        random_rgb = self.background.random_rgb(draws, height, width)
        return jitter, None if random_rgb is None else random_rgb.reshape(-1, 3)

    def render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor, random_rgb: Tensor | None = None, normals: bool = False
    ) -> Render:
        """Volume rendering of R rays: origins and unit directions [R,3], jitter [R] in [0,1) of a step."""
        rays = Rays(origins, directions, jitter, random_rgb)
        parts = [rays[chunk] for chunk in self.chunks(rays)]
        if len(parts) == 1:
            return self.seen(rays, normals)
        parameters = list(self.parameters())
        images = [recomputed(partial(self._images, part, normals), parameters) for part in parts]
        rgb, alpha, depth, *normal = (torch.cat(image) for image in zip(*images, strict=True))
        samples = Chunks([partial(self._samples, part, normals) for part in parts], lambda run: recomputed(run, parameters))
        return Render(rgb, alpha, depth, normal[0] if normals else None, samples=samples)

    def chunks(self, rays: Rays) -> list[slice]:
        """Rays that are rendered together. A ray counts for its samples and one more."""
        longest = self.settings.samples + 2
        if len(rays) * longest <= self.chunk_samples:
            return [slice(0, len(rays))]
        block = max(1, self.chunk_samples // longest)
        counts = [self.march(rays[i : i + block]).offsets.diff() + 1 for i in range(0, len(rays), block)]
        return bounded_slices(torch.cat(counts), self.chunk_samples)

    def march(self, rays: Rays) -> March:
        """The places along rays where there may be matter."""
        radius = self.settings.radius
        near, far = sphere_interval(rays.origins, rays.directions, radius)
        step = self.step_length / radius
        occupied = self.occupancy.occupied
        offsets, t = march_rays(rays.origins / radius, rays.directions, near / radius, far / radius, occupied, rays.jitter, step)
        t, ray = t * radius, ray_indices(offsets, len(t))
        return March(offsets, ray, t, rays.origins[ray] + t[:, None] * rays.directions[ray], rays.directions)

    def seen(self, rays: Rays, normals: bool) -> Render:
        """What rays see, all rendered at once."""
        march = self.march(rays)
        matter = self.matter(march, normals)
        features = [matter.rgb, matter.t[:, None]] + ([] if matter.normals is None else [matter.normals])
        out, transmittance, weights = composite(matter.sigma, torch.cat(features, -1), march.offsets, self.step_length)
        colours = matter.rgb.shape[-1]
        points = rays.origins[march.ray] + matter.t[:, None] * rays.directions[march.ray]
        return Render(
            rgb=out[:, :colours] + transmittance[:, None] * self.background(rays.directions, rays.random_rgb),
            alpha=1 - transmittance[:, None],
            depth=out[:, colours : colours + 1],
            normal=out[:, colours + 1 :] if normals else None,
            samples=Samples(march.offsets, matter.t, points, weights, rays.directions, matter.normals, matter.slopes),
        )

    def _images(self, rays: Rays, normals: bool) -> tuple[Tensor, ...]:
        seen = self.seen(rays, normals)
        return (seen.rgb, seen.alpha, seen.depth) + (() if seen.normal is None else (seen.normal,))

    def _samples(self, rays: Rays, normals: bool) -> Samples:
        samples = self.seen(rays, normals).samples
        assert isinstance(samples, Samples)
        return samples

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """Optimizer groups by learning rate."""
        groups = [{"lr": lr * group.get("share", 1.0)} | group for group in self.field_groups()]
        learned = list(self.background.parameters())
        return groups + ([{"params": learned, "lr": lr_background, "name": "background"}] if learned else [])

    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Refresh the occupancy grid every 16 steps, at points keyed on the step."""
        if step % OCCUPANCY_EVERY == OCCUPANCY_EVERY - 1:
            cells = self.settings.occupancy_resolution**3
            self.refresh_occupancy(torch.rand(cells, 3, generator=draws.shared("occupancy")).to(self.device))
        return {}

    @torch.no_grad()
    def refresh_occupancy(self, jitter: Tensor | None = None) -> None:
        """Look at one point in every cell: jitter [G^3,3] in [0,1), or their centres."""
        radius = self.settings.radius
        if jitter is None:
            jitter = torch.full((self.occupancy.resolution**3, 3), 0.5, device=self.device)
        self.occupancy.update(lambda x: in_chunks(self.opacity_density, x * radius) * radius, jitter)


def in_chunks(field: Callable[[Tensor], Tensor], points: Tensor, size: int = CHUNK_POINTS) -> Tensor:
    """A field at points [N,3], a bounded number at a time."""
    return torch.cat([field(part) for part in points.split(size)])


def bounded_slices(cost: Tensor, bound: int) -> list[slice]:
    """Consecutive slices of entries whose costs [N] (at least 1) sum to at most the bound each; an entry beyond it stands alone."""
    total = cost.cumsum(0).cpu()
    slices, start, spent = [], 0, 0
    while start < len(total):
        end = max(start + 1, int(torch.searchsorted(total, spent + bound, right=True)))
        slices.append(slice(start, end))
        start, spent = end, int(total[end - 1])
    return slices


def sphere_interval(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distances [R] at which rays enter and leave the sphere at the origin; far < near where they miss it."""
    middle = -(origins * directions).sum(-1)
    gap = radius**2 - (origins + middle[:, None] * directions).square().sum(-1)
    half = gap.clamp(min=0).sqrt()
    near = (middle - half).clamp(min=0)
    return near, torch.where(gap > 0, middle + half, near - 1)
