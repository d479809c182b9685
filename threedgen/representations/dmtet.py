"""A surface from signed distances on a deformable tetrahedral grid (DMTet, arXiv 2111.04276), drawn by rasterization."""

from __future__ import annotations

from torch import Tensor

from threedgen.config.schema import DMTetSettings
from threedgen.ops.marching_tets import marching_tets, tet_grid
from threedgen.representations.base import Mesh
from threedgen.representations.distance_grid import DistanceGrid
from threedgen.representations.initial_shape import Distance


class DMTet(DistanceGrid):
    """Signed distance and offset at every vertex of a body-centred grid; offsets reach half of what separates a corner from a centre."""

    tets: Tensor

    def __init__(self, settings: DMTetSettings, seed: int = 0, hull: Distance | None = None) -> None:
        """`hull` is what the shape hull starts from; UserError where a file of the settings cannot be read."""
        positions, tets = tet_grid(settings.resolution)
        super().__init__(settings, positions, 1 / 4, seed, hull)
        self.register_buffer("tets", tets, persistent=False)

    def surface(self) -> Mesh:
        """The mesh, with gradient to distances and offsets."""
        return Mesh(*marching_tets(self.distances(), self.moved(), self.tets))
