"""The critic on a prior's UNet: off it is the prior to the last bit, on it learns."""

import gc

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F

from threedgen.cameras import orbit_cameras
from threedgen.draws import generator
from threedgen.priors.base import Conditioning
from threedgen.priors.loading import EMBEDDED, load_prior
from threedgen.priors.lora import azimuth_buckets

KINDS = {"plain": {}, "camera": {"camera": True}, "joint": {"prediction_type": "v_prediction", "camera": True, "multiview": True}}


def normal(*shape: int, key: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, 0, 0, key))


def ring(views: int = 4) -> torch.Tensor:
    return orbit_cameras([360 / views * v for v in range(views)], 20.0, 2.6, 40.0, 16, 16).c2w


def asked(views: int = 4, rows: int = 4, c2w: torch.Tensor | None = None):
    """Arguments of a prediction."""
    text = normal(rows, 32, 16, key="text")
    return normal(rows, 4, 8, 8), torch.full((rows,), 500), Conditioning(text, ring(rows) if c2w is None else c2w, views=views)


def shaken(critic: torch.nn.Module, key: str = "shaken") -> torch.nn.Module:
    """The critic with all its weights moved, as training would."""
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            parameter.add_(0.3 * normal(*parameter.shape, key=f"{key} {name}"))
    return critic


def gradients_of(critic: torch.nn.Module, z_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> list[torch.Tensor]:
    loss = critic.predict_noise(z_t, t, cond).square().mean()
    return list(torch.autograd.grad(loss, list(critic.parameters())))


@pytest.fixture(params=KINDS)
def prior(request, tiny_folder):
    return load_prior(str(tiny_folder(**KINDS[request.param])), precision="float32")


@pytest.fixture
def plain(tiny_folder):
    return load_prior(str(tiny_folder()), precision="float32")


@pytest.fixture
def joint(tiny_folder):
    return load_prior(str(tiny_folder(**KINDS["joint"])), precision="float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_critic_is_the_prior_and_a_trained_one_leaves_it_alone(tiny_folder, dtype):
    prior = load_prior(str(tiny_folder(**KINDS["joint"])), precision=dtype)
    before = prior.predict_noise(*asked())
    critic = prior.critic(rank=2)
    assert torch.equal(critic.predict_noise(*asked()), before)
    assert torch.equal(prior.predict_noise(*asked()), before)
    shaken(critic)
    assert not torch.allclose(critic.predict_noise(*asked()), before, atol=1e-2)
    assert torch.equal(prior.predict_noise(*asked()), before)


def test_every_kind_of_prior_takes_a_critic(prior):
    before = prior.predict_noise(*asked())
    critic = prior.critic(rank=2)
    assert torch.equal(critic.predict_noise(*asked()), before)
    assert not torch.allclose(shaken(critic).predict_noise(*asked()), before, atol=1e-2)
    assert torch.equal(prior.predict_noise(*asked()), before)


def test_training_steps_leave_the_prior_alone(joint):
    before, critic = joint.predict_noise(*asked()), joint.critic(rank=2)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        critic.predict_noise(*asked()).square().mean().backward()
        optimizer.step()
        assert torch.equal(joint.predict_noise(*asked()), before)
    assert all(not p.requires_grad and p.grad is None for n, p in joint.unet.named_parameters() if "lora_" not in n)


def test_the_critic_holds_its_trained_tensors_alone(prior):
    critic = prior.critic(rank=3)
    attentions = sum(name.endswith(("to_q", "to_k", "to_v", "to_out.0")) for name, _ in prior.unet.named_modules())
    assert attentions >= 12
    assert len(critic.state_dict()) == 2 * attentions + 4
    assert {n for n, _ in critic.named_parameters()} == set(critic.state_dict())
    assert all(p.dtype == torch.float32 and p.requires_grad for p in critic.parameters())
    ranks = {p.shape[1 if n.endswith("up.weight") else 0] for n, p in critic.updates.named_parameters()}
    assert ranks == {3}


def test_one_unet_is_held(prior):
    def unets() -> int:
        gc.collect()
        return sum(type(thing) is UNet2DConditionModel for thing in gc.get_objects())

    def held() -> int:
        return sum(p.numel() for p in prior.unet.parameters())

    number, size = unets(), held()
    critic = prior.critic(rank=2)
    critic.predict_noise(*asked()).sum().backward()
    assert unets() == number
    assert held() == size + sum(p.numel() for p in critic.updates.parameters())


def test_initialisation_is_the_same_each_time_and_leaves_the_global_generator_alone(tiny_folder):
    state = torch.random.get_rng_state()
    first, second = (load_prior(str(tiny_folder())).critic(rank=2, buckets=2).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    downs = {name: value for name, value in first.items() if name.endswith("down.weight")}
    assert all(value.abs().max() <= value.shape[1] ** -0.5 < 2 * value.abs().max() for value in downs.values())
    other = load_prior(str(tiny_folder())).critic(rank=2, buckets=2, seed=1).state_dict()
    assert not any(torch.equal(other[name], value) for name, value in downs.items())
    by_bucket = [[value for name, value in downs.items() if name.startswith(f"updates.{bucket}.")] for bucket in (0, 1)]
    assert not any(torch.equal(a, b) for a, b in zip(*by_bucket, strict=True))


def test_the_state_of_one_critic_is_loaded_by_another_on_the_same_unet(joint):
    one, other = shaken(joint.critic(rank=2)), joint.critic(rank=2)
    fresh = joint.predict_noise(*asked())
    learnt = one.predict_noise(*asked())
    assert torch.equal(other.predict_noise(*asked()), fresh)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.predict_noise(*asked()), learnt)
    shaken(one, "again")
    assert torch.equal(other.predict_noise(*asked()), learnt)
    assert torch.equal(joint.predict_noise(*asked()), fresh)


def test_frozen_and_trained_critics_keep_their_flags(plain):
    one = plain.critic(rank=2)
    frozen = plain.critic(rank=2).requires_grad_(False)
    assert frozen.predict_noise(*asked()).requires_grad is False
    loss = one.predict_noise(*asked()).square().mean()
    frozen.predict_noise(*asked())
    plain.predict_noise(*asked())
    plain.critic(rank=1)
    loss.backward()
    assert all(p.grad is not None for p in one.parameters())
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


def test_gradients_are_of_the_critics_parameters_only(prior):
    critic = shaken(prior.critic(rank=2))
    z_t, t, cond = asked()
    z_t.requires_grad_()
    critic.predict_noise(z_t, t, cond).square().mean().backward()
    assert z_t.grad is None
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.abs().max() > 0 for p in critic.parameters())
    with torch.no_grad():
        assert critic.predict_noise(z_t, t, cond).requires_grad is False


def test_the_gradient_is_the_derivative(joint):
    critic = shaken(joint.critic(rank=2))
    gradients = gradients_of(critic, *asked())
    directions = [normal(*p.shape, key=f"direction {i}") for i, p in enumerate(critic.parameters())]

    def moved(h: float) -> torch.Tensor:
        with torch.no_grad():
            for parameter, direction in zip(critic.parameters(), directions, strict=True):
                parameter.add_(h * direction)
            return critic.predict_noise(*asked()).square().mean()

    h = 2e-3
    forward, backward = moved(h), moved(-2 * h)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope, (forward - backward) / (2 * h), rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_coarse_weights_take_float32_updates(tiny_folder, joint, precision):
    """Also where the loss is the mean over latents 256 times as large, whose gradient float16 cannot hold."""

    def gradient(prior) -> torch.Tensor:
        critic = shaken(prior.critic(rank=2))
        (critic.predict_noise(*asked()).square().mean() / 256).backward()
        assert all(p.grad.dtype == torch.float32 for p in critic.parameters())
        return torch.cat([p.grad.flatten() for p in critic.parameters()])

    coarse = load_prior(str(tiny_folder(**KINDS["joint"])), precision=precision)
    ours, exact = gradient(coarse), gradient(joint)
    assert torch.cosine_similarity(ours, exact, dim=0) > 0.98
    assert ours.norm().item() == pytest.approx(exact.norm().item(), rel=0.05)


def test_checkpointing_changes_memory_and_nothing_else(joint):
    """The backward pass recomputes with the updates on, though they are off by then."""
    kept, recomputed = shaken(joint.critic(rank=2)), shaken(joint.critic(rank=2, checkpointing=True))
    saved: dict[str, int] = {}

    def gradients(name: str, critic: torch.nn.Module) -> list[torch.Tensor]:
        def pack(tensor: torch.Tensor) -> torch.Tensor:
            saved[name] = saved.get(name, 0) + tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = critic.predict_noise(*asked()).square().mean()
        joint.predict_noise(*asked())
        return list(torch.autograd.grad(loss, list(critic.parameters())))

    for ours, theirs in zip(gradients("recomputed", recomputed), gradients("kept", kept), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert saved["recomputed"] < 0.5 * saved["kept"]


def test_only_calls_with_gradient_are_checkpointed(plain, monkeypatch):
    calls = []
    monkeypatch.setattr("threedgen.priors.lora.checkpoint", lambda block, *arguments, **_: calls.append(block) or block(*arguments))
    kept, recomputed = plain.critic(rank=2), plain.critic(rank=2, checkpointing=True)
    kept.predict_noise(*asked())
    plain.predict_noise(*asked())
    with torch.no_grad():
        recomputed.predict_noise(*asked())
    assert not calls
    recomputed.predict_noise(*asked())
    assert calls


def test_a_call_that_fails_leaves_the_prior_as_it_was(plain):
    before, critic = plain.predict_noise(*asked()), shaken(plain.critic(rank=2))
    z_t, t, cond = asked()
    with pytest.raises(RuntimeError):
        critic.predict_noise(z_t[:, :3], t, cond)
    assert torch.equal(plain.predict_noise(*asked()), before)


def test_the_camera_reaches_the_critic_and_zeros_are_none(prior):
    critic = shaken(prior.critic(rank=2))
    z_t, t, cond = asked(views=1)
    seen = critic.predict_noise(z_t, t, cond)
    assert not torch.allclose(seen, critic.predict_noise(z_t, t, Conditioning(cond.text, ring().roll(1, 0))), atol=1e-3)
    withheld = critic.predict_noise(z_t, t, Conditioning(cond.text, torch.zeros(4, 4, 4)))
    assert torch.equal(withheld, critic.predict_noise(z_t, t, Conditioning(cond.text)))
    assert not torch.allclose(seen, withheld, atol=1e-3)


def test_the_camera_embedding_is_what_a_class_embedding_would_be(plain, tiny_folder):
    """On a network that takes cameras, the critic's embedding adds to the network's own; the sum is taken by the same blocks."""
    told = load_prior(str(tiny_folder(camera=True)), precision="float32")
    told.unet.load_state_dict(plain.unet.state_dict(), strict=False)
    critic = plain.critic(rank=2)
    with torch.no_grad():
        own = told.unet.class_embedding
        critic.camera.hidden.load_state_dict(own.linear_1.state_dict())
        critic.camera.out.load_state_dict(own.linear_2.state_dict())
    torch.testing.assert_close(critic.predict_noise(*asked()), told.predict_noise(*asked()), atol=1e-5, rtol=1e-4)


def test_buckets_are_centred_on_the_front():
    azimuth = [0.0, 40.0, 50.0, 90.0, 180.0, 270.0, 314.0, 316.0]
    c2w = orbit_cameras(azimuth, 20.0, 2.6, 40.0, 16, 16).c2w
    assert azimuth_buckets(c2w, 8, 4, 1).tolist() == [0, 0, 1, 1, 2, 3, 3, 0]
    assert azimuth_buckets(None, 8, 4, 1).tolist() == azimuth_buckets(torch.zeros(8, 4, 4), 8, 4, 1).tolist() == [0] * 8


def turned(offset: float) -> torch.Tensor:
    """Cameras of four views a quarter of a turn apart."""
    return orbit_cameras([offset + 90.0 * view for view in range(4)], 20.0, 2.6, 40.0, 16, 16).c2w


def test_joint_views_are_divided_by_the_turn_of_their_ring():
    buckets = [azimuth_buckets(turned(offset), 4, 4, 4).tolist() for offset in (0.0, 10.0, 12.0, 45.0, 70.0, 80.0, 89.0)]
    assert buckets == [[bucket] * 4 for bucket in (0, 0, 1, 2, 3, 0, 0)]
    drawn = {azimuth_buckets(turned(90.0 * i / 64), 4, 4, 4)[0].item() for i in range(64)}
    assert drawn == {0, 1, 2, 3}


def bucketed(prior, c2w: torch.Tensor) -> tuple[list[int], list[bool]]:
    """Rows of each UNet call for two objects of four views, and which of four buckets get a gradient."""
    critic, calls = shaken(prior.critic(rank=2, buckets=4)), []
    handle = prior.unet.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    critic.predict_noise(*asked(4, 8, c2w)).square().mean().backward()
    handle.remove()
    return calls, [any(p.grad is not None for p in bucket.parameters()) for bucket in critic.updates]


def test_rows_of_a_bucket_go_in_one_call(plain):
    assert bucketed(plain, ring(4)[[0, 1, 0, 2, 2, 1, 0, 0]]) == ([4, 2, 2], [True, True, True, False])


def test_joint_views_stay_together_in_the_bucket_of_their_ring(joint):
    assert bucketed(joint, torch.cat([turned(22.5), turned(45.0)])) == ([4, 4], [False, True, True, False])
    assert bucketed(joint, ring(4).repeat(2, 1, 1)) == ([8], [True, False, False, False])


def test_rows_come_back_in_their_order(plain):
    critic = shaken(plain.critic(rank=2, buckets=4))
    z_t, t, cond = asked(views=1, rows=8, c2w=ring(4)[[2, 0, 1, 3, 0, 2, 2, 1]])
    together = critic.predict_noise(z_t, t, cond)
    alone = [critic.predict_noise(z_t[i : i + 1], t[i : i + 1], cond.select(torch.tensor([i]))) for i in range(8)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def trained(critic: torch.nn.Module, arguments, target: torch.Tensor, steps: int) -> list[float]:
    """Losses of a critic that is told what to predict for the same input again and again."""
    optimizer, losses = torch.optim.AdamW(critic.parameters(), lr=1e-2), []
    for _ in range(steps):
        loss = F.mse_loss(critic.predict_noise(*arguments), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_small_critic_learns_one_batch_by_heart(joint):
    target = shaken(joint.critic(rank=2)).predict_noise(*asked()).detach()
    losses = trained(joint.critic(rank=4), asked(), target, steps=40)
    assert losses[-1] < 0.05 * losses[0]


def test_training_on_one_image_lowers_the_loss_of_the_embedded_prior():
    prior = load_prior(str(EMBEDDED), precision="float32")
    z, noise, a = 0.5 * normal(1, 4, 16, 16, key="image"), normal(1, 4, 16, 16, key="noise"), prior.alphas_cumprod[500]
    arguments = a.sqrt() * z + (1 - a).sqrt() * noise, torch.tensor([500]), Conditioning(normal(1, 32, 256, key="text"), ring()[:1])
    before = prior.predict_noise(*arguments)
    losses = trained(prior.critic(rank=4), arguments, noise, steps=8)
    assert losses[0] == pytest.approx(F.mse_loss(before, noise).item())
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(prior.predict_noise(*arguments), before)
