"""Compositing: closed forms, the torch twin, and gradients behind opaque samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threedgen.ops import backend, composite
from threedgen.ops.composite import composite_reference

STEP = 0.05
needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")

SCENES = {
    # counts of samples per ray, largest density
    "sparse": ([5, 0, 1, 17, 3], 2.0),
    "opaque": ([40, 25, 60], 2 * 8 * math.log(10) / (25 * STEP)),  # about 1e-8 and less behind the shortest ray
    "one sample": ([1], 10.0),
    "many rays": ([(7 * r) % 13 for r in range(515)], 20.0),
    "empty rays": ([0, 0, 0], 1.0),
    "no rays": ([], 1.0),
}


def scene(name: str, dtype: torch.dtype = torch.float64, channels: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    counts, density = SCENES[name]
    rng = torch.Generator().manual_seed(1)
    samples = sum(counts)
    sigma = (torch.rand(samples, generator=rng, dtype=dtype) * density).requires_grad_()
    features = torch.rand(samples, channels, generator=rng, dtype=dtype).requires_grad_()
    return sigma, features, torch.tensor([0, *counts]).cumsum(0)


def with_gradients(function, sigma: Tensor, features: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
    """Outputs, and gradients of a random function of all outputs."""
    outputs = function(sigma, features, offsets, STEP)
    rng = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(out.shape, generator=rng, dtype=torch.float64).to(out.dtype) for out in outputs]
    return *outputs, *torch.autograd.grad(outputs, (sigma, features), cotangents)


@needs_kernel
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
@pytest.mark.parametrize("name", SCENES)
def test_kernel_equals_twin(name: str, channels: int) -> None:
    inputs = scene(name, channels=channels)
    for got, want in zip(with_gradients(composite, *inputs), with_gradients(composite_reference, *inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_opaque_gradients_keep_their_digits_in_float32() -> None:
    """Relative to float64, also for the gradient of a ray's transmittance of 1e-8, which 1 - sum(weights) would lose entirely."""
    sigma, features, offsets = scene("opaque", torch.float32)
    sigma64, features64 = sigma.detach().double().requires_grad_(), features.detach().double().requires_grad_()
    transmittance, wanted = composite(sigma, features, offsets, STEP)[1], composite(sigma64, features64, offsets, STEP)[1]
    assert wanted.min() < 1e-8
    torch.testing.assert_close(transmittance.double(), wanted, rtol=1e-4, atol=0)
    got = torch.autograd.grad(transmittance.log().sum(), sigma)[0].double()
    torch.testing.assert_close(got, torch.full_like(got, -STEP), rtol=1e-4, atol=0)
    single, double = with_gradients(composite, sigma, features, offsets), with_gradients(composite, sigma64, features64, offsets)
    for got, want in zip(single, double, strict=True):
        assert (got.double() - want).norm() <= 2e-6 * want.norm()


@pytest.mark.parametrize("density", [0.0, 1e-6, 0.3, 5.0, 400.0])
def test_constant_density_absorbs_exponentially(density: float) -> None:
    """Opacity of a homogeneous slab of length L is 1 - exp(-sigma L), however it is cut into samples."""
    count = 40
    sigma = torch.full((count,), density, dtype=torch.float64).requires_grad_()
    out, transmittance, weights = composite(sigma, torch.ones(count, 1, dtype=torch.float64), torch.tensor([0, count]), STEP)
    length = count * STEP
    opacity = torch.tensor(-math.expm1(-density * length), dtype=torch.float64)
    torch.testing.assert_close(out[0, 0], opacity)
    torch.testing.assert_close(weights.sum(), opacity)
    torch.testing.assert_close(transmittance[0], torch.tensor(math.exp(-density * length), dtype=torch.float64))
    (gradient,) = torch.autograd.grad(out.sum(), sigma)
    torch.testing.assert_close(gradient, torch.full_like(gradient, STEP * math.exp(-density * length)), rtol=1e-9, atol=1e-15)


def test_weights_and_transmittance_share_out_the_light() -> None:
    sigma, features, offsets = scene("many rays")
    out, transmittance, weights = composite(sigma, torch.ones_like(features), offsets, STEP)
    torch.testing.assert_close(out[:, 0] + transmittance, torch.ones_like(transmittance))
    assert (weights >= 0).all()


def test_empty_rays_are_clear() -> None:
    sigma, features, offsets = scene("empty rays")
    out, transmittance, weights = composite(sigma, features, offsets, STEP)
    assert (out == 0).all()
    assert (transmittance == 1).all()
    assert weights.shape == (0,)


def test_an_infinite_density_hides_what_is_behind() -> None:
    sigma = torch.tensor([1.0, float("inf"), 3.0]).requires_grad_()
    out, transmittance, weights = composite(sigma, torch.eye(3), torch.tensor([0, 3]), STEP)
    assert weights[2] == 0
    assert transmittance[0] == 0
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    assert torch.autograd.grad(out.sum(), sigma)[0].isfinite().all()


def test_nan_stays_in_its_ray() -> None:
    sigma = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    out, _, _ = composite(sigma, torch.ones(4, 1), torch.tensor([0, 2, 4]), STEP)
    assert out[0].isnan()
    assert out[1].isfinite()


@pytest.mark.parametrize("function", [composite, composite_reference])
def test_gradcheck(function) -> None:
    rng = torch.Generator().manual_seed(3)
    sigma = (torch.rand(6, generator=rng, dtype=torch.float64) * 20 + 0.1).requires_grad_()
    features = torch.rand(6, 2, generator=rng, dtype=torch.float64).requires_grad_()
    offsets = torch.tensor([0, 2, 2, 6])
    assert torch.autograd.gradcheck(lambda s, f: function(s, f, offsets, 0.1), (sigma, features))
    assert torch.autograd.gradgradcheck(lambda s, f: function(s, f, offsets, 0.1), (sigma, features))


def test_opcheck() -> None:
    sigma, features, offsets = scene("sparse")
    torch.library.opcheck(torch.ops.threedgen.composite.default, (sigma, features, offsets, STEP))
    out, transmittance, weights = (tensor.detach() for tensor in composite(sigma, features, offsets, STEP))
    cotangents = (torch.ones_like(out), torch.ones_like(transmittance), torch.ones_like(weights))
    # without gradient: the second derivative pads to the longest ray, a size that a traced program cannot know
    arguments = (*cotangents, sigma.detach(), features.detach(), offsets, transmittance, STEP)
    torch.library.opcheck(torch.ops.threedgen.composite_backward.default, arguments)


def test_meta_tensors_give_shapes() -> None:
    sigma, features, offsets = (tensor.to("meta") for tensor in scene("sparse"))
    assert [tuple(tensor.shape) for tensor in composite(sigma, features, offsets, STEP)] == [(5, 4), (5,), (26,)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": torch.rand(26, 1)}, "sigma must have shape"),
        ({"features": torch.rand(25, 4)}, "features must have shape"),
        ({"features": torch.rand(26, 4).double()}, "one dtype is needed"),
        ({"offsets": torch.tensor([0.0, 26.0])}, "offsets must be int64"),
        ({"offsets": torch.zeros(0, dtype=torch.int64)}, "offsets must have one entry more"),
        ({"offsets": torch.zeros(6, dtype=torch.int64, device="meta")}, "one device is needed"),
        ({"step": 0.0}, "step must be positive"),
    ],
)
def test_misfits_are_named(change: dict, message: str) -> None:
    sigma, features, offsets = scene("sparse", torch.float32)
    with pytest.raises(ValueError, match=message):
        composite(**{"sigma": sigma, "features": features, "offsets": offsets, "step": STEP, **change})


@needs_kernel
@pytest.mark.parametrize("offsets", [[0, 27], [1, 26], [0, 20, 10, 26], [-5, 26]])
def test_kernel_refuses_offsets_outside_the_samples(offsets: list[int]) -> None:
    sigma, features, _ = scene("sparse")
    with pytest.raises(ValueError, match="offsets must"):
        composite(sigma, features, torch.tensor(offsets), STEP)
