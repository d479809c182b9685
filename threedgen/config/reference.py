"""The reference of all keys as Markdown: `python -m threedgen.config.reference > docs/configuration.md`."""

from __future__ import annotations

import itertools

from threedgen.config.keys import Key, keys
from threedgen.config.listing import KINDS, listing
from threedgen.config.values import allowed, default_text

HEAD = """# Configuration

A run is described by a YAML file and by overrides on the command line:

```
python launch.py --config quickstart prompt="a yellow taxi" seed=3 stages.coarse.steps=600
```

- An override is `key=value`, split at the first `=`. Where a key takes text, everything behind it is taken as it stands:
  no quoting rules, no comments, no `${...}`. The last one wins.
- A number that may be a *schedule* also accepts `[start_step, start, end, end_step]`, with more pairs `value, step` behind it:
  linear in between, constant outside.
- *Milestones* `{0: 64, 500: 128}` change at a step and stay until the next one.
- The keys of `representation`, `guidance` and `cameras` depend on their `type`. When an override changes the type, values of
  the file that the new type has too are kept; those that it lacks are dropped, and `--print-config` names them.
- `--print-config` shows every value with its origin, `--explain KEY` what a key means.
- `<stage>` stands for the name that a config gives to a stage.

This page is generated from the schema: `python -m threedgen.config.reference > docs/configuration.md`.
"""


def markdown() -> str:
    """The page docs/configuration.md."""
    parts = [HEAD]
    for title, group in itertools.groupby(sorted(keys(), key=_order), key=_title):
        parts.append(f"## {title}\n\n{_table(list(group))}")
    parts += [f"## {what.capitalize()} to choose from\n\n{_choices(what)}" for what in (*KINDS, "priors")]
    return "\n".join(parts)


def _order(key: Key) -> tuple[int, str, str]:
    return key.group.count(".") if key.group else -1, key.group, key.variant


def _title(key: Key) -> str:
    title = f"`{key.group}`" if key.group else "The run"
    return f"{title}, `type: {key.variant}`" if key.variant else title


def _table(group: list[Key]) -> str:
    rows = ["| key | meaning | allowed | default |", "|---|---|---|---|"]
    rows += [f"| `{key.name}` | {_cell(key.meta['doc'])} | {_cell(allowed(key))} | `{default_text(key)}` |" for key in group]
    return "\n".join(rows) + "\n"


def _choices(what: str) -> str:
    return "\n".join(f"- `{name}`: {_cell(text)}" for name, text in listing(what)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(markdown(), end="")
