"""Signed distances on a multiresolution hash grid, rendered as a volume (NeuS, arXiv 2106.10689; VolSDF, arXiv 2106.12052)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.config.schema import SDFSettings
from threedgen.representations.base import Mesh
from threedgen.representations.extraction import extract_distance_mesh
from threedgen.representations.handed_over import distance_error, fit_field
from threedgen.representations.hash_volume import HashVolume
from threedgen.representations.initial_shape import Distance, ellipsoid_distance, initial_distance
from threedgen.representations.volume import CHUNK_POINTS, March, Matter, in_chunks

ON_A_GRID = ("mesh", "hull")  # first shapes whose distances are kept on a grid
START_CELLS = 64  # along an axis of the grid that holds the distances to a mesh
EIKONAL_EVERY = 4  # one sample of so many along a ray is looked at
TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


class SDFField(HashVolume):
    """Signed distance (negative inside) and colour over the sphere of `radius`: those of the first shape, plus what the grid learns.

    Parameters: those of HashVolume; log_sharpness, of s in the density. NeuS has its surface as wide as a logistic distribution of scale
    1/s, VolSDF as a Laplace distribution of scale 1/s. Buffer: start, the semi-axes [3] of the first shape, or its distances on a grid.
    """

    settings: SDFSettings
    start: Tensor

    def __init__(self, settings: SDFSettings, seed: int = 0, hull: Distance | None = None) -> None:
        """`hull` is what the shape hull starts from; UserError where the settings name a mesh that cannot be read."""
        super().__init__(settings, 4, seed, occupancy_decay=0.0)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(settings.sharpness)))
        if settings.shape in ON_A_GRID:
            axis = torch.linspace(-settings.radius, settings.radius, START_CELLS + 1)
            z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
            points = torch.stack([x, y, z], -1).reshape(-1, 3)
            distances = initial_distance(settings, points, settings.radius / START_CELLS, hull)
            self.register_buffer("start", distances.reshape(1, 1, *x.shape))
        else:
            self.register_buffer("start", settings.shape_radius * torch.tensor(settings.shape_axes))
        self.refresh_occupancy()

    def field_groups(self) -> list[dict]:
        return [*super().field_groups(), {"params": [self.log_sharpness], "name": "sharpness"}]

    @property
    def sharpness(self) -> Tensor:
        """Inverse width of the surface, per world unit."""
        return self.log_sharpness.exp()

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance [N] and colour [N,3] in [0,1] at world points [N,3]."""
        out = self.network(points)
        return self.first_distance(points) + out[:, 0], torch.sigmoid(out[:, 1:])

    def first_distance(self, points: Tensor) -> Tensor:
        """[N] distances to the shape it starts from."""
        if self.settings.shape not in ON_A_GRID:
            return ellipsoid_distance(points, self.start)
        place = (points / self.settings.radius)[None, None, None]
        return F.grid_sample(self.start, place, mode="bilinear", padding_mode="border", align_corners=True).flatten()

    def distance(self, points: Tensor) -> Tensor:
        """[N] signed distances at world points [N,3]."""
        return self.query(points)[0]

    def slopes(self, points: Tensor) -> Tensor:
        """[N,3] gradient of the distance with gradient to the field: differences over a tetrahedron as wide as a cell of the grid.

        Wider than a derivative, it reaches beyond the cell a point lies in, and so smooths (Neuralangelo, arXiv 2306.03092).
        """
        corners = torch.tensor(TETRAHEDRON, device=points.device, dtype=points.dtype)
        h = self.finest_cell / 2
        values = self.distance((points[:, None] + h * corners).reshape(-1, 3)).view(-1, 4)
        return values @ corners / (4 * h)

    def matter(self, march: March, normals: bool) -> Matter:
        """Density of the surface at the places of a march."""
        distance, rgb = self.query(march.points)
        t, points = march.t, march.points
        if self.settings.density == "volsdf":
            sigma = laplace_density(distance, self.sharpness)
        else:
            follows = F.pad((march.ray[1:] == march.ray[:-1]) & (t.diff() < 1.5 * self.step_length), (0, 1))
            behind = torch.where(follows, distance.roll(-1), distance)
            sigma = section_depth(distance, behind, self.sharpness) / self.step_length
            rgb = torch.where(follows[:, None], (rgb + rgb.roll(-1, 0)) / 2, rgb)
            t = t + self.step_length / 2
            points = points + march.directions[march.ray] * (self.step_length / 2)
        normal = F.normalize(self.slopes(points), dim=-1, eps=1e-12) if normals else None
        # Chosen by their distance, so that the choice does not depend on what else is rendered along.
        looked_at = (march.t / self.step_length).long() % EIKONAL_EVERY == 0
        return Matter(sigma, rgb, t, normal, lambda: self.slopes(march.points[looked_at]))

    def opacity_density(self, points: Tensor) -> Tensor:
        """[N] density of the logistic distribution around the surface, times 4/s of its own height: rays skip the inside too.

        A point stands for its cell: it is taken as near to the surface as any point of the cell may be.
        """
        reach = math.sqrt(3) * self.settings.radius / self.occupancy.resolution
        inside = torch.sigmoid(-self.sharpness * (self.distance(points).abs() - reach).clamp(min=0))
        return self.sharpness * 4 * inside * (1 - inside)

    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """Distances to the surface, and its colours; the inverse width of the surface stays."""
        fit_field(self, self.query, distance_error, mesh, albedo, self.settings.radius, self.step_length, rng)
        self.refresh_occupancy()

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """Surface at distance 0 by marching cubes, whatever the threshold; UserError if there is none."""
        return extract_distance_mesh(partial(in_chunks, self.distance), self.settings.radius, resolution, self.device)

    @torch.no_grad()
    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface nearest to world points [N,3], for texture baking."""
        return in_chunks(self._on_surface, points, CHUNK_POINTS // 4)

    def _on_surface(self, points: Tensor) -> Tensor:
        step = self.distance(points).clamp(-self.step_length, self.step_length)
        return self.query(points - step[:, None] * F.normalize(self.slopes(points), dim=-1, eps=1e-12))[1]


def section_depth(front: Tensor, behind: Tensor, sharpness: Tensor) -> Tensor:
    """[S] optical depth of sections of rays between distances front and behind [S], at least 0 (NeuS, equations 10 and 13).

    With alpha = 1 - Phi(behind) / Phi(front) and Phi the logistic distribution, it is log Phi(front) - log Phi(behind): of a ray that
    comes nearer all the time, the light left over is Phi at its end over Phi at its beginning, whatever the sections.
    """
    return (F.logsigmoid(sharpness * front) - F.logsigmoid(sharpness * behind)).clamp(min=0)


def laplace_density(distance: Tensor, sharpness: Tensor) -> Tensor:
    """[S] density s Psi(-distance), Psi the Laplace distribution of scale 1/s (VolSDF, equations 2 and 3)."""
    tail = 0.5 * torch.exp(-sharpness * distance.abs())
    return sharpness * torch.where(distance > 0, tail, 1 - tail)
