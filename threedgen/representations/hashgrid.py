"""Neural radiance field on a multiresolution hash grid (Instant-NGP, arXiv 2201.05989), rendered through an occupancy grid."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras import Cameras, orbit_cameras
from threedgen.config.schema import HashGridSettings
from threedgen.draws import Draws
from threedgen.materials.background import Background
from threedgen.ops.composite import composite
from threedgen.ops.hash_grid import hash_grid
from threedgen.ops.ray_march import march_rays, ray_indices
from threedgen.representations.base import Forgotten, Mesh, Render, Representation, Samples
from threedgen.representations.color_field import hash_grid_spec
from threedgen.representations.extraction import auto_threshold, extract_mesh
from threedgen.representations.handed_over import fit_volume
from threedgen.representations.occupancy import OccupancyGrid

CHUNK_RAYS = 16_384
CHUNK_POINTS = 262_144
ALBEDO_SAMPLES = 8


class HashGridField(Representation):
    """Density and colour over the cube of half side `radius`; nothing lies outside the sphere of that radius."""

    def __init__(self, settings: HashGridSettings, seed: int = 0) -> None:
        super().__init__()
        s = self.settings = settings
        self.spec = hash_grid_spec(s)
        rng = torch.Generator().manual_seed(seed)
        width = s.levels * s.features
        self.table = nn.Parameter((torch.rand(self.spec.rows, s.features, generator=rng) * 2 - 1) * 1e-4)
        self.hidden = nn.Parameter(torch.randn(s.hidden, width, generator=rng) * math.sqrt(2 / width))
        self.head = nn.Parameter(torch.randn(4, s.hidden, generator=rng) * math.sqrt(1 / s.hidden))
        self.head_bias = nn.Parameter(torch.zeros(4))
        self.background = Background(s.background)
        self.occupancy = OccupancyGrid(s.occupancy_resolution)
        self.step_length = 2.0 * s.radius / s.samples
        self.refresh_occupancy(torch.full((s.occupancy_resolution**3, 3), 0.5))

    @property
    def device(self) -> torch.device:
        return self.table.device

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] >= 0 and colour [N,3] in [0,1] at world points [N,3]."""
        features = hash_grid((points / (2 * self.settings.radius) + 0.5).clamp(0, 1), self.table, self.spec)
        out = F.linear(F.relu(F.linear(features, self.hidden)), self.head, self.head_bias)
        return F.softplus(out[:, 0] + self.blob(points)), torch.sigmoid(out[:, 1:])

    def blob(self, points: Tensor) -> Tensor:
        """[N] bias of the density, h (1 - |x| / r): the object starts as a blob at the origin (Magic3D, arXiv 2211.10440)."""
        return self.settings.blob_density * (1 - points.norm(dim=-1) / self.settings.blob_radius)

    def density(self, points: Tensor) -> Tensor:
        """Density [N] at world points [N,3]."""
        return self.query(points)[0]

    def normals(self, points: Tensor) -> Tensor:
        """Unit normals [N,3], against the gradient of the density.

        "analytic" is exact and carries no gradient to the field; "finite_difference" does (central differences, 6 queries).
        """
        if self.settings.normals == "finite_difference":
            h = self.settings.radius / self.settings.max_resolution
            offsets = torch.cat([torch.eye(3), -torch.eye(3)]).to(points) * h
            sigma = self.density((points[:, None] + offsets).reshape(-1, 3)).reshape(-1, 2, 3)
            return F.normalize(sigma[:, 1] - sigma[:, 0], dim=-1, eps=1e-12)
        return analytic_normals(self.density, points)

    def render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor, random_rgb: Tensor | None = None, normals: bool = False
    ) -> Render:
        """Volume rendering of R rays: origins and unit directions [R,3], jitter [R] in [0,1) of a step."""
        radius = self.settings.radius
        near, far = sphere_interval(origins, directions, radius)
        step = self.step_length / radius
        offsets, t = march_rays(origins / radius, directions, near / radius, far / radius, self.occupancy.occupied, jitter, step)
        t = t * radius
        ray = ray_indices(offsets, len(t))
        points = origins[ray] + t[:, None] * directions[ray]
        sigma, rgb = self.query(points)
        normal = self.normals(points) if normals else None
        features = torch.cat([rgb, t[:, None]] + ([] if normal is None else [normal]), -1)
        out, transmittance, weights = composite(sigma, features, offsets, self.step_length)
        return Render(
            rgb=out[:, :3] + transmittance[:, None] * self.background(directions, random_rgb),
            alpha=1 - transmittance[:, None],
            depth=out[:, 3:4],
            normal=out[:, 4:7] if normals else None,
            samples=Samples(offsets, t, points, weights, directions, normal),
        )

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` the samples are jittered and a random background is drawn, without nothing is random.

        Without gradient the rays are rendered in chunks, so that memory does not grow with the resolution.
        """
        origins, directions = (v.reshape(-1, 3) for v in cameras.rays())
        shape = (len(cameras), cameras.height, cameras.width)
        jitter, random_rgb = self.ray_draws(shape, draws)
        size = len(origins) if torch.is_grad_enabled() else CHUNK_RAYS
        parts = [
            self.render_rays(origins[c], directions[c], jitter[c], None if random_rgb is None else random_rgb[c], normals)
            for c in (slice(i, i + size) for i in range(0, len(origins), size))
        ]

        def image(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts]).reshape(*shape, -1)

        return Render(
            image("rgb"),
            image("alpha"),
            image("depth"),
            image("normal") if normals else None,
            samples=parts[0].samples if len(parts) == 1 else None,
        )

    def ray_draws(self, shape: tuple[int, int, int], draws: Draws | None) -> tuple[Tensor, Tensor | None]:
        """Jitter [R] and, for random backgrounds, a colour [R,3] a view."""
        views, height, width = shape
        if draws is None:
            return torch.full((views * height * width,), 0.5, device=self.device), None
        jitter = draws.uniform("ray_jitter", (height, width)).reshape(-1)
        random_rgb = self.background.random_rgb(draws, height, width)
        return jitter, None if random_rgb is None else random_rgb.reshape(-1, 3)

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """Optimizer groups by learning rate."""
        groups = [{"params": [self.table, self.hidden, self.head, self.head_bias], "lr": lr, "name": "field"}]
        learned = list(self.background.parameters())
        return groups + ([{"params": learned, "lr": lr_background, "name": "background"}] if learned else [])

    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Refresh the occupancy grid every 16 steps, at points keyed on the step."""
        if step % 16 == 15:
            cells = self.settings.occupancy_resolution**3
            self.refresh_occupancy(torch.rand(cells, 3, generator=draws.shared("occupancy")).to(self.device))
        return {}

    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """Solid inside of the surface, with its colours."""
        fit_volume(self, self.query, mesh, albedo, self.settings.radius, self.step_length, rng)
        self.occupancy.opacity.zero_()
        self.refresh_occupancy(torch.full((self.settings.occupancy_resolution**3, 3), 0.5))

    @torch.no_grad()
    def refresh_occupancy(self, jitter: Tensor) -> None:
        radius = self.settings.radius
        self.occupancy.update(lambda x: self._chunked_density(x * radius) * radius, jitter)

    def _chunked_density(self, points: Tensor) -> Tensor:
        return torch.cat([self.density(p) for p in points.split(CHUNK_POINTS)])

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """Surface of the density by marching cubes, floaters removed; UserError if there is none.

        Args:
            resolution: grid vertices along an axis.
            threshold: density of the surface, or "auto" (see auto_threshold).
        """
        level = self._auto_threshold() if threshold == "auto" else float(threshold)
        return extract_mesh(self._chunked_density, self.occupancy.occupied, self.settings.radius, resolution, level)

    def _auto_threshold(self) -> float:
        azimuth, distance = [60.0 * k for k in range(6)], 3.0 * self.settings.radius
        around = [orbit_cameras(azimuth, elevation, distance, 40.0, 48, 48) for elevation in (-10.0, 35.0)]
        rays = [cameras.to(self.device).rays() for cameras in around]
        origins, directions = (torch.cat([pair[i].reshape(-1, 3) for pair in rays]) for i in (0, 1))
        render = self.render_rays(origins, directions, torch.full_like(origins[:, 0], 0.5))
        return auto_threshold(render, self.step_length)

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface at world points [N,3], for texture baking.

        It is what a short ray along the inward normal sees, not the colour at the point: a fitted field puts its colours where
        the light ends, a little below the surface.
        """
        return torch.cat([self._seen_from_outside(p) for p in points.split(CHUNK_POINTS // ALBEDO_SAMPLES)])

    def _seen_from_outside(self, points: Tensor) -> Tensor:
        outward = analytic_normals(self.density, points)
        with torch.no_grad():
            depth = (torch.arange(ALBEDO_SAMPLES, device=points.device) - (ALBEDO_SAMPLES - 1) / 2) * self.step_length
            along = points[:, None] - depth[:, None] * outward[:, None]
            sigma, rgb = self.query(along.reshape(-1, 3))
            offsets = torch.arange(len(points) + 1, device=points.device) * ALBEDO_SAMPLES
            seen, transmittance, _ = composite(sigma, rgb, offsets, self.step_length)
            return seen + transmittance[:, None] * rgb.view(-1, ALBEDO_SAMPLES, 3)[:, -1]


def sphere_interval(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distances [R] at which rays enter and leave the sphere at the origin; far < near where they miss it."""
    middle = -(origins * directions).sum(-1)
    gap = radius**2 - (origins + middle[:, None] * directions).square().sum(-1)
    half = gap.clamp(min=0).sqrt()
    near = (middle - half).clamp(min=0)
    return near, torch.where(gap > 0, middle + half, near - 1)


def analytic_normals(density: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """[N,3] unit vectors against the gradient of a density at points [N,3]; zero where it is flat."""
    with torch.enable_grad():
        x = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(density(x).sum(), x)
    return F.normalize(-slope, dim=-1, eps=1e-12)
