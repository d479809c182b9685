"""A triangle mesh that is optimized itself and remeshed as it goes (continuous remeshing, Palfinger 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.config.schema import MeshSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.ops.marching_tets import marching_tets, tet_grid
from threedgen.representations.base import Forgotten, Mesh
from threedgen.representations.handed_over import Albedo, fit_colours, surface_distance
from threedgen.representations.initial_shape import Distance, initial_distance
from threedgen.representations.remeshing import Triangles, remesh
from threedgen.representations.surface import SurfaceRepresentation
from threedgen.schedule import at

START_TURNS = 12  # of remeshing before the first step
MEMORY = 0.9  # share of the mean motion that a step keeps
STEADY = 0.5  # speed (see `_adapt`) at which edges keep their length


class ExplicitMesh(SurfaceRepresentation):
    """A closed mesh in a fixed number of places, some of them free: splits fill free places, collapses free them.

    So parameters, faces and the optimizer's moments keep their shapes over a run, and its state can be saved at any step.

    Parameters, P places: vertices [P,3]. Buffers: faces [2P,3] int64, -1 where there is none; wanted [P], lengths of edges relative to the
    setting; before [P,3], the vertices at the last step; motion [P,4], running means of a step's motion and of its length.
    """

    settings: MeshSettings
    faces: Tensor
    wanted: Tensor
    before: Tensor
    motion: Tensor

    def __init__(self, settings: MeshSettings, seed: int = 0, hull: Distance | None = None) -> None:
        """`hull` is what the shape hull starts from; UserError where a file of the settings cannot be read, or the start is too large."""
        super().__init__(settings, seed)
        radius, cells = settings.radius, settings.resolution
        mesh = self._start(lambda points: initial_distance(settings, points, radius / cells, hull))
        self.vertices = nn.Parameter(mesh.position.clone())
        self.register_buffer("faces", self._padded(mesh.faces))
        self.register_buffer("wanted", torch.ones(settings.capacity))
        self.register_buffer("before", mesh.position.clone())
        self.register_buffer("motion", torch.zeros(settings.capacity, 4))

    def _start(self, distance_to: Distance) -> Triangles:
        """The first mesh, by marching tetrahedra (so it is closed whatever the shape), remeshed to the wanted edges."""
        s = self.settings
        positions, tets = tet_grid(s.resolution)
        outside = positions.abs().amax(-1) == 1
        distance = distance_to(positions * s.radius)
        points, faces = marching_tets(torch.where(outside, distance.clamp_min(1e-3), distance), positions * s.radius, tets)
        if not len(faces):
            raise UserError(f"the shape is too thin for a grid of {s.resolution} cells: raise representation.resolution")
        rows = max(s.capacity, len(points))
        values = torch.zeros(rows, 4).index_copy(0, torch.arange(len(points)), F.pad(points, (0, 1)))
        values[:, 3] = at(s.edge, 0)
        mesh = Triangles(values, faces, torch.zeros(rows, dtype=torch.bool))
        for _ in range(START_TURNS):
            mesh = remesh(mesh, 2 * s.capacity)
        return _compact(mesh, s.capacity)

    def _padded(self, faces: Tensor) -> Tensor:
        """[2P,3] faces and behind them -1."""
        return torch.cat([faces, faces.new_full((2 * self.settings.capacity - len(faces), 3), -1)])

    def shape_parameters(self) -> list[nn.Parameter]:
        return [self.vertices]

    def triangles(self) -> Tensor:
        """[F,3] the faces there are, by rows of the vertices."""
        return self.faces[self.faces[:, 0] >= 0]

    def surface(self) -> Mesh:
        """The mesh without its free places, with gradient to the vertices."""
        faces = self.triangles()
        alive = torch.zeros(len(self.vertices), dtype=torch.bool, device=faces.device).index_fill(0, faces.flatten(), True)
        number = alive.cumsum(0) - 1
        vertices, faces = self.vertices[alive], number[faces]
        if vertices.requires_grad and self.settings.spread:
            vertices.register_hook(lambda gradient: spread(gradient, faces, self.settings.spread))
        return Mesh(vertices, faces)

    @torch.no_grad()
    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Remeshes where it is time; vertices that are new are forgotten by the optimizer."""
        s = self.settings
        if not s.remesh_every or not self.vertices.requires_grad:
            return {}
        if not bool(torch.isfinite(self.vertices).all()):
            raise UserError("the vertices of the mesh are not finite: the optimization has diverged, lower the learning rate")
        self._adapt()
        if (step + 1) % s.remesh_every or step + 1 > s.remesh_until:
            return {}
        length = self.wanted[:, None] * at(s.edge, step)
        values = torch.cat([self.vertices, length, self.motion], 1)
        fixed = torch.zeros(len(values), dtype=torch.bool, device=values.device)
        mesh = remesh(Triangles(values, self.triangles(), fixed), len(self.faces))
        self.vertices.copy_(mesh.position)
        self.before.copy_(mesh.position)
        self.wanted.copy_(mesh.values[:, 3] / at(s.edge, step))
        self.motion.copy_(mesh.values[:, 4:])
        self.faces.copy_(self._padded(mesh.faces))
        rows = torch.nonzero(mesh.fresh)[:, 0]
        return {self.vertices: rows} if len(rows) else {}

    def take_shape(self, mesh: Mesh, albedo: Albedo, rng: torch.Generator) -> None:
        """The surface, remeshed to the wanted edges; the colours are fitted."""
        pitch = self.settings.radius / self.settings.resolution
        start = self._start(lambda points: surface_distance(mesh, points, pitch, rng))
        with torch.no_grad():
            self.vertices.copy_(start.position)
            self.before.copy_(start.position)
            self.faces.copy_(self._padded(start.faces))
            self.wanted.fill_(1.0)
            self.motion.zero_()
        fit_colours(self.color, mesh, albedo, pitch, rng)

    def _adapt(self) -> None:
        """Edges become longer where vertices move on steadily, and shorter where they waver about their places.

        The speed is the length of the mean motion over the mean length of motions, in [0,1] (Palfinger takes Adam's moments for both).
        """
        s = self.settings
        moved = self.vertices - self.before
        self.motion.mul_(MEMORY).add_(torch.cat([moved, moved.norm(dim=-1, keepdim=True)], 1), alpha=1 - MEMORY)
        self.before.copy_(self.vertices)
        speed = self.motion[:, :3].norm(dim=-1) / self.motion[:, 3].clamp_min(1e-12)
        self.wanted.mul_(1 + s.gain / max(s.remesh_every, 1) * (speed - STEADY)).clamp_(s.edge_range[0], s.edge_range[1])


def spread(values: Tensor, faces: Tensor, sweeps: int) -> Tensor:
    """Values [V,C] of a closed mesh's vertices, averaged in every sweep with the mean of their neighbours, half and half.

    Gradients that are spread move parts of a surface and not single vertices, seen ones with unseen ones; the idea of preconditioning with
    the Laplacian (Large Steps in Inverse Rendering of Geometry, Nicolet et al. 2021) by diffusion in place of a linear solve.
    """
    start, end = faces.flatten(), faces.roll(-1, 1).flatten()
    share = 0.5 / torch.bincount(start, minlength=len(values)).clamp_min(1)[:, None]
    for _ in range(sweeps):
        values = 0.5 * values + share * torch.zeros_like(values).index_add(0, start, values[end])
    return values


def _compact(mesh: Triangles, rows: int) -> Triangles:
    """The vertices that are there in the first rows; UserError where there are more than that."""
    alive = mesh.alive
    count = int(alive.sum())
    if count > rows:
        raise UserError(f"the first mesh has {count} vertices, more than representation.capacity {rows}: raise it, or representation.edge")
    values = torch.cat([mesh.values[alive], mesh.values.new_zeros(rows - count, mesh.values.shape[1])])
    return Triangles(values, (alive.cumsum(0) - 1)[mesh.faces], torch.zeros(rows, dtype=torch.bool))
