"""Perp-Neg in a step: its formula view by view, its limits, and when its predictions are made."""

import hashlib
import math

import pytest
import torch

from tests.oracles import CountingPrior
from threedgen.cameras import Cameras, orbit
from threedgen.config.schema import PromptSettings
from threedgen.draws import Draws
from threedgen.guidance.core import GuidanceOutput, Teacher, distill
from threedgen.guidance.csd import CSD
from threedgen.guidance.csm import CSM
from threedgen.guidance.rule import Rule, perpendicular
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import START, VSD
from threedgen.priors.analytic import GaussianMixturePrior
from threedgen.priors.base import Conditioning
from threedgen.priors.prompts import PromptBank

SIZE = 4
PROMPT = "a dog"


class TextPrior(GaussianMixturePrior):
    """Predicts a * z_t + b with numbers a, b of the text of the row alone, different for any two texts."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64), [1.0])

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        seeds = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) for text in texts]
        shape = (1, 1 + 3 * SIZE * SIZE)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds])

    def predict_noise(self, z_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        a, b = cond.text[:, 0, 0], cond.text[:, 0, 1:].unflatten(-1, (3, SIZE, SIZE))
        return a[:, None, None, None] * z_t + b


def seen_from(azimuth: list[float], elevation: float = 10.0) -> Cameras:
    angles = torch.tensor(azimuth)
    c2w = orbit(angles, torch.full_like(angles, elevation), torch.full_like(angles, 2.6))
    return Cameras(c2w, torch.full_like(angles, 0.7), SIZE, SIZE)


def answer(
    rule: Rule, cameras: Cameras, *, view_dependent: str = "interpolated", negative: str = "", step: int = 0, prior=None
) -> tuple[torch.Tensor, GuidanceOutput]:
    """Gradient on the latents [B,3,h,w] of a step."""
    prior = prior or TextPrior()
    views = len(cameras)
    rgb = torch.rand(views, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    bank = PromptBank(prior, PROMPT, negative, settings=PromptSettings(view_dependent=view_dependent))
    inputs = {"image": torch.ones(1, 2, 5)}
    out = distill(rule, Teacher(prior, bank), rgb, cameras, Draws(0, step, range(views)), inputs=inputs)
    (gradient,) = torch.autograd.grad(out.loss, rgb)
    return gradient.permute(0, 3, 1, 2) / 2 * views, out


def test_each_view_gets_its_own_prompts_weights_and_noise():
    """Three views from different sides against the published formula, one view at a time."""
    cameras, scale, share = seen_from([20.0, 80.0, 200.0]), 7.5, 0.7
    gradient, out = answer(SDS(cfg=scale, perp_neg=share, weight="one", t_min=0.4, t_max=0.4), cameras)
    prior, z, t = TextPrior(), out.step.z, torch.tensor([400])
    abar = prior.alphas_cumprod[400]
    noise = out.step.draws.normal("noise", (3, SIZE, SIZE)).double()
    front, side, back, null = prior.encode_text([f"{PROMPT}, {view} view" for view in ("front", "side", "back")] + [""]).split(1)

    def f(a: float, c: float, r: float) -> float:
        return a * math.exp(-0.5 * r) + c

    r0, r1, r2 = 1 - 20 / 90, 1 - 80 / 90, 2 - 160 / 90
    positive = [r0 * front + (1 - r0) * side, r1 * front + (1 - r1) * side, r2 * side + (1 - r2) * back]
    weights = [(-f(4, -2.426, r), -f(4, -2.426, 1 - r)) for r in (r0, r1)] + [(-f(1, 0.967, r2), -f(1, -0.606, r2))]
    for view in range(3):
        z_t = (abar.sqrt() * z[view] + (1 - abar).sqrt() * noise[view])[None]

        def eps(text: torch.Tensor, z_t: torch.Tensor = z_t) -> torch.Tensor:
            return prior.predict_noise(z_t, t, Conditioning(text))[0]

        towards = eps(positive[view]) - eps(null)
        total = towards.clone()
        for weight, negative in zip(weights[view], (front, side), strict=True):
            e = eps(negative) - eps(null)
            total += share * weight * (e - (e * towards).sum() / (towards * towards).sum() * towards)
        assert torch.allclose(gradient[view], eps(null) + scale * total - noise[view], rtol=1e-4, atol=1e-4)


def test_the_perpendicular_part_is_perpendicular_row_by_row():
    rng = torch.Generator().manual_seed(0)
    e, towards = (torch.randn(3, 4, 5, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    part = perpendicular(e, towards)
    assert (part * towards).flatten(1).sum(1).abs().max() < 1e-9
    along = e - part
    assert torch.allclose(along / towards, (along / towards).flatten(1).mean(1)[:, None, None, None].expand_as(e)), "the rest is parallel"
    assert torch.allclose(perpendicular(towards * 3, towards), torch.zeros_like(e), atol=1e-12)
    assert torch.equal(perpendicular(e, towards * 0), e)


@pytest.mark.parametrize("rule", [SDS, CSD, CSM])
@pytest.mark.parametrize("view_dependent", ["none", "words", "interpolated"])
def test_without_weights_it_is_plain_guidance(rule, view_dependent):
    above = seen_from([0.0, 120.0, 240.0], elevation=70.0)
    plain, _ = answer(rule(), above, view_dependent=view_dependent)
    perp, _ = answer(rule(perp_neg=1.0), above, view_dependent=view_dependent)
    assert torch.equal(perp, plain)
    around = seen_from([0.0, 120.0, 240.0])
    perp, _ = answer(rule(perp_neg=1.0), around, view_dependent=view_dependent)
    assert not torch.allclose(perp, answer(rule(), around, view_dependent=view_dependent)[0])


CALIBRATION = {"image_scale": [3000, 0.5, 0.2, 5000], "perp_neg": [3000, 0.0, 1.0, 3500]}


@pytest.mark.parametrize(
    ("step", "image_scale", "perp_neg", "branches"), [(0, 0.5, 0.0, 2), (3000, 0.5, 0.0, 2), (3250, 0.4625, 0.5, 4), (5000, 0.2, 1.0, 4)]
)
def test_semantic_geometry_calibration_is_plain_csm_before_its_start(step, image_scale, perp_neg, branches):
    cameras, counting = seen_from([20.0, 80.0, 200.0]), CountingPrior(TextPrior())
    calibrated, _ = answer(CSM(**CALIBRATION), cameras, negative="ugly", step=step, prior=counting)
    rows, _, cond = counting.calls[-1]
    assert rows == 3 * branches, "a prediction without weight is not made"
    assert cond.image_scale.unique().tolist() == pytest.approx([image_scale])
    assert cond.image[:3].unique().item() == 1
    assert cond.image[3:].unique().item() == 0, "all but the prompt are told of no image"
    constant = CSM(image_scale=image_scale, perp_neg=perp_neg)
    assert torch.allclose(calibrated, answer(constant, cameras, negative="ugly", step=step)[0], rtol=1e-9)
    if branches == 2:
        assert torch.equal(cond.text[3:], TextPrior().encode_text(["ugly"]).expand(3, -1, -1)), "the negative prompt, as without Perp-Neg"


def test_scheduled_settings_are_constants_as_of_a_step():
    rule = VSD(path=[0, 1.0, 0.0, 100], path_steps=1, cfg=[0, 100, 50, 200])
    assert START in rule.as_of(99).terms()
    assert START not in rule.as_of(100).terms()
    assert rule.as_of(100).cfg == 75
    assert rule.as_of(100).scheduled("cfg", 7) == 75
    assert rule.cfg == [0, 100, 50, 200], "the settings of the run stay as they are"
