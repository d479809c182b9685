"""How a prior teaches a representation: a small core, and one file per published rule. Never imports torch at load."""

from __future__ import annotations

import importlib
import pkgutil

NOT_RULES = ("core", "critics", "estimates", "noisers", "rule", "timesteps")


def discover() -> None:
    """Import every rule file of this folder, so that its rule is registered; rule files do not import torch at load."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_") and module.name not in NOT_RULES:
            importlib.import_module(f"{__name__}.{module.name}")
