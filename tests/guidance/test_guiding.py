"""How a prior is guided: modes of classifier-free guidance, drawn scales, image prompts and negative attention."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from tests.oracles import CountingPrior
from threedgen.errors import UserError
from threedgen.guidance.csm import CSM
from threedgen.guidance.dds import DDS
from threedgen.guidance.rule import Rule
from threedgen.guidance.sds import SDS
from threedgen.guidance.vsd import VSD
from threedgen.priors.base import Conditioning

AT = {"t_min": 0.5, "t_max": 0.5}
T = 500


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_network_that_takes_the_scale_is_given_it_and_asked_once(cfg):
    bench = Bench()
    residual = bench.eps("text", bench.noised(T), T, guidance=torch.full((4,), cfg)) - bench.noise()
    bench.assert_residual(SDS(cfg=cfg, cfg_mode="embedded", **AT), residual, T)
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(SDS(cfg=cfg, cfg_mode="embedded"))
    ((rows, _, cond),) = prior.calls
    assert rows == 4
    assert cond.guidance.tolist() == [cfg] * 4


def test_an_embedded_scale_of_an_exact_network_is_two_branches_against_the_null_prompt():
    bench = Bench()
    bench.texts["negative"] = ""
    two, one = (bench.latent(SDS(cfg=6.0, cfg_mode=mode, **AT)) for mode in ("two_branch", "embedded"))
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("prior", PRIORS)
def test_without_guidance_the_text_alone_is_asked_whatever_the_scale(prior):
    bench = Bench(PRIORS[prior]())
    bench.assert_residual(SDS(cfg=50.0, cfg_mode="none", **AT), bench.eps("text", bench.noised(T), T) - bench.noise(), T)
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(SDS(cfg_mode="none"))
    ((rows, _, cond),) = prior.calls
    assert rows == 4
    assert cond.guidance is None


def test_a_critic_is_asked_at_scale_one():
    bench = Bench()
    bench.trained["critic"] = critic = CountingPrior(bench.prior)
    bench.distill(VSD(cfg_mode="embedded", cfg=9.0))
    assert critic.calls[0][2].guidance is None  # which is scale 1


def test_what_is_not_guided_is_asked_at_scale_one_beside_what_is():
    guided, plain = (Conditioning(torch.zeros(2, 1, 3), guidance=g) for g in (torch.full((2,), 7.0), None))
    assert Conditioning.stack([guided, plain]).guidance.tolist() == [7.0, 7.0, 1.0, 1.0]


def test_both_halves_of_dds_are_guided():
    bench = Bench()
    bench.inputs["source"] = bench.x
    bench.texts["source"] = bench.texts["text"]
    assert bench.latent(DDS(cfg_mode="embedded", cfg=9.0)).abs().max() < 1e-9


def test_a_drawn_scale_lies_in_its_range_and_is_that_of_the_step():
    bench, drawn = Bench(), []
    for index in range(100):
        draws = [Bench(index=index, views=1).step(SDS(), T) for _ in range(2)]
        first, second = (SDS(cfg_range=[3.0, 9.0], cfg=77.0).guidance_scale(step) for step in draws)
        assert first == second
        drawn.append(first)
    assert 3 <= min(drawn) < 3.5
    assert 8.5 < max(drawn) <= 9
    scale = SDS(cfg_range=[3.0, 9.0]).guidance_scale(bench.step(SDS(), T))
    torch.testing.assert_close(bench.latent(SDS(cfg_range=[3.0, 9.0])), bench.latent(SDS(cfg=scale)))


def test_a_range_of_one_scale_is_that_scale():
    bench = Bench()
    torch.testing.assert_close(bench.latent(SDS(cfg_range=[7.5, 7.5], cfg=1.0)), bench.latent(SDS(cfg=7.5)))


@pytest.mark.parametrize("wrong", [[1.0], [5.0, 1.0], [1.0, 2.0, 3.0]])
def test_a_range_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="cfg_range must be"):
        SDS(cfg_range=wrong).check()


@pytest.mark.parametrize("mode", ["embedded", "none"])
def test_perp_neg_needs_a_negative_branch(mode):
    with pytest.raises(ValueError, match="perp_neg needs cfg_mode two_branch"):
        SDS(cfg_mode=mode, perp_neg=[0, 0.0, 1.0, 10]).check()
    SDS(cfg_mode=mode).check()


def image_bench() -> Bench:
    tokens = torch.rand(1, 2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    return Bench(inputs={"image": tokens})


def with_image(bench: Bench, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Text prediction with the image's tokens, negative prediction with none."""
    shown = {"image": bench.inputs["image"].expand(4, -1, -1), "image_scale": torch.full((4,), scale)}
    return bench.eps("text", bench.noised(T), T, **shown), bench.eps("negative", bench.noised(T), T)


def test_an_image_prompt_is_shown_to_the_text_branch_alone():
    bench = image_bench()
    text, negative = with_image(bench, 0.6)
    bench.assert_residual(SDS(image_scale=0.6, cfg=5.0, **AT), negative + 5.0 * (text - negative) - bench.noise(), T)


def test_csm_with_an_image_prompt_inverts_without_it():
    bench = image_bench()
    rule = CSM(image_scale=0.6, delta=100, offset=0.0, **AT)
    plain = CSM(delta=100, offset=0.0, **AT)
    states = [r.states(bench.step(r, T))[0]["t"].z_t for r in (rule, plain)]
    assert torch.equal(*states)
    shown = {"image": bench.inputs["image"].expand(4, -1, -1), "image_scale": torch.full((4,), 0.6)}
    residual = 7.5 * (bench.eps("text", states[0], T, **shown) - bench.eps("negative", states[0], T))
    bench.assert_residual(rule, residual, T)


def test_a_critic_that_is_the_prior_sees_the_image_as_well():
    bench = image_bench()
    bench.trained["critic"] = bench.prior
    assert bench.latent(VSD(cfg=1.0, image_scale=0.6)).abs().max() < 1e-9


def test_an_image_prompt_needs_an_image():
    with pytest.raises(UserError, match="needs 'image' images"):
        Bench().latent(SDS(image_scale=0.5))


def test_attention_is_pushed_away_from_the_negative_prompt():
    bench = Bench()
    away = {"negative": bench.prior.encode_text(["green"]).expand(4, -1, -1), "negative_scale": torch.full((4,), 0.4)}
    residual = bench.eps("text", bench.noised(T), T, **away) - bench.noise()
    bench.assert_residual(SDS(cfg_mode="none", negative_attention=0.4, **AT), residual, T)


def test_what_is_off_is_not_told():
    bench = image_bench()
    bench.prior = prior = CountingPrior(bench.prior)
    bench.distill(SDS())
    cond = prior.calls[0][2]
    assert [cond.guidance, cond.negative, cond.negative_scale, cond.image, cond.image_scale, cond.concat, cond.control] == [None] * 7


def test_a_rule_of_no_residual_says_so():
    with pytest.raises(NotImplementedError, match="Rule declares no residual"):
        Bench().distill(Rule())


def test_a_negative_prompt_by_another_name_is_the_one_that_is_used():
    bench, rule = Bench(), SDS(cfg=3.0, **AT)
    step = bench.step(rule, T)
    states, _ = rule.states(step)
    terms = rule.branches("t", "text", "flaws")
    guided = rule.guided(step.predict(*terms, **states), states, step, negative="flaws")
    torch.testing.assert_close(guided, bench.cfg(bench.noised(T), T, 3.0, "text", "flaws"))
