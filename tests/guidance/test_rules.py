"""What holds for every registered rule, whatever its formula. A new rule is covered by being registered.

A rule that `needs` an input finds it in INPUTS; a rule that needs something else has to add it there.
"""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from tests.guidance.bench import Bench
from tests.oracles import CountingPrior, ParticlesScore, ToldGaussianPrior
from threedgen import guidance, registry
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.core import distill
from threedgen.guidance.rule import Rule
from threedgen.guidance.timesteps import SAMPLERS
from threedgen.schedule import at

guidance.discover()
RULES = {
    name: cls
    for name in registry.names("guidance")
    if issubclass(cls := registry.lookup("guidance", name), Rule) and cls.__module__.startswith("threedgen.")
}
EVERY_RULE = pytest.mark.parametrize("name", RULES)
PER_VIEW = ("source", "control", "depth", "mask")
SPACES = ("latent", "pixel", "both")


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(bench: Bench) -> dict[str, torch.Tensor]:
    """All that any rule needs or may be given."""
    views, size = bench.views, bench.size
    return {
        "source": random(views, 3, size, size, seed=1),
        "control": random(views, 2, size, size, seed=2),
        "depth": random(views, 1, size, size, seed=3),
        "mask": (random(views, 1, size, size, seed=4) < 0.7).double(),
        "image": random(1, 2, 3, seed=5),
        "reference": random(1, 3, size, size, seed=6),
        "reference_c2w": bench.cameras.c2w[0],
    }


def bench_of(**settings) -> Bench:
    bench = Bench(**settings)
    bench.inputs = inputs(bench)
    bench.trained = {
        "critic": ParticlesScore(bench.prior, 0.9 * bench.z, bench.cameras.c2w, 0.1),
        "start": ParticlesScore(bench.prior, 0.0 * bench.z, bench.cameras.c2w, 0.5),
    }
    return bench


def test_rules_are_registered_and_their_inputs_are_known():
    assert {"sds", "ism", "vsd", "zero123"} <= set(RULES)
    known = set(inputs(Bench()))
    assert {name: set(rule.needs) - known for name, rule in RULES.items() if not set(rule.needs) <= known} == {}


@EVERY_RULE
def test_defaults_are_sound_and_give_a_gradient(name):
    rule, bench = RULES[name](), bench_of()
    rule.check()
    gradient = bench.gradient(rule)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 1e-6


@EVERY_RULE
@pytest.mark.parametrize("space", SPACES)
def test_the_same_seed_and_step_give_the_same_gradient_to_the_bit(name, space):
    rule = replace(RULES[name](), space=space, cfg=1.5)  # a large scale drives every pixel of a decoded estimate to its bounds
    one, two = bench_of().gradient(rule), bench_of().gradient(rule)
    assert torch.equal(one, two)
    assert not torch.equal(one, bench_of(index=4).gradient(rule))


@EVERY_RULE
def test_rows_permute_with_the_views(name):
    rule, bench, order = RULES[name](), bench_of(), [2, 0, 3, 1]
    expected = bench.gradient(rule)[order]
    bench.rgb = bench.rgb.detach()[order].requires_grad_()
    bench.cameras, bench.draws = bench.cameras[order], Draws(bench.seed, bench.index, order)
    bench.inputs |= {key: bench.inputs[key][order] for key in PER_VIEW}
    torch.testing.assert_close(bench.gradient(rule), expected, rtol=1e-8, atol=1e-10)


@EVERY_RULE
def test_without_joint_statistics_a_view_does_not_feel_the_others(name):
    rule, bench = replace(RULES[name](), rescale=0.0), bench_of()
    expected = bench.gradient(rule)
    changed = bench.rgb.detach().clone()
    changed[0] = 0.5
    bench.rgb = changed.requires_grad_()
    torch.testing.assert_close(bench.gradient(rule)[1:], expected[1:], rtol=1e-8, atol=1e-10)


@EVERY_RULE
@pytest.mark.parametrize("views", [1, 3])
def test_any_number_of_views_is_taken(name, views):
    assert torch.isfinite(bench_of(views=views).gradient(RULES[name]())).all()


class TrainablePrior(ToldGaussianPrior):
    """A prior whose network and decoder have weights that would take a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.colour = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def predict_noise(self, z_t, t, cond):
        return self.gain * super().predict_noise(z_t, t, cond)

    def decode(self, z):
        return super().decode(z) + self.colour


@EVERY_RULE
@pytest.mark.parametrize("space", SPACES)
def test_neither_prior_nor_critic_nor_inputs_get_a_gradient(name, space):
    bench = bench_of()
    bench.prior = prior = TrainablePrior()
    critic = TrainablePrior()
    bench.trained = {"critic": critic, "start": critic}
    for value in bench.inputs.values():
        value.requires_grad_()
    bench.distill(replace(RULES[name](), space=space)).loss.backward()
    assert bench.rgb.grad.abs().sum() > 0
    assert [p.grad for p in (prior.gain, prior.colour, critic.gain, critic.colour)] == [None] * 4
    assert [key for key, value in bench.inputs.items() if value.grad is not None] == []


@EVERY_RULE
@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_gradients_are_finite_at_both_ends_of_the_schedule(name, share, sampler):
    rule = replace(RULES[name](), t_min=share, t_max=share, t_sampler=sampler, space="both")
    out = bench_of().distill(rule)
    assert out.step.t.tolist() == [round(share * 999)] * 4
    assert torch.isfinite(out.loss)
    assert torch.isfinite(bench_of().gradient(rule)).all()


@EVERY_RULE
def test_single_precision_is_finite_and_close(name):
    rule, bench = replace(RULES[name](), t_min=0.3, t_max=0.3), bench_of()
    expected = bench.gradient(rule)
    bench.rgb = bench.rgb.detach().float().requires_grad_()
    gradient = bench.gradient(rule)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@EVERY_RULE
@pytest.mark.parametrize("space", ["latent", "pixel"])
def test_the_clip_bounds_every_entry(name, space):
    rule, bench = replace(RULES[name](), space=space, grad_clip=0.0, scale=1.0, pixel_scale=1.0), bench_of()
    free = bench.gradient(rule)
    factor = 2 if space == "latent" else 1  # z = 2 x - 1
    limit = float(free.abs().median()) / factor
    clipped = bench.gradient(replace(rule, grad_clip=limit))
    torch.testing.assert_close(clipped, free.clamp(-limit * factor, limit * factor))


@EVERY_RULE
@pytest.mark.parametrize("space", SPACES)
def test_the_scale_is_a_factor_of_the_gradient_and_the_loss(name, space):
    rule, bench = replace(RULES[name](), space=space, scale=1.0), bench_of()
    once, thrice = rule, replace(rule, scale=3.0)
    torch.testing.assert_close(bench.gradient(thrice), 3 * bench.gradient(once))
    torch.testing.assert_close(bench.distill(thrice).loss, 3 * bench.distill(once).loss)
    assert bench.gradient(replace(rule, scale=0.0)).abs().max() == 0


@EVERY_RULE
def test_both_spaces_add_up(name):
    rule, bench = RULES[name](), bench_of()
    latent, pixel, both = (bench.gradient(replace(rule, space=space)) for space in SPACES)
    torch.testing.assert_close(both, latent + pixel)
    torch.testing.assert_close(bench.gradient(replace(rule, space="both", pixel_scale=0.0)), latent)


def scheduled_settings() -> list[tuple[str, str]]:
    return [(name, f.name) for name, rule in RULES.items() for f in fields(rule) if f.metadata["scheduled"]]


def two_values(rule: Rule, setting: str) -> tuple[float, float]:
    """Two allowed values of a setting, near its default."""
    meta = next(f.metadata for f in fields(rule) if f.name == setting)
    if setting in ("t_min", "t_max"):
        return (0.2, 0.3) if setting == "t_min" else (0.7, 0.6)
    start = at(getattr(rule, setting), 50)
    low, high = (meta[bound] if meta[bound] is not None else start + 1.0 for bound in ("low", "high"))
    return (start, start + 0.2 * (high - start)) if high > start else (start, start - 0.2 * (start - low))


@pytest.mark.parametrize(("name", "setting"), scheduled_settings())
def test_every_number_that_may_be_scheduled_follows_its_schedule(name, setting):
    rule = RULES[name]()
    low, high = two_values(rule, setting)
    if setting == "path":
        rule.path_steps = 1
    moving, still = (replace(rule, **{setting: value}) for value in ([0, low, high, 100], (low + high) / 2))
    one, two = (bench_of(index=50, total=101).gradient(replace(r, space="both")) for r in (moving, still))
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@EVERY_RULE
@pytest.mark.parametrize("mode", ["embedded", "none"])
def test_a_guided_network_of_one_branch_is_asked_for_no_negative_prompt(name, mode):
    rule = replace(RULES[name](), cfg_mode=mode)
    try:
        rule.check()
    except ValueError as refused:
        assert "cfg_mode two_branch" in str(refused)  # noqa: PT017
        return
    bench = bench_of()
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(rule)
    negative = prior.encode_text([bench.texts["negative"]])
    for _, _, cond in prior.calls:
        assert not (cond.text == negative).flatten(1).all(1).any()
    told = [cond.guidance is not None for _, _, cond in prior.calls]
    assert any(told) if mode == "embedded" else not any(told)


@EVERY_RULE
def test_the_prompts_of_a_rule_are_all_that_it_asks_for(name):
    rule, bench = RULES[name](), bench_of()
    own = dict.fromkeys(rule.texts(), "red")
    bench.texts = {"text": "red", "negative": "green", **own}
    bench.distill(rule)


@EVERY_RULE
def test_an_input_that_is_missing_is_named(name):
    rule, bench = RULES[name](), bench_of()
    for needed in rule.needs:
        rest = {key: value for key, value in bench.inputs.items() if key != needed}
        with pytest.raises(UserError, match=f"this guidance needs '{needed}' images"):
            distill(rule, bench.teacher, bench.rgb, bench.cameras, bench.draws, inputs=rest)


NONSENSE = [
    ({"t_min": 0.6, "t_max": 0.5}, "t_min must not exceed t_max, but does at step 0"),
    ({"t_min": 0.3, "t_max": [0, 0.9, 0.2, 100]}, "t_min must not exceed t_max, but does at step 100"),
    ({"cfg_range": [9.0, 3.0]}, "cfg_range must be"),
    ({"cfg_range": [9.0]}, "cfg_range must be"),
    ({"cfg_mode": "none", "perp_neg": 1.0}, "cfg_mode two_branch"),
    ({"cfg_mode": "embedded", "perp_neg": [0, 0.0, 1.0, 100]}, "cfg_mode two_branch"),
]


@EVERY_RULE
@pytest.mark.parametrize(("settings", "message"), NONSENSE)
def test_nonsense_is_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        replace(RULES[name](), **settings).check()


@EVERY_RULE
def test_a_crop_is_refused_where_it_would_not_fit_what_the_rule_needs(name):
    rule = replace(RULES[name](), crop=0.5)
    if rule.needs:
        with pytest.raises(ValueError, match="crop must be 1"):
            rule.check()
    else:
        rule.check()
