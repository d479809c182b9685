"""How a prior teaches a representation: a small core, and one file per published rule. Never imports torch at load."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from importlib.metadata import entry_points

NOT_RULES = ("core", "critics", "estimates", "likelihood", "noisers", "rule", "timesteps", "wishes")
ENTRY_POINTS = "threedgen.guidance"


def discover() -> None:
    """Import every rule file of this folder, and the modules that installed packages name as entry points, so that they register.

    Rule files do not import torch at load. A package whose module cannot be imported is named in a line on stderr and left out.
    """
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_") and module.name not in NOT_RULES:
            importlib.import_module(f"{__name__}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # whatever a stranger's module does
            print(f"warning: the guidance '{entry.name}' of {entry.value} is left out: {type(error).__name__}: {error}", file=sys.stderr)
