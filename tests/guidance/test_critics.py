"""What a critic learns."""

import pytest
import torch

from tests.guidance.bench import PRIORS, Bench
from tests.oracles import FreeCritic
from threedgen.guidance.adversarial_sd import AdversarialSD
from threedgen.guidance.core import distill
from threedgen.guidance.critics import critic_loss
from threedgen.guidance.vsd import VSD

BOTH_PRIORS = pytest.mark.parametrize("prior", PRIORS)


def bench_with(prior: str = "gaussian", index: int = 3) -> tuple[Bench, FreeCritic]:
    bench = Bench(PRIORS[prior](), index=index)
    critic = FreeCritic(tuple(bench.z.shape))
    bench.trained["critic"] = critic
    return bench, critic


def drawn(bench: Bench, number: int = 0) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Timestep, noise and noisy latents of a critic step."""
    t = int(torch.randint(1000, (), generator=bench.draws.shared(f"critic_timestep_{number}")))
    noise = bench.noise(f"critic_noise_{number}")
    return t, noise, bench.noised(t, noise)


@BOTH_PRIORS
@pytest.mark.parametrize("gamma", [0.0, -0.75, 0.5])
def test_the_loss_is_the_error_of_the_noise_and_the_weighted_distance_to_the_prior(prior, gamma):
    bench, critic = bench_with(prior)
    t, noise, z_t = drawn(bench)
    loss = critic_loss(bench.teacher, bench.step(AdversarialSD(gamma=gamma), 400))
    of_noise, of_prior = ((critic.prediction - e).square().mean() for e in (noise, bench.eps("text", z_t, t)))
    torch.testing.assert_close(loss, of_noise + gamma * of_prior)
    assert torch.equal(critic.seen[0], z_t)
    assert critic.seen[1].tolist() == [t] * 4


def test_without_gamma_the_loss_of_adversarial_sd_is_that_of_vsd():
    bench, _ = bench_with()
    losses = [critic_loss(bench.teacher, bench.step(rule, 400)) for rule in (VSD(), AdversarialSD(gamma=0.0))]
    assert torch.equal(*losses)


@BOTH_PRIORS
@pytest.mark.parametrize("gamma", [0.0, -0.75, 1.0])
def test_the_optimum_of_the_critic_is_the_renderings_score_pushed_away_from_the_prior(prior, gamma):
    bench, critic = bench_with(prior)
    t, noise, z_t = drawn(bench)
    with torch.no_grad():
        critic.prediction.copy_((noise + gamma * bench.eps("text", z_t, t)) / (1 + gamma))
    loss = critic_loss(bench.teacher, bench.step(AdversarialSD(gamma=gamma), 400))
    loss.backward()
    assert critic.prediction.grad.abs().max() < 1e-12
    with torch.no_grad():
        critic.prediction += 0.1
    assert critic_loss(bench.teacher, bench.step(AdversarialSD(gamma=gamma), 400)) > loss


def test_gradient_goes_to_the_critic_alone_and_none_comes_from_the_particles():
    bench, critic = bench_with()
    out = distill(VSD(), bench.teacher, bench.rgb, bench.cameras, bench.draws)
    out.loss.backward()
    assert critic.prediction.grad is None
    assert bench.rgb.grad.abs().sum() > 0
    bench.rgb.grad = None
    critic_loss(bench.teacher, out.step).backward()
    assert critic.prediction.grad.abs().max() > 0
    assert bench.rgb.grad is None


def test_every_critic_step_has_draws_of_its_own_and_the_same_step_the_same():
    bench, critic = bench_with()
    seen = []
    for number in (0, 1, 2, 0):
        critic_loss(bench.teacher, bench.step(VSD(), 400), number)
        seen.append(critic.seen[0])
    assert torch.equal(seen[0], seen[3])
    assert not torch.allclose(seen[0], seen[1])
    assert not torch.allclose(seen[1], seen[2])


def test_timesteps_cover_the_whole_schedule_whatever_the_range_of_the_rule():
    timesteps = []
    for index in range(200):
        bench, critic = bench_with(index=index)
        critic_loss(bench.teacher, bench.step(VSD(t_min=0.4, t_max=0.5), 400))
        timesteps.append(int(critic.seen[1][0]))
    assert min(timesteps) < 50
    assert max(timesteps) > 950


@pytest.mark.parametrize("dropout", [0.0, 0.3, 1.0])
def test_the_camera_is_withheld_in_its_share_of_the_steps(dropout):
    withheld = []
    for index in range(200):
        bench, critic = bench_with(index=index)
        critic_loss(bench.teacher, bench.step(VSD(camera_dropout=dropout), 400))
        cond = critic.seen[2]
        assert cond.views == 4
        withheld.append(not cond.c2w.any())
        if not withheld[-1]:
            assert torch.equal(cond.c2w, bench.cameras.c2w)
    assert sum(withheld) / 200 == pytest.approx(dropout, abs=0.12 if 0 < dropout < 1 else 0)


def test_the_critic_reads_the_prompt_without_view_words():
    bench, critic = bench_with()
    bench.texts["plain"] = "blue"
    critic_loss(bench.teacher, bench.step(VSD(), 400))
    assert torch.equal(critic.seen[2].text, bench.prior.encode_text(["blue"]).expand(4, -1, -1))
