"""Binary glTF 2.0 with one physically based material. The same input gives the same bytes."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from threedgen import __version__
from threedgen.errors import UserError
from threedgen.export.pictures import to_image
from threedgen.representations.base import Mesh
from threedgen.representations.mesh import vertex_normals
from threedgen.storage import write_bytes

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
UNSIGNED_SHORT, UNSIGNED_INT, FLOAT = 5123, 5125, 5126
LINEAR, LINEAR_MIPMAP_LINEAR, CLAMP_TO_EDGE = 9729, 9987, 33071


def asset_positions(vertices: Tensor, size_m: float) -> Tensor:
    """[V,3] world positions (z up, front +x) in the axes of an asset (y up, front +z), metres.

    The longest side of the bounding box becomes `size_m`; the origin is the centre of the ground below the object.
    """
    origin, scale = _ground(vertices, size_m)
    return ((vertices[:, [1, 2, 0]].double() - origin) * scale).to(vertices.dtype)


def scene_from_asset(vertices: Tensor, size_m: float) -> Tensor:
    """[4,4] float64 matrix that brings points of the asset back to where the world positions [V,3] were."""
    origin, scale = _ground(vertices, size_m)
    matrix = torch.zeros(4, 4, dtype=torch.float64)
    for world, asset in enumerate((2, 0, 1)):
        matrix[world, asset], matrix[world, 3] = 1 / scale, origin[asset]
    matrix[3, 3] = 1
    return matrix


def read_scene_from_asset(path: Path) -> Tensor:
    """[4,4] float64 matrix that a GLB of threedgen's carries, from points of the file to the world (see `scene_from_asset`).

    Raises:
        UserError: the file has none.
    """
    content = Path(path).read_bytes()
    try:
        length = int.from_bytes(content[12:16], "little")
        columns = json.loads(content[20 : 20 + length])["asset"]["extras"]["scene_from_asset"]
        return torch.tensor(columns, dtype=torch.float64).view(4, 4).T
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"'{path}' does not say where its scene is: give a GLB that threedgen wrote") from error


def _ground(vertices: Tensor, size_m: float) -> tuple[Tensor, Tensor]:
    """Centre [3] of the ground below world positions [V,3], in the asset's axes, and metres of one unit."""
    points = vertices[:, [1, 2, 0]].double()
    low, high = points.amin(0), points.amax(0)
    return torch.stack([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]), size_m / (high - low).max()


def write_glb(
    path: Path,
    mesh: Mesh,
    texture: Tensor,
    normal_map: Tensor | None = None,
    metallic: float = 0.0,
    roughness: float = 1.0,
    size_m: float = 1.0,
    name: str = "asset",
) -> None:
    """Write a textured mesh as GLB: y up, front +z, metres, smooth normals, one opaque single-sided material.

    Texture values are stored as they are, 8 bits, and glTF reads them as sRGB: the images a diffusion model is trained on are
    display-referred, so its colours already are what a screen should show.

    Args:
        path: the file; replaced as a whole.
        mesh: world axes, with `uv`.
        texture: [H,W,3] base colour in [0,1]; sides are powers of two.
        normal_map: [H,W,3] tangent-space normals as 0.5 + 0.5 n (+x along u, +y up in the image, +z outward), or None. With it, tangents
            are written.
        metallic, roughness: factors in [0,1].
        size_m: longest side of the bounding box in metres.
        name: of node, mesh and material.

    Raises:
        UserError: the mesh has no face, or the file cannot be written.
        ValueError: the mesh has no uv, or an image is not a power of two in size.
    """
    if not len(mesh.faces):
        raise UserError("the mesh has no surface: lower export.threshold, or optimize for more steps")
    if mesh.uv is None:
        raise ValueError("the mesh has no uv: unwrap it first")
    buffer = _Buffer()
    positions = asset_positions(mesh.vertices, size_m)
    normals = vertex_normals(positions, mesh.faces)
    attributes = {
        "POSITION": buffer.attribute(positions, bounds=True),
        "NORMAL": buffer.attribute(normals),
        "TEXCOORD_0": buffer.attribute(mesh.uv),
    }
    if normal_map is not None:
        attributes["TANGENT"] = buffer.attribute(vertex_tangents(positions, mesh.faces, mesh.uv, normals))
    indices = buffer.indices(mesh.faces)
    images = [buffer.png(image) for image in (texture, normal_map) if image is not None]
    material = {
        "name": name,
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": metallic, "roughnessFactor": roughness},
        "doubleSided": False,
    }
    if normal_map is not None:
        material["normalTexture"] = {"index": 1}
    back = scene_from_asset(mesh.vertices, size_m).T.flatten().tolist()  # by columns, as glTF has its matrices
    document = {
        "asset": {"version": "2.0", "generator": f"threedgen {__version__}", "extras": {"scene_from_asset": back}},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": [{"attributes": attributes, "indices": indices, "material": 0, "mode": 4}]}],
        "materials": [material],
        "textures": [{"sampler": 0, "source": k} for k in range(len(images))],
        "samplers": [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP_LINEAR, "wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}],
        "images": images,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.content)}],
    }
    write_bytes(Path(path), _container(document, bytes(buffer.content)))


def vertex_tangents(vertices: Tensor, faces: Tensor, uv: Tensor, normals: Tensor) -> Tensor:
    """[V,4] unit tangents along +u, orthogonal to the normals, and the sign w with bitangent = w * cross(normal, tangent).

    The bitangent points up in the image (towards smaller v). Where the texture coordinates are degenerate any tangent serves.
    """
    points, coordinates, n = vertices.double(), uv.double(), normals.double()
    edge = points[faces[:, 1:]] - points[faces[:, :1]]
    du, dv = (coordinates[faces[:, 1:]] - coordinates[faces[:, :1]]).unbind(-1)
    area = du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0]
    along_u = (edge[:, 0] * dv[:, 1:] - edge[:, 1] * dv[:, :1]) * area.sign()[:, None]
    along_v = (edge[:, 1] * du[:, :1] - edge[:, 0] * du[:, 1:]) * area.sign()[:, None]

    def gather(per_face: Tensor) -> Tensor:
        per_corner = per_face[:, None].expand(-1, 3, -1).reshape(-1, 3)
        return torch.zeros_like(points).index_add_(0, faces.flatten(), per_corner)

    u, up = gather(along_u), -gather(along_v)
    tangent = u - n * (n * u).sum(-1, keepdim=True)
    least = F.one_hot(n.abs().argmin(-1), 3).to(n)
    spare = torch.linalg.cross(n, least)
    usable = tangent.norm(dim=-1, keepdim=True) > 1e-6 * u.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    tangent = F.normalize(torch.where(usable, tangent, spare), dim=-1)
    sign = torch.where((torch.linalg.cross(n, tangent) * up).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat([tangent, sign], -1).float()


class _Buffer:
    """The binary chunk, with its views and accessors."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.views: list[dict] = []
        self.accessors: list[dict] = []

    def _view(self, data: bytes, target: int | None = None) -> int:
        self.content += b"\0" * (-len(self.content) % 4)
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.content += data
        return len(self.views) - 1

    def attribute(self, values: Tensor, bounds: bool = False) -> int:
        array = values.detach().cpu().numpy().astype("<f4")
        accessor = {
            "bufferView": self._view(array.tobytes(), ARRAY_BUFFER),
            "componentType": FLOAT,
            "count": len(array),
            "type": f"VEC{array.shape[1]}",
        }
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: Tensor) -> int:
        array = faces.detach().cpu().numpy().reshape(-1)
        short = array.max() < 65535  # 65535 itself would restart the primitive
        view = self._view(array.astype("<u2" if short else "<u4").tobytes(), ELEMENT_ARRAY_BUFFER)
        kind = UNSIGNED_SHORT if short else UNSIGNED_INT
        self.accessors.append({"bufferView": view, "componentType": kind, "count": len(array), "type": "SCALAR"})
        return len(self.accessors) - 1

    def png(self, image: Tensor) -> dict:
        if any(side & (side - 1) for side in image.shape[:2]):
            raise ValueError(f"sides of a texture must be powers of two, got {image.shape[1]} x {image.shape[0]}")
        stream = io.BytesIO()
        to_image(image).save(stream, "PNG")
        return {"bufferView": self._view(stream.getvalue()), "mimeType": "image/png"}


def _container(document: dict, binary: bytes) -> bytes:
    """Header, JSON chunk and binary chunk, each padded to four bytes."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
