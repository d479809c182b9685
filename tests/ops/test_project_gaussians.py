"""Projection of Gaussians: the kernels against the twin, gradients, what is degenerate. Closed forms stand with the cameras' tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.ops import backend, project_gaussians
from threedgen.ops.project_gaussians import project_gaussians_reference

needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")
CAMERAS = orbit_cameras([0.0, 130.0, 250.0], elevation=25.0, distance=2.6, fovy=40.0, height=48, width=64)

SCENES = {
    # Gaussians, half side of the cube that holds them, standard deviation; the largest cube reaches behind the cameras
    "in view": (40, 0.8, 0.1),
    "all around": (1500, 6.0, 0.1),
    "points": (40, 0.8, 1e-7),
    "huge": (40, 0.8, 30.0),
    "one": (1, 0.1, 0.1),
    "none": (0, 1.0, 0.1),
}


def scene(name: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """means and axes (with gradient), and the cameras' turn, eye and focal."""
    count, side, deviation = SCENES[name]
    rng = torch.Generator().manual_seed(1)
    means = (2 * torch.rand(count, 3, generator=rng, dtype=torch.float64) - 1) * side
    axes = torch.randn(count, 3, 3, generator=rng, dtype=torch.float64) * deviation
    values = [value.to(dtype).requires_grad_() for value in (means, axes)]
    return values + [value.to(dtype) for value in (CAMERAS.image_axes(), CAMERAS.positions, CAMERAS.focal)]


def with_gradients(function, values: list[Tensor]) -> tuple[Tensor, ...]:
    """Outputs, and gradients of a random function of them."""
    outputs = function(*values, 48, 64)
    rng = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out) for out in outputs]
    return *outputs, *torch.autograd.grad(outputs, values[:2], cotangents)


@needs_kernel
@pytest.mark.parametrize("name", SCENES)
def test_kernel_equals_twin(name: str) -> None:
    for got, want in zip(*(with_gradients(f, scene(name)) for f in (project_gaussians, project_gaussians_reference)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_some_are_behind_and_some_beside_the_cameras() -> None:
    """The scene that is to hold all cases holds them."""
    mean, _, depth, _ = project_gaussians(*scene("all around"), 48, 64)
    shown = depth > 0
    assert 0.2 < shown.double().mean() < 0.9
    assert (mean[shown].abs() > 200).any()


@needs_kernel
@pytest.mark.parametrize("name", ["in view", "all around"])
def test_float32_keeps_its_digits(name: str) -> None:
    single = scene(name, torch.float32)
    double = [value.detach().double() for value in single]
    for value in double[:2]:
        value.requires_grad_()
    for got, want in zip(with_gradients(project_gaussians, single), with_gradients(project_gaussians, double), strict=True):
        wrong = (got.double() - want).abs() > 1e-3 * want.abs() + 1e-5 * want.abs().max()
        assert wrong.double().mean() <= 2e-3


@pytest.mark.parametrize("function", [project_gaussians, project_gaussians_reference])
def test_gradcheck(function) -> None:
    means, axes, *cameras = scene("in view")
    few = [means[:4].detach().requires_grad_(), axes[:4].detach().requires_grad_()]
    assert torch.autograd.gradcheck(lambda *values: function(*values, *cameras, 48, 64), few)


def test_a_flat_gaussian_seen_edge_on_has_finite_gradients() -> None:
    means, _, *cameras = scene("one")
    flat = torch.diag(torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64))[None].requires_grad_()
    results = with_gradients(project_gaussians, [means, flat, *cameras])
    assert all(value.isfinite().all() for value in results)


def test_of_two_views_the_gradient_is_the_sum() -> None:
    means, axes, *cameras = scene("in view")
    outputs = project_gaussians(means, axes, *cameras, 48, 64)
    both = torch.autograd.grad(sum(out.square().sum() for out in outputs), (means, axes))
    parts = []
    for view in range(3):
        outputs = project_gaussians(means, axes, *(value[view : view + 1] for value in cameras), 48, 64)
        parts.append(torch.autograd.grad(sum(out.square().sum() for out in outputs), (means, axes)))
    for total, part in zip(both, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(total, torch.stack(part).sum(0), rtol=1e-10, atol=1e-10)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(with_gradients(project_gaussians, scene("all around", torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_second_derivative_is_refused() -> None:
    means, axes, *cameras = scene("in view")
    mean = project_gaussians(means, axes, *cameras, 48, 64)[0]
    (first,) = torch.autograd.grad(mean.square().sum(), means, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(first.sum(), means)


def test_opcheck() -> None:
    values = scene("in view")
    torch.library.opcheck(torch.ops.threedgen.project_gaussians.default, (*values, 48, 64))
    plain = [value.detach() for value in values]
    grads = [torch.ones_like(out) for out in project_gaussians(*plain, 48, 64)]
    torch.library.opcheck(torch.ops.threedgen.project_gaussians_backward.default, (*grads, *plain, 48, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.rand(40, 2)}, "means must have shape"),
        ({"axes": torch.rand(39, 3, 3)}, "axes must have shape"),
        ({"turn": torch.rand(3, 3)}, "turn must have shape"),
        ({"eye": torch.rand(2, 3)}, "eye must have shape"),
        ({"focal": torch.rand(3, 1)}, "focal must have shape"),
        ({"axes": torch.rand(40, 3, 3).double()}, "one dtype is needed"),
        ({"eye": torch.zeros(3, 3, device="meta")}, "one device is needed"),
        ({"height": 0}, "at least one pixel"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    names = ("means", "axes", "turn", "eye", "focal")
    arguments = dict(zip(names, scene("in view", torch.float32), strict=True)) | {"height": 48, "width": 64} | change
    with pytest.raises(ValueError, match=message):
        project_gaussians(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SCENES)
def test_cuda_agrees_with_the_twin(name: str) -> None:
    values = scene(name)
    got = with_gradients(project_gaussians, [value.detach().cuda().requires_grad_(value.requires_grad) for value in values])
    for g, w in zip(got, with_gradients(project_gaussians_reference, values), strict=True):
        torch.testing.assert_close(g.cpu(), w, rtol=1e-8, atol=1e-9)
