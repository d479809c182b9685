import pytest
import torch

from tests.oracles import CountingPrior, Prompts, two_image_prior, views_and_draws
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D


def test_rounds_begin_at_zero_after_the_first_fit_and_then_regularly():
    rule = IM3D(first_fit=10, fit=4)
    assert [s for s in range(24) if rule.asks(s)] == [0, 10, 14, 18, 22]


def test_denoising_with_exact_scores_ends_at_the_prompted_image():
    prior = two_image_prior()
    cameras, draws = views_and_draws()
    grey = torch.full((4, 6, 6, 3), 0.5, dtype=torch.float64)
    targets = IM3D(cfg=1.0, rescale=0.0).targets(Teacher(prior, Prompts(prior, "blue")), grey, cameras, draws)
    assert torch.allclose(targets, torch.tensor([0.0, 0, 1]).view(3, 1, 1).expand(4, 3, 6, 6).double(), atol=1e-4)


def test_a_round_takes_as_many_calls_as_denoising_steps_at_decreasing_noise():
    prior = CountingPrior(two_image_prior())
    cameras, draws = views_and_draws(step=50)
    rule = IM3D(first_denoise=5, denoise=3, t_max=[0, 0.8, 0.4, 100], t_min=0.1)
    grey = torch.full((4, 6, 6, 3), 0.5, dtype=torch.float64)
    rule.targets(Teacher(prior, Prompts(prior.prior, "red")), grey, cameras, draws)
    steps = [int(t[0]) for _, t, _ in prior.calls]
    assert len(steps) == 3
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == round(0.6 * 999)
    assert steps[-1] == round(0.1 * 999)
    prior.calls.clear()
    rule.targets(Teacher(prior, Prompts(prior.prior, "red")), grey, *views_and_draws(step=0))
    assert [int(prior.calls[0][1][0]), len(prior.calls)] == [999, 5]


def test_an_empty_range_of_timesteps_is_refused():
    with pytest.raises(ValueError, match="t_min must not exceed t_max, but does at step 100"):
        IM3D(t_min=0.3, t_max=[0, 0.8, 0.2, 100]).check()
    IM3D(t_min=0.2, t_max=[0, 0.8, 0.2, 100]).check()
