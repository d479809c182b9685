"""A guidance of the tests' own, and configs written to a temporary folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from threedgen import registry
from threedgen.config.keys import load_variants
from threedgen.config.schema import setting

TINY = """\
prompt: a red apple
stages:
  coarse:
    representation: {type: hashgrid}
    guidance: {type: sds}
    cameras: {type: orbit}
"""


@dataclass
class Demo:
    """Guidance with a setting of every sort."""

    cfg: Any = setting(7.5, "guidance scale", low=-100.0, high=1000.0, scheduled=True)
    label: str = setting("none", "free text")
    strict: bool = setting(False, "whether to be strict")
    count: int = setting(3, "how many", low=1, high=9)
    share: float = setting(0.5, "which part", low=0.0, high=1.0)

    def check(self) -> None:
        if self.strict and self.share == 0:
            raise ValueError("share must not be 0 where strict is true")


@pytest.fixture
def demo_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    load_variants()
    monkeypatch.setitem(registry._registry["guidance"], "demo", Demo)


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a config into an empty working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes = TINY, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return name

    return write
