"""Densification: what it copies, cuts, moves and frees, and what the image keeps."""

import math

import pytest
import torch

from threedgen.cameras import orbit_cameras
from threedgen.config.schema import GaussiansSettings
from threedgen.draws import Draws
from threedgen.representations.densification import FAINT, adc, divided, explore, mcmc
from threedgen.representations.gaussians import GaussianCloud

CAMERAS = orbit_cameras([0.0, 90.0], elevation=15.0, distance=2.6, fovy=40.0, height=32, width=32)


def cloud(**settings: object) -> GaussianCloud:
    return GaussianCloud(GaussiansSettings(**({"count": 60, "capacity": 100, "opacity": 0.5} | settings)), seed=3)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("count", [1, 2, 5, 51])
def test_divided_gaussians_absorb_together_what_the_one_did(opacity: float, count: int):
    each, shrink = divided(torch.tensor([opacity], dtype=torch.float64), torch.tensor([count]))
    if float(each) > FAINT:
        assert 1 - (1 - float(each)) ** count == pytest.approx(opacity, rel=1e-6)
    assert 0 < float(shrink) <= 1 + 1e-9
    if count == 1:
        assert float(shrink) == pytest.approx(1)


def test_the_size_of_divided_gaussians_keeps_the_integral():
    """Of the profile 1 - (1 - o' exp(-x^2 / 2 s'^2))^n over a line, the image of n Gaussians in one place."""
    each, shrink = (float(value) for value in divided(torch.tensor([0.9], dtype=torch.float64), torch.tensor([4])))
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    one = 0.9 * torch.exp(-x.square() / 2)
    many = 1 - (1 - each * torch.exp(-x.square() / 2 / shrink**2)) ** 4
    assert float(torch.trapezoid(many, x)) == pytest.approx(float(torch.trapezoid(one, x)), rel=1e-6)


def test_mcmc_grows_by_a_twentieth_and_hardly_changes_the_image():
    made = cloud()
    with torch.no_grad():
        before = made.render(CAMERAS)
        rows = mcmc(made, 100, rng())
        after = made.render(CAMERAS)
    assert int(made.alive.sum()) == 63
    assert len(rows) >= 4
    assert (after.alpha - before.alpha).abs().mean() < 0.01 < before.alpha.mean()


def test_mcmc_moves_the_dead_to_the_living_and_never_past_the_places():
    made = cloud(capacity=60)
    with torch.no_grad():
        made.logits[:20] = -20
        made.means[:20] = 50
        mcmc(made, 100, rng())
    assert int(made.alive.sum()) == 60
    assert made.means.abs().max() < 1
    assert (made.opacity > FAINT * 0.99).all()


def wandered(**settings: object) -> tuple[GaussianCloud, torch.Tensor]:
    """A cloud, half of it hidden, with axes of many lengths; and how far [P,3] noise moves its Gaussians."""
    made = cloud(count=4000, capacity=4100, **settings)
    with torch.no_grad():
        made.logits[:2000] = -20
        made.logits[2000:4000] = 0
        made.log_scales[:] = torch.tensor([-2.0, -3.0, -4.0])
        made.quaternions[:] = torch.tensor([0.5, 0.5, 0.5, 0.5])  # x to y to z
    before = made.means.detach().clone()
    explore(made, 0, rng())
    return made, made.means.detach() - before


def test_noise_moves_hidden_gaussians_along_their_covariance():
    """Standard deviation: noise times the variance of the axis, times the sigmoid of the paper at an opacity of nothing."""
    _, moved = wandered(noise=10.0)
    variance = torch.exp(2 * torch.tensor([-4.0, -2.0, -3.0]))
    torch.testing.assert_close(moved[:2000].std(0), 10 * variance / (1 + math.exp(-0.5)), rtol=0.06, atol=0)
    assert (moved[:2000].mean(0).abs() < 0.1 * moved[:2000].std(0)).all()


def test_noise_leaves_what_shows_and_what_is_not_there():
    _, moved = wandered(noise=10.0)
    assert moved[2000:].abs().max() == 0


def test_noise_follows_its_schedule_and_its_key():
    made = cloud(noise=[0, 10.0, 0.0, 10])
    with torch.no_grad():
        made.logits[:] = -20
    means = made.means.detach().clone()
    explore(made, 10, rng())
    assert torch.equal(made.means, means)
    explore(made, 5, rng())
    assert (made.means[:60] != means[:60]).all()
    again = cloud(noise=5.0)
    with torch.no_grad():
        again.logits[:] = -20
    explore(again, 0, rng())
    assert torch.equal(again.means, made.means)


def test_only_mcmc_has_noise():
    for strategy, stays in (("mcmc", False), ("adc", True), ("none", True)):
        made = cloud(strategy=strategy)
        with torch.no_grad():
            made.logits[:] = -20
        means = made.means.detach().clone()
        made.after_step(0, Draws(0, 0, range(2)))
        assert torch.equal(made.means, means) == stays


def test_mcmc_leaves_an_invisible_cloud_alone():
    made = cloud()
    with torch.no_grad():
        made.logits[:] = -20
        assert len(mcmc(made, 100, rng())) == 0


def test_adc_copies_small_cuts_large_and_frees_faint_ones():
    made = cloud(strategy="adc", split_size=0.05, grad_threshold=0.5)
    with torch.no_grad():
        made.log_scales[:10] = -5.0
        made.log_scales[10:] = -2.0
        made.logits[50:] = -20
        made.grad_count[:60] = 2
        made.grad_sum[:5] = 4  # small and pulled
        made.grad_sum[10:13] = 3  # large and pulled
        means, scales = made.means.clone(), made.log_scales.clone()
        rows = adc(made, 100, rng())
    assert int(made.alive.sum()) == 60 - 10 + 8
    assert len(rows) == 8 + 3
    copies = [row for row in rows.tolist() if (made.log_scales[row] == -5).all()]
    assert len(copies) == 5
    assert all((made.means[row] == means[:5]).all(1).any() for row in copies)
    torch.testing.assert_close(made.log_scales[10:13], scales[10:13] - torch.log(torch.tensor(1.6)))
    assert (made.means[10:13] != means[10:13]).all()
    assert made.grad_sum.sum() == made.grad_count.sum() == 0


def test_adc_takes_the_hardest_pulled_where_places_are_few():
    made = cloud(strategy="adc", capacity=62, grad_threshold=0.1)
    with torch.no_grad():
        made.grad_count[:60] = 1
        made.grad_sum[:60] = torch.arange(60.0)
        scales = made.log_scales.clone()
        adc(made, 100, rng())
    assert made.alive.all()
    changed = (made.log_scales[:60] != scales[:60]).any(1).nonzero()[:, 0].tolist()
    assert changed == [58, 59]


def test_adc_resets_opacities():
    made = cloud(strategy="adc", reset_every=10)
    adc(made, 9, rng())
    assert made.opacity.detach().max() == pytest.approx(2 * made.settings.prune_opacity, rel=1e-4)


def test_rendering_notes_the_pull_on_visible_centres():
    made = cloud(strategy="adc")
    made.render(CAMERAS).alpha.sum().backward()
    assert (made.grad_count[:60] == 2).all()
    assert (made.grad_sum[:60] > 0).any()
    assert (made.grad_count[60:] == 0).all()


@pytest.mark.parametrize("strategy", ["adc", "mcmc"])
def test_strategies_run_when_it_is_their_turn_and_name_the_rows(strategy: str):
    made = cloud(strategy=strategy, densify_from=20, densify_every=10, densify_until=40, grad_threshold=1e-9)
    made.render(CAMERAS).alpha.sum().backward()
    grown = []
    for step in range(60):
        before = int(made.alive.sum())
        forgotten = made.after_step(step, Draws(0, step, range(2)))
        if forgotten:
            grown.append(step)
            assert len(forgotten) == 6
            assert len({tuple(rows.tolist()) for rows in forgotten.values()}) == 1
        assert bool(forgotten) >= (int(made.alive.sum()) != before)
    assert grown == [19, 29, 39]
