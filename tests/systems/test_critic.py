"""The critic that is trained along: what it learns, and that a checkpoint holds all of it."""

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tests.oracles import ChannelCritic, Prompts, two_image_prior
from threedgen.config.schema import HashGridSettings, OrbitSettings, StageSettings
from threedgen.guidance.core import Teacher
from threedgen.guidance.vsd import VSD
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.particles import Particles
from threedgen.runs.checkpoints import write_checkpoint
from threedgen.systems.distillation import Distillation

SIZE = 6
SMALL = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)


def system_of(rule: VSD, scenes: int = 1) -> Distillation:
    prior = two_image_prior(SIZE)
    prior.critic = lambda *_: ChannelCritic(prior)
    fields = [HashGridField(SMALL, seed=number) for number in range(scenes)]
    stage = StageSettings(SMALL, rule, OrbitSettings(views=2, resolution=SIZE), steps=8)
    representation = Particles(fields) if scenes > 1 else fields[0]
    return Distillation(stage, representation, Teacher(prior, Prompts(prior, "red")), seed=0)


def critic_steps(system: Distillation, steps: range) -> list[Tensor]:
    """Losses of the critic over steps in which the fields stand still."""
    return [system.objective(system.representation, system.draws(step), False).info["critic"].detach() for step in steps]


def test_the_state_holds_the_critic_and_its_moments_as_plain_tensors(tmp_path):
    system = system_of(VSD(critic_lr=0.01, path=0.1, path_steps=1))
    critic_steps(system, range(2))
    write_checkpoint(system, system.configure_optimizers(), 2, tmp_path / "stage.safetensors")
    with safe_open(tmp_path / "stage.safetensors", "pt") as file:
        names = {name.removeprefix("objective.trainer.") for name in file.keys() if not name.startswith("representation.")}  # noqa: SIM118
    parameters = {"block.mix", "bias"}
    moments = {f"moments.{name.replace('.', '/')}/{kind}" for name in parameters for kind in ("exp_avg", "exp_avg_sq", "step")}
    assert names == moments | {f"{network}.{name}" for network in ("critic", "start") for name in parameters}


def test_a_critic_that_goes_on_from_a_checkpoint_is_one_that_never_stopped(tmp_path):
    rule = VSD(critic_lr=0.01, critic_steps=2)
    whole = system_of(rule)
    critic_steps(whole, range(3))
    write_checkpoint(whole, whole.configure_optimizers(), 3, tmp_path / "stage.safetensors")
    rest = critic_steps(whole, range(3, 6))

    state = load_file(tmp_path / "stage.safetensors")
    resumed = system_of(rule)
    resumed.load_state_dict(state)
    assert [float(loss) for loss in critic_steps(resumed, range(3, 6))] == [float(loss) for loss in rest]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    forgetful = system_of(rule)
    forgetful.load_state_dict(state | {name: torch.zeros_like(v) for name, v in state.items() if ".moments." in name})
    critic_steps(forgetful, range(3, 6))
    assert not torch.equal(forgetful.objective.trainer.critic.bias, whole.objective.trainer.critic.bias)


def test_the_moments_follow_a_module_that_is_moved_or_converted():
    trainer = system_of(VSD(critic_lr=0.01)).objective.trainer
    trainer.moments.to(torch.float64).to(torch.float32)  # makes new buffers, as a move to another device does
    system = system_of(VSD(critic_lr=0.01))
    system.objective.trainer = trainer
    critic_steps(system, range(3))
    moments = dict(trainer.moments.named_buffers())
    assert float(moments["block/mix/step"]) == 3
    assert moments["block/mix/exp_avg"].abs().max() > 0


def test_the_critic_takes_the_steps_of_adamw():
    rule = VSD(critic_lr=0.01, critic_steps=1)
    system = system_of(rule)
    trainer = system.objective.trainer
    twin = {name: p.detach().clone().requires_grad_() for name, p in trainer.critic.named_parameters()}
    reference = torch.optim.AdamW(twin.values(), lr=0.01)
    for step in range(3):
        critic_steps(system, range(step, step + 1))
        for name, p in trainer.critic.named_parameters():
            twin[name].grad = p.grad.clone()
        reference.step()
    for name, p in trainer.critic.named_parameters():
        assert torch.allclose(p, twin[name], rtol=1e-6, atol=1e-9)


def test_particles_share_the_critic_and_each_scene_sees_every_cell_of_the_cameras():
    system = system_of(VSD(critic_lr=0.01, particles=2), scenes=2)
    system.sampler.settings.strata = 3
    turns = []
    sample = system.sampler.sample
    system.sampler.sample = lambda draws, turn=None: turns.append(turn) or sample(draws, turn)
    optimizer = system.configure_optimizers()
    for step in range(4):
        before = [scene.table.detach().clone() for scene in system.representation.scenes]
        optimizer.zero_grad()
        system.objective(system.representation, system.draws(step), False).loss.backward()
        optimizer.step()
        after = [scene.table for scene in system.representation.scenes]
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [step % 2 == 1, step % 2 == 0]
    assert turns == [0, 0, 1, 1]
    assert float(dict(system.objective.trainer.moments.named_buffers())["bias/step"]) == 4
