"""The adapter against the networks and the scheduler it wraps."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import DDIMScheduler

from threedgen.cameras import orbit_cameras
from threedgen.draws import generator
from threedgen.priors.base import Conditioning
from threedgen.priors.diffusion import to_noise
from threedgen.priors.loading import load_prior
from threedgen.priors.views import camera_embedding


def normal(*shape: int, key: str = "test", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key), dtype=dtype)


def ring(views: int):
    return orbit_cameras([360 / views * v for v in range(views)], 20.0, 2.6, 40.0, 16, 16).c2w


@pytest.fixture(scope="module")
def plain(tiny_folder):
    return load_prior(str(tiny_folder()))


@pytest.fixture(scope="module")
def joint(tiny_folder):
    return load_prior(str(tiny_folder("v_prediction", camera=True, multiview=True)))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_conversion_agrees_with_the_scheduler(prediction_type):
    """A DDIM step written with our noise is the scheduler's own step."""
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(10)
    z, output = normal(2, 4, 8, 8, key="z", dtype=torch.float64), normal(2, 4, 8, 8, key="output", dtype=torch.float64)
    t = scheduler.timesteps[3]
    a, b = (scheduler.alphas_cumprod[s].double() for s in (t, scheduler.timesteps[4]))
    eps = to_noise(output, z, a, prediction_type)
    step = b.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - b).sqrt() * eps
    torch.testing.assert_close(step, scheduler.step(output, t, z).prev_sample, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_conversion_recovers_the_noise(prediction_type):
    """Given a network that is right, the noise is the noise that was added."""
    z0, eps = normal(2, 4, 8, 8, key="z0", dtype=torch.float64), normal(2, 4, 8, 8, key="eps", dtype=torch.float64)
    a = torch.tensor([0.9, 0.05], dtype=torch.float64)[:, None, None, None]
    z_t = a.sqrt() * z0 + (1 - a).sqrt() * eps
    output = {"epsilon": eps, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * z0, "sample": z0}[prediction_type]
    torch.testing.assert_close(to_noise(output, z_t, a, prediction_type), eps, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_prediction_is_the_unets(tiny_folder, prediction_type):
    prior = load_prior(str(tiny_folder(prediction_type)))
    z, t, text = normal(3, 4, 8, 8), torch.tensor([3, 500, 999]), normal(3, 32, 16, key="text")
    output = prior.unet(z, t, encoder_hidden_states=text).sample
    expected = to_noise(output, z, prior.alphas_cumprod[t][:, None, None, None], prediction_type)
    torch.testing.assert_close(prior.predict_noise(z, t, Conditioning(text)), expected)
    assert prior.predict_noise(z.requires_grad_(), t, Conditioning(text)).requires_grad is False


def test_rows_do_not_depend_on_their_batch(plain):
    z, t, text = normal(3, 4, 8, 8), torch.tensor([3, 500, 999]), normal(3, 32, 16, key="text")
    together = plain.predict_noise(z, t, Conditioning(text))
    alone = torch.cat([plain.predict_noise(z[i : i + 1], t[i : i + 1], Conditioning(text[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_joint_attention_mixes_the_views_of_a_group_only(joint):
    z, t, text = normal(8, 4, 8, 8), torch.full((8,), 500), normal(1, 32, 16, key="text").expand(8, -1, -1)
    changed = z.clone()
    changed[1] += 1.0

    def influence(views: int) -> list[bool]:
        cond = Conditioning(text, views=views)
        difference = joint.predict_noise(changed, t, cond) - joint.predict_noise(z, t, cond)
        return (difference.flatten(1).abs().amax(1) > 1e-5).tolist()

    assert influence(1) == [False, True] + [False] * 6
    assert influence(4) == [True] * 4 + [False] * 4


def test_joint_attention_does_not_know_the_order_of_the_views(joint):
    z, t, text, c2w = normal(4, 4, 8, 8), torch.full((4,), 500), normal(1, 32, 16, key="text").expand(4, -1, -1), ring(4)
    order = torch.tensor([2, 0, 3, 1])
    straight = joint.predict_noise(z, t, Conditioning(text, c2w, views=4))
    shuffled = joint.predict_noise(z[order], t, Conditioning(text, c2w[order], views=4))
    torch.testing.assert_close(shuffled, straight[order], atol=1e-5, rtol=1e-4)


def test_single_views_of_a_multiview_model_are_the_plain_unet(joint, tiny_folder):
    without_marker = load_prior(str(tiny_folder("v_prediction", camera=True)))
    z, t, text, c2w = normal(4, 4, 8, 8), torch.full((4,), 500), normal(4, 32, 16, key="text"), ring(4)
    cond = Conditioning(text, c2w)
    expected = without_marker.predict_noise(z, t, cond)
    without_marker.unet.load_state_dict(joint.unet.state_dict())
    torch.testing.assert_close(joint.predict_noise(z, t, cond), without_marker.predict_noise(z, t, cond))
    assert torch.equal(expected, without_marker.predict_noise(z, t, Conditioning(text, c2w, views=4))), "a plain model ignores the groups"


def test_threads_with_different_groups_do_not_disturb_each_other(joint):
    z, t, text = normal(4, 4, 8, 8), torch.full((4,), 500), normal(4, 32, 16, key="text")

    def predict(views: int) -> torch.Tensor:
        return joint.predict_noise(z, t, Conditioning(text, views=views))

    alone = {views: predict(views) for views in (1, 4)}
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: predict(4 if i % 2 else 1), range(24)))
    for i, result in enumerate(results):
        torch.testing.assert_close(result, alone[4 if i % 2 else 1], atol=1e-5, rtol=1e-4)


def test_camera_reaches_the_prediction_and_absence_is_zeros(joint):
    z, t, text, c2w = normal(4, 4, 8, 8), torch.full((4,), 500), normal(4, 32, 16, key="text"), ring(4)
    seen = joint.predict_noise(z, t, Conditioning(text, c2w))
    assert (seen - joint.predict_noise(z, t, Conditioning(text, c2w.roll(1, 0)))).abs().max() > 1e-5
    zeros = joint.unet(z, t, encoder_hidden_states=text, class_labels=torch.zeros(4, 16)).sample
    expected = to_noise(zeros, z, joint.alphas_cumprod[t][:, None, None, None], "v_prediction")
    torch.testing.assert_close(joint.predict_noise(z, t, Conditioning(text)), expected)


def test_camera_embedding_forgets_the_distance_alone():
    near, far = (orbit_cameras([30.0, 200.0], 20.0, d, 40.0, 16, 16).c2w for d in (1.5, 4.0))
    torch.testing.assert_close(camera_embedding(near), camera_embedding(far))
    rows = camera_embedding(near).reshape(-1, 4, 4)
    torch.testing.assert_close(rows[:, :3, :3], near[:, :3, :3])
    torch.testing.assert_close(rows[:, :3, 3], near[:, :3, 3] / 1.5)
    torch.testing.assert_close(rows[:, 3], near[:, 3])


def test_encode_is_the_scaled_mode_at_native_resolution(plain):
    rgb = normal(2, 3, 16, 16).sigmoid()
    mode = plain.vae.encode(2 * rgb - 1).latent_dist.mode()
    assert (plain.native_resolution, plain.latent_size, plain.latent_channels) == (16, 8, 4)
    torch.testing.assert_close(plain.encode(rgb), (mode - 0.1) * 0.6)
    torch.testing.assert_close(plain.encode(torch.full((1, 3, 40, 40), 0.3)), plain.encode(torch.full((1, 3, 16, 16), 0.3)))
    torch.testing.assert_close(plain.encode(torch.full((1, 3, 7, 9), 0.3)), plain.encode(torch.full((1, 3, 16, 16), 0.3)))


def test_shrinking_filters_what_the_latent_cannot_hold(plain):
    """Single-pixel stripes that fade out towards the border are grey at a quarter of the size, not aliased."""
    fade = torch.hann_window(64, periodic=False)
    stripes = 0.5 + 0.5 * fade * fade[:, None] * torch.tensor([-1.0, 1.0]).repeat(32)
    grey = torch.full((1, 3, 64, 64), 0.5)
    torch.testing.assert_close(plain.encode(stripes.expand(1, 3, 64, 64)), plain.encode(grey), atol=0.02, rtol=0)


def test_decode_undoes_the_scaling(plain):
    z = normal(2, 4, 8, 8)
    expected = (0.5 * plain.vae.decode(z / 0.6 + 0.1).sample + 0.5).clamp(0, 1)
    torch.testing.assert_close(plain.decode(z), expected)


def test_gradients_reach_images_and_latents_but_no_parameter(plain):
    rgb = normal(2, 3, 12, 12).sigmoid().requires_grad_()
    z = plain.encode(rgb)
    plain.decode(z).square().sum().backward()
    assert rgb.grad is not None
    assert (rgb.grad.flatten(1).abs().amax(1) > 0).all()
    for network in (plain.unet, plain.vae):
        assert not network.training
        assert all(not p.requires_grad and p.grad is None for p in network.parameters())


def test_gradient_of_encode_is_the_derivative(plain):
    rgb, direction = normal(1, 3, 12, 12).sigmoid(), normal(1, 3, 12, 12, key="direction")
    probe = normal(1, 4, 8, 8, key="probe")
    leaf = rgb.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((plain.encode(leaf) * probe).sum(), leaf)
    h = 2e-3
    numeric = ((plain.encode(rgb + h * direction) - plain.encode(rgb - h * direction)) * probe).sum() / (2 * h)
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=2e-2, atol=1e-3)


def test_schedule_is_the_folders(plain):
    torch.testing.assert_close(plain.alphas_cumprod, DDIMScheduler(beta_schedule="scaled_linear").alphas_cumprod)


def test_bfloat16_stays_close_to_float32(tiny_folder, joint):
    """Same networks, fewer digits: what comes back is float32, and gradients point the same way."""
    half = load_prior(str(tiny_folder("v_prediction", camera=True, multiview=True)), precision="bfloat16")
    z, t, text, c2w = normal(4, 4, 8, 8), torch.full((4,), 500), normal(4, 32, 16, key="text"), ring(4)
    cond = Conditioning(text, c2w, views=4)
    predicted, expected = half.predict_noise(z, t, cond), joint.predict_noise(z, t, cond)
    assert predicted.dtype == torch.float32
    assert (predicted - expected).norm() < 0.03 * expected.norm()
    leaf = normal(1, 3, 16, 16).sigmoid().requires_grad_()
    ours, exact = (torch.autograd.grad(p.encode(leaf).square().sum(), leaf)[0].flatten() for p in (half, joint))
    assert torch.cosine_similarity(ours, exact, dim=0) > 0.98
