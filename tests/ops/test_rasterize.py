"""Rasterization: ownership of edges, nearest face, perspective, hostile input, agreement of the backends."""

import math

import pytest
import torch
from torch import Tensor

from threedgen import ops
from threedgen.ops.rasterize import rasterize, rasterize_reference


def flat(points: Tensor, depth: float = 0.0) -> Tensor:
    """[N,2] in [-1,1] as clip positions [1,N,4] at one depth."""
    return torch.cat([points, points.new_tensor([depth, 1.0]).expand(len(points), 2)], -1)[None]


def random_scene(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(2, 60, 4, generator=generator, dtype=dtype)
    clip[..., 3] = 1.5 * clip[..., 3].abs() + 0.2
    return clip, torch.randint(0, 60, (80, 3), generator=generator)


def hits(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[H,W] how many faces cover each pixel, each drawn alone."""
    return sum((rasterize(clip, face[None], height, width)[0][0] >= 0).long() for face in faces)


@pytest.mark.parametrize("seed", range(8))
def test_a_fan_covers_every_pixel_exactly_once(seed: int):
    """Triangles around a point, in both windings, that together tile the whole image: no hole, no double hit."""
    generator = torch.Generator().manual_seed(seed)
    count = 5 + seed
    angle = torch.arange(count) * (2 * math.pi / count) + torch.rand(1, generator=generator)
    rim = 3 * torch.stack([angle.cos(), angle.sin()], -1)
    centre = torch.rand(1, 2, generator=generator) - 0.5
    around = torch.arange(count)
    faces = torch.stack([torch.full_like(around, count), around, (around + 1) % count], -1)
    faces[::2] = faces[::2].flip(-1)
    assert torch.equal(hits(flat(torch.cat([rim, centre])), faces, 24, 31), torch.ones(24, 31, dtype=torch.long))


def test_edges_through_pixel_centres_have_one_owner():
    """A lattice whose vertices, edges and diagonals pass exactly through pixel centres."""
    side = 5
    axis = (torch.arange(side) * 4 + 0.5) / 8 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    n = torch.arange(side * side).view(side, side)
    a, b, c, d = n[:-1, :-1].flatten(), n[:-1, 1:].flatten(), n[1:, :-1].flatten(), n[1:, 1:].flatten()
    faces = torch.cat([torch.stack([a, c, b], -1), torch.stack([b, d, c], -1)])
    count = hits(flat(torch.stack([x.flatten(), y.flatten()], -1)), faces, 16, 16)
    assert torch.equal(count, torch.ones(16, 16, dtype=torch.long))


def test_rows_count_from_the_top_and_columns_from_the_left():
    face, _ = rasterize(flat(torch.tensor([[-1.0, 1.0], [-0.4, 1.0], [-1.0, 0.4]])), torch.tensor([[0, 1, 2]]), 8, 8)
    assert face[0, 0, 0] == 0
    assert (face >= 0).sum() == 3


def test_area_of_a_disk():
    angle = torch.arange(256) * (2 * math.pi / 256)
    points = torch.cat([0.7 * torch.stack([angle.cos(), angle.sin()], -1), torch.zeros(1, 2)])
    around = torch.arange(256)
    faces = torch.stack([torch.full_like(around, 256), around, (around + 1) % 256], -1)
    face, _ = rasterize(flat(points), faces, 200, 200)
    assert float((face >= 0).sum()) == pytest.approx(math.pi * 70**2, rel=2e-3)


def test_nearest_wins_and_ties_go_to_the_lowest_face():
    corners = torch.tensor([[-1.0, -1.0], [3.0, -1.0], [-1.0, 3.0]])
    clip = torch.cat([flat(corners, 0.5), flat(corners, -0.5), flat(corners, -0.5)], 1)
    far, near, same = torch.arange(9).view(3, 3)
    assert (rasterize(clip, torch.stack([far, near, same]), 4, 4)[0] == 1).all()
    assert (rasterize(clip, torch.stack([same.roll(1), near, far]), 4, 4)[0] == 0).all()


def test_barycentrics_are_perspective_correct():
    """Interpolated world positions lie on the pixel's ray."""
    world = torch.tensor([[-1.0, -1.0, -2.0], [1.5, -1.0, -6.0], [-0.5, 1.0, -3.0]], dtype=torch.float64)
    clip = torch.stack([world[:, 0], world[:, 1], -world[:, 2] - 0.2, -world[:, 2]], -1)[None]
    size = 64
    face, weight = rasterize(clip, torch.tensor([[0, 1, 2]]), size, size)
    row, column = torch.nonzero(face[0] >= 0, as_tuple=True)
    assert len(row) > 200
    point = weight[0, row, column] @ world
    on_screen = point[:, :2] / -point[:, 2:]
    expected = torch.stack([(2 * column + 1) / size - 1, 1 - (2 * row + 1) / size], -1)
    snap = 1 / 256 / size * 2
    assert (on_screen - expected).abs().max() < snap
    assert torch.allclose(weight[0, row, column].sum(-1), torch.ones(len(row), dtype=torch.float64))


def test_faces_behind_the_eye_are_skipped_and_depths_outside_the_range_are_cut():
    clip = flat(torch.tensor([[-1.0, -1.0], [3.0, -1.0], [-1.0, 3.0]]))
    behind = clip.clone()
    behind[0, 0, 3] = -1.0
    assert (rasterize(behind, torch.tensor([[0, 1, 2]]), 8, 8)[0] == -1).all()
    slanted = clip.clone()
    slanted[0, :, 2] = torch.tensor([0.0, 4.0, 0.0])  # depth is x + 1: beyond 1 in the right half
    face, _ = rasterize(slanted, torch.tensor([[0, 1, 2]]), 8, 8)
    assert (face[0, :, :4] == 0).all()
    assert (face[0, :, 4:] == -1).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e30])
def test_vertices_that_cannot_be_drawn_leave_the_others_alone(poison: float):
    clip = flat(torch.tensor([[-1.0, -1.0], [3.0, -1.0], [-1.0, 3.0], [0.0, 0.0]]))
    clip[0, 3, 0] = poison
    face, weight = rasterize(clip, torch.tensor([[0, 1, 3], [0, 1, 2], [1, 1, 2]]), 6, 6)
    assert (face == 1).all()
    assert torch.isfinite(weight).all()


def test_nothing_to_draw():
    face, weight = rasterize(torch.zeros(2, 0, 4), torch.zeros(0, 3, dtype=torch.int64), 3, 5)
    assert face.shape == (2, 3, 5)
    assert (face == -1).all()
    assert weight.shape == (2, 3, 5, 3)
    assert not weight.any()


@pytest.mark.parametrize(
    ("clip", "faces", "message"),
    [
        (torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.int64), "clip must have shape"),
        (torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.int32), "faces must be int64"),
        (torch.zeros(1, 3, 4), torch.tensor([[0, 1, 3]]), "outside"),
        (torch.zeros(1, 3, 4), torch.tensor([[0, 1, -1]]), "outside"),
    ],
)
def test_bad_arguments(clip: Tensor, faces: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        rasterize(clip, faces, 4, 4)


@pytest.mark.skipif(ops.backend() == "reference", reason="the operators are not compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_agrees_with_the_reference(seed: int, dtype: torch.dtype):
    clip, faces = random_scene(seed, dtype)
    clip[0, 0, 0], clip[1, 1, 3] = math.nan, 0.0
    face, weight = rasterize(clip, faces, 37, 53)
    expected_face, expected_weight = rasterize_reference(clip, faces, 37, 53)
    assert torch.equal(face, expected_face)
    assert torch.allclose(weight, expected_weight, rtol=0, atol=1e-6)


def test_results_do_not_depend_on_the_number_of_threads():
    clip, faces = random_scene(5)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(rasterize(clip, faces, 67, 41))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_schema_and_fake_kernel():
    clip, faces = random_scene(1)
    torch.library.opcheck(torch.ops.threedgen.rasterize.default, (clip, faces, 6, 9))
    face, weight = torch.ops.threedgen.rasterize(clip.to("meta"), faces.to("meta"), 6, 9)
    assert (face.shape, face.dtype) == ((2, 6, 9), torch.int64)
    assert (weight.shape, weight.dtype) == ((2, 6, 9, 3), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_reference():
    clip, faces = random_scene(2)
    face, weight = rasterize(clip.cuda(), faces.cuda(), 37, 53)
    expected_face, expected_weight = rasterize_reference(clip, faces, 37, 53)
    assert torch.equal(face.cpu(), expected_face)
    assert torch.allclose(weight.cpu(), expected_weight, rtol=0, atol=1e-6)
