"""Operators against independent ones of other packages, where these are installed and a GPU is present. None is needed to use threedgen."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import GaussiansSettings
from threedgen.ops import composite, interpolate, marching_tets, rasterize, tet_grid
from threedgen.representations.gaussians import GaussianCloud

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CAMERAS = orbit_cameras([0.0, 110.0, 250.0], elevation=20.0, distance=2.6, fovy=40.0, height=64, width=96)


def other(name: str) -> ModuleType:
    """The package, or a skip that says what is missing."""
    return pytest.importorskip(name, reason=f"{name} is not installed: nothing to compare with")


def test_gaussians_look_as_gsplat_draws_them() -> None:
    """Images and gradients; gsplat cuts Gaussians at another radius, so single pixels may differ by a few hundredths."""
    gsplat = other("gsplat")
    cloud = GaussianCloud(GaussiansSettings(count=500, capacity=500, opacity=0.6, background="black", antialiased=False)).cuda()
    cameras = CAMERAS.to("cuda")
    view = torch.eye(4, device="cuda").repeat(3, 1, 1)
    view[:, :3, :3] = cameras.image_axes()
    view[:, :3, 3] = -(cameras.image_axes() @ cameras.positions[..., None])[..., 0]
    lens = torch.eye(3, device="cuda").repeat(3, 1, 1)
    lens[:, 0, 0] = lens[:, 1, 1] = cameras.focal
    lens[:, 0, 2], lens[:, 1, 2] = 48.0, 32.0
    render = cloud.render(cameras)
    rgb = cloud.colours(torch.ones(1, 500, 3, device="cuda"))[0]
    want, alpha, _ = gsplat.rasterization(
        cloud.means, cloud.quaternions, cloud.log_scales.exp(), cloud.opacity, rgb, view, lens, 96, 64, eps2d=0.3
    )
    for got, expected in ((render.rgb, want), (render.alpha, alpha)):
        assert (got - expected).abs().mean() < 2e-3
        assert (got - expected).abs().max() < 0.05
    parameters = [cloud.means, cloud.log_scales, cloud.quaternions, cloud.logits]
    mine = torch.autograd.grad(render.rgb.square().sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(want.square().sum(), parameters)
    for got, expected in zip(mine, theirs, strict=True):
        assert torch.nn.functional.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.999


def test_triangles_are_where_nvdiffrast_sees_them() -> None:
    """Faces, and values at the vertices; on outlines the two may decide differently."""
    dr = other("nvdiffrast.torch")
    positions, tets = tet_grid(12)
    vertices, faces = (value.cuda() for value in marching_tets(positions.norm(dim=-1) - 0.8, positions, tets))
    clip = torch.einsum("bij,vj->bvi", CAMERAS.to("cuda").view_projection(), torch.nn.functional.pad(vertices, (0, 1), value=1.0))
    face, weights = rasterize(clip, faces, 64, 96)
    seen, _ = dr.rasterize(dr.RasterizeCudaContext(), clip.contiguous(), faces.int(), [64, 96])
    theirs = seen.flip(1)[..., 3].long() - 1  # its first row is the lowest
    same = face == theirs
    assert same.float().mean() > 0.99
    got = interpolate(vertices, faces, face, weights)
    want = dr.interpolate(vertices[None].contiguous(), seen, faces.int())[0].flip(1)
    torch.testing.assert_close(got[same], want[same], rtol=0, atol=2e-3)


def test_light_along_rays_is_what_nerfacc_makes_of_it() -> None:
    nerfacc = other("nerfacc")
    rng = torch.Generator().manual_seed(0)
    counts = torch.tensor([5, 0, 40, 1, 17])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).cuda()
    total, step = int(counts.sum()), 0.02
    sigma = (30 * torch.rand(total, generator=rng)).cuda().requires_grad_()
    ray = torch.repeat_interleave(torch.arange(5), counts).cuda()
    begin = torch.arange(total, device="cuda") * step
    _, _, weights = composite(sigma, torch.rand(total, 3, generator=rng).cuda(), offsets, step)
    want, _, _ = nerfacc.render_weight_from_density(begin, begin + step, sigma, ray_indices=ray, n_rays=5)
    torch.testing.assert_close(weights, want, rtol=1e-4, atol=1e-6)
    mine, theirs = (torch.autograd.grad(value.square().sum(), sigma, retain_graph=True)[0] for value in (weights, want))
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
