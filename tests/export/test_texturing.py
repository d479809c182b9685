"""Atlas and baking against an analytic colour field."""

import pytest
import torch
from torch.nn import functional as F

from tests.export.shapes import box, sphere, waves
from threedgen.errors import UserError
from threedgen.export import bake_texture, unwrap_mesh
from threedgen.ops.rasterize import rasterize
from threedgen.ops.texture import sample_texture
from threedgen.representations.base import Mesh


def surface_samples(mesh: Mesh, per_face: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [N,3] and uv [N,2] on every face, corners and edges included."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.rand(per_face, 3, generator=generator).pow(2)
    rim = torch.cat([torch.eye(3), torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 0, 1], [3, 1, 0], [0, 3, 1]])])
    weight = torch.cat([inner, rim])
    weight = weight / weight.sum(-1, keepdim=True)
    assert mesh.uv is not None
    mix = torch.einsum("kc,fcd->fkd", weight, torch.cat([mesh.vertices, mesh.uv], -1)[mesh.faces])
    return mix[..., :3].reshape(-1, 3), mix[..., 3:].reshape(-1, 2)


@pytest.mark.parametrize("shape", [box(), sphere()], ids=["cube", "sphere"])
def test_baking_recovers_the_field_also_at_seams(shape: Mesh):
    charts = unwrap_mesh(shape, 512)
    texture = bake_texture(charts, waves, 512)
    points, uv = surface_samples(charts, 20, 0)
    error = (sample_texture(texture, uv) - waves(points)).abs()
    assert error.max() < 2 / 255
    assert error.mean() < 0.3 / 255


def test_no_mip_level_sees_the_background():
    """Of a field that is bright everywhere, no texel of any level is dark."""
    texture = bake_texture(unwrap_mesh(sphere(), 128), lambda points: torch.full_like(points, 0.9), 128)
    assert torch.allclose(texture, torch.full_like(texture, 0.9), atol=1e-5)


def test_charts_fit_the_texture_and_do_not_overlap():
    charts = unwrap_mesh(sphere(level=2), 128)
    assert charts.uv is not None
    assert charts.uv.min() >= 0
    assert charts.uv.max() <= 1
    clip = F.pad(F.pad(2 * charts.uv - 1, (0, 1)), (0, 1), value=1.0)[None]
    alone = sum((rasterize(clip, face[None], 128, 128)[0] >= 0).sum() for face in charts.faces)
    together = (rasterize(clip, charts.faces, 128, 128)[0] >= 0).sum()
    assert alone == together
    assert together > 0.3 * 128 * 128


def test_unwrapping_keeps_the_surface_and_is_repeatable():
    mesh = sphere()
    mesh.vertex_rgb = waves(mesh.vertices)
    charts, again = unwrap_mesh(mesh, 256), unwrap_mesh(mesh, 256)
    assert charts.uv is not None
    assert again.uv is not None
    assert torch.equal(charts.uv, again.uv)
    assert torch.equal(charts.faces, again.faces)
    assert charts.vertex_rgb is not None
    assert torch.equal(charts.vertex_rgb, waves(charts.vertices))
    old, new = mesh.vertices[mesh.faces], charts.vertices[charts.faces]
    assert torch.equal(old.flatten(1).unique(dim=0), new.flatten(1).unique(dim=0))


def test_the_field_is_asked_in_chunks_on_the_surface(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("threedgen.export.texturing.CHUNK", 1000)
    sizes, farthest = [], []

    def field(points: torch.Tensor) -> torch.Tensor:
        sizes.append(len(points))
        farthest.append(float((points.abs().amax(-1) - 0.5).abs().max()))
        return points * 0

    bake_texture(unwrap_mesh(box(), 64), field, 64)
    assert max(sizes) == 1000
    assert sum(sizes) > 64 * 64
    assert max(farthest) < 1e-5


def test_a_field_out_of_range_is_clamped_and_one_that_diverged_is_an_error():
    charts = unwrap_mesh(box(), 64)
    assert (bake_texture(charts, lambda points: points * 100, 64).aminmax()) == (0.0, 1.0)
    with pytest.raises(UserError, match="not finite"):
        bake_texture(charts, lambda points: points / 0, 64)


def test_a_single_triangle_can_be_textured():
    triangle = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    charts = unwrap_mesh(triangle, 64)
    texture = bake_texture(charts, waves, 64)
    assert charts.uv is not None
    weight = torch.rand(200, 3, generator=torch.Generator().manual_seed(1))
    weight = weight / weight.sum(-1, keepdim=True)
    points, uv = weight @ charts.vertices[charts.faces[0]], weight @ charts.uv[charts.faces[0]]
    assert (sample_texture(texture, uv) - waves(points)).abs().max() < 3 / 255
