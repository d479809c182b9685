"""Splatting: closed forms, the torch twin, gradients in opaque scenes, and what is not drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threedgen.ops import backend, splat
from threedgen.ops.splat import (
    LEAST_ALPHA,
    LEAST_TRANSMITTANCE,
    MOST_ALPHA,
    _backward_reference,
    box_extent,
    splat_bins_reference,
    splat_reference,
)

needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")
HEIGHT, WIDTH = 21, 37

SCENES = {
    # Gaussians, standard deviation in pixels, opacities
    "sparse": (12, 1.5, (0.1, 0.9)),
    "dense": (300, 2.0, (0.05, 0.9)),
    "opaque": (200, 6.0, (0.9, 1.0)),
    "faint": (60, 4.0, (0.0, 0.01)),
    "points": (100, 0.05, (0.2, 1.0)),
    "larger than the image": (6, 60.0, (0.1, 0.9)),
    "one": (1, 3.0, (0.7, 0.7)),
    "none": (0, 1.0, (0.5, 0.5)),
}


def scene(name: str, dtype: torch.dtype = torch.float64, views: int = 2, channels: int = 4) -> list[Tensor]:
    """mean, conic, opacity, features (with gradient) and depth of a random scene, a little of it beside the image."""
    count, deviation, (low, high) = SCENES[name]
    rng = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(views, count, *shape, generator=rng, dtype=torch.float64)

    mean = uniform(2) * torch.tensor([WIDTH + 8, HEIGHT + 8]) - 4
    axes = torch.randn(views, count, 2, 2, generator=rng, dtype=torch.float64) * deviation * 0.7
    precision = torch.linalg.inv(axes @ axes.mT + (0.1 * deviation) ** 2 * torch.eye(2))
    conic = torch.stack([precision[..., 0, 0], precision[..., 0, 1], precision[..., 1, 1]], -1)
    values = [mean, conic, low + (high - low) * uniform(), uniform(channels)]
    return [value.to(dtype).requires_grad_() for value in values] + [uniform().to(dtype) + 1]


def one(
    mean: tuple[float, float] = (4.5, 4.5), precision: float = 0.5, opacity: float = 0.8, features: tuple[float, ...] = (1.0,)
) -> list[Tensor]:
    """A round Gaussian for an image of 9 x 9 pixels."""
    values = [[mean], [(precision, 0.0, precision)], [opacity], [features], [1.0]]
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def together(*gaussians: list[Tensor]) -> list[Tensor]:
    return [torch.cat(values, 1) for values in zip(*gaussians, strict=True)]


def twin(
    mean: Tensor, conic: Tensor, opacity: Tensor, features: Tensor, depth: Tensor, height: int, width: int, tile: int = 16
) -> tuple[Tensor, Tensor]:
    extent = box_extent(conic.detach(), opacity.detach())
    entries, offsets = splat_bins_reference(mean.detach(), extent, depth, height, width, tile)
    return splat_reference(mean, conic, opacity, features, extent, entries, offsets, height, width, tile)[:2]


def with_gradients(function, values: list[Tensor], height: int = HEIGHT, width: int = WIDTH) -> tuple[Tensor, ...]:
    """Outputs, and gradients of a random function of them."""
    outputs = function(*values, height, width)
    rng = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype) for out in outputs]
    return *outputs, *torch.autograd.grad(outputs, values[:4], cotangents)


@needs_kernel
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 33])
@pytest.mark.parametrize("name", SCENES)
def test_kernel_equals_twin(name: str, channels: int) -> None:
    values = scene(name, channels=channels)
    for got, want in zip(with_gradients(splat, values), with_gradients(twin, values), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", SCENES)
def test_the_gradient_of_the_twin_is_that_of_autograd(name: str) -> None:
    mean, conic, opacity, features, depth = scene(name)
    extent, size = box_extent(conic.detach(), opacity.detach()), (HEIGHT, WIDTH, 16)
    bins = splat_bins_reference(mean.detach(), extent, depth, *size)
    out, transmittance, last = splat_reference(mean, conic, opacity, features, extent, *bins, *size)
    rng = torch.Generator().manual_seed(5)
    cotangents = [torch.randn(value.shape, generator=rng, dtype=torch.float64) for value in (out, transmittance)]
    values = (mean, conic, opacity, features)
    wanted = torch.autograd.grad((out, transmittance), values, cotangents)
    arguments = (*cotangents, *(value.detach() for value in values), extent, *bins, transmittance.detach(), last, *size)
    torch.testing.assert_close(_backward_reference(*arguments), wanted, rtol=1e-9, atol=1e-11)


@needs_kernel
@pytest.mark.parametrize("name", SCENES)
def test_float32_keeps_its_digits(name: str) -> None:
    """Against float64; where a value lies on a cut-off (1/255, 1e-4) the two may decide differently, which is rare."""
    single = scene(name, torch.float32)
    double = [value.detach().double().requires_grad_() for value in single]
    for got, want in zip(with_gradients(splat, single), with_gradients(splat, double), strict=True):
        wrong = (got.double() - want).abs() > 1e-5 * want.abs() + 2e-5 * (want.abs().max() if want.numel() else 1)
        assert wrong.double().mean().nan_to_num() <= 2e-3


@pytest.mark.parametrize("tile", [8, 16])
@pytest.mark.parametrize("name", ["dense", "opaque", "points", "none"])
def test_bins_of_kernel_and_twin_are_equal(name: str, tile: int) -> None:
    mean, conic, opacity, _, depth = (value.detach() for value in scene(name))
    arguments = (mean, box_extent(conic, opacity), depth, HEIGHT, WIDTH, tile)
    for got, want in zip(torch.ops.threedgen.splat_bins(*arguments), splat_bins_reference(*arguments), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["dense", "opaque", "faint", "points", "larger than the image"])
def test_results_do_not_depend_on_tiles(name: str) -> None:
    """Where the box of a Gaussian covers all pixels at which it shows, tiles only say in what portions the image is drawn."""
    mean, conic, opacity, features, depth = (value.detach() for value in scene(name))
    drawn = []
    for tile in (8, 16):
        extent = box_extent(conic, opacity)
        bins = torch.ops.threedgen.splat_bins(mean, extent, depth, HEIGHT, WIDTH, tile)
        drawn.append(torch.ops.threedgen.splat(mean, conic, opacity, features, extent, *bins, HEIGHT, WIDTH, tile))
    torch.testing.assert_close(drawn[0][:2], drawn[1][:2], rtol=1e-12, atol=1e-14)


# Closed forms


def test_alpha_falls_off_as_a_gaussian_and_ends_at_the_least() -> None:
    out, transmittance = splat(*one(), 9, 9)
    centre = torch.arange(9, dtype=torch.float64) + 0.5
    squared = (centre - 4.5).square()[:, None] + (centre - 4.5).square()
    alpha = 0.8 * torch.exp(-0.25 * squared)
    alpha = torch.where(alpha >= LEAST_ALPHA, alpha, 0)
    assert 0 < int((alpha == 0).sum()) < 81
    torch.testing.assert_close(out[0, :, :, 0], alpha)
    torch.testing.assert_close(transmittance[0], 1 - alpha)


def test_rows_go_down_and_columns_to_the_right() -> None:
    out, _ = splat(*one(mean=(6.5, 2.5)), 9, 11)
    assert divmod(int(out.argmax()), 11) == (2, 6)


def test_no_gaussian_is_fully_opaque() -> None:
    out, transmittance = splat(*one(opacity=1.0), 9, 9)
    assert out[0, 4, 4, 0] == pytest.approx(MOST_ALPHA)
    assert transmittance[0, 4, 4] == pytest.approx(1 - MOST_ALPHA)


@pytest.mark.parametrize("near", [0, 1])
def test_the_nearer_gaussian_is_in_front(near: int) -> None:
    values = together(one(opacity=0.75, features=(1.0, 0.0)), one(opacity=0.5, features=(0.0, 1.0)))
    values[4] = torch.tensor([[1.0, 2.0] if near == 0 else [2.0, 1.0]], dtype=torch.float64)
    out, transmittance = splat(*values, 9, 9)
    want = [0.75, 0.25 * 0.5] if near == 0 else [0.5 * 0.75, 0.5]
    torch.testing.assert_close(out[0, 4, 4], torch.tensor(want, dtype=torch.float64))
    assert transmittance[0, 4, 4] == pytest.approx(0.125)


def test_of_equal_depths_the_lower_index_is_in_front() -> None:
    out, _ = splat(*together(*(one(opacity=0.5, features=tuple(row)) for row in torch.eye(3).tolist())), 9, 9)
    torch.testing.assert_close(out[0, 4, 4], torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64))


def test_a_pixel_ends_before_it_is_dark() -> None:
    """Of ten Gaussians of alpha 0.9, three show: the fourth would bring the transmittance to the least one."""
    values = together(*(one(opacity=0.9) for _ in range(10)))
    out, transmittance = splat(*values, 9, 9)
    shown = math.floor(-math.log10(LEAST_TRANSMITTANCE) - 1e-9)
    assert shown == 3
    assert transmittance[0, 4, 4] == pytest.approx(0.1**shown)
    assert out[0, 4, 4, 0] == pytest.approx(1 - 0.1**shown)


def test_the_order_of_the_input_does_not_matter() -> None:
    values = scene("dense")
    order = torch.randperm(SCENES["dense"][0], generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(splat(*values, HEIGHT, WIDTH), splat(*(value[:, order] for value in values), HEIGHT, WIDTH))


def test_light_is_shared_out() -> None:
    values = scene("dense", channels=1)
    values[3] = torch.ones_like(values[3])
    out, transmittance = splat(*values, HEIGHT, WIDTH)
    torch.testing.assert_close(out[..., 0] + transmittance, torch.ones_like(transmittance))


def test_views_are_drawn_as_they_are_alone() -> None:
    values = scene("dense")
    both = splat(*values, HEIGHT, WIDTH)
    for view in (0, 1):
        alone = splat(*(value[view : view + 1] for value in values), HEIGHT, WIDTH)
        assert all(torch.equal(a[view : view + 1], b) for a, b in zip(both, alone, strict=True))


def test_the_box_is_that_of_the_ellipse() -> None:
    """Along an axis of the ellipse the box ends where alpha is 1/255, but for its margin."""
    conic, opacity = torch.tensor([1 / 9, 0.0, 1 / 4], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    reach = torch.tensor([3.0, 2.0], dtype=torch.float64) * math.sqrt(2 * math.log(0.5 * 255))
    torch.testing.assert_close(box_extent(conic, opacity), reach + 0.01)


# Gradients


@pytest.mark.parametrize("function", [splat, twin])
def test_gradcheck(function) -> None:
    """On Gaussians so wide and strong that no pixel is near a cut-off."""
    rng = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(2, 3, *shape, generator=rng, dtype=torch.float64)

    conic = torch.stack([0.02 + 0.02 * uniform(), 0.01 * uniform(), 0.02 + 0.02 * uniform()], -1)
    values = [1 + 3 * uniform(2), conic, 0.3 + 0.5 * uniform(), uniform(2)]
    depth = uniform() + 1
    assert torch.autograd.gradcheck(lambda *v: function(*v, depth, 5, 4), [value.requires_grad_() for value in values])


def test_gradients_behind_opaque_layers_keep_their_digits() -> None:
    """Each of twelve layers, alpha .5, sees its colour's weight 2^-i and the exact gradient of its opacity, in float32."""
    layers = together(*(one(mean=(0.5, 0.5), opacity=0.5, features=(float(i % 2),)) for i in range(12)))
    values = [value.float().requires_grad_() for value in layers[:4]]
    out, transmittance = splat(*values, torch.arange(1.0, 13.0)[None], 1, 1)
    grads = torch.autograd.grad(out.sum() + transmittance.sum(), values)
    weights = 0.5 ** torch.arange(1.0, 13.0)
    torch.testing.assert_close(grads[3][0, :, 0], weights, rtol=1e-4, atol=0)
    light = torch.cat([weights * torch.tensor([float(i % 2) for i in range(12)]), 0.5 ** torch.tensor([12.0])])
    behind = light.flip(0).cumsum(0).flip(0)[1:]
    want = 2 * weights * torch.tensor([float(i % 2) for i in range(12)]) - 2 * behind
    torch.testing.assert_close(grads[2][0], want, rtol=2e-4, atol=1e-7)


def test_depth_has_no_gradient_and_a_second_derivative_is_refused() -> None:
    values = scene("sparse")
    depth = values[4].requires_grad_()
    out, _ = splat(*values[:4], depth, HEIGHT, WIDTH)
    (first,) = torch.autograd.grad(out.square().sum(), values[0], create_graph=True, allow_unused=True)
    assert torch.autograd.grad(out.sum(), depth, allow_unused=True) == (None,)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(first.sum(), values[0])


# What is not drawn


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, float("nan")),
        (0, float("inf")),
        (0, 1e30),
        (1, float("nan")),
        (1, 0.0),
        (1, -1.0),
        (2, 0.0),
        (2, LEAST_ALPHA / 2),
        (2, float("nan")),
        (4, 0.0),
        (4, -1.0),
        (4, float("nan")),
        (4, float("inf")),
    ],
)
def test_degenerate_gaussians_are_not_drawn(index: int, value: float) -> None:
    bad = one()
    bad[index] = torch.full_like(bad[index], value)
    values = [v.requires_grad_() for v in together(bad, one(opacity=0.5))]
    out, transmittance = splat(*values, 9, 9)
    torch.testing.assert_close((out, transmittance), splat(*one(opacity=0.5), 9, 9))
    for gradient in torch.autograd.grad(out.sum(), values[:4]):
        assert (gradient[0, 0] == 0).all()
        assert gradient[0, 1].isfinite().all()


@pytest.mark.parametrize("views", [0, 2])
def test_without_gaussians_images_are_clear(views: int) -> None:
    empty = [torch.zeros(views, 0, *shape) for shape in ((2,), (3,), (), (4,), ())]
    out, transmittance = splat(*empty, 5, 7)
    assert out.shape == (views, 5, 7, 4)
    assert (out == 0).all()
    assert (transmittance == 1).all()


# The operators as torch sees them


def test_opcheck() -> None:
    mean, conic, opacity, features, depth = scene("sparse")
    extent = box_extent(conic.detach(), opacity.detach())
    size = (HEIGHT, WIDTH, 16)
    torch.library.opcheck(torch.ops.threedgen.splat_bins.default, (mean.detach(), extent, depth, *size))
    bins = torch.ops.threedgen.splat_bins(mean.detach(), extent, depth, *size)
    torch.library.opcheck(torch.ops.threedgen.splat.default, (mean, conic, opacity, features, extent, *bins, *size))
    values = [value.detach() for value in (mean, conic, opacity, features)]
    out, transmittance, last = torch.ops.threedgen.splat(*values, extent, *bins, *size)
    arguments = (torch.ones_like(out), torch.ones_like(transmittance), *values, extent, *bins, transmittance, last, *size)
    torch.library.opcheck(torch.ops.threedgen.splat_backward.default, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": torch.rand(2, 12, 3)}, "mean must have shape"),
        ({"conic": torch.rand(2, 11, 3)}, "conic must have shape"),
        ({"opacity": torch.rand(2, 12, 1)}, "opacity must have shape"),
        ({"features": torch.rand(2, 12)}, "features must have shape"),
        ({"depth": torch.rand(1, 12)}, "depth must have shape"),
        ({"features": torch.rand(2, 12, 3).double()}, "one dtype is needed"),
        ({"depth": torch.zeros(2, 12, device="meta")}, "one device is needed"),
        ({"height": 0}, "at least one pixel"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    names = ("mean", "conic", "opacity", "features", "depth")
    arguments = dict(zip(names, scene("sparse", torch.float32), strict=True)) | {"height": HEIGHT, "width": WIDTH} | change
    with pytest.raises(ValueError, match=message):
        splat(**arguments)


@needs_kernel
@pytest.mark.parametrize(
    ("entries", "offsets", "message"),
    [
        ([0, 24], [0, 1, 2], "name Gaussians"),
        ([0, -1], [0, 1, 2], "name Gaussians"),
        ([0, 1], [0, 2, 1], "not decrease"),
        ([0], [0, 1], "one entry more"),
    ],
)
def test_kernel_refuses_lists_outside_the_scene(entries: list[int], offsets: list[int], message: str) -> None:
    mean, conic, opacity, features, _ = (value.detach() for value in scene("sparse"))
    lists = (torch.tensor(entries, dtype=torch.int32), torch.tensor(offsets))
    with pytest.raises(ValueError, match=message):
        torch.ops.threedgen.splat(mean, conic, opacity, features, box_extent(conic, opacity), *lists, 9, 9, 16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCENES)
def test_cuda_lists_the_tiles_as_the_twin_does(name: str, dtype: torch.dtype) -> None:
    mean, conic, opacity, _, depth = (value.detach() for value in scene(name, dtype))
    depth = (depth * 8).round() / 8  # many equal ones
    arguments = (mean, box_extent(conic, opacity), depth)
    got = torch.ops.threedgen.splat_bins(*(value.cuda() for value in arguments), HEIGHT, WIDTH, 16)
    for g, w in zip(got, splat_bins_reference(*arguments, HEIGHT, WIDTH, 16), strict=True):
        assert torch.equal(g.cpu(), w)
