"""Neural radiance field on a multiresolution hash grid (Instant-NGP, arXiv 2201.05989), rendered through an occupancy grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import HashGridSettings
from threedgen.ops.composite import composite
from threedgen.representations.base import Mesh
from threedgen.representations.extraction import auto_threshold, extract_mesh
from threedgen.representations.handed_over import density_error, fit_field
from threedgen.representations.hash_volume import HashVolume
from threedgen.representations.volume import CHUNK_POINTS, March, Matter, in_chunks

ALBEDO_SAMPLES = 8


class HashGridField(HashVolume):
    """Density and colour over the cube of half side `radius`; nothing lies outside the sphere of that radius."""

    settings: HashGridSettings

    def __init__(self, settings: HashGridSettings, seed: int = 0, channels: int = 3) -> None:
        """A field near its start; `channels` is how many numbers beside the density are composited."""
        super().__init__(settings, 1 + channels, seed)
        self.refresh_occupancy()

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] >= 0 and colour [N,3] in [0,1] at world points [N,3]."""
        out = self.network(points)
        return F.softplus(out[:, 0] + self.blob(points)), self.composited(out[:, 1:])

    def composited(self, out: Tensor) -> Tensor:
        """What is composited [N,channels], of what the network says: colours."""
        return torch.sigmoid(out)

    def shown(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N] and the colour [N,3] that is shown of world points [N,3], to be fitted to a surface's."""
        return self.query(points)

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
            h = self.finest_cell / 2
            offsets = torch.cat([torch.eye(3), -torch.eye(3)]).to(points) * h
            sigma = self.density((points[:, None] + offsets).reshape(-1, 3)).reshape(-1, 2, 3)
            return F.normalize(sigma[:, 1] - sigma[:, 0], dim=-1, eps=1e-12)
        return analytic_normals(self.density, points)

    def matter(self, march: March, normals: bool) -> Matter:
        """Density and colour at the places of a march."""
        sigma, rgb = self.query(march.points)
        return Matter(sigma, rgb, march.t, self.normals(march.points) if normals else None)

    def opacity_density(self, points: Tensor) -> Tensor:
        """The density itself."""
        return self.density(points)

    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """Solid inside of the surface, with its colours."""
        fit_field(self, self.shown, density_error, mesh, albedo, self.settings.radius, self.step_length, rng)
        self.occupancy.opacity.zero_()
        self.refresh_occupancy()

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """Surface of the density by marching cubes, floaters removed; UserError if there is none.

        Args:
            resolution: grid vertices along an axis.
            threshold: density of the surface, or "auto" (see auto_threshold).
        """
        level = self._auto_threshold() if threshold == "auto" else float(threshold)
        return extract_mesh(partial(in_chunks, self.density), self.occupancy.occupied, self.settings.radius, resolution, level)

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
        return in_chunks(self._seen_from_outside, points, CHUNK_POINTS // ALBEDO_SAMPLES)

    def _seen_from_outside(self, points: Tensor) -> Tensor:
        outward = analytic_normals(self.density, points)
        with torch.no_grad():
            depth = (torch.arange(ALBEDO_SAMPLES, device=points.device) - (ALBEDO_SAMPLES - 1) / 2) * self.step_length
            along = points[:, None] - depth[:, None] * outward[:, None]
            sigma, rgb = self.query(along.reshape(-1, 3))
            offsets = torch.arange(len(points) + 1, device=points.device) * ALBEDO_SAMPLES
            seen, transmittance, _ = composite(sigma, rgb, offsets, self.step_length)
            return seen + transmittance[:, None] * rgb[ALBEDO_SAMPLES - 1 :: ALBEDO_SAMPLES]


def analytic_normals(density: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """[N,3] unit vectors against the gradient of a density at points [N,3]; zero where it is flat."""
    with torch.enable_grad():
        x = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(density(x).sum(), x)
    return F.normalize(-slope, dim=-1, eps=1e-12)
