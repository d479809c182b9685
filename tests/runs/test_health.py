import io
import json

import pytest
import torch

from tests.systems.test_distillation import system_of
from threedgen.runs.folder import RunFolder
from threedgen.runs.health import EXPLODED, Growth, HealthMonitor


def test_growth_is_the_ratio_of_late_and_earlier_numbers():
    growth = Growth()
    assert [growth.of(3.0) for _ in range(50)] == pytest.approx([1.0] * 50)
    ratios = [growth.of(3.0 * 1.3**step) for step in range(60)]
    assert max(ratios[:15]) < EXPLODED < ratios[-1]


def test_noise_over_three_decades_is_no_growth():
    numbers = 10 ** (3 * torch.rand(2000, generator=torch.Generator().manual_seed(0)) - 1.5)
    growth = Growth()
    assert max(growth.of(float(number)) for number in numbers) < EXPLODED


def test_zeros_are_passed_over():
    growth = Growth()
    assert [growth.of(number) for number in (0.0, 2.0, 0.0, 2.0)] == pytest.approx([1.0] * 4)


class Trainer:
    max_steps = 400

    def __init__(self) -> None:
        self.global_step = 0


def test_a_sign_is_said_once_and_kept_in_the_status(tmp_path):
    class Empty(torch.nn.Module):
        def render(self, cameras):
            shape = (len(cameras), cameras.height, cameras.width)
            self.rgb, self.alpha = torch.ones(*shape, 3), torch.zeros(*shape, 1)
            return self

    system = system_of()
    system.representation = Empty()
    system.representation.scenes = [system.representation]
    said, trainer = io.StringIO(), Trainer()
    monitor = HealthMonitor(RunFolder(tmp_path), said)
    for step in range(1, 401):
        trainer.global_step = step
        system.gradient = 1.0 if step < 300 else 1e6
        monitor.on_train_batch_end(trainer, system, None, None, 0)
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("threedgen: step 100: the scene is empty")
    # after two of the large ones the means differ by (1 - 0.8^2) - (1 - 0.99^2) of log 1e6, the log of 109
    assert lines[1].startswith("threedgen: step 301: the gradients explode")
    assert [f"threedgen: {line}" for line in json.loads((tmp_path / "status.json").read_text())["warnings"]] == lines
