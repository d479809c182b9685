import dataclasses

import torch

from tests.oracles import Prompts, two_image_prior
from threedgen.config.schema import HashGridSettings, OptimizerSettings, OrbitSettings, RegularizerSettings, StageSettings
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.sds import SDS
from threedgen.representations.hashgrid import HashGridField
from threedgen.systems.distillation import Distillation

SMALL = HashGridSettings(levels=3, log2_table=8, base_resolution=4, max_resolution=8, hidden=8, occupancy_resolution=8, samples=24)


def system_of(guidance=None, **changes) -> Distillation:
    stage = StageSettings(SMALL, guidance or SDS(), OrbitSettings(views=2, resolution=6), steps=4)
    stage = dataclasses.replace(stage, **changes)
    prior = two_image_prior()
    return Distillation(stage, HashGridField(stage.representation), Teacher(prior, Prompts(prior, "red")), seed=3)


class Logged(Distillation):
    """Keeps what a step logs, instead of asking a trainer to."""

    global_step = 2

    def log_dict(self, dictionary, **_):
        self.numbers = dict(dictionary)

    def log(self, name, value, **_):
        self.numbers[name] = value


def test_the_loss_of_a_step_is_guidance_plus_penalties():
    system = system_of(regularizers=RegularizerSettings(sparsity=3.0, orientation=2.0))
    system.__class__ = Logged
    loss = system.training_step(2, 2)
    n = system.numbers
    assert {"loss", "loss/guidance", "loss/sparsity", "loss/orientation"} <= set(n)
    assert torch.equal(n["loss"], loss.detach())
    assert torch.allclose(loss, n["loss/guidance"] + n["loss/sparsity"] + n["loss/orientation"])


def test_the_optimizer_takes_its_settings():
    optimizer = OptimizerSettings(lr=[0, 0.1, 0.5, 10], lr_background=0.007, betas=[0.8, 0.95], eps=1e-9)
    found = system_of(optimizer=optimizer, representation=dataclasses.replace(SMALL, background="learned")).configure_optimizers()
    assert [(g["name"], g["lr"], g["betas"], g["eps"]) for g in found.param_groups] == [
        ("grid", 0.1, (0.8, 0.95), 1e-9),
        ("network", 0.1, (0.8, 0.95), 1e-9),
        ("background", 0.007, (0.8, 0.95), 1e-9),
    ]


def test_the_state_holds_field_and_bank_and_not_the_prior():
    names = set(system_of(IM3D()).state_dict())
    assert {"representation.table", "representation.occupancy.opacity", "objective.bank.images", "objective.bank.rounds"} <= names
    assert all(name.startswith(("representation.", "objective.bank.")) for name in names)


def test_draws_are_keyed_on_seed_and_step():
    system = system_of()
    assert torch.equal(system.draws(5).uniform("camera"), system.draws(5).uniform("camera"))
    assert not torch.equal(system.draws(5).uniform("camera"), system.draws(6).uniform("camera"))
    assert system.draws(5).views == (0, 1)
