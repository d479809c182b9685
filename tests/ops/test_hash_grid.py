"""Hash grid: compiled kernel against the torch twin, gradients, and what can be said in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from threedgen.ops import HashGridSpec, backend, hash_grid
from threedgen.ops.hash_grid import hash_grid_reference

SMALL = HashGridSpec(levels=3, features=2, log2_table=6, base_resolution=2, max_resolution=9)  # the first level dense, two hashed
needs_kernel = pytest.mark.skipif(backend() == "reference", reason="the operators are not built: no kernel to compare with the twin")


def make(spec: HashGridSpec, count: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Points, a table and a cotangent of the encoding."""
    rng = torch.Generator().manual_seed(count)
    x = torch.rand(count, 3, generator=rng, dtype=dtype).requires_grad_()
    table = torch.randn(spec.rows, spec.features, generator=rng, dtype=dtype).requires_grad_()
    return x, table, torch.randn(count, spec.width, generator=rng, dtype=dtype)


def with_gradients(out: Tensor, x: Tensor, table: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    return out, *torch.autograd.grad(out, (x, table), cotangent)


@needs_kernel
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1025])
def test_kernel_equals_twin(features: int, count: int) -> None:
    spec = HashGridSpec(levels=5, features=features, log2_table=10, base_resolution=3, max_resolution=40)
    x, table, cotangent = make(spec, count)
    kernel = with_gradients(hash_grid(x, table, spec), x, table, cotangent)
    twin = with_gradients(hash_grid_reference(x, table, spec.resolutions, spec.offsets), x, table, cotangent)
    for got, want in zip(kernel, twin, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_float32_is_as_near_to_float64_as_rounding_allows() -> None:
    spec = HashGridSpec(levels=4, log2_table=12, base_resolution=4, max_resolution=64)
    x, table, cotangent = make(spec, 2000, torch.float32)
    single = with_gradients(hash_grid(x, table, spec), x, table, cotangent)
    x64, table64 = x.detach().double().requires_grad_(), table.detach().double().requires_grad_()
    double = with_gradients(hash_grid(x64, table64, spec), x64, table64, cotangent.double())
    # 64 cells an axis: a position inside a cell has lost six of 24 bits
    for got, want in zip(single, double, strict=True):
        assert (got.double() - want).norm() < 1e-5 * want.norm()


def test_interpolates_linear_functions_exactly() -> None:
    """A dense level whose vertices hold a linear function is that function everywhere, with its constant gradient."""
    spec = HashGridSpec(levels=1, features=1, log2_table=10, base_resolution=7, max_resolution=7)
    slope = torch.tensor([1.5, -2.0, 0.25], dtype=torch.float64)
    vertex = torch.arange(8, dtype=torch.float64) / 7
    z, y, x = torch.meshgrid(vertex, vertex, vertex, indexing="ij")
    table = (slope[0] * x + slope[1] * y + slope[2] * z).reshape(-1, 1)
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    out = hash_grid(points, table, spec)
    torch.testing.assert_close(out[:, 0], points.detach() @ slope)
    (gradient,) = torch.autograd.grad(out.sum(), points)
    torch.testing.assert_close(gradient, slope.expand(200, 3))


def test_weights_add_up_to_one() -> None:
    x, table, _ = make(SMALL, 100)
    torch.testing.assert_close(hash_grid(x, torch.ones_like(table), SMALL), torch.ones(100, SMALL.width, dtype=torch.float64))


def test_border_and_outside() -> None:
    """The corners of the cube are vertices; outside, the nearest point of the cube counts and nothing pulls."""
    _, table, _ = make(SMALL, 1)
    outside = torch.tensor([[-3.0, 0.5, 0.2], [0.1, 1.5, 7.0], [0.0, 1.0, 1.0]], dtype=torch.float64).requires_grad_()
    out = hash_grid(outside, table, SMALL)
    torch.testing.assert_close(out, hash_grid(outside.detach().clamp(0, 1), table, SMALL))
    (gradient,) = torch.autograd.grad(out.sum(), outside)
    beyond = (outside < 0) | (outside > 1)
    assert (gradient[beyond] == 0).all()
    assert (gradient[~beyond] != 0).all()
    last_vertex = SMALL.offsets[1] - 1
    torch.testing.assert_close(hash_grid(torch.ones(1, 3, dtype=torch.float64), table, SMALL)[0, :2], table[last_vertex])


def test_nan_and_infinity_stay_visible_and_harmless() -> None:
    _, table, _ = make(SMALL, 1)
    x = torch.tensor([[float("nan"), 0.5, 0.5], [float("inf"), 0.5, 0.5], [float("-inf"), 0.5, 0.5]], dtype=torch.float64)
    out = hash_grid(x, table, SMALL)
    assert out[0].isnan().all()
    torch.testing.assert_close(out[1:], hash_grid(x[1:].clamp(0, 1), table, SMALL))


@pytest.mark.parametrize("function", ["public", "twin"])
def test_gradcheck(function: str) -> None:
    spec = HashGridSpec(levels=2, features=2, log2_table=3, base_resolution=1, max_resolution=4)  # one level dense, one hashed
    x, table, _ = make(spec, 3)

    def encode(x: Tensor, table: Tensor) -> Tensor:
        return hash_grid(x, table, spec) if function == "public" else hash_grid_reference(x, table, spec.resolutions, spec.offsets)

    assert torch.autograd.gradcheck(encode, (x, table))
    assert torch.autograd.gradgradcheck(encode, (x, table))


def test_second_derivative_reaches_the_table_through_the_position_gradient() -> None:
    """As in an eikonal loss: minimize | |d out / d x| - 1 | over the table."""
    x, table, _ = make(SMALL, 5)
    gradients = []
    for out in (hash_grid(x, table, SMALL), hash_grid_reference(x, table, SMALL.resolutions, SMALL.offsets)):
        (normal,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        gradients.append(torch.autograd.grad(((normal.norm(dim=1) - 1) ** 2).sum(), table)[0])
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_opcheck() -> None:
    x, table, cotangent = make(SMALL, 5)
    torch.library.opcheck(torch.ops.threedgen.hash_grid.default, (x, table, SMALL.resolutions, SMALL.offsets))
    arguments = (cotangent, x, table, SMALL.resolutions, SMALL.offsets, True)
    torch.library.opcheck(torch.ops.threedgen.hash_grid_backward.default, arguments)


def test_gradient_to_the_table_alone() -> None:
    x, table, cotangent = make(SMALL, 5)
    (both,) = torch.autograd.grad(hash_grid(x, table, SMALL), table, cotangent)
    (alone,) = torch.autograd.grad(hash_grid(x.detach(), table, SMALL), table, cotangent)
    assert torch.equal(both, alone)


def test_meta_tensors_give_shapes() -> None:
    out = hash_grid(torch.empty(7, 3, device="meta"), torch.empty(SMALL.rows, 2, device="meta"), SMALL)
    assert out.shape == (7, SMALL.width)
    assert out.device.type == "meta"


def test_default_spec_sizes() -> None:
    spec = HashGridSpec()
    assert spec.resolutions[0] == 16
    assert spec.resolutions[-1] == 512
    assert spec.offsets[1] == 17**3
    assert spec.rows <= 16 * 2**15
    assert spec.width == 32


@pytest.mark.parametrize(
    ("x", "table", "message"),
    [
        (torch.rand(4, 2), torch.rand(SMALL.rows, 2), r"x must have shape \[\*,3\], got \[4, 2\]"),
        (torch.rand(4, 3), torch.rand(SMALL.rows - 1, 2), "table must have shape"),
        (torch.rand(4, 3).half(), torch.rand(SMALL.rows, 2), "x must be float32 or float64"),
        (torch.rand(4, 3), torch.rand(SMALL.rows, 2).double(), "one dtype is needed"),
        (torch.rand(4, 3), torch.rand(SMALL.rows, 2, device="meta"), "one device is needed"),
    ],
)
def test_misfits_are_named(x: Tensor, table: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hash_grid(x, table, SMALL)


@pytest.mark.parametrize("settings", [{"levels": 0}, {"features": 3}, {"log2_table": 40}, {"base_resolution": 600}])
def test_impossible_specs_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|is needed"):
        HashGridSpec(**settings)


@needs_kernel
def test_kernel_refuses_rows_outside_the_table() -> None:
    x, table, _ = make(SMALL, 2)
    with pytest.raises(ValueError, match="offsets must go from 0"):
        torch.ops.threedgen.hash_grid(x, table, SMALL.resolutions, [*SMALL.offsets[:-1], SMALL.rows + 64])
    with pytest.raises(ValueError, match="power of two"):
        torch.ops.threedgen.hash_grid(x, table[:-1], SMALL.resolutions, [*SMALL.offsets[:-1], SMALL.rows - 1])
