import pytest
import torch

from tests.live_bytes import LiveBytes
from tests.representations.fields import blob_field, random_rays, ring, rough_field
from threedgen.config.schema import RegularizerSettings
from threedgen.draws import Draws
from threedgen.representations.base import Chunks, Samples
from threedgen.representations.recompute import recomputed
from threedgen.representations.volume import bounded_slices, sphere_interval
from threedgen.systems.regularizers import penalties

ALL_PENALTIES = RegularizerSettings(sparsity=0.5, opaque=0.3, distortion=2.0, orientation=3.0, z_variance=1.0, entropy=0.7)


def test_rays_enter_and_leave_the_sphere():
    origins, directions = random_rays(50)
    near, far = sphere_interval(origins, directions, 0.9)
    for t in (near, far):
        assert torch.allclose((origins + t[:, None] * directions).norm(dim=-1), torch.full((50,), 0.9), atol=1e-5)
    assert (near < far).all()


def test_rays_that_miss_or_leave_the_sphere_have_no_samples_and_inner_ones_start_at_once():
    origins = torch.tensor([[3.0, 0, 2], [3, 0, 0], [0.5, 0, 0]])
    directions = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [1, 0, 0]])
    near, far = sphere_interval(origins, directions, 1.0)
    assert far[0] < near[0]
    assert far[1] < near[1]
    assert (float(near[2]), float(far[2])) == (0.0, 0.5)
    render = blob_field().render_rays(origins, directions, torch.full((3,), 0.5))
    assert isinstance(render.samples, Samples)
    assert render.samples.offsets[2] == 0
    assert torch.equal(render.rgb[:2], torch.ones(2, 3))


@pytest.mark.parametrize("seed", range(3))
def test_slices_hold_every_entry_once_and_as_many_as_the_bound_allows(seed):
    cost = torch.randint(1, 30, (200,), generator=torch.Generator().manual_seed(seed))
    cost[17] = 500  # alone beyond the bound
    slices = bounded_slices(cost, 64)
    assert torch.equal(torch.cat([cost[s] for s in slices]), cost)
    for s, following in zip(slices, [*slices[1:], slice(0, 0)], strict=True):
        assert int(cost[s].sum()) <= 64 or s == slice(17, 18)
        assert int(cost[s].sum()) + int(cost[following][:1].sum()) > 64 or following == slice(0, 0)
    assert bounded_slices(cost[:0], 64) == []


def lesson(field, chunk_samples: int):
    """Images, penalties and gradients of a training step."""
    field.chunk_samples = chunk_samples
    field.zero_grad()
    render = field.render(ring(2, 8), draws=Draws(0, 3, range(2)), normals=True)
    weights = torch.rand(render.rgb.shape, generator=torch.Generator().manual_seed(0))
    terms = penalties(ALL_PENALTIES, render, 0)
    ((render.rgb * weights).sum() + render.depth.mean() + render.normal.square().mean() + sum(terms.values())).backward()
    return render, terms, {name: p.grad for name, p in field.named_parameters()}


@pytest.mark.parametrize(("normals", "background"), [("analytic", "random"), ("finite_difference", "learned")])
def test_rendering_in_chunks_changes_nothing_but_rounding(normals, background):
    field = rough_field(normals=normals, background=background)
    whole, terms, gradients = lesson(field, 2**20)
    assert isinstance(whole.samples, Samples)
    for bound in (1000, 150, 1):  # a bound that no ray fits into renders ray by ray
        parts, terms_in_parts, gradients_in_parts = lesson(field, bound)
        assert isinstance(parts.samples, Chunks)
        for name in ("rgb", "alpha", "depth", "normal"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)
        assert set(terms_in_parts) == set(terms)
        for name, value in terms.items():
            torch.testing.assert_close(terms_in_parts[name], value, atol=1e-5, rtol=1e-4)
        for name, gradient in gradients.items():
            assert gradient.abs().max() > 0
            torch.testing.assert_close(gradients_in_parts[name], gradient, atol=2e-4 * float(gradient.abs().max()), rtol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(field.render(ring(2, 8), draws=Draws(0, 3, range(2))).rgb, whole.rgb.detach(), atol=1e-5, rtol=1e-5)


def test_the_same_chunks_give_the_same_bits():
    field = rough_field()
    first, again = (lesson(field, 200)[2] for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def peak_of_a_step(blob_radius: float, chunk_samples: int, orientation: float = 0.0) -> int:
    """Bytes at the peak of a training step; the radius of the blob says how much of the space is full."""
    field = blob_field(blob_radius=blob_radius, blob_density=100.0, samples=64)
    field.chunk_samples = chunk_samples
    settings = RegularizerSettings(orientation=orientation, distortion=orientation)
    with LiveBytes() as memory:
        render = field.render(ring(1, 56), draws=Draws(0, 0, range(1)), normals=orientation > 0)
        (render.rgb.square().sum() + sum(penalties(settings, render, 0).values())).backward()
    return memory.peak


@pytest.mark.parametrize("orientation", [0.0, 1.0])
def test_the_peak_of_a_step_does_not_depend_on_how_full_the_space_is(orientation):
    sparse, full = (peak_of_a_step(radius, 2**13, orientation) for radius in (0.35, 1.0))
    assert full < 1.15 * sparse
    without = peak_of_a_step(1.0, 2**24, orientation)
    assert without > 3 * full  # what the bound is for
    assert peak_of_a_step(1.0, 2**12, orientation) < 0.8 * full  # the attribute is what bounds it


def test_recomputing_gives_the_gradient_of_one_run_and_notices_changed_parameters():
    weight, idle = torch.randn(5, requires_grad=True), torch.ones(2, requires_grad=True)
    frozen = torch.ones(3)
    runs = []

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        runs.append(torch.is_grad_enabled())
        return weight.sin().sum(), frozen

    out, constant = recomputed(run, [weight, idle])
    (out * 3 + constant.sum()).backward()
    torch.testing.assert_close(weight.grad, 3 * weight.detach().cos())
    assert idle.grad is None
    assert runs == [False, True]
    out, _ = recomputed(run, [weight])
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_finer_levels_come_into_use_and_only_they_change_the_field():
    field = rough_field(band_every=3, band_start=2)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    field.density(points).sum().backward()
    used = field.spec.offsets[2]
    assert field.table.grad[:used].abs().max() > 0
    assert field.table.grad[used:].abs().max() == 0
    coarse = field.finest_cell
    seen = []
    for step in range(12):
        field.after_step(step, Draws(0, step, range(1)))
        seen.append(int(field.levels_in_use))
    assert seen == [2, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]
    assert field.finest_cell == 2 / 16 < coarse
    other = blob_field(band_every=3, band_start=2)
    other.load_state_dict(field.state_dict())
    assert torch.equal(other.density(points), field.density(points))
    assert torch.equal(rough_field().density(points), field.density(points))
