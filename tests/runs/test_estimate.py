import pytest
import torch

from tests.oracles import ChannelCritic, Prompts, two_image_prior
from tests.runs.conftest import STAGE
from threedgen.guidance.core import Teacher
from threedgen.representations.hashgrid import HashGridField
from threedgen.runs import estimate as module
from threedgen.runs import stages
from threedgen.runs.estimate import estimate


@pytest.mark.parametrize("config", ["quickstart", "quickstart-sds"])
def test_an_estimate_is_the_sum_of_its_parts_and_writes_nothing(micro, tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warm = [f"{STAGE}.guidance.warm_up=3"] if config == "quickstart" else []
    settings = micro(f"{STAGE}.regularizers.orientation=0.1", *warm, config=config)
    before = repr(settings)
    found = estimate(settings)
    assert found.seconds == pytest.approx(sum(found.parts.values()))
    assert all(seconds >= 0 for seconds in found.parts.values())
    for part in ("sampling", "warm-up"):
        assert (f"stage coarse, {part}" in found.parts) == (config == "quickstart")
    assert 2**27 < found.peak_bytes < 2**34
    assert repr(settings) == before
    assert not list(tmp_path.iterdir())
    assert torch.get_num_threads() == 2


@pytest.fixture
def trainable(monkeypatch):
    """Puts two plain images in place of the prior, and lets them have critics; the critics in the order they were asked."""
    calls, prior = [], two_image_prior()

    class Counting(ChannelCritic):
        def predict_noise(self, *given):
            calls.append(self)
            return super().predict_noise(*given)

    prior.critic = lambda *_: Counting(prior)
    monkeypatch.setattr(stages, "build_teacher", lambda *_: Teacher(prior, Prompts(prior, "red")))
    return calls


def test_an_estimate_counts_the_steps_of_the_critic_and_those_before_the_run(micro, trainable):
    guidance = f"{STAGE}.guidance"
    changes = ["prior=embedded"] + [f"{guidance}.{change}" for change in ("type=vsd", "critic_steps=3", "path=0.5", "path_steps=200")]
    settings = micro(*changes, config="quickstart-sds")
    found = estimate(settings)
    assert found.parts["stage coarse, first critic"] > 0
    critic, start = trainable[0], [network for network in trainable if network is not trainable[0]]
    # One of the step the critic is timed on, 1 + 3 updates on it; then in each of 1 + 3 steps its prediction and its own 3 steps.
    assert trainable.count(critic) == 1 + 4 + 4 * (1 + 3)
    assert len(start) == 1 + 4


def test_an_estimate_counts_the_memory_and_the_export_of_every_scene(micro, trainable, monkeypatch):
    guidance, missing = f"{STAGE}.guidance", []
    moments = module._missing_moments
    monkeypatch.setattr(module, "_missing_moments", lambda optimizer: missing.append(moments(optimizer)) or missing[-1])
    changes = ["prior=embedded", f"{guidance}.type=vsd", "export.turntable_frames=0"]
    settings = [micro(*changes, f"{guidance}.particles={count}", config="quickstart-sds") for count in (1, 6)]
    exports = [estimate(each).parts["export"] for each in settings]
    assert exports[1] == 6 * exports[0]
    field = HashGridField(settings[0].stages["coarse"].representation)
    # Of six scenes, one after another, four are stepped.
    assert missing == [0, 2 * 2 * sum(p.nbytes for p in field.parameters())]
