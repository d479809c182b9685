import math

import pytest
import torch
from torch import Tensor

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import GaussiansSettings, RegularizerSettings
from threedgen.representations.base import Blobs, Mesh, Render, Samples
from threedgen.representations.gaussians import GaussianCloud
from threedgen.systems.regularizers import (
    PENALTIES,
    anisotropy,
    distortion,
    entropy,
    laplacian,
    needs_normals,
    normal_consistency,
    opacity,
    opaque,
    orientation,
    penalties,
    size,
    sparsity,
    z_variance,
)

COUNTS = [5, 0, 1, 3]


def volume(seed: int = 0, normals: bool = True) -> Render:
    """A float64 rendering of four rays with 5, 0, 1 and 3 samples, all entries random."""
    rng = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    count = sum(COUNTS)
    offsets = torch.tensor([0, *COUNTS]).cumsum(0)
    t = torch.cat([rand(n).sort().values + 1 for n in COUNTS])
    directions, normal = (torch.nn.functional.normalize(rand(n, 3) - 0.5, dim=-1) for n in (len(COUNTS), count))
    samples = Samples(offsets, t, rand(count, 3), rand(count) / 5, directions, normal if normals else None)
    alpha = rand(len(COUNTS), 1)
    return Render(rand(len(COUNTS), 3), alpha, rand(len(COUNTS), 1), samples=samples)


def image(alpha: list[float]) -> Render:
    a = torch.tensor(alpha, dtype=torch.float64)
    return Render(torch.zeros(len(alpha), 3), a[:, None], torch.zeros(len(alpha), 1))


def test_sparsity_by_hand():
    expected = (math.sqrt(0.01) + math.sqrt(0.26) + math.sqrt(1.01)) / 3
    assert float(sparsity(image([0.0, 0.5, 1.0]))) == pytest.approx(expected)


def test_opaque_is_the_entropy_of_a_coin_and_its_slope():
    for a in (0.2, 0.5, 0.9):
        alpha = torch.tensor([[a]], dtype=torch.float64, requires_grad=True)
        value = opaque(Render(torch.zeros(1, 3), alpha, alpha))
        assert value.item() == pytest.approx(-a * math.log(a) - (1 - a) * math.log(1 - a))
        (slope,) = torch.autograd.grad(value, alpha)
        assert float(slope) == pytest.approx(math.log((1 - a) / a), abs=1e-9)


def test_opaque_stays_finite_at_full_and_no_coverage():
    alpha = torch.tensor([[0.0], [1.0]], requires_grad=True)
    value = opaque(Render(torch.zeros(2, 3), alpha, alpha))
    value.backward()
    assert 0 < value.item() < 0.01
    assert alpha.grad is not None
    assert torch.isfinite(alpha.grad).all()


def pairs_of(render: Render) -> float:
    """Sum over ordered pairs of samples of each ray, mean over rays, in plain loops."""
    s = render.samples
    total = 0.0
    for start, end in zip(s.offsets[:-1].tolist(), s.offsets[1:].tolist(), strict=True):
        total += sum(float(s.weights[i] * s.weights[j] * (s.t[i] - s.t[j]).abs()) for i in range(start, end) for j in range(start, end))
    return total / (len(s.offsets) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_distortion_is_the_sum_over_pairs_of_a_ray(seed):
    render = volume(seed)
    assert float(distortion(render)) == pytest.approx(pairs_of(render), rel=1e-12)


def test_distortion_in_float32_loses_nothing_over_many_rays():
    rays, count = 3000, 60
    rng = torch.Generator().manual_seed(0)
    weights = torch.rand(rays, count, generator=rng) / count
    t = 2 + torch.rand(rays, count, generator=rng).sort(-1).values
    samples = Samples(torch.arange(rays + 1) * count, t.flatten(), torch.zeros(rays * count, 3), weights.flatten(), torch.zeros(rays, 3))
    w, x = weights.double(), t.double()
    expected = (w[:, :, None] * w[:, None] * (x[:, :, None] - x[:, None]).abs()).sum() / rays
    assert float(distortion(Render(w, w, w, samples=samples))) == pytest.approx(float(expected), rel=1e-5)


def test_one_sample_on_a_ray_has_no_distortion():
    samples = Samples(torch.tensor([0, 1]), torch.ones(1), torch.zeros(1, 3), torch.ones(1), torch.zeros(1, 3))
    assert float(distortion(Render(torch.zeros(1, 3), torch.ones(1, 1), torch.ones(1, 1), samples=samples))) == 0


def test_orientation_counts_normals_that_face_away():
    render = volume()
    s = render.samples
    ray = [0] * 5 + [2] + [3] * 3
    expected = sum(float(s.weights[i]) * max(0.0, float(s.normals[i] @ s.directions[ray[i]])) ** 2 for i in range(9)) / 4
    assert expected > 0
    assert float(orientation(render)) == pytest.approx(expected)


def rays(*samples: list[tuple[float, float]]) -> Render:
    """A float64 rendering of rays given by the (weight, distance) of their samples."""
    offsets = torch.tensor([0, *(len(ray) for ray in samples)]).cumsum(0)
    w, t = torch.tensor([pair for ray in samples for pair in ray], dtype=torch.float64).reshape(-1, 2).T
    directions = torch.zeros(len(samples), 3, dtype=torch.float64)
    alpha = torch.zeros(len(samples), 1, dtype=torch.float64)
    return Render(directions, alpha, alpha, samples=Samples(offsets, t, torch.zeros(len(t), 3), w, directions))


SURFACE = [(0.9, 2.0)]
HAZE = [(0.2, 1.0), (0.3, 5.0)]  # sums to 1/2: not opaque


def test_z_variance_is_the_variance_of_a_coin_between_two_depths():
    p, gap = 0.75, 0.4
    coin = [(0.8 * (1 - p), 2.0), (0.8 * p, 2.0 + gap)]
    assert float(z_variance(rays(coin))) == pytest.approx(p * (1 - p) * gap**2)
    # Mean over the opaque rays alone: a surface counts, haze and empty rays do not.
    assert float(z_variance(rays(HAZE, coin, [], SURFACE, HAZE))) == pytest.approx(p * (1 - p) * gap**2 / 2)


def test_z_variance_of_evenly_spread_weights_is_that_of_the_uniform_distribution():
    n, near, far = 50, 1.0, 3.0
    even = [(0.9 / n, near + (far - near) * (i + 0.5) / n) for i in range(n)]
    assert float(z_variance(rays(even))) == pytest.approx((far - near) ** 2 / 12 * (1 - 1 / n**2))


def test_entropy_is_that_of_a_coin_and_of_a_die():
    p = 0.75
    coin = [(0.8 * (1 - p), 2.0), (0.8 * p, 2.5)]
    of_coin = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert float(entropy(rays(coin))) == pytest.approx(of_coin)
    assert float(entropy(rays([(0.15, float(i)) for i in range(6)]))) == pytest.approx(math.log(6))
    assert float(entropy(rays(HAZE, coin, [], SURFACE))) == pytest.approx(of_coin / 2)


@pytest.mark.parametrize("penalty", [z_variance, entropy])
def test_depth_penalties_are_zero_for_surfaces_and_where_nothing_is_opaque(penalty):
    assert float(penalty(rays(SURFACE, SURFACE))) == pytest.approx(0, abs=1e-12)
    render = rays(HAZE, [], [(0.0, 1.0), (0.0, 2.0)])
    weights = render.samples.weights.requires_grad_()
    value = penalty(render)
    value.backward()
    assert value.item() == 0
    assert torch.equal(weights.grad, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("penalty", [z_variance, entropy])
def test_depth_penalties_make_a_spread_ray_thinner_and_stay_finite_at_zero_weight(penalty):
    render = rays([(0.3, 1.0), (0.4, 1.1), (0.0, 1.2), (0.1, 2.0)])
    logits = torch.tensor([0.3, 0.4, 0.0, 0.1], dtype=torch.float64).requires_grad_()
    values = []
    for _ in range(20):
        render.samples.weights = logits.clamp(min=0)
        value = penalty(render)
        (slope,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(slope).all()
        logits = (logits - 0.01 * slope).detach().requires_grad_()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("penalty", [distortion, orientation, z_variance, entropy])
def test_gradients_of_sample_penalties(penalty):
    render = volume()
    s = render.samples

    def of(value: Tensor) -> Tensor:
        changed = {"normals": value} if penalty is orientation else {"weights": value}
        return penalty(Render(render.rgb, render.alpha, render.depth, samples=Samples(**(vars(s) | changed))))

    start = (s.normals if penalty is orientation else s.weights).clone().requires_grad_()
    assert torch.autograd.gradcheck(of, (start,))


def test_orientation_does_not_reward_transparency():
    render = volume()
    render.samples.weights.requires_grad_()
    render.samples.normals.requires_grad_()
    orientation(render).backward()
    assert render.samples.weights.grad is None


def test_penalties_that_cannot_be_computed_say_so():
    with pytest.raises(ValueError, match="needs a rendering with normals"):
        orientation(volume(normals=False))
    with pytest.raises(ValueError, match="samples of a volume rendering"):
        distortion(image([0.5]))
    with pytest.raises(ValueError, match="surface of a mesh"):
        laplacian(image([0.5]))


def drawn(vertices: Tensor, faces: Tensor) -> Render:
    """A rendering of a mesh, of which the penalties see the surface alone."""
    pixel = torch.zeros(1, 1)
    return Render(pixel, pixel, pixel, surface=Mesh(vertices, faces))


def test_penalties_of_a_regular_tetrahedron_by_hand():
    """Its faces' normals meet at the cosine -1/3, and a vertex v has the mean -v/3 of the others opposite."""
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    tetrahedron = drawn(0.7 * corners, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))
    assert normal_consistency(tetrahedron).item() == pytest.approx(4 / 3)
    assert laplacian(tetrahedron).item() == pytest.approx(4 / 3 * 0.7 * math.sqrt(3))


def test_a_flat_surface_is_consistent_and_none_costs_nothing():
    flat = drawn(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert normal_consistency(flat).item() == pytest.approx(0, abs=1e-6)
    vertices = torch.zeros(0, 3, requires_grad=True)
    nothing = drawn(vertices, torch.zeros(0, 3, dtype=torch.int64))
    (normal_consistency(nothing) + laplacian(nothing)).backward()
    assert vertices.grad is not None


def test_penalties_of_a_surface_smooth_it():
    """A step against the gradient takes a spike down."""
    vertices = torch.tensor([[0.0, 0, 0.8], [1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1]])
    for penalty in (normal_consistency, laplacian):
        (slope,) = torch.autograd.grad(penalty(drawn(vertices, faces)), vertices)
        assert slope[0, 2] > 0


def test_only_penalties_that_are_on_are_computed_with_their_weight_of_the_step():
    settings = RegularizerSettings(sparsity=2.0, opaque=[10, 0.0, 4.0, 20])
    render = volume(normals=False)
    assert set(penalties(settings, render, 10)) == {"sparsity"}
    found = penalties(settings, render, 15)
    assert set(found) == {"sparsity", "opaque"}
    assert torch.equal(found["sparsity"], 2 * sparsity(render))
    assert torch.equal(found["opaque"], 2 * opaque(render))


def test_every_setting_has_a_penalty():
    assert set(PENALTIES) == set(vars(RegularizerSettings()))


def test_normals_are_rendered_only_while_orientation_is_on():
    assert [needs_normals(RegularizerSettings(orientation=[5, 0.0, 1.0, 10]), s) for s in (0, 5, 6)] == [False, False, True]


def cloud(scales: list[list[float]], alphas: list[float]) -> Render:
    blobs = Blobs(torch.tensor(scales).reshape(-1, 3).requires_grad_(), torch.tensor(alphas).requires_grad_())
    return Render(torch.zeros(1, 3), torch.zeros(1, 1), torch.zeros(1, 1), blobs=blobs)


def test_penalties_of_gaussians_by_hand():
    render = cloud([[0.1, 0.2, 0.3], [0.1, 0.1, 0.5]], [0.2, 0.8])
    assert opacity(render).item() == pytest.approx(0.5)
    assert size(render).item() == pytest.approx(1.3 / 6)
    assert anisotropy(render).item() == pytest.approx((0 + 2) / 2)


def test_anisotropy_pulls_at_needles_alone():
    render = cloud([[0.1, 0.2, 0.29], [0.1, 0.1, 0.5]], [0.2, 0.8])
    assert render.blobs is not None
    (slope,) = torch.autograd.grad(anisotropy(render), render.blobs.scales)
    assert (slope[0] == 0).all()
    assert slope[1, 2] > 0 > slope[1, :2].sum()


def test_penalties_of_gaussians_are_nothing_without_any_and_need_some():
    for penalty in (opacity, size, anisotropy):
        assert penalty(cloud([], [])) == 0
        with pytest.raises(ValueError, match="Gaussians"):
            penalty(image([0.5]))


def test_the_cloud_of_a_rendering_is_that_which_is_alive():
    made = GaussianCloud(GaussiansSettings(count=20, capacity=30, opacity=0.25))
    blobs = made.render(orbit_cameras([0.0], elevation=0.0, distance=2.6, fovy=40.0, height=8, width=8)).blobs
    assert blobs is not None
    assert blobs.scales.shape == (20, 3)
    torch.testing.assert_close(blobs.opacity, torch.full((20,), 0.25))
    penalty = penalties(RegularizerSettings(opacity=0.5), made.render(orbit_cameras([0.0], 0.0, 2.6, 40.0, 8, 8)), step=0)
    assert penalty["opacity"].item() == pytest.approx(0.125)
