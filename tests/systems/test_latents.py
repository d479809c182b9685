"""Latents that are rendered go to the rule as they are; a stage that renders other latents than the prior's is refused."""

import dataclasses

import pytest
import torch

from tests.guidance.bench import Bench
from tests.oracles import CountingPrior, Prompts, two_image_prior
from threedgen.config.schema import HashGridSettings, LatentFieldSettings, OrbitSettings, StageSettings
from threedgen.draws import Draws
from threedgen.errors import UserError
from threedgen.guidance.core import Teacher, distill
from threedgen.guidance.estimates import clean_estimates
from threedgen.guidance.ism import ISM
from threedgen.guidance.mv_sds import MVSDS
from threedgen.guidance.rule import Rule
from threedgen.guidance.sds import SDS
from threedgen.representations.latent_field import LatentField
from threedgen.systems.distillation import Distillation
from threedgen.systems.objectives import ResidualObjective

SMALL = LatentFieldSettings(
    channels=3, levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24
)


class NoEncoder(CountingPrior):
    """A prior whose encoder is not to be asked."""

    def encode(self, rgb):
        raise AssertionError("the encoder was asked")


def latents_of(bench: Bench) -> torch.Tensor:
    """[B,h,w,C] latents that are none of the renderings'."""
    rng = torch.Generator().manual_seed(9)
    return torch.randn(bench.rgb.shape, generator=rng, dtype=torch.float64).requires_grad_()


def test_the_gradient_of_sds_on_rendered_latents_is_its_formula():
    t, cfg = 400, 5.0
    bench = Bench()
    latent = latents_of(bench)
    z = latent.detach().permute(0, 3, 1, 2)
    share = t / len(bench.prior.alphas_cumprod)
    rule = SDS(t_min=share, t_max=share, cfg=cfg)
    teacher = dataclasses.replace(bench.teacher, prior=NoEncoder(bench.prior))
    out = distill(rule, teacher, bench.rgb, bench.cameras, bench.draws, latent=latent)
    found, none = torch.autograd.grad(out.loss, [latent, bench.rgb], allow_unused=True)
    noisy = bench.noised(t, z=z)
    expected = bench.sigma(t) ** 2 * (bench.cfg(noisy, t, cfg) - bench.noise())
    assert none is None
    torch.testing.assert_close(found.permute(0, 3, 1, 2) * bench.views, expected)
    assert torch.equal(out.step.z, z)


@pytest.mark.parametrize("rule", [SDS(), ISM(), MVSDS()])
def test_latents_of_a_picture_are_taught_as_the_picture_is(rule: Rule):
    bench = Bench()
    latent = (2 * bench.rgb.detach() - 1).requires_grad_()
    encoded = bench.gradient(rule) / 2
    out = distill(rule, bench.teacher, bench.rgb, bench.cameras, bench.draws, total=bench.total, latent=latent)
    (found,) = torch.autograd.grad(out.loss, latent)
    torch.testing.assert_close(found.permute(0, 3, 1, 2) * bench.views, encoded)
    assert found.abs().max() > 0


@pytest.mark.parametrize("rule", [SDS(space="pixel"), SDS(space="both"), SDS(crop=0.5), MVSDS(views="tiled")])
def test_rules_that_work_on_pictures_refuse_latents(rule):
    bench = Bench()
    with pytest.raises(ValueError, match="latent_nerf shows latents"):
        distill(rule, bench.teacher, bench.rgb, bench.cameras, bench.draws, latent=latents_of(bench))


def test_estimates_are_those_of_the_rendered_latents():
    bench = Bench()
    told = {"levels": 2, "latent": 2 * bench.rgb.detach() - 1}
    teacher = dataclasses.replace(bench.teacher, prior=NoEncoder(bench.prior))
    other = bench.rgb.detach() * 0
    seen, found = clean_estimates(SDS(), teacher, other, bench.cameras, bench.draws, **told)
    expected = clean_estimates(SDS(), bench.teacher, bench.rgb.detach(), bench.cameras, bench.draws, levels=2)[1]
    torch.testing.assert_close(found, expected)
    assert torch.equal(seen, other.permute(0, 3, 1, 2))


def system_of(representation=SMALL, resolution=6, guidance=None) -> Distillation:
    prior = NoEncoder(two_image_prior())
    stage = StageSettings(representation, guidance or SDS(), OrbitSettings(views=2, resolution=resolution), steps=4)
    return Distillation(stage, LatentField(representation), Teacher(prior, Prompts(prior.prior, "red")), seed=3)


def test_a_step_asks_the_prior_with_what_the_field_renders():
    system = system_of()
    objective, field, draws = system.objective, system.representation, Draws(3, 0, range(2))
    assert isinstance(objective, ResidualObjective)
    lesson = objective(field, draws, False)
    lesson.loss.backward()
    assert lesson.render.latent is not None
    assert field.head.grad is not None
    assert field.head.grad[1:].abs().max() > 0
    assert field.colours.weight.grad is None


@pytest.mark.parametrize(
    ("representation", "resolution", "message"),
    [
        (dataclasses.replace(SMALL, channels=4), 6, "representation.channels is 4, and latents of the prior have 3: set it to 3"),
        (dataclasses.replace(SMALL, channels=4, shows="rgb"), 8, "representation.channels is 4"),
        (SMALL, 8, "cameras.resolution is 8, and latents of the prior have 6 pixels a side: set it to 6"),
        (SMALL, {0: 6, 2: 12}, "cameras.resolution"),
    ],
)
def test_other_latents_than_the_priors_are_refused(representation, resolution, message):
    with pytest.raises(UserError, match=message):
        system_of(representation, resolution)


def test_other_sizes_are_taken_where_colours_are_shown_and_by_other_representations():
    system_of(dataclasses.replace(SMALL, shows="rgb"), {0: 8, 2: 12})
    StageSettings(HashGridSettings(), SDS(space="pixel", crop=0.5), OrbitSettings()).check()
    StageSettings(dataclasses.replace(SMALL, shows="rgb"), SDS(space="pixel", crop=0.5), OrbitSettings()).check()
