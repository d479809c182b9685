"""What distillation rules do in the plane, against closed forms."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.cds import CDS
from threedgen.guidance.esd import ESD
from threedgen.guidance.ism import ISM
from threedgen.guidance.noisers import levels
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import VSD
from threedgen.playground import picture
from threedgen.playground.__main__ import main, parse
from threedgen.playground.cases import EVERY, Case, cases, rules
from threedgen.playground.critics import KernelMarginal
from threedgen.playground.prior import Mixture, PlanePrior, component, two_classes
from threedgen.playground.run import PROMPT, Plane, measure, relative_variance, run
from threedgen.priors.base import Conditioning

ROOT = Path(__file__).parents[1]
ONE = {"text": "left", "plain": "left"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def one_gaussian() -> PlanePrior:
    mean, covariance = component((1.0, -0.5), (0.8, 0.5), 30)
    values = (torch.tensor([value], dtype=torch.float64) for value in (mean, covariance, 0.0))
    return PlanePrior(Mixture(*values), {"left": [0]})


def case(label: str) -> Case:
    (found,) = [c for c in cases() if c.label == label]
    return found


def same(rows: int, *values: float) -> tuple[torch.Tensor, ...]:
    """[rows,1] filled with each of the values."""
    return tuple(torch.full((rows, 1), value, dtype=torch.float64) for value in values)


def trained(prior: PlanePrior, what: Case, steps: int, count: int = 128, texts=None, seed: int = 0) -> torch.Tensor:
    plane = Plane(prior, what, count, seed, **({"texts": texts} if texts else {}))
    plane.optimize(steps)
    return plane.student(plane.draws(steps)).detach()


def trained_generator(rule, steps: int = 250, count: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of a linear generator on one Gaussian."""
    plane = Plane(one_gaussian(), Case("", "", rule, student="generator"), count, 0, ONE)
    plane.optimize(steps)
    return plane.student.m.detach(), (plane.student.A @ plane.student.A.T).detach()


def gradients(rule, shared: bool = False, steps: int = 3) -> torch.Tensor:
    return Plane(two_classes(), Case("", "", rule, shared=shared), 16, 0).gradients(steps)


# Closed forms


@pytest.mark.parametrize("level", [20, 500, 980])
def test_scores_are_the_gradients_of_the_log_densities(level):
    prior, rng = two_classes(), torch.Generator().manual_seed(0)
    z = torch.randn(40, 2, generator=rng, dtype=torch.float64).requires_grad_()
    alpha, sigma = (x[:, :, 0, 0] for x in levels(torch.full((40,), level), z, prior.alphas_cumprod))
    for marginal in (prior.whole, prior.of_class("left"), KernelMarginal(prior.whole.sample(30, rng))):
        (score,) = torch.autograd.grad(marginal.log_density(z, alpha, sigma).sum(), z)
        assert torch.allclose(marginal.noise(z.detach(), alpha, sigma), -sigma * score, atol=1e-9)


def test_densities_are_normalised():
    axis = torch.linspace(-12, 12, 301, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    level, cell = same(len(grid), 0.8, 0.6), (axis[1] - axis[0]) ** 2
    for marginal in (two_classes().whole, two_classes().of_class("left"), KernelMarginal(two_classes().whole.sample(7, torch.Generator()))):
        assert float(marginal.log_density(grid, *level).exp().sum() * cell) == pytest.approx(1, abs=1e-6)


def test_kernels_are_a_mixture_of_gaussians_without_width():
    rng = torch.Generator().manual_seed(0)
    points, z = (torch.randn(n, 2, generator=rng, dtype=torch.float64) for n in (9, 20))
    narrow = Mixture(points, torch.eye(2, dtype=torch.float64).expand(9, 2, 2) * 1e-12, torch.full((9,), 1 / 9, dtype=torch.float64).log())
    level = same(20, 0.9, 0.3)
    assert torch.allclose(KernelMarginal(points).noise(z, *level), narrow.noise(z, *level), atol=1e-8)
    assert torch.allclose(KernelMarginal(points).log_density(z, *level), narrow.log_density(z, *level), atol=1e-8)


def test_samples_have_the_moments_of_their_class():
    target = two_classes().of_class("left")
    points = target.sample(40_000, torch.Generator().manual_seed(0))
    assert torch.allclose(points.mean(0), target.mean(), atol=0.03)
    assert torch.allclose(points.T.cov(), target.covariance(), atol=0.05)
    found = measure(points, target)
    assert found.spread == pytest.approx(1, abs=0.02)
    assert found.within == pytest.approx(1, abs=0.03)
    assert found.shares == pytest.approx([0.6 * 0.989, 0.4 * 0.989], abs=0.01)


def test_rows_of_the_prior_are_points_of_their_own():
    prior, rng = two_classes(), torch.Generator().manual_seed(0)
    z, t, text = torch.randn(6, 2, 1, 1, generator=rng, dtype=torch.float64), torch.full((6,), 300), prior.encode_text(["left"])
    together = prior.predict_noise(z, t, Conditioning(text.expand(6, -1, -1), views=6))
    alone = torch.cat([prior.predict_noise(row[None], t[:1], Conditioning(text)) for row in z])
    assert torch.allclose(together, alone)
    assert prior.rows == 12
    assert torch.allclose(prior.encode(prior.decode(z)), z)


def test_unknown_classes_are_refused():
    with pytest.raises(UserError, match="choose one of left, right, flaws"):
        two_classes().encode_text(["middle"])


# Identities of rules


def test_vsd_with_a_critic_of_each_point_is_sds():
    assert torch.allclose(gradients(VSD(cfg=7.5)), gradients(SDS(cfg=7.5)), atol=1e-10)


def test_esd_that_knows_no_camera_is_vsd_with_a_shared_critic():
    assert torch.allclose(gradients(ESD(critic_cfg=0.0)), gradients(VSD(), shared=True), atol=1e-10)
    assert not torch.allclose(gradients(ESD(critic_cfg=0.0)), gradients(VSD()), atol=1e-3)


def test_adversarial_sd_is_vsd_at_a_lower_guidance_scale():
    adversarial = rules()["adversarial_sd"](cfg=7.5, gamma=-0.75)
    assert torch.allclose(gradients(adversarial, shared=True), gradients(VSD(cfg=0.25 * 7.5 + 0.75), shared=True) / 0.25, atol=1e-9)


# Spread


@pytest.mark.parametrize("rule", [SDS(cfg=1.0), ESD(cfg=1.0)], ids=["sds", "esd, lambda = 0.5"])
def test_a_generator_collapses_to_the_mean(rule):
    mean, covariance = trained_generator(rule)
    assert mean.tolist() == pytest.approx([1.0, -0.5], abs=0.05)
    assert float(covariance.trace()) < 0.02 * 0.89


def test_esd_with_lambda_one_recovers_mean_and_covariance():
    mean, covariance = trained_generator(ESD(cfg=1.0, critic_cfg=0.0))
    assert mean.tolist() == pytest.approx([1.0, -0.5], abs=0.05)
    assert torch.allclose(covariance, one_gaussian().whole.covariances[0], atol=0.05)


def test_esd_at_one_timestep_shrinks_the_covariance_as_its_fixed_point_says():
    """A A^T = lambda C - (1 - lambda) (sigma / alpha)² I."""
    kept = 0.4
    _, covariance = trained_generator(ESD(cfg=1.0, critic_cfg=kept, t_min=0.06, t_max=0.06))
    abar = one_gaussian().alphas_cumprod[60]
    expected = (1 - kept) * one_gaussian().whole.covariances[0] - kept * (1 - abar) / abar * torch.eye(2)
    assert torch.linalg.eigvalsh(expected)[0] > 0.05
    assert torch.allclose(covariance, expected, atol=0.03)


def test_sds_with_little_noise_collapses_every_point_to_a_mode():
    prior = two_classes()
    points = trained(prior, case("sds, t < 0.3"), 300)
    found = measure(points, prior.of_class(PROMPT))
    assert found.within < 0.1
    assert min(found.shares) > 0.2
    assert sum(found.shares) > 0.99


def test_sds_over_all_noise_leaves_the_points_between_the_modes():
    found = measure(trained(two_classes(), case("sds"), 400), two_classes().of_class(PROMPT))
    assert found.spread < 0.05
    assert found.distance < 0.6


def test_a_shared_critic_keeps_the_distribution():
    prior = two_classes()
    found = measure(trained(prior, case("vsd, shared critic"), 400, 256), prior.of_class(PROMPT))
    assert found.distance < 0.15
    assert found.spread == pytest.approx(1, abs=0.1)
    assert found.within == pytest.approx(1, abs=0.2)
    assert found.shares == pytest.approx([0.59, 0.4], abs=0.06)


def test_divergences_differ_in_what_they_cover():
    prior = two_classes()
    target = prior.of_class(PROMPT)
    names = (
        *("reverse_kl", "jensen_shannon, exact", "jensen_shannon, likelihood"),
        *("forward_kl, exact", "forward_kl, likelihood", "forward_kl, heuristic"),
    )
    points = {name: trained(prior, case(f"vsd, {name}"), 150, 256) for name in names}
    found = {name: measure(p, target) for name, p in points.items()}
    assert found["reverse_kl"].shares[0] > 0.95
    assert found["reverse_kl"].shares[1] < 0.02
    assert found["forward_kl, exact"].distance < 0.25
    assert found["forward_kl, exact"].spread == pytest.approx(1, abs=0.15)
    assert found["reverse_kl"].spread < 0.3 < found["jensen_shannon, exact"].spread < found["forward_kl, exact"].spread
    for name in ("jensen_shannon, likelihood", "forward_kl, likelihood"):
        assert found[name].distance < 0.5
        assert min(found[name].shares) > 0.1
    # The sizes of the predictions are no density ratio: where it matters they do not cover.
    assert min(found["forward_kl, heuristic"].shares) < 0.02


# Guidance


def test_guidance_sharpens_and_moves_away_as_gaussians_say():
    """At one timestep: precision s (C + r² I)^-1 - (s - 1) (S + r² I)^-1, r = sigma/alpha, C of the text and S of the negative prompt."""
    parts = (component((1.0, 0.5), (0.7, 0.4), 20), component((0.0, 0.0), (1.5, 1.5)))
    means, covariances = (torch.tensor(values, dtype=torch.float64) for values in zip(*parts, strict=True))
    prior = PlanePrior(Mixture(means, covariances, torch.tensor([0.5, 0.5]).double().log()), {"left": [0], "flaws": [1]})
    rule = VSD(cfg=3.0, critic_cfg=0.0, t_min=0.1, t_max=0.1)
    plane = Plane(prior, Case("", "", rule, student="generator"), 256, 0, {**ONE, "negative": "flaws"})
    plane.optimize(250)
    noise = (1 / prior.alphas_cumprod[100] - 1) * torch.eye(2)
    text, negative = ((c + noise).inverse() for c in covariances)
    noised = (3 * text - 2 * negative).inverse()
    mean, covariance = noised @ (3 * text @ means[0] - 2 * negative @ means[1]), noised - noise
    assert torch.allclose(plane.student.m.detach(), mean, atol=0.04)
    assert torch.allclose((plane.student.A @ plane.student.A.T).detach(), covariance, atol=0.03)
    assert covariance.trace() < 0.8 * covariances[0].trace()
    assert mean.norm() > 1.2 * means[0].norm()


def sureness(prior: PlanePrior, points: torch.Tensor) -> float:
    """What the classifier's score climbs: log p_t(z_t | text) - log p_t(z_t), weighted by sigma / alpha, over noise and timesteps."""
    total, rng = 0.0, torch.Generator().manual_seed(0)
    for t in range(50, 1000, 100):
        abar = float(prior.alphas_cumprod[t])
        level = same(32 * len(points), abar**0.5, (1 - abar) ** 0.5)
        z = level[0] * points.repeat(32, 1) + level[1] * torch.randn(32 * len(points), 2, generator=rng, dtype=torch.float64)
        ratio = prior.of_class(PROMPT).log_density(z, *level) - prior.whole.log_density(z, *level)
        total += (1 / abar - 1) ** 0.5 * float(ratio.mean())
    return total


@pytest.mark.parametrize("name", ["csd", "csm"])
def test_the_classifier_alone_leaves_the_class_for_where_it_is_surest(name):
    prior = two_classes()
    target = prior.of_class(PROMPT)
    points, sample = trained(prior, case(name), 300, 32), target.sample(32, torch.Generator().manual_seed(0))
    assert sureness(prior, points) > sureness(prior, sample) + 0.7
    assert measure(points, target).distance > 1
    assert target.density(points).log().mean() < target.density(sample).log().mean() - 2


def test_dds_moves_the_points_and_keeps_their_spread():
    prior = two_classes()
    plane = Plane(prior, case("dds"), 128, 0)
    plane.optimize(250)
    found = measure(plane.student.z.detach(), prior.of_class(PROMPT))
    assert measure(plane.start, prior.of_class(PROMPT)).distance > 3
    assert found.distance < 0.3
    assert found.spread > 0.7


# Noise


def test_inversion_has_less_variance_than_random_noise():
    prior = two_classes()
    found = {name: relative_variance(Plane(prior, case(name), 64, 0).gradients(16)) for name in ("sds", "sdi", "ism", "csm")}
    assert found["sdi"] < 0.3 * found["sds"]
    assert found["ism"] < 0.01 * found["sds"]
    assert found["csm"] < 0.01 * found["sds"]


def test_the_relative_variance_is_that_of_known_gradients():
    noise = torch.randn(64, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert relative_variance(noise * 0.5 + 1) == pytest.approx(0.25, rel=0.03)


def test_fixed_noise_stays_in_what_cds_finds():
    """On a Gaussian both predictions agree where the noisy point is the noisy mean: x = mu - (sigma / alpha) eps at the upper timestep."""
    prior = one_gaussian()
    rule = CDS(cfg=1.0, t_min=0.2, t_max=0.2, interval=[0.1, 0.1])
    points = trained(prior, Case("cds", "", rule), 320, 8, ONE)
    abar = prior.alphas_cumprod[300]
    noise = Draws(0, 0, (0,)).normal("fixed_noise", (2, 1, 1)).flatten().double()
    expected = prior.whole.means[0] - ((1 - abar) / abar).sqrt() * noise
    assert torch.allclose(points, expected.expand(8, 2), atol=0.02)


def test_ism_at_a_short_interval_guides_more_than_its_scale_says():
    """Its difference term shrinks with the interval, the classifier's does not."""
    prior = two_classes()
    short, long = (trained(prior, Case("ism", "", ISM(cfg=1.0, delta=delta)), 150, 32).mean(0) for delta in (80, 400))
    centre = prior.of_class(PROMPT).mean()
    assert centre[0] - short[0] > 0.6
    assert abs(centre[0] - long[0]) < 0.3


# The program


@pytest.mark.parametrize("what", [c for c in cases() if c.group == EVERY or c.label in rules()], ids=lambda c: c.label)
def test_every_rule_that_needs_views_alone_runs(what):
    outcome = run(two_classes(), what, 16, 3, 0)
    assert outcome.points.shape == (16, 2)
    assert torch.isfinite(outcome.points).all()
    assert not torch.equal(outcome.points, Plane(two_classes(), what, 16, 0).start)
    assert outcome.evaluations >= 2


def test_rules_that_need_other_inputs_are_left_out():
    assert {"sds", "dds", "vsd", "esd", "nfsd", "cds"} <= set(rules())
    assert not {"im3d", "zero123", "c_sds", "di_sds"} & set(rules())


def test_a_run_prints_the_table_and_writes_the_files(tmp_path, capsys):
    words = ["--rules", "sds,esd", "--steps", "4", "--points", "16", "--seed", "3"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    printed = capsys.readouterr().out
    assert "esd, lambda = 1" in printed
    assert str(tmp_path / "a" / "playground.png") in printed
    written = json.loads((tmp_path / "a" / "playground.json").read_text())
    assert [row["label"] for row in written["rows"]] == [c.label for c in cases(["sds", "esd"])]
    assert written["seed"] == 3
    assert written["rows"][0]["settings"]["cfg"] == 1.0
    assert (tmp_path / "a" / "playground.md").read_text().count("\n| ") == 4 + len(written["rows"])
    with Image.open(tmp_path / "a" / "playground.png") as opened:
        assert opened.width == 2 * picture.MARGIN + 4 * (picture.PANEL + picture.GAP) - picture.GAP
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b" / "playground.json").read_text())
    for one, other in zip(written["rows"], again["rows"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_the_page_quotes_calls_and_rows_that_exist():
    page = (ROOT / "docs" / "playground.md").read_text()
    calls = re.findall(r"^python -m threedgen\.playground(.*)$", page, flags=re.MULTILINE)
    assert len(calls) == 3
    for call in calls:
        assert cases(parse(shlex.split(call)).rules)
    rows = re.findall(r"^\| (.+?) \| \d", page, flags=re.MULTILINE)
    assert set(rows) <= {"the class itself", *(c.label for c in cases())}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rules", "sdss"], "did you mean 'sds'"),
        (["--rules", "zero123"], "needs inputs"),
        (["--rules", ","], "names no rule"),
        (["--steps", "0"], "at least 1"),
        (["--steps", "many"], "no whole number"),
        (["--points", "3"], "from 8"),
        (["--points", "5000"], "to 4096"),
        (["--seed", "-1"], "no whole number"),
        (["--colour", "red"], "unrecognized"),
        (["--out", "/dev/null/folder"], "choose another folder"),
    ],
)
def test_bad_arguments_get_one_line_and_exit_code_2(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert said in shown.err
    assert not shown.out


def test_points_are_drawn_where_they_are():
    prior = two_classes()
    points = torch.tensor([[2.0, 3.0]] * 20 + [[-99.0, 0.0]] * 20, dtype=torch.float64)
    panel = picture.shrunk(picture.dotted(picture.background(prior.of_class("left"), prior.of_class("right")), points))
    side, view = panel.width, picture.VIEW
    assert panel.getpixel((round((2 + view) / (2 * view) * side), round((view - 3) / (2 * view) * side))) == picture.DOT
    assert panel.getpixel((0, side // 2)) == picture.DOT
    peak = prior.of_class("left").means[0]
    place = round(float(peak[0] + view) / (2 * view) * side), round(float(view - peak[1]) / (2 * view) * side)
    assert panel.getpixel(place) == picture.BANDS[-1]
