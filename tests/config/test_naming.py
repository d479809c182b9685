import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threedgen.config.loader import load
from threedgen.config.naming import run_folder

FOLDER = re.compile(r"[a-z0-9][a-z0-9-]{0,47}-[0-9a-f]{8}")
HOSTILE = [
    "../../../etc/passwd",
    "/etc/passwd",
    "a\0b",
    "x" * 10_240,
    "CON",
    "..",
    ".",
    "～／．．／",
    "日本語",
    "a\nb",
    "~root",
    "-rf",
    "C:\\x",
    "\u202egnp.exe",
]


BASE = load("quickstart", ["prompt=x"]).settings


def named(prompt: str, config: str = "quickstart", **changes: object) -> Path:
    return run_folder(replace(BASE, prompt=prompt, **changes), config)


def test_a_folder_reads_as_the_prompt():
    folder = named("A Red  Apple, on a plate!")
    assert folder.parts[:2] == ("outputs", "quickstart")
    assert folder.name.startswith("a-red-apple-on-a-plate-")


@pytest.mark.parametrize("prompt", HOSTILE)
def test_hostile_prompts_stay_inside(prompt):
    folder = named(prompt, config=prompt)
    assert len(folder.parts) == 3
    assert folder.parts[0] == "outputs"
    assert FOLDER.fullmatch(folder.name)
    assert re.fullmatch(r"[a-z0-9-]{1,48}", folder.parts[1])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text())
def test_any_prompt_gives_a_tame_name(prompt):
    assert FOLDER.fullmatch(named(prompt).name)


def test_only_what_changes_the_result_changes_the_hash():
    base = named("x")
    same = {"device": "cpu", "threads": 3, "preview_every": 7, "checkpoint_every": 9}
    assert named("x", **same) == base
    assert named("x", output="elsewhere") == Path("elsewhere", *base.parts[1:])
    assert named("x", seed=1).name != base.name
    assert named("x ").name != base.name


def test_equal_numbers_give_equal_hashes():
    folders = [load("quickstart", ["prompt=x", f"stages.coarse.guidance.cfg={n}"]).settings for n in ("5", "5.0", "5e0")]
    assert len({run_folder(s, "c") for s in folders}) == 1
