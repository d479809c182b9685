import pytest
import torch
from torch import Tensor

from tests.oracles import CountingPrior, Prompts, two_image_prior, views_and_draws
from threedgen.guidance.core import Teacher
from threedgen.guidance.estimates import clean_estimates
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.mv_sds import MVSDS
from threedgen.guidance.sds import SDS

RED, BLUE = (torch.tensor(colour).view(3, 1, 1) for colour in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
SIZE = 6


def plain(colour: Tensor, views: int = 4) -> Tensor:
    """[V,S,S,3] views of one colour."""
    return colour.expand(views, 3, SIZE, SIZE).permute(0, 2, 3, 1)


def estimates_of(guidance, prompt: str, rgb: Tensor, step: int = 0) -> Tensor:
    prior = two_image_prior(SIZE)
    cameras, draws = views_and_draws(len(rgb), SIZE, step=step)
    return clean_estimates(guidance, Teacher(prior, Prompts(prior, prompt)), rgb, cameras, draws, levels=5)[1]


@pytest.mark.parametrize("guidance", [SDS(cfg=1.0), SDS(cfg=7.5), IM3D(cfg=1.0, rescale=0.0)], ids=["sds", "cfg", "im3d"])
@pytest.mark.parametrize(("prompt", "colour", "other"), [("red", RED, BLUE), ("blue", BLUE, RED)])
def test_at_high_noise_exact_scores_show_the_prompted_image_whatever_was_rendered(guidance, prompt, colour, other):
    found = estimates_of(guidance, prompt, plain(other))
    assert found.shape == (5, 4, 3, SIZE, SIZE)
    assert torch.allclose(found[-1], colour.expand(4, 3, SIZE, SIZE), atol=1e-3)


def test_without_a_prompt_little_noise_keeps_the_rendering_and_much_noise_mixes_what_there_may_be():
    # The red share at the highest level is that of a posterior between two equally likely images: never one of them for sure.
    found = estimates_of(SDS(cfg=1.0, t_min=0.02, t_max=0.999), "", plain(0.7 * RED + 0.3 * BLUE))
    assert torch.allclose(found[0], RED.expand(4, 3, SIZE, SIZE), atol=1e-3)
    assert 0.02 < float(found[-1][:, 2].mean()) < 0.98


def test_levels_run_from_t_min_to_t_max_of_the_step_with_the_views_together():
    prior = CountingPrior(two_image_prior(SIZE))
    teacher = Teacher(prior, Prompts(prior.prior, "red"))
    guidance = SDS(t_min=0.1, t_max=[0, 0.9, 0.5, 100])
    cameras, draws = views_and_draws(3, SIZE, step=50)
    clean_estimates(guidance, teacher, plain(RED, 3), cameras, draws, levels=4)
    assert [int(t[0]) for _, t, _ in prior.calls] == [100, 300, 500, 700]
    assert [(rows, cond.views) for rows, _, cond in prior.calls] == [(6, 3)] * 4


def test_the_noise_is_the_same_over_a_run_and_touches_no_other_draw():
    rgb = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first, later = (estimates_of(SDS(cfg=1.0), "", rgb, step=step) for step in (0, 9))
    assert torch.equal(first, later)
    assert torch.equal(before, torch.get_rng_state())
    assert not first.requires_grad


def test_a_rule_that_puts_views_in_one_image_shows_that_image():
    prior = two_image_prior(SIZE)
    cameras, draws = views_and_draws(4, SIZE)
    rgb = torch.cat([plain(RED, 2), plain(BLUE, 2)])
    rule = MVSDS(views="tiled", cfg=1.0)
    seen, found = clean_estimates(rule, Teacher(prior, Prompts(prior, "red")), rgb, cameras, draws, levels=2)
    assert seen.shape == (1, 3, 2 * SIZE, 2 * SIZE)
    assert found.shape == (2, 1, 3, SIZE, SIZE)
    assert torch.equal(seen[0, :, 0, 0], RED.flatten())
    assert torch.equal(seen[0, :, -1, 0], BLUE.flatten())
