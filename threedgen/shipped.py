"""Where the files that come with threedgen lie: beside the package in a checkout, inside it in an installation."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped_folder(name: str) -> Path:
    """Folder "assets" or "configs"."""
    checkout = PACKAGE.parent / name
    return checkout if checkout.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / name
