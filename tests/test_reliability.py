"""Short versions of the scripts in benchmarks/reliability that need no process of their own."""

import random
import signal
from pathlib import Path

import pytest
import torch

from threedgen.config.loader import load
from threedgen.runs.run import execute

ROOT = Path(__file__).parents[1]


@pytest.fixture
def rng(monkeypatch, tmp_path) -> random.Random:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "reliability"))
    monkeypatch.chdir(tmp_path)
    return random.Random(1)


def test_damaged_checkpoints_do_no_harm(rng, tmp_path):
    import damage
    import trials

    threads = torch.get_num_threads()
    words = [word for word in trials.command("hashgrid", trials.posed_ball(tmp_path / "data"), tmp_path / "runs") if "=" in word]
    folder = execute(load("fit", words).settings, "fit").folder
    torch.set_num_threads(threads)
    path = folder / "checkpoints" / "fit.safetensors"
    content, names = path.read_bytes(), ("checkpoints", "exceptions", "taken for whole", "not one line", "files made")
    for name in damage.DAMAGES:
        row = dict.fromkeys(names, 0)
        for _ in range(3):
            damage.trial(name, content, path, rng, row)
        assert row == dict.fromkeys(names, 0) | {"checkpoints": 3}, name


def test_mutated_configs_end_with_one_line(rng):
    import configs

    handler = signal.getsignal(signal.SIGALRM)
    rows = configs.mutated(5 * len(configs.MUTATIONS), rng)
    signal.signal(signal.SIGALRM, handler)
    assert [(row["configs"], row["other code"], row["not one line"], row["hangs"]) for row in rows] == [(5, 0, 0, 0)] * len(rows)


def test_misspelt_keys_are_refused_with_the_right_one(rng):
    import configs

    rows = configs.typos(40, rng)
    assert sum(row["taken"] for row in rows) == 0
    assert sum(row["right hint"] for row in rows) >= 0.95 * 40
