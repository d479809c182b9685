from dataclasses import MISSING
from pathlib import Path

import pytest

from threedgen.config import reference
from threedgen.config.explain import describe, explain
from threedgen.config.find import shipped
from threedgen.config.keys import keys
from threedgen.config.listing import LISTS, listing
from threedgen.config.loader import load
from threedgen.config.values import convert, default_text
from threedgen.errors import UserError

ROOT = Path(__file__).parents[2]
KEYS = list(keys())
IDS = [f"{key.path}-{key.variant}" for key in KEYS]


@pytest.mark.parametrize("key", KEYS, ids=IDS)
def test_every_key_is_documented_and_explained(key):
    assert len(key.meta["doc"]) > 3
    rows = dict(describe(key))
    assert rows["meaning"] == key.meta["doc"]
    assert rows["allowed"]
    assert key in explain(key.path)
    assert key in explain(key.name)


@pytest.mark.parametrize("key", [key for key in KEYS if key.default is not MISSING], ids=lambda key: f"{key.path}-{key.variant}")
def test_every_default_is_allowed_and_written_as_it_is_read(key):
    text = default_text(key)
    assert convert(key, "" if text == '""' else text) == key.default


@pytest.mark.parametrize("name", sorted(shipped()))
def test_resolved_configs_explain_and_schema_have_the_same_keys(name):
    loaded = load(name, ["prompt=x"], inputs_needed=False)
    types = {path.rpartition(".")[0]: None for path in loaded.sources if path.endswith(".type")}
    assert len(types) == 3 * len(loaded.settings.stages)
    for path in loaded.sources:
        assert explain(path)
    everything = {key.path for key in keys(list(loaded.settings.stages))}
    assert set(loaded.sources) <= everything


def test_explaining_nothing_lists_everything():
    assert explain("") == KEYS


def test_groups_variants_and_endings_are_explained():
    assert {key.variant for key in explain("sds")} == {"sds"}
    assert {key.path for key in explain("optimizer.lr")} == {"stages.<stage>.optimizer.lr"}
    assert {key.group for key in explain("export")} == {"export"}
    assert explain("stages.fine.steps") == explain("stages.<stage>.steps")


@pytest.mark.parametrize(
    ("word", "hint"), [("stps", "steps"), ("export.texturs", "export.texture"), ("guidanse", "guidance"), ("vsdd", "vsd")]
)
def test_unknown_keys_are_explained_by_the_nearest(word, hint):
    with pytest.raises(UserError, match=f"did you mean '{hint}'"):
        explain(word)


def test_nonsense_is_answered_with_the_nearest_word():
    with pytest.raises(UserError, match=r"there is no key 'nonsense': the nearest is 'noise'; --explain without"):
        explain("nonsense")


@pytest.mark.parametrize("what", LISTS)
def test_lists_have_names_and_descriptions(what):
    rows = listing(what)
    assert rows
    assert all(name and text for name, text in rows)


def test_the_reference_page_is_current():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference.markdown(), "run: python -m threedgen.config.reference > docs/configuration.md"
