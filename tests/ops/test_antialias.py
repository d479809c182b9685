"""Outlines between pixels: areas and their derivatives in closed form and against supersampled images, the torch twin, hostile meshes."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from tests.ops.scenes import SCENES, disc, scene
from threedgen.cameras import orbit_cameras
from threedgen.ops import adjacent_edges, antialias, backend, rasterize
from threedgen.ops.antialias import blend
from threedgen.ops.silhouettes import silhouettes, silhouettes_reference

needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")


def rectangle(low: tuple[float, float], high: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Two triangles with corners in [-1,1]^2."""
    (x0, y0), (x1, y1) = low, high
    corners = torch.tensor([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=torch.float64)
    return torch.cat([corners, corners.new_tensor([0.0, 1.0]).expand(4, 2)], -1)[None], torch.tensor([[0, 1, 2], [0, 2, 3]])


def coverage(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[B,H,W,1] antialiased share of the pixels that the mesh covers."""
    face = rasterize(clip, faces, height, width)[0]
    return antialias((face >= 0).to(clip.dtype)[..., None], clip, faces, face)


def shifted(run, clip: Tensor, faces: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts, and the gradient of a random function of them."""
    clip = clip.clone().requires_grad_()
    shift = run(clip, faces, face, adjacent_edges(faces))
    cotangent = torch.randn(shift.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(shift.dtype)
    return shift, torch.autograd.grad(shift, clip, cotangent)[0]


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCENES)
def test_kernel_equals_twin(name: str, dtype: torch.dtype) -> None:
    inputs = scene(name, dtype)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for got, want in zip(shifted(silhouettes, *inputs), shifted(silhouettes_reference, *inputs), strict=True):
        torch.testing.assert_close(got, want, **close)


def test_every_row_and_column_of_a_rectangle_has_its_exact_length() -> None:
    height, width = 24, 32
    clip, faces = rectangle((-0.613, -0.47), (0.529, 0.771))
    alpha = coverage(clip, faces, height, width)[0, ..., 0]
    inside = alpha[alpha.amax(1) == 1]
    torch.testing.assert_close(inside.sum(1), torch.full((len(inside),), 1.142 * width / 2, dtype=torch.float64))
    columns = alpha[:, alpha.amax(0) == 1]
    torch.testing.assert_close(columns.sum(0), torch.full((columns.shape[1],), 1.241 * height / 2, dtype=torch.float64))


@pytest.mark.parametrize("edge", [0.5, 0.53, 0.5625, 0.6])
def test_the_area_of_a_rectangle_has_the_derivative_of_its_edges(edge: float) -> None:
    """Moving the right edge by dx adds height * dx; also where it lies on the border of two pixels (0.5) or on their centres (0.53)."""
    size = 64
    clip, faces = rectangle((-0.6, -0.5), (edge, 0.5))
    clip.requires_grad_()
    area = coverage(clip, faces, size, size).sum() * (2 / size) ** 2
    assert area.item() == pytest.approx(edge + 0.6, rel=1e-3)
    (gradient,) = torch.autograd.grad(area, clip)
    assert gradient[0, 1:3, 0].sum().item() == pytest.approx(1.0, abs=1e-9)
    assert gradient[0, [0, 3], 0].sum().item() == pytest.approx(-1.0, abs=1e-9)
    assert gradient[0, 2:, 1].sum().item() == pytest.approx(edge + 0.6, rel=2 / size)


@pytest.mark.parametrize("corners", [6, 40, 3000])
def test_area_and_moment_of_a_disc(corners: int) -> None:
    """dA/dr = 2 A / r, and the first moment moves as the area does; with 3000 corners edges are a twentieth of a pixel."""
    size, radius = 96, 0.7
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    move = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    clip, faces = disc(corners, radius, (0.013, -0.021))
    placed = torch.cat([clip[..., :2] * scale + move, clip[..., 2:]], -1)
    alpha = coverage(placed, faces, size, size)[0, ..., 0] * (2 / size) ** 2
    exact = corners / 2 * radius**2 * math.sin(2 * math.pi / corners)
    assert alpha.sum().item() == pytest.approx(exact, rel=2e-3)
    (growth,) = torch.autograd.grad(alpha.sum(), scale, retain_graph=True)
    assert growth.item() == pytest.approx(2 * exact, rel=1e-2)
    x = (2 * torch.arange(size) + 1) / size - 1
    along_x, along_y = torch.autograd.grad((alpha * x).sum(), move)[0].tolist()
    assert along_x == pytest.approx(exact, rel=2e-2)
    assert along_y == pytest.approx(0, abs=2e-2 * exact)


@pytest.mark.parametrize("seed", [1, 2, 8])
def test_derivatives_of_a_scene_with_occlusion_are_those_of_a_supersampled_image(seed: int) -> None:
    """Large triangles in front of each other, each with its colour: a smooth function of the image under a random motion."""
    size, fine = 256, 6
    rng = torch.Generator().manual_seed(seed)
    faces = torch.arange(18).view(6, 3)
    depth = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).repeat_interleave(3)
    flat = torch.randn(18, 2, generator=rng, dtype=torch.float64) * 0.6
    clip = torch.cat([flat, depth[:, None], torch.ones(18, 1)], -1)[None]
    palette = torch.rand(7, 1, generator=rng, dtype=torch.float64)
    motion = torch.randn(18, 2, generator=rng, dtype=torch.float64)

    def image(step: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
        moved = torch.cat([clip[..., :2] + step * motion, clip[..., 2:]], -1)
        face = rasterize(moved, faces, pixels, pixels)[0]
        return moved, face, palette[face]

    def functional(picture: Tensor) -> Tensor:
        side = picture.shape[1]
        x = (2 * torch.arange(side) + 1) / side - 1
        return (picture[0, ..., 0] * torch.sin(2 * x + 1)[:, None] * torch.cos(3 * x)).mean()

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    moved, face, color = image(step, size)
    (got,) = torch.autograd.grad(functional(antialias(color, moved, faces, face)), step)
    h = 0.01
    ends = [functional(image(torch.tensor(sign * h, dtype=torch.float64), size * fine)[2]) for sign in (1, -1)]
    want = ((ends[0] - ends[1]) / (2 * h)).item()
    assert abs(want) > 0.01
    assert got.item() == pytest.approx(want, rel=0.04)


def test_only_outlines_of_a_closed_surface_are_blended() -> None:
    """A ball of thousands of faces smaller than a pixel: outlines are met at its border alone, and the area is that of the seen cone."""
    ball = trimesh.creation.icosphere(5, 0.8)
    vertices, faces = torch.tensor(ball.vertices), torch.tensor(ball.faces)
    cameras = orbit_cameras([0.0, 130.0], 25.0, 2.6, 40.0, 40, 40)
    radius = torch.ones((), dtype=torch.float64, requires_grad=True)
    homogeneous = torch.cat([vertices * radius, torch.ones(len(vertices), 1)], -1)
    clip = torch.einsum("bij,vj->bvi", cameras.view_projection().double(), homogeneous)
    face = rasterize(clip, faces, 40, 40)[0]
    covered = (face >= 0).double()
    shift = silhouettes(clip, faces, face, adjacent_edges(faces))
    differs = [covered[:, :, 1:] != covered[:, :, :-1], covered[:, 1:] != covered[:, :-1]]
    assert not shift[:, :, :-1, 0][~differs[0]].any()
    assert not shift[:, :-1, :, 1][~differs[1]].any()
    area = blend(covered[..., None], shift).sum((1, 2, 3))

    def seen(r: float) -> float:
        on_screen = r / math.sqrt(2.6**2 - r**2) / math.tan(math.radians(20)) * 20
        return math.pi * on_screen**2

    assert area.tolist() == pytest.approx([seen(0.8)] * 2, rel=4e-3)
    slope = (seen(0.8001) - seen(0.7999)) / 0.0002 * 0.8
    assert torch.autograd.grad(area.sum(), radius)[0].item() / 2 == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize("run", [silhouettes, silhouettes_reference])
def test_gradcheck(run) -> None:
    clip, faces, face = scene("soup", size=(9, 10))
    assert run(clip, faces, face, adjacent_edges(faces)).count_nonzero() > 20
    assert torch.autograd.gradcheck(lambda position: run(position, faces, face, adjacent_edges(faces)), clip.requires_grad_())


def test_gradients_to_colours() -> None:
    clip, faces, face = scene("soup", size=(6, 7))
    color = torch.rand(2, 6, 7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: antialias(c, clip, faces, face), color)


@pytest.mark.parametrize("name", SCENES)
def test_blended_values_stay_between_those_of_the_image(name: str) -> None:
    clip, faces, face = scene(name)
    color = torch.rand(*face.shape, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mixed = antialias(color, clip, faces, face)
    assert mixed.min() >= color.min() - 1e-12
    assert mixed.max() <= color.max() + 1e-12
    plain = torch.full_like(color, 0.3)
    torch.testing.assert_close(antialias(plain, clip, faces, face), plain)


def test_a_speck_smaller_than_a_pixel_does_not_become_negative() -> None:
    clip, faces = rectangle((0.05, 0.05), (0.2, 0.2))
    alpha = coverage(clip, faces, 8, 8)
    assert alpha.min() >= 0
    assert 0 <= alpha.sum() < 1


def test_adjacency_of_a_closed_an_open_and_a_branching_mesh() -> None:
    tetrahedron = torch.tensor([[0, 1, 2], [0, 3, 1], [1, 3, 2], [0, 2, 3]])
    other = adjacent_edges(tetrahedron)
    assert (other >= 0).all()
    edges = torch.stack([tetrahedron.roll(-1, 1), tetrahedron.roll(-2, 1)], -1).view(-1, 2).sort(-1).values
    assert torch.equal(edges[other.flatten()], edges)
    assert torch.equal(other.flatten()[other.flatten()], torch.arange(12))
    assert adjacent_edges(tetrahedron[:2]).tolist() == [[-1, -1, 4], [-1, 2, -1]]
    fan = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, 4]])
    assert (adjacent_edges(fan) == -1).all()
    assert adjacent_edges(fan[:0]).shape == (0, 3)


@needs_kernel
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    inputs = scene("dense", torch.float32, (90, 110))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(shifted(silhouettes, *inputs))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_opcheck() -> None:
    clip, faces, face = scene("tilted", size=(6, 7))
    # without what traces the twins: the number of outlines is a size that a traced program cannot know
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (clip, faces, face, adjacent_edges(faces))
    torch.library.opcheck(torch.ops.threedgen.silhouettes.default, (clip.requires_grad_(), *arguments[1:]), test_utils=utilities)
    grad = torch.ones(1, 6, 7, 2, dtype=clip.dtype)
    torch.library.opcheck(torch.ops.threedgen.silhouettes_backward.default, (grad, clip.detach(), *arguments[1:]), test_utils=utilities)


def test_misfits_are_named() -> None:
    clip, faces, face = scene("tilted", size=(6, 7))
    with pytest.raises(ValueError, match="color must have shape"):
        antialias(torch.zeros(1, 6, 8, 1, dtype=clip.dtype), clip, faces, face)
    with pytest.raises(ValueError, match="adjacency must have shape"):
        silhouettes(clip, faces, face, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="one dtype is needed"):
        antialias(torch.zeros(1, 6, 7, 1), clip, faces, face)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SCENES)
def test_cuda_agrees_with_the_twin(name: str) -> None:
    inputs = scene(name)
    got = shifted(silhouettes, *(tensor.cuda() for tensor in inputs))
    for g, w in zip(got, shifted(silhouettes_reference, *inputs), strict=True):
        torch.testing.assert_close(g.cpu(), w, rtol=1e-9, atol=1e-9)
