"""A surface from signed distances on a deformable tetrahedral grid (DMTet, arXiv 2111.04276), drawn by rasterization."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from threedgen.config.schema import DMTetSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.ops.marching_tets import marching_tets, tet_grid
from threedgen.representations.base import Forgotten, Mesh
from threedgen.representations.handed_over import Albedo, fit_colours, surface_distance
from threedgen.representations.initial_shape import Distance, initial_distance
from threedgen.representations.surface import SurfaceRepresentation

SEED_SHARE = 0.005  # of the inner vertices that become solid again when the surface has vanished


class DMTet(SurfaceRepresentation):
    """Signed distance and offset at every vertex of a body-centred grid over the cube of half side `radius`; colours in space.

    The offsets are limited by tanh to half of what separates a corner of a cell from its centre along an axis, so vertices cannot pass
    each other. The grid's boundary is always outside: the surface is closed.
    """

    positions: Tensor
    tets: Tensor
    boundary: Tensor

    settings: DMTetSettings

    def __init__(self, settings: DMTetSettings, seed: int = 0, hull: Distance | None = None) -> None:
        """`hull` is what the shape hull starts from; UserError where a file of the settings cannot be read."""
        super().__init__(settings, seed)
        s = settings
        positions, tets = tet_grid(s.resolution)
        self.register_buffer("positions", positions * s.radius, persistent=False)
        self.register_buffer("tets", tets, persistent=False)
        self.register_buffer("boundary", positions.abs().amax(-1) == 1, persistent=False)
        self.cell = 2 * s.radius / s.resolution
        self.sdf = nn.Parameter(initial_distance(s, self.positions, self.cell / 2, hull))
        self.deformation = nn.Parameter(torch.zeros_like(self.positions))
        self.vanished = False

    def distances(self) -> Tensor:
        """[N] signed distances of the grid's vertices, those on its boundary positive."""
        return torch.where(self.boundary, self.sdf.clamp_min(1e-3 * self.cell), self.sdf)

    def surface(self) -> Mesh:
        """The mesh, with gradient to distances and offsets."""
        moved = self.positions + torch.tanh(self.deformation) * (self.cell / 4)
        return Mesh(*marching_tets(self.distances(), moved, self.tets))

    def shape_parameters(self) -> list[nn.Parameter]:
        return [self.sdf, self.deformation]

    @torch.no_grad()
    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Where no vertex is inside any more, lower all distances until a two-hundredth of the inner ones is; says so the first time."""
        if bool((self.distances() < 0).any()):
            return {}
        inner = self.sdf[~self.boundary]
        if not bool(torch.isfinite(inner).all()):
            raise UserError("the distances of the surface are not finite: the optimization has diverged, lower the learning rate")
        self.sdf.sub_(inner.sort().values[int(SEED_SHARE * len(inner))] + 1e-3 * self.cell)
        if not self.vanished:
            message = (
                f"the surface vanished at step {step} and was seeded again where it is nearest: lower the learning rate or the penalties"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self.vanished = True
        return {self.sdf: torch.arange(len(self.sdf), device=self.sdf.device)}

    def take_shape(self, mesh: Mesh, albedo: Albedo, rng: torch.Generator) -> None:
        """Distances to the surface at the grid's vertices, offsets of nothing; the colours are fitted."""
        with torch.no_grad():
            self.sdf.copy_(surface_distance(mesh, self.positions.cpu(), self.cell / 2, rng))
            self.deformation.zero_()
        fit_colours(self.color, mesh, albedo, self.cell / 2, rng)
