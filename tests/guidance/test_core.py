import pytest
import torch

from tests.oracles import CountingPrior, Prompts, gaussian_prior, two_image_prior, views_and_draws
from threedgen.guidance.core import Step, Teacher, clipped, distill, gradient_loss, weight
from threedgen.guidance.noisers import noisy_state, random_noise
from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.guidance.timesteps import sample_timestep


def rendered(views: int = 4, size: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.rand(views, size, size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def latent_gradient(rule, prior, rgb, step=0):
    """Gradient of a distillation loss with respect to z = 2 rgb - 1, times the batch size, [B,3,h,w]."""
    cameras, draws = views_and_draws(len(rgb), rgb.shape[1], step=step)
    prompt = "red" if hasattr(prior, "names") else ""
    out = distill(rule, Teacher(prior, Prompts(prior, prompt)), rgb, cameras, draws)
    (gradient,) = torch.autograd.grad(out.loss, rgb)
    return gradient.permute(0, 3, 1, 2) / 2 * len(rgb), cameras, draws


@pytest.mark.parametrize("name", ["sigma2", "one", "alpha_sigma2", "sigma_over_alpha"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_gradient_of_sds_is_its_formula_on_exact_scores(name, scale):
    prior, rgb = two_image_prior(), rendered()
    rule = SDS(cfg=scale, weight=name, t_min=0.3, t_max=0.3)
    gradient, cameras, draws = latent_gradient(rule, prior, rgb)
    z = (2 * rgb.detach() - 1).permute(0, 3, 1, 2)
    abar = prior.alphas_cumprod[300]
    noise = draws.normal("noise", z.shape[1:]).double()
    z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise
    teacher, t = Teacher(prior, Prompts(prior, "red")), torch.full((4,), 300)
    step = Step(rule, teacher, z, t, cameras, draws)
    eps = step.predict(*rule.terms(), t=noisy_state(z, t, noise, prior.alphas_cumprod, 4))
    text, null = eps[Term("text")], eps[Term("negative")]
    assert torch.allclose(text, (z_t - abar.sqrt() * torch.tensor([1.0, -1, -1]).view(3, 1, 1)) / (1 - abar).sqrt())
    w = {"sigma2": 1 - abar, "one": 1.0, "alpha_sigma2": abar.sqrt() * (1 - abar), "sigma_over_alpha": ((1 - abar) / abar).sqrt()}[name]
    assert torch.allclose(gradient, w * (null + scale * (text - null) - noise), rtol=1e-5, atol=1e-9)


def test_the_reconstruction_form_pulls_towards_the_clean_estimate():
    prior, rgb = two_image_prior(), rendered()
    gradient, *_ = latent_gradient(SDS(cfg=1.0, weight="sigma_over_alpha", t_min=0.5, t_max=0.5), prior, rgb)
    z = (2 * rgb.detach() - 1).permute(0, 3, 1, 2)
    red = torch.tensor([1.0, -1.0, -1.0]).view(3, 1, 1)
    assert torch.allclose(gradient, z - red, atol=1e-6)


def test_pixel_and_latent_space_agree_where_the_autoencoder_is_an_affine_map():
    prior, rgb = gaussian_prior(), (0.4 + 0.2 * rendered().detach()).requires_grad_()
    latent, *_ = latent_gradient(SDS(cfg=1.0, t_min=0.2, t_max=0.2), prior, rgb)
    pixel, *_ = latent_gradient(SDS(cfg=1.0, t_min=0.2, t_max=0.2, space="pixel"), prior, rgb)
    both, *_ = latent_gradient(SDS(cfg=1.0, t_min=0.2, t_max=0.2, space="both"), prior, rgb)
    # z = 2 x - 1 halves the residual in x, and the chain rule back to z halves it once more.
    assert torch.allclose(4 * pixel, latent, atol=1e-9)
    assert torch.allclose(both, pixel + latent, atol=1e-9)


def test_the_expected_gradient_of_sds_on_a_gaussian_is_its_closed_form():
    prior = gaussian_prior(size=4)
    z = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    abar = prior.alphas_cumprod[500]
    expected = (1 - abar).sqrt() * abar.sqrt() / (abar * 0.09 + 1 - abar) * (z[0] - prior.means[0])
    total = torch.zeros_like(z[0])
    rgb = torch.full((64, 4, 4, 3), 0.5, dtype=torch.float64, requires_grad=True)
    for step in range(40):
        gradient, *_ = latent_gradient(SDS(cfg=1.0, weight="one", t_min=0.5, t_max=0.5), prior, rgb, step=step)
        total += gradient.mean(0) / 40
    # The residual is linear in the noise: eps_hat - eps has coefficient sigma^2/(abar v + sigma^2) - 1.
    spread = abs((1 - abar) / (abar * 0.09 + 1 - abar) - 1) / (64 * 40) ** 0.5
    assert (total - expected).abs().max() < 5 * spread


def test_all_predictions_of_a_step_go_in_one_call():
    prior = CountingPrior(two_image_prior())
    cameras, draws = views_and_draws()
    distill(SDS(), Teacher(prior, Prompts(prior.prior, "red")), rendered(), cameras, draws)
    (rows, t, cond), *rest = prior.calls
    assert not rest
    assert rows == 8
    assert cond.views == 4
    assert len(t.unique()) == 1
    assert torch.equal(cond.c2w, cameras.c2w.repeat(2, 1, 1))
    assert torch.equal(cond.text[:4].unique(dim=0), prior.prior.encode_text(["red"]))
    assert torch.equal(cond.text[4:].unique(dim=0), prior.prior.encode_text([""]))


def test_rescale_gives_the_estimate_the_spread_of_the_text_estimate():
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(8, 3, 4, 4, generator=rng, dtype=torch.float64)
    noisy = noisy_state(
        z, torch.full((8,), 500), torch.randn(z.shape, generator=rng, dtype=torch.float64), gaussian_prior().alphas_cumprod, 4
    )
    text, guided = (torch.randn(z.shape, generator=rng, dtype=torch.float64) * s for s in (1.0, 3.0))
    full = noisy.estimate(noisy.rescaled(guided, text, 1.0))
    for group in (slice(0, 4), slice(4, 8)):
        assert full[group].std().item() == pytest.approx(noisy.estimate(text)[group].std().item(), rel=1e-9)
    half = noisy.estimate(noisy.rescaled(guided, text, 0.5))
    assert torch.allclose(half, 0.5 * full + 0.5 * noisy.estimate(guided))
    assert noisy.rescaled(guided, text, 0.0) is guided


def test_the_loss_trick_gives_the_gradient_over_the_batch():
    x = rendered().detach().requires_grad_()
    wanted = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(gradient_loss(x, wanted), x)
    assert torch.allclose(gradient, wanted / len(x), atol=1e-12)


def test_clipping_bounds_entries_and_drops_what_is_not_finite():
    g = torch.tensor([-5.0, 0.5, float("nan"), float("inf")])
    assert clipped(g, 2.0).tolist() == [-2.0, 0.5, 0.0, 0.0]
    assert torch.isfinite(clipped(g, 0.0)).all()


def test_timesteps_cover_the_range_and_are_shared_by_the_views():
    abar = two_image_prior().alphas_cumprod
    drawn = [sample_timestep(SDS(t_min=0.1, t_max=0.3), abar, views_and_draws(step=s)[1], 500) for s in range(500)]
    assert all(len(t.unique()) == 1 for t in drawn)
    values = torch.stack([t[0] for t in drawn])
    assert values.min() >= 100
    assert values.max() <= 300
    assert values.max() - values.min() > 180
    assert sample_timestep(SDS(t_min=0.999, t_max=1.0), abar, views_and_draws()[1], 500).max() <= 999


def test_noise_is_independent_per_view_and_keeps_the_variance():
    z = torch.zeros(4, 3, 32, 32)
    cameras, draws = views_and_draws()
    prior = gaussian_prior()
    state = random_noise(Step(SDS(), Teacher(prior, Prompts(prior, "")), z, torch.full((4,), 999), cameras, draws))
    assert torch.allclose(state.alpha**2 + state.sigma**2, torch.ones(4, 1, 1, 1))
    assert not torch.equal(state.noise[0], state.noise[1])
    assert weight("one", state).unique().item() == 1


def test_the_prior_gets_no_gradient_and_the_render_does():
    rgb = rendered()
    cameras, draws = views_and_draws()
    prior = two_image_prior()
    distill(SDS(space="both"), Teacher(prior, Prompts(prior, "red")), rgb, cameras, draws).loss.backward()
    assert rgb.grad is not None
    assert rgb.grad.abs().sum() > 0


def test_the_negative_prompt_takes_the_place_of_the_null_prompt():
    prior = two_image_prior()
    gradients = []
    for negative in ("", "blue"):
        rgb = rendered()
        cameras, draws = views_and_draws()
        out = distill(SDS(t_min=0.9, t_max=0.9), Teacher(prior, Prompts(prior, "red", negative)), rgb, cameras, draws)
        gradients.append(torch.autograd.grad(out.loss, rgb)[0])
    # Away from blue: less blue than away from the mean of both, where the gradient on blue is larger and the one on red smaller.
    assert (gradients[1][..., 2] > gradients[0][..., 2]).all()
    assert (gradients[1][..., 0] < gradients[0][..., 0]).all()
