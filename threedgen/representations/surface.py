"""What the representations have in common that are drawn as a mesh: colours in space, shading, background, rendering."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.config.schema import SurfaceSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.materials.background import Background
from threedgen.ops.antialias import antialias
from threedgen.ops.barycentric import barycentric
from threedgen.ops.interpolate import interpolate
from threedgen.ops.rasterize import rasterize
from threedgen.representations.base import Mesh, Render, Representation
from threedgen.representations.color_field import ColorField, hash_grid_spec
from threedgen.representations.mesh import face_normals, lambert

CHUNK_POINTS = 262_144


class SurfaceRepresentation(Representation):
    """A representation whose surface is a mesh, coloured by a field in space."""

    def __init__(self, settings: SurfaceSettings, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.color = ColorField(hash_grid_spec(settings), settings.hidden, settings.radius, torch.Generator().manual_seed(seed))
        self.background = Background(settings.background)

    def surface(self) -> Mesh:
        """The mesh, its vertices with gradient to the parameters."""
        raise NotImplementedError

    def shape_parameters(self) -> list[nn.Parameter]:
        """The parameters that the surface depends on."""
        raise NotImplementedError

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` a random background is drawn, without nothing is random.

        An empty surface gives the background, and no gradient.
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
        """Optimizer groups: the shape with its share of the learning rate, the colours, the background."""
        share = self.settings.shape_share
        groups = [
            {"params": self.shape_parameters(), "lr": lr * share, "share": share, "name": "geometry", "part": "geometry"},
            {"params": list(self.color.parameters()), "lr": lr, "name": "appearance", "part": "appearance"},
        ]
        learned = list(self.background.parameters())
        return groups + ([{"params": learned, "lr": lr_background, "name": "background"}] if learned else [])

    @torch.no_grad()
    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """The surface at its own resolution, whatever the arguments; UserError if there is none."""
        mesh = self.surface()
        if not len(mesh.faces):
            raise UserError("the scene is empty: its surface has vanished; train for more steps, or with a lower learning rate")
        return mesh

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface at world points [N,3], for texture baking."""
        return torch.cat([self.color(part) for part in points.split(CHUNK_POINTS)])
