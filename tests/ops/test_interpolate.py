"""Weights and values at the pixels of a mesh: closed forms, the torch twins, gradients to positions and attributes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.ops.scenes import SCENES, scene, tilted
from threedgen.ops import backend, barycentric, interpolate, rasterize
from threedgen.ops.barycentric import barycentric_reference, pixel_centres
from threedgen.ops.interpolate import interpolate_reference

needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")


def attributes_of(clip: Tensor, channels: int = 4) -> Tensor:
    return torch.randn(*clip.shape[:2], channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(clip.dtype)


def chained(weigh, mix, clip: Tensor, faces: Tensor, face: Tensor, attributes: Tensor) -> tuple[Tensor, ...]:
    """Weights, values, and gradients of a random function of the values to positions and attributes."""
    clip, attributes = clip.clone().requires_grad_(), attributes.clone().requires_grad_()
    weights = weigh(clip, faces, face)
    values = mix(attributes, faces, face, weights)
    cotangent = torch.randn(values.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(values.dtype)
    return weights, values, *torch.autograd.grad(values, (clip, attributes), cotangent)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCENES)
def test_kernels_equal_twins(name: str, dtype: torch.dtype) -> None:
    inputs = scene(name, dtype)
    arguments = (*inputs, attributes_of(inputs[0]))
    close = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-3}
    got = chained(barycentric, interpolate, *arguments)
    want = chained(barycentric_reference, interpolate_reference, *arguments)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, **close)


def test_clip_positions_interpolate_to_the_pixel_centre() -> None:
    """sum_k u_k (x,y,w)_k is the homogeneous pixel centre, exactly, since nothing is snapped."""
    clip, faces, face = scene("soup", size=(40, 30))
    position = interpolate(clip, faces, face, barycentric(clip, faces, face))
    centre = pixel_centres(face).expand(2, -1, -1, -1)
    distance = (position[..., :2] / position[..., 3:] - centre)[face >= 0].abs().amax(-1)
    assert (face >= 0).sum() > 800
    assert (distance < 1e-9).double().mean() > 0.97
    assert distance.max() < 0.02  # centres that only the snapped face covers get its border


@pytest.mark.parametrize("name", SCENES)
def test_weights_are_those_of_the_rasterizer_but_for_its_snapping(name: str) -> None:
    clip, faces, face = scene(name, torch.float32, (60, 70))
    weights, snapped = barycentric(clip, faces, face), rasterize(clip, faces, 60, 70)[1]
    covered = face >= 0
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), covered.to(weights.dtype))
    if covered.any():
        assert (weights - snapped)[covered].abs().amax(-1).median() < 2e-3


def test_attributes_move_against_the_slope_when_the_mesh_moves() -> None:
    """Moving all vertices by dx on the screen changes a value by -dx times its slope on the screen: closed form for a flat mesh."""
    clip = torch.tensor([[[-0.9, -0.8, 0.0, 1.0], [0.8, -0.7, 0.0, 1.0], [-0.1, 0.9, 0.0, 1.0]]], dtype=torch.float64).requires_grad_()
    faces = torch.tensor([[0, 1, 2]])
    slope = torch.tensor([[3.0], [-2.0]], dtype=torch.float64)
    attributes = (clip[..., :2] @ slope).detach()
    face = rasterize(clip, faces, 31, 33)[0]
    value = interpolate(attributes, faces, face, barycentric(clip, faces, face))
    (gradient,) = torch.autograd.grad(value.sum(), clip)
    count = int((face >= 0).sum())
    assert count > 200
    torch.testing.assert_close(gradient[..., :2].sum(1), -count * slope.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weigh", [barycentric, barycentric_reference])
def test_gradcheck_of_positions(weigh) -> None:
    clip, faces = tilted()
    face = rasterize(clip, faces, 11, 12)[0]
    assert (face >= 0).sum() > 10
    assert torch.autograd.gradcheck(lambda position: weigh(position, faces, face), clip.requires_grad_())


@pytest.mark.parametrize("mix", [interpolate, interpolate_reference])
def test_gradcheck_of_attributes_and_weights(mix) -> None:
    clip, faces, face = scene("soup", size=(4, 5))
    weights = barycentric(clip, faces, face)
    inputs = (attributes_of(clip, 2).requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, w: mix(a, faces, face, w), inputs)


def test_attributes_of_all_images_sum_their_gradients() -> None:
    clip, faces, face = scene("soup")
    weights = barycentric(clip, faces, face)
    shared = attributes_of(clip)[0].requires_grad_()
    values = interpolate(shared, faces, face, weights)
    each = shared.detach().repeat(2, 1, 1).requires_grad_()
    torch.testing.assert_close(values, interpolate(each, faces, face, weights))
    (got,) = torch.autograd.grad(values.square().sum(), shared)
    (want,) = torch.autograd.grad(interpolate(each, faces, face, weights).square().sum(), each)
    torch.testing.assert_close(got, want.sum(0))


def test_a_face_seen_edge_on_gives_finite_weights_and_no_gradient() -> None:
    clip = torch.tensor([[[-0.5, 0.0, 0.0, 1.0], [0.5, 0.0, 0.0, 1.0], [0.1, 0.0, 0.0, 1.0]]]).requires_grad_()
    face = torch.zeros(1, 3, 3, dtype=torch.int64)
    weights = barycentric(clip, torch.tensor([[0, 1, 2]]), face)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3, 3))
    assert torch.equal(torch.autograd.grad(weights[..., 0].sum(), clip)[0], torch.zeros_like(clip))


@needs_kernel
def test_results_do_not_depend_on_the_number_of_threads() -> None:
    clip, faces, face = scene("soup", torch.float32, (90, 110))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(chained(barycentric, interpolate, clip, faces, face, attributes_of(clip)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_opcheck() -> None:
    clip, faces, face = scene("tilted", size=(6, 7))
    clip.requires_grad_()
    weights = barycentric(clip, faces, face).detach().requires_grad_()
    attributes = attributes_of(clip).requires_grad_()
    values = torch.ones(1, 6, 7, 4, dtype=clip.dtype)
    # without what traces the twins: the number of covered pixels is a size that a traced program cannot know
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    operators = torch.ops.threedgen
    torch.library.opcheck(operators.barycentric.default, (clip, faces, face), test_utils=utilities)
    torch.library.opcheck(operators.interpolate.default, (attributes, faces, face, weights), test_utils=utilities)
    detached = (attributes.detach(), faces, face, weights.detach())
    torch.library.opcheck(operators.barycentric_backward.default, (weights.detach(), clip.detach(), faces, face), test_utils=utilities)
    torch.library.opcheck(operators.interpolate_backward.default, (values, *detached), test_utils=utilities)


def test_meta_tensors_give_shapes() -> None:
    clip, faces, face = (tensor.to("meta") for tensor in scene("soup"))
    weights = barycentric(clip, faces, face)
    assert weights.shape == (2, 19, 23, 3)
    assert interpolate(clip[0], faces, face, weights).shape == (2, 19, 23, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": torch.zeros(1, 3, 3)}, "clip must have shape"),
        ({"clip": torch.zeros(1, 3, 4, dtype=torch.int64)}, "clip must be float32 or float64"),
        ({"faces": torch.tensor([[0, 1, 3]])}, "faces name vertices outside"),
        ({"face": torch.full((1, 2, 2), 1)}, "face names faces outside -1..0"),
        ({"face": torch.zeros(2, 2, 2, dtype=torch.int64)}, "face must have shape"),
        ({"face": torch.zeros(1, 2, 2, dtype=torch.int32)}, "face must be int64"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    arguments = {"clip": torch.zeros(1, 3, 4), "faces": torch.tensor([[0, 1, 2]]), "face": torch.zeros(1, 2, 2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        barycentric(**{**arguments, **change})


def test_misfits_of_interpolation_are_named() -> None:
    faces, face = torch.tensor([[0, 1, 2]]), torch.zeros(1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="weights must have shape"):
        interpolate(torch.zeros(3, 2), faces, face, torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="one dtype is needed"):
        interpolate(torch.zeros(3, 2), faces, face, torch.zeros(1, 2, 2, 3, dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SCENES)
def test_cuda_agrees_with_the_twins(name: str) -> None:
    inputs = scene(name)
    arguments = (*inputs, attributes_of(inputs[0]))
    got = chained(barycentric, interpolate, *(tensor.cuda() for tensor in arguments))
    for g, w in zip(got, chained(barycentric_reference, interpolate_reference, *arguments), strict=True):
        torch.testing.assert_close(g.cpu(), w, rtol=1e-9, atol=1e-9)
