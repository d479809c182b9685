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
    if what == "priors":
        hub = {name: f"{alias.doc} ({alias.repositories[0]})" for name, alias in aliases.ALIASES.items()}
        return [*(aliases.BUILT_IN | hub).items(), ("a folder", "any diffusers model on this machine, given by its path")]
    load_variants()
    kind = KINDS[what]
    return [(name, _title(kind, registry.lookup(kind, name))) for name in registry.names(kind)]


def _title(kind: str, cls: type) -> str:
    """First line of a variant's docstring; a guidance rule is described by its file, which it has to itself."""
    described = sys.modules[cls.__module__] if kind == "guidance" else cls
    return (inspect.getdoc(described) or "").partition("\n")[0]
