"""What there is to choose from: name and one line for each."""

from __future__ import annotations

import inspect
import sys

from threedgen import registry
from threedgen.config import aliases, find
from threedgen.config.keys import load_variants

KINDS = {"representations": "representation", "guidances": "guidance", "cameras": "cameras"}
LISTS = ("configs", *KINDS, "priors")


def listing(what: str) -> list[tuple[str, str]]:
    """Rows of one of LISTS."""
    if what == "configs":
        return [(name, find.summary(path)) for name, path in find.shipped().items()]
    if what == "guidances":
        return [(name, text + _recipes(name)) for name, text in variants(what)]
    return priors() if what == "priors" else variants(what)


def variants(what: str) -> list[tuple[str, str]]:
    """Registered names of one of KINDS, each with what it is and what it needs beyond a text."""
    load_variants()
    kind = KINDS[what]
    classes = {name: registry.lookup(kind, name) for name in registry.names(kind)}
    return [(name, _title(kind, cls) + _needs(cls)) for name, cls in classes.items()]


def priors() -> list[tuple[str, str]]:
    """Names that a config may give as its prior."""
    hub = {name: f"{alias.doc} ({alias.repositories[0]})" for name, alias in aliases.ALIASES.items()}
    return [*(aliases.BUILT_IN | hub).items(), ("a folder", "any diffusers model on this machine, given by its path")]


def _title(kind: str, cls: type) -> str:
    """First line of a variant's docstring; a guidance rule is described by its file, which it has to itself."""
    described = sys.modules[cls.__module__] if kind == "guidance" else cls
    return (inspect.getdoc(described) or "").partition("\n")[0]


def _needs(cls: type) -> str:
    needs = getattr(cls, "needs", ())
    return f" Not for text alone: needs {', '.join(needs)}." if needs else ""


def _recipes(name: str) -> str:
    """For which shipped configs a guidance or representation has a recipe."""
    configs = [config for config, path in find.shipped().items() if find.recipe(path, name)]
    return f" Recipe: {', '.join(configs)}." if configs else ""
