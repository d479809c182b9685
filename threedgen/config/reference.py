"""The reference of all keys as Markdown: `python -m threedgen.config.reference > docs/configuration.md`."""

from __future__ import annotations

from collections.abc import Sequence

from threedgen.config.keys import Key, keys
from threedgen.config.listing import KINDS, priors, variants
from threedgen.config.sections import Section, sections
from threedgen.config.values import allowed, default_text

HEAD = """# Configuration

A run is described by a YAML file and by overrides on the command line:

```
python launch.py --config quickstart prompt="a yellow taxi" seed=3 stages.coarse.steps=600
```

- An override is `key=value`, split at the first `=`. Where a key takes text, everything behind it is taken as it stands:
  no quoting rules, no comments, no `${...}`. The last one wins.
- In a config with one stage, `representation=hashgrid` is short for `stages.<stage>.representation.type=hashgrid`; so are `guidance=` and
  `cameras=`.
- A number that may be a *schedule* also accepts `[start_step, start, end, end_step]`, with more pairs `value, step` behind it:
  linear in between, constant outside.
- *Milestones* `{0: 64, 500: 128}` change at a step and stay until the next one.
- The keys of `representation`, `guidance` and `cameras` depend on their `type`. When an override changes the type of
  `representation` or `cameras`, values of the file that the new type has too are kept, and those that it lacks are dropped. When it
  changes the type of `guidance`, all keys of the file's `guidance` are dropped, for they were tuned for another rule.
  `--print-config` names what is dropped.
- A *recipe* holds the numbers that go with another guidance or representation. `recipes/<config>/<its name>.yaml` beside a config file
  is a part of a stage (`guidance: {...}`, `cameras: {...}`, `steps: ...`) and comes on top of the file when an override chooses it;
  overrides come on top of both. `--list guidances` shows for which there is one: try `stages.coarse.guidance.type=sds`.
- `--print-config` shows every value with its origin, `--explain KEY` what a key means.
- `<stage>` stands for the name that a config gives to a stage.

This page is generated from the schema: `python -m threedgen.config.reference > docs/configuration.md`.
"""


def markdown() -> str:
    """The page docs/configuration.md."""
    every = list(keys())
    parts = [HEAD]
    for group in sorted(dict.fromkeys(key.group for key in every), key=lambda group: (group.count(".") if group else -1, group)):
        members = [key for key in every if key.group == group]
        told = sections(members)
        parts += [f"## {_title(section)}\n\n{_note(section)}{_table(section.keys)}" for section in told]
        if bare := sorted({key.variant for key in members if key.variant} - {section.own for section in told}):
            parts.append(f"{', '.join(f'`{name}`' for name in bare)}: no keys but those of the tables that name them.\n")
    choices = {what: variants(what) for what in KINDS} | {"priors": priors()}
    parts += [f"## {what.capitalize()} to choose from\n\n{_choices(rows)}" for what, rows in choices.items()]
    return "\n".join(parts)


def _title(section: Section) -> str:
    title = f"`{section.group}`" if section.group else "The run"
    if section.own:
        return f"{title}, `type: {section.own}`"
    return f"{title}, {section.who.removeprefix(f'{section.kind} of ')}" if section.kind else title


def _note(section: Section) -> str:
    """Which other variants have the keys of a variant's section."""
    heirs = [f"`{name}`" for name in section.variants if name != section.own]
    return f"{', '.join(heirs)} too, where no other default is named.\n\n" if section.own and heirs else ""


def _table(group: Sequence[Key]) -> str:
    rows = ["| key | meaning | allowed | default |", "|---|---|---|---|"]
    rows += [f"| `{key.name}` | {_cell(key.meta['doc'])} | {_cell(allowed(key))} | `{default_text(key)}` |" for key in group]
    return "\n".join(rows) + "\n"


def _choices(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- `{name}`: {_cell(text)}" for name, text in rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(markdown(), end="")
