"""Lists of free text: kept as written, counted, and written so that they read back the same."""

import pytest
import yaml

from threedgen.config.loader import load
from threedgen.config.serialize import to_yaml
from threedgen.errors import UserError

ODD = [", a: b", "${oc.env:HOME}", "yes", "12"]
FILE = """\
prompt: x
prompts:
  view_dependent: words
  view_words: [" from the front", side, 'b, c', "${x} # d"]
  view_drop: {back: [face, smiling face, no], side: 3}
stages: {a: {representation: {type: hashgrid}, guidance: {type: sds}, cameras: {type: orbit}}}
"""


def refused(config: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(config, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_texts_of_a_file_are_kept(config_file):
    prompts = load(config_file(FILE)).settings.prompts
    assert prompts.view_words == [" from the front", "side", "b, c", "${x} # d"]
    assert (prompts.view_drop.back, prompts.view_drop.side, prompts.view_drop.front) == (["face", "smiling face", "no"], ["3"], [])


def test_texts_of_the_command_line_are_kept(config_file):
    words = "[" + ", ".join(f"'{text}'" for text in ODD) + "]"
    loaded = load(
        config_file(FILE), [f"prompts.view_words={words}", "prompts.view_drop={back: [a], front: b c}", "prompts.view_drop.side=[]"]
    )
    assert loaded.settings.prompts.view_words == ODD
    drop = loaded.settings.prompts.view_drop
    assert (drop.front, drop.side, drop.back) == (["b c"], [], ["a"])


@pytest.mark.parametrize("texts", [ODD, ["no", "null", "~", "3"], ["", '"', "'", "\\"], ["a\nb", "\0", "\ufeff", "- a"]])
def test_texts_read_back_the_same(tmp_path, texts):
    loaded = load("quickstart", ["prompt=x"])
    loaded.settings.prompts.view_words = texts
    (tmp_path / "again.yaml").write_bytes(to_yaml(loaded.settings).encode())
    again = load(str(tmp_path / "again.yaml")).settings
    assert again.prompts.view_words == texts
    assert yaml.safe_load((tmp_path / "again.yaml").read_text())["prompts"]["view_words"] == texts


def test_defaults_are_not_shared():
    first, second = (load("quickstart", ["prompt=x"]).settings.prompts for _ in range(2))
    first.view_words.append("more")
    first.view_drop.back.append("more")
    assert len(second.view_words) == 4
    assert second.view_drop.back == []


def test_mistakes_are_named(config_file):
    name = config_file(FILE)
    assert "expected a list of 4 texts, got 3 (command line)" in refused(name, "prompts.view_words=[a, b, c]")
    assert "expected a list of 4 texts, got 1" in refused(name, "prompts.view_words=front")
    assert "did you mean 'prompts.view_drop.back'" in refused(name, "prompts.view_drop={bakc: [face]}")
    assert "prompts.view_drop" in refused(name, "prompts.view_drop.behind=[face]")
    assert "view_drop.back holds an empty word" in refused(name, "prompts.view_drop.back=[face, '']")
    assert "must not exceed 180 together" in refused(name, "prompts.front_degrees=100", "prompts.back_degrees=100")
    for value in ("[[a]]", "[{a: b}]", "{a: b}", "!x [a, b, c, d]", "[", ""):
        assert "view_words" in refused(name, f"prompts.view_words={value}")
    assert "mine.yaml:5" in refused(config_file(FILE.replace("{back:", "{behind:")))
