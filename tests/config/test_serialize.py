import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threedgen.config.find import shipped
from threedgen.config.loader import load
from threedgen.config.serialize import flat, to_yaml

AWKWARD = [
    "yes",
    "1:30 # yes ${x}",
    "a: b",
    "[red] car",
    "${oc.env:HOME}",
    "'",
    '"',
    "\\",
    "\\\\${x}",
    "???",
    "null",
    "~",
    "- a",
    "x=y",
    "a\u2028b",
    "a\x85b",
    "\ufeffa",
]
TEXTS = st.text(min_size=1).filter(str.strip) | st.sampled_from(AWKWARD)
QUICK = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("prompt", AWKWARD)
def test_awkward_prompts_are_kept_from_the_command_line(prompt):
    assert load("quickstart", [f"prompt={prompt}"]).settings.prompt == prompt


@QUICK
@given(prompt=TEXTS, negative=st.text())
@example(prompt="\0", negative="\ufeff\ud7ff\U0010ffff")
def test_raw_text_is_stored_byte_for_byte_and_survives_yaml(tmp_path, prompt, negative):
    first = load("quickstart", [f"prompt={prompt}", f"negative_prompt={negative}"]).settings
    assert (first.prompt, first.negative_prompt) == (prompt, negative)
    text = to_yaml(first, {"prompt": "command line"})
    path = tmp_path / "again.yaml"
    path.write_bytes(text.encode())
    assert load(str(path)).settings == first
    assert yaml.safe_load(text)["prompt"] == prompt


@pytest.mark.parametrize("name", sorted(shipped()))
def test_resolved_settings_load_back_to_the_same(name, tmp_path):
    stage = next(iter(load(name, inputs_needed=False).settings.stages))
    overrides = [
        "prompt=x",
        f"stages.{stage}.cameras.resolution={{0: 64, 200: 128}}",
        f"stages.{stage}.optimizer.lr=[0, 1e-2, 1e-3, 600]",
        "export.threshold=12.5",
    ]
    first = load(name, overrides, inputs_needed=False)
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(first.settings))
    again = load(str(path), inputs_needed=False)
    assert again.settings == first.settings
    assert {str(source) for source in again.sources.values()} & {"default"} == set()
    assert "schema_version: 1" in path.read_text()


def test_the_flat_table_holds_every_key_once():
    loaded = load("quickstart", ["prompt=x"])
    assert flat(loaded.settings).keys() == loaded.sources.keys()
    assert flat(loaded.settings)["stages.coarse.representation.type"] == "hashgrid"


def test_yaml_scalars_of_text_keys_are_text(config_file):
    body = "stages: {a: {representation: {type: hashgrid}, guidance: {type: sds}, cameras: {type: orbit}}}\n"
    for written, text in [
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("0x1F", "0x1F"),
        ("'${x}'", "${x}"),
        ("null", "null"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ]:
        assert load(config_file(f"prompt: {written}\n{body}")).settings.prompt == text
