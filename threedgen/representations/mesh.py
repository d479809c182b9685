"""Images of triangle meshes, and their normals."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen.cameras import Cameras
from threedgen.ops.interpolate import interpolate
from threedgen.ops.rasterize import rasterize
from threedgen.ops.texture import sample_texture
from threedgen.representations.base import Mesh, Render
from threedgen.representations.mesh_loading import load_mesh

__all__ = ["face_normals", "lambert", "load_mesh", "render_mesh", "sample_faces", "vertex_normals"]

Shading = Literal["albedo", "lambert", "normal"]
PLAIN = 0.8  # grey of a mesh without colours
AMBIENT = 0.7  # share of the light that comes from everywhere; the rest comes from the camera


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    background: tuple[float, float, float] | Tensor = (1.0, 1.0, 1.0),
    shading: Shading = "albedo",
    supersample: int = 1,
) -> Render:
    """Images of a mesh; without gradient, both sides of the faces are seen.

    Args:
        mesh: with `uv` and `texture` (bilinear lookup), else with `vertex_rgb`, else drawn grey.
        cameras: B views; they and the mesh are on one device.
        background: colour behind the mesh in [0,1], or anything that broadcasts to [B,H,W,3].
        shading: "albedo" is the colour itself; "lambert" lights it softly from the camera; "normal" shows the world normal as
            0.5 + 0.5 n. A face seen from behind has its normal turned round.
        supersample: samples along each side of a pixel; colours, alpha, depth and normals are averaged over them.

    Returns:
        rgb, alpha, depth and normal of the views (see Render).
    """
    fine = cameras.resized(cameras.height * supersample, cameras.width * supersample)
    homogeneous = F.pad(mesh.vertices, (0, 1), value=1.0)
    clip = torch.einsum("bij,vj->bvi", fine.view_projection(), homogeneous)
    face, barycentric = rasterize(clip, mesh.faces, fine.height, fine.width)
    attributes = torch.cat([mesh.vertices, vertex_normals(mesh.vertices, mesh.faces), _attribute(mesh)], -1)
    view, row, column = torch.nonzero(face >= 0, as_tuple=True)
    seen = face[view, row, column]
    point, normal, colour = interpolate(attributes, mesh.faces, face, barycentric)[view, row, column].tensor_split([3, 6], -1)
    to_eye = cameras.positions[view] - point
    distance = to_eye.norm(dim=-1, keepdim=True)
    behind = (face_normals(mesh.vertices, mesh.faces)[seen] * to_eye).sum(-1, keepdim=True) < 0
    normal = F.normalize(torch.where(behind, -normal, normal), dim=-1)
    if shading == "normal":
        rgb = 0.5 + 0.5 * normal
    else:
        rgb = colour if mesh.texture is None or mesh.uv is None else sample_texture(mesh.texture, colour)
        if shading == "lambert":
            rgb = lambert(rgb, normal, to_eye / distance)

    samples = torch.cat([rgb, torch.ones_like(distance), distance, normal], -1)
    image = samples.new_zeros(*face.shape, samples.shape[-1])
    image[view, row, column] = samples
    image = F.avg_pool2d(image.permute(0, 3, 1, 2), supersample).permute(0, 2, 3, 1)
    rgb, alpha, depth, normal = image.split([3, 1, 1, 3], -1)
    backdrop = torch.as_tensor(background, dtype=rgb.dtype, device=rgb.device)
    return Render(rgb + (1 - alpha) * backdrop, alpha, depth, F.normalize(normal, dim=-1) * alpha)


def lambert(rgb: Tensor, normal: Tensor, to_eye: Tensor) -> Tensor:
    """Colours [N,3] lit softly from the camera; unit normals and directions to the eye [N,3]."""
    facing = (normal * to_eye).sum(-1, keepdim=True).clamp_min(0)
    return rgb * (AMBIENT + (1 - AMBIENT) * facing)


def _attribute(mesh: Mesh) -> Tensor:
    """[V,2] uv where the mesh is textured, else [V,3] colours."""
    if mesh.texture is not None and mesh.uv is not None:
        return mesh.uv
    return mesh.vertices.new_full(mesh.vertices.shape, PLAIN) if mesh.vertex_rgb is None else mesh.vertex_rgb


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[F,3] normals, as long as twice the face's area."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a)


def sample_faces(mesh: Mesh, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points uniform on a surface on the CPU: the face of each [N] and the weights of its corners [N,3]."""
    face = torch.multinomial(face_normals(mesh.vertices, mesh.faces).norm(dim=-1), count, replacement=True, generator=rng)
    root, along = torch.rand(count, 1, generator=rng).sqrt(), torch.rand(count, 1, generator=rng)
    return face, torch.cat([1 - root, root * (1 - along), root * along], -1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V,3] unit normals: mean of the faces around a point weighted by their area and their angle there.

    Vertices at the same position share their normal, so a texture seam does not show. Where no face has an area, +z.
    """
    points = vertices.double()
    _, welded = torch.unique(vertices, dim=0, return_inverse=True)
    corners = points[faces]
    ahead, behind = corners.roll(-1, 1) - corners, corners.roll(1, 1) - corners
    angle = torch.atan2(torch.linalg.cross(ahead, behind).norm(dim=-1), (ahead * behind).sum(-1))
    share = face_normals(points, faces)[:, None] * angle[..., None]
    total = torch.zeros_like(points).index_add_(0, welded[faces].flatten(), share.flatten(0, 1))[welded]
    up = points.new_tensor([0.0, 0.0, 1.0])
    normal = torch.where(total.norm(dim=-1, keepdim=True) > 1e-20, F.normalize(total, dim=-1, eps=1e-30), up)
    return normal.to(vertices.dtype)
