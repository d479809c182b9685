import copy

import pytest
import torch
from torch import nn

from tests.oracles import Prompts, two_image_prior
from tests.systems.test_critic import SMALL, critic_steps, system_of
from threedgen.config.schema import OrbitSettings, StageSettings
from threedgen.guidance.core import Teacher
from threedgen.guidance.im3d import IM3D
from threedgen.guidance.vsd import VSD
from threedgen.representations.hashgrid import HashGridField
from threedgen.systems import critic
from threedgen.systems.distillation import Distillation
from threedgen.systems.safe_step import LEAST_CHUNK, are_finite, buffers_of, halve_chunks, is_out_of_memory, put_back


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e20])
def test_one_bad_entry_among_many_is_seen(bad):
    good = [torch.randn(7, generator=torch.Generator().manual_seed(0)), torch.tensor(1e18), torch.zeros(0), torch.arange(3)]
    assert are_finite(good)
    assert are_finite([])
    assert not are_finite([*good, torch.tensor([0.0, bad])])


def test_buffers_are_put_back_and_parameters_are_not():
    module = nn.BatchNorm1d(2)
    before = buffers_of(module)
    with torch.no_grad():
        module.running_mean += 1
        module.weight += 1
    put_back(module, before)
    assert module.running_mean.tolist() == [0, 0]
    assert module.weight.tolist() == [2, 2]


def test_errors_of_memory_are_told_from_others():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


def test_chunks_are_halved_in_all_scenes():
    scenes = [HashGridField(SMALL), HashGridField(SMALL)]
    for scene in scenes:
        scene.chunk_samples = 4 * LEAST_CHUNK
    assert halve_chunks(scenes, 0) == 2 * LEAST_CHUNK
    assert [scene.chunk_samples for scene in scenes] == [2 * LEAST_CHUNK] * 2


def test_a_critic_leaves_out_a_step_that_is_not_finite(monkeypatch):
    system = system_of(VSD(critic_lr=0.01))
    critic_steps(system, range(2))
    before = copy.deepcopy(system.objective.trainer.state_dict())
    loss = critic.critic_loss
    monkeypatch.setattr(critic, "critic_loss", lambda *rest: loss(*rest) * torch.nan)
    [answer] = critic_steps(system, range(2, 3))
    assert answer.isnan()
    after = system.objective.trainer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_targets_that_are_not_finite_stay_out_of_the_bank(monkeypatch):
    prior = two_image_prior()
    stage = StageSettings(SMALL, IM3D(warm_up=0, first_fit=2, fit=2, rays=8), OrbitSettings(views=2, resolution=6), steps=8)
    system = Distillation(stage, HashGridField(SMALL), Teacher(prior, Prompts(prior, "red")), seed=0)
    objective, targets = system.objective, IM3D.targets
    spoilt = iter([True, False, True])
    monkeypatch.setattr(IM3D, "targets", lambda self, *rest: targets(self, *rest) * (torch.nan if next(spoilt) else 1.0))
    finite = [bool(objective(system.representation, system.draws(step), False).loss.isfinite()) for step in range(4)]
    assert finite == [False, True, False, True]
    assert int(objective.bank.rounds) == 1
    assert are_finite([objective.bank.images])
