"""Closed-form priors against brute force, automatic differentiation and their limits, in float64."""

import itertools
import math

import pytest
import torch

from tests.sampling import add_noise, ddim_step, predict_z0, timesteps
from threedgen.cameras import orbit_cameras
from threedgen.draws import generator
from threedgen.errors import UserError
from threedgen.priors.analytic import GaussianMixturePrior, ImageMixturePrior, scaled_linear
from threedgen.priors.base import Conditioning
from threedgen.priors.prompts import PromptBank

SIZE = 4
NAMES = ["barrel", "red apple", "apple"]

ONE_VIEW = torch.eye(4)[None]


def normal(key: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key), dtype=torch.float64)


def images_at(c2w: torch.Tensor, fovy: torch.Tensor, size: int) -> torch.Tensor:
    """[3,B,3,size,size] three smooth patterns that change with the camera."""
    grid = torch.linspace(0, 1, size, dtype=c2w.dtype)
    phase = c2w[:, :3, 3].sum(1)[:, None, None, None] + fovy[:, None, None, None]
    channel = torch.arange(3, dtype=c2w.dtype)[:, None, None]
    return torch.stack([0.5 + 0.4 * torch.sin(phase + 3 * (k + 1) * grid + channel + grid[:, None]) for k in range(3)])


def ring(views: int = 4):
    cameras = orbit_cameras([360 / views * v for v in range(views)], 20.0, 2.6, 40.0, SIZE, SIZE)
    return cameras.c2w.double(), cameras.fovy.double()


def mixture(tau: float = 0.0) -> ImageMixturePrior:
    return ImageMixturePrior(images_at, NAMES, SIZE, tau)


def conditioning(prior, prompt: str, views: int, rows: int = 4) -> Conditioning:
    c2w, fovy = ring(rows)
    return Conditioning(prior.encode_text([prompt]).expand(rows, -1, -1), c2w, fovy, views)


def log_density(z: torch.Tensor, means: torch.Tensor, stds: list[float], log_weights: torch.Tensor, alpha_bar: float) -> torch.Tensor:
    """Log-density of one noisy draw (any shape) of a mixture, term by term with torch's own distributions."""
    terms = []
    for mean, std, log_weight in zip(means, stds, log_weights, strict=True):
        scale = math.sqrt(alpha_bar * std**2 + 1 - alpha_bar)
        terms.append(log_weight + torch.distributions.Normal(math.sqrt(alpha_bar) * mean, scale).log_prob(z).sum())
    return torch.stack(terms).logsumexp(0)


def test_gaussian_is_the_linear_formula():
    mean, std, t = normal("mean", 1, 3, SIZE, SIZE), 0.3, torch.tensor([0, 400, 999])
    prior, z = GaussianMixturePrior(mean, [std]), normal("z", 3, 3, SIZE, SIZE)
    a = scaled_linear()[t][:, None, None, None]
    expected = (1 - a).sqrt() / (a * std**2 + 1 - a) * (z - a.sqrt() * mean)
    actual = prior.predict_noise(z, t, Conditioning(prior.encode_text(["x"] * 3)))
    torch.testing.assert_close(actual, expected, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize("t", [0, 300, 700, 999])
def test_noise_is_the_score_of_the_mixture(t):
    means, stds, weights = 0.3 * normal("mean", 3, 3, SIZE, SIZE), [0.5, 1.0, 0.8], [0.2, 0.5, 0.3]
    prior, z = GaussianMixturePrior(means, stds, weights), 0.5 * normal("z", 2, 3, SIZE, SIZE)
    eps = prior.predict_noise(z, torch.tensor([t, t]), Conditioning(prior.encode_text(["", ""])))
    alpha_bar = scaled_linear()[t].item()
    for row, expected in zip(z, eps, strict=True):
        leaf = row.clone().requires_grad_()
        (score,) = torch.autograd.grad(log_density(leaf, means, stds, prior.log_weights.double(), alpha_bar), leaf)
        torch.testing.assert_close(expected, -math.sqrt(1 - alpha_bar) * score, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize(("views", "tau", "t"), list(itertools.product([1, 2, 4], [0.0, 0.2], [600, 950, 999])))
def test_noise_is_the_score_of_the_views_of_a_group_together(views, tau, t):
    prior = mixture(tau)
    cond, z = conditioning(prior, "", views), normal("z", 4, 3, SIZE, SIZE)
    known = 2 * images_at(*ring(), SIZE) - 1
    alpha_bar = scaled_linear()[t].item()
    eps = prior.predict_noise(z, torch.full((4,), t), cond)
    for first in range(0, 4, views):
        group = slice(first, first + views)
        leaf = z[group].clone().requires_grad_()
        density = log_density(leaf, known[:, group], [tau] * 3, torch.full((3,), -math.log(3), dtype=torch.float64), alpha_bar)
        (score,) = torch.autograd.grad(density, leaf)
        torch.testing.assert_close(eps[group], -math.sqrt(1 - alpha_bar) * score, atol=1e-9, rtol=1e-8)


def test_posterior_mean_by_counting():
    """The weighted mean of the known images, the weights by Bayes' rule from numbers in Python."""
    prior, t = mixture(), 985
    cond, z = conditioning(prior, "", 2), normal("z", 4, 3, SIZE, SIZE)
    known, a = 2 * images_at(*ring(), SIZE) - 1, scaled_linear()[t].item()
    estimate = predict_z0(z, prior.predict_noise(z, torch.full((4,), t), cond), a)
    for first in (0, 2):
        distances = [
            sum((x - math.sqrt(a) * y) ** 2 for x, y in zip(z[first : first + 2].flatten().tolist(), image, strict=True))
            for image in known[:, first : first + 2].flatten(1).tolist()
        ]
        likelihood = [math.exp(-(d - min(distances)) / (2 * (1 - a))) for d in distances]
        weights = torch.tensor([v / sum(likelihood) for v in likelihood], dtype=torch.float64)
        assert 0.01 < weights.max() < 0.99, "all three must count, else the test shows little"
        torch.testing.assert_close(
            estimate[first : first + 2], torch.einsum("k,kbchw->bchw", weights, known[:, first : first + 2]), atol=1e-9, rtol=1e-9
        )


def test_without_noise_the_image_itself_and_in_noise_the_mean():
    prior = mixture()
    cond, known, eps = conditioning(prior, "", 4), 2 * images_at(*ring(), SIZE) - 1, normal("eps", 4, 3, SIZE, SIZE)
    for k in range(3):
        z = add_noise(known[k], eps, prior.alphas_cumprod[0].item())
        torch.testing.assert_close(prior.predict_noise(z, torch.zeros(4, dtype=torch.long), cond), eps, atol=1e-9, rtol=1e-9)
    flat = GaussianMixturePrior(known[:, 0], [0.0] * 3)
    flat.alphas_cumprod = torch.tensor([1e-14], dtype=torch.float64)
    noise = flat.predict_noise(eps, torch.zeros(4, dtype=torch.long), Conditioning(flat.encode_text([""] * 4)))
    mean = (eps - (1 - 1e-14) ** 0.5 * noise) / 1e-7
    torch.testing.assert_close(mean, known[:, 0].mean(0).expand(4, -1, -1, -1), atol=1e-5, rtol=0)


def test_prompt_names_the_object_whatever_the_image_says():
    prior = mixture()
    known, eps = 2 * images_at(*ring(), SIZE) - 1, normal("eps", 4, 3, SIZE, SIZE)
    for t, (k, prompt) in itertools.product([0, 500, 999], enumerate(["a barrel", "a Red Apple", "apple"])):
        a = prior.alphas_cumprod[t].item()
        z = add_noise(known[(k + 1) % 3], eps, a)
        estimate = predict_z0(z, prior.predict_noise(z, torch.full((4,), t), conditioning(prior, prompt, 4)), a)
        torch.testing.assert_close(estimate, known[k], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("prompt", ["a pear", "a barrel of red apples", "an apple in a barrel"])
def test_prompt_that_names_no_object_or_several_is_refused(prompt):
    with pytest.raises(UserError, match=r"name exactly one of barrel, red apple, apple$"):
        mixture().encode_text([prompt])


def test_prompt_bank_works_with_closed_forms(tmp_path):
    prior = mixture()
    bank = PromptBank(prior, "a barrel", cache=tmp_path)
    torch.testing.assert_close(bank.rows("null", ONE_VIEW).exp(), torch.full((1, 1, 3), 1 / 3))
    assert bank.rows("text", ONE_VIEW).exp().tolist() == [[[1.0, 0.0, 0.0]]]


def test_rows_keep_their_own_prompt_and_timestep_and_cameras_are_rendered_once():
    rendered = []

    def counting(c2w, fovy, size):
        rendered.append(len(c2w))
        return images_at(c2w, fovy, size)

    prior = ImageMixturePrior(counting, NAMES, SIZE)
    c2w, fovy = ring()
    text = torch.cat([prior.encode_text(["a barrel"]).expand(4, -1, -1), prior.encode_text([""]).expand(4, -1, -1)])
    z, t = normal("z", 8, 3, SIZE, SIZE), torch.tensor([900] * 4 + [985] * 4)
    both = prior.predict_noise(z, t, Conditioning(text, torch.cat([c2w, c2w]), torch.cat([fovy, fovy]), 4))
    assert rendered == [4]
    halves = [prior.predict_noise(z[i : i + 4], t[i : i + 4], Conditioning(text[i : i + 4], c2w, fovy, 4)) for i in (0, 4)]
    torch.testing.assert_close(both, torch.cat(halves))


def test_sampling_ends_at_one_of_the_known_objects_in_all_views():
    prior = mixture()
    cond, known = conditioning(prior, "", 4), 2 * images_at(*ring(), SIZE) - 1
    found = set()
    for seed in range(8):
        z, ts = normal(f"start{seed}", 4, 3, SIZE, SIZE), timesteps(999, 50)
        for t, after in zip(ts, [*ts[1:], None], strict=True):
            eps = prior.predict_noise(z, torch.full((4,), t), cond)
            z = ddim_step(z, eps, prior.alphas_cumprod[t].item(), 1.0 if after is None else prior.alphas_cumprod[after].item())
        distance = (known - z).square().mean((1, 2, 3, 4))
        assert distance.min() < 1e-6
        found.add(int(distance.argmin()))
    assert len(found) > 1, "different noise, different objects"


def test_encode_and_decode_are_the_affine_map_with_resizing():
    prior, rgb = mixture(), normal("rgb", 2, 3, SIZE, SIZE).sigmoid().requires_grad_()
    torch.testing.assert_close(prior.encode(rgb), 2 * rgb - 1)
    torch.testing.assert_close(prior.decode(prior.encode(rgb)), rgb)
    assert prior.encode(torch.rand(1, 3, 9, 9, generator=generator(0, 0, 0, "large"))).shape == (1, 3, SIZE, SIZE)
    prior.decode(prior.encode(rgb)).sum().backward()
    torch.testing.assert_close(rgb.grad, torch.ones_like(rgb))


def test_number_format_is_that_of_the_latents():
    prior = mixture(0.1)
    z, t = normal("z", 4, 3, SIZE, SIZE), torch.full((4,), 600)
    exact = prior.predict_noise(z, t, conditioning(prior, "", 4))
    single = prior.predict_noise(z.float(), t, conditioning(prior, "", 4))
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, atol=1e-4, rtol=1e-4)


def test_cameras_are_required():
    prior = mixture()
    with pytest.raises(ValueError, match="needs the cameras"):
        prior.predict_noise(normal("z", 1, 3, SIZE, SIZE), torch.tensor([5]), Conditioning(prior.encode_text([""])))


def test_schedule_is_the_one_of_stable_diffusion(tiny_folder):
    from threedgen.priors.folder import alphas_cumprod

    torch.testing.assert_close(scaled_linear(end=0.02, start=1e-4).float(), alphas_cumprod(tiny_folder()), atol=1e-6, rtol=1e-4)
