"""Answers of the command line that start nothing: help, lists, explanations, resolved settings."""

from __future__ import annotations

from collections.abc import Sequence

from threedgen import __version__
from threedgen.config.explain import describe, explain
from threedgen.config.keys import Key, leaves
from threedgen.config.layout import table
from threedgen.config.listing import LISTS, listing
from threedgen.config.loader import load
from threedgen.config.merge import Dropped, short_words
from threedgen.config.schema import RunSettings
from threedgen.config.sections import Section, sections
from threedgen.config.serialize import to_yaml

INTRODUCTION = """Make a textured 3D asset from a text prompt.

  threedgen --config quickstart prompt="a red apple"
"""

RUN = [
    ("--config NAME", "config to run: a shipped one by its name, or the path of a YAML file"),
    ("KEY=VALUE ...", "settings that differ from the config, by dotted key; text needs no quotes but the shell's"),
    ("KIND=NAME ...", f"short for stages.NAME.KIND.type=NAME in a config with one stage; KIND is {', '.join(short_words())}"),
    ("--resume [RUN]", "go on from the newest checkpoint of the same settings, or of the run in a folder; without one, begin"),
    ("--until STAGE", "end after this stage, and export what it made"),
    ("--from STAGE", "do this stage and those after it anew; those before it are taken as they are"),
    ("--dry-run", "check everything, estimate time and memory, start nothing"),
]
ASK = [
    ("--list WHAT", f"what there is to choose from: {', '.join(LISTS)}"),
    ("--print-config", "every setting with its value and where it came from; the output is a config itself"),
    ("--explain [KEY]", "meaning, unit, range and default of a key, of a group, or of all keys"),
    ("--version", "version of threedgen"),
    ("--help", "this text"),
]
TROUBLE = [("--traceback", "show where an internal error happened")]
EXAMPLES = [
    ('threedgen --config quickstart prompt="a yellow taxi" seed=3', "another prompt, another draw"),
    ("threedgen --config quickstart prompt=... stages.coarse.steps=900", "a longer first stage"),
    ("threedgen --config quickstart prompt=... --dry-run", "how long will it take?"),
    ("threedgen --explain guidance", "all keys of the guidances"),
    ("threedgen --config quickstart --print-config > my.yaml", "a config of your own to edit"),
]
FEW = 4  # keys that are explained at length
CODES = [
    ("0", "done"),
    ("1", "internal error"),
    ("2", "something in the input is wrong; one line says what"),
    ("130", "stopped with Ctrl-C"),
]


def print_help() -> None:
    """Options in groups, the settings of a run, examples, exit codes."""
    print(INTRODUCTION)
    settings = [(key.path, key.meta["doc"]) for key in leaves(RunSettings, "")]
    settings += [
        ("stages.NAME...", "what is optimized and how: --explain stages"),
        ("export...", "the files that are written: --explain export"),
    ]
    groups = [
        ("Run", RUN),
        ("Ask", ASK),
        ("Trouble", TROUBLE),
        ("Settings (KEY=VALUE)", settings),
        ("Examples", EXAMPLES),
        ("Exit codes", CODES),
    ]
    for index, (title, rows) in enumerate(groups):
        if index:
            print()
        table(title, rows)


def print_version() -> None:
    """Name and version."""
    print(f"threedgen {__version__}")


def print_list(what: str) -> None:
    """Names with one line each."""
    table(what.capitalize(), listing(what))


def print_explanation(word: str) -> None:
    """One block a key for a few keys, one line a key for many."""
    found = sections(explain(word))
    if sum(len(section.keys) for section in found) > FEW:
        tables = [(_title(section.group or "The run", section), [(key.name, _summary(key)) for key in section.keys]) for section in found]
    else:
        tables = [(_title(key.path, section), describe(key, section.who)) for section in found for key in section.keys]
    for index, (title, rows) in enumerate(tables):
        if index:
            print()
        table(title, rows)


def print_config(config: str, overrides: Sequence[str]) -> None:
    """Resolved settings as YAML; comments say where each value came from."""
    loaded = load(config, overrides, inputs_needed=False)
    notes = {path: str(source) for path, source in loaded.sources.items()}
    print(to_yaml(loaded.settings, notes | dict.fromkeys(loaded.missing, "must be given"), loaded.missing), end="")
    for dropped in loaded.dropped:
        print(_dropped_line(dropped))


def _dropped_line(dropped: Dropped) -> str:
    return f"# dropped: {dropped.assignment.path} ({dropped.assignment.source}): {dropped.reason}"


def _title(path: str, section: Section) -> str:
    return f"{path} ({section.who})" if section.kind else path


def _summary(key: Key) -> str:
    rows = dict(describe(key))
    return f"{rows['meaning']}; {rows['allowed']}; default {rows['default']}"
