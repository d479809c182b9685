"""A surface from signed distances on a deformable tetrahedral grid (DMTet, arXiv 2111.04276), drawn by rasterization."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.config.schema import DMTetSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.materials.background import Background
from threedgen.ops.antialias import antialias
from threedgen.ops.barycentric import barycentric
from threedgen.ops.interpolate import interpolate
from threedgen.ops.marching_tets import marching_tets, tet_grid
from threedgen.ops.rasterize import rasterize
from threedgen.representations.base import Forgotten, Mesh, Render, Representation
from threedgen.representations.color_field import ColorField, hash_grid_spec
from threedgen.representations.handed_over import fit_colours, surface_distance
from threedgen.representations.initial_shape import initial_distance
from threedgen.representations.mesh import face_normals, lambert

CHUNK_POINTS = 262_144
SEED_SHARE = 0.005  # of the inner vertices that become solid again when the surface has vanished


class DMTet(Representation):
    """Signed distance and offset at every vertex of a body-centred grid over the cube of half side `radius`; colours in space.

    The offsets are limited by tanh to half of what separates a corner of a cell from its centre along an axis, so vertices cannot pass
    each other. The grid's boundary is always outside: the surface is closed.
    """

    positions: Tensor
    tets: Tensor
    boundary: Tensor

    def __init__(self, settings: DMTetSettings, seed: int = 0) -> None:
        super().__init__()
        s = self.settings = settings
        positions, tets = tet_grid(s.resolution)
        self.register_buffer("positions", positions * s.radius, persistent=False)
        self.register_buffer("tets", tets, persistent=False)
        self.register_buffer("boundary", positions.abs().amax(-1) == 1, persistent=False)
        self.cell = 2 * s.radius / s.resolution
        self.sdf = nn.Parameter(initial_distance(s, self.positions))
        self.deformation = nn.Parameter(torch.zeros_like(self.positions))
        self.color = ColorField(hash_grid_spec(s), s.hidden, s.radius, torch.Generator().manual_seed(seed))
        self.background = Background(s.background)
        self.vanished = False

    def distances(self) -> Tensor:
        """[N] signed distances of the grid's vertices, those on its boundary positive."""
        return torch.where(self.boundary, self.sdf.clamp_min(1e-3 * self.cell), self.sdf)

    def surface(self) -> Mesh:
        """The mesh, with gradient to distances and offsets."""
        moved = self.positions + torch.tanh(self.deformation) * (self.cell / 4)
        return Mesh(*marching_tets(self.distances(), moved, self.tets))

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` a random background is drawn, without nothing is random.

        An empty surface gives the background, and no gradient; `after_step` mends it.
        """
        mesh = self.surface()
        clip = torch.einsum("bij,vj->bvi", cameras.view_projection(), F.pad(mesh.vertices, (0, 1), value=1.0))
        face, _ = rasterize(clip, mesh.faces, cameras.height, cameras.width)
        covered = face >= 0
        point, normal = self._seen(mesh, clip, face)
        origins, directions = cameras.rays()
        distance = (point - origins[covered]).norm(dim=-1, keepdim=True)
        values = torch.cat([self._shade(point, normal, directions[covered]), torch.ones_like(distance), distance, normal], -1)
        image = F.pad(self.background.behind(directions, draws), (0, 5)).index_put((covered,), values)
        rgb, alpha, depth, normal = antialias(image, clip, mesh.faces, face).split([3, 1, 1, 3], -1)
        return Render(rgb, alpha, depth, normal if normals else None, surface=mesh)

    def _seen(self, mesh: Mesh, clip: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
        """Points and unit normals [P,3] of the surface at the covered pixels, in their order."""
        covered = face >= 0
        flat = face_normals(mesh.vertices, mesh.faces)
        at_vertices = torch.zeros_like(mesh.vertices).index_add(0, mesh.faces.flatten(), flat.repeat_interleave(3, 0))
        attributes = torch.cat([mesh.vertices, at_vertices], -1)
        point, smooth = interpolate(attributes, mesh.faces, face, barycentric(clip, mesh.faces, face))[covered].split(3, -1)
        normal = flat[face[covered]] if self.settings.normals == "face" else smooth
        return point, F.normalize(normal, dim=-1, eps=1e-12)

    def _shade(self, point: Tensor, normal: Tensor, direction: Tensor) -> Tensor:
        """[P,3] what surface points show to rays along unit directions."""
        if self.settings.shading == "normal":
            return 0.5 + 0.5 * normal
        rgb = self.color(point)
        return rgb if self.settings.shading == "albedo" else lambert(rgb, normal, -direction)

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """Optimizer groups by learning rate."""
        groups = [
            {"params": [self.sdf, self.deformation], "lr": lr, "name": "geometry", "part": "geometry"},
            {"params": list(self.color.parameters()), "lr": lr, "name": "appearance", "part": "appearance"},
        ]
        learned = list(self.background.parameters())
        return groups + ([{"params": learned, "lr": lr_background, "name": "background"}] if learned else [])

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

    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """Distances to the surface at the grid's vertices, offsets of nothing; the colours are fitted."""
        with torch.no_grad():
            self.sdf.copy_(surface_distance(mesh, self.positions.cpu(), self.cell / 2, rng))
            self.deformation.zero_()
        fit_colours(self.color, mesh, albedo, self.cell / 2, rng)

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """The surface at the grid's own resolution, whatever the arguments; UserError if there is none."""
        mesh = self.surface()
        if not len(mesh.faces):
            raise UserError("the scene is empty: no distance is negative; train for more steps, or with a lower learning rate")
        return mesh

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface at world points [N,3], for texture baking."""
        return torch.cat([self.color(part) for part in points.split(CHUNK_POINTS)])
