"""Where configs lie: the shipped folder, found by name, or any path."""

from __future__ import annotations

from pathlib import Path

from threedgen.config import suggest
from threedgen.config.source import shown
from threedgen.errors import UserError
from threedgen.shipped import shipped_folder

ENDINGS = (".yaml", ".yml")


def shipped() -> dict[str, Path]:
    """Configs that come with threedgen, by name."""
    return {path.stem: path for path in sorted(shipped_folder("configs").glob("*.yaml"), key=lambda path: path.stem)}


def find(config: str) -> Path:
    """File of a config given by name (with or without .yaml) or by path; UserError suggests the nearest name."""
    known = shipped()
    name = config.removesuffix(".yaml")
    if name in known:
        return known[name]
    try:
        for path in (Path(config), *(Path(config + ending) for ending in ENDINGS)):
            if path.is_file():
                return path
        is_folder = Path(config).is_dir()
    except (ValueError, OSError):  # a NUL in the name, a name that is too long
        is_folder = False
    if is_folder and config:
        raise UserError(f"config {shown(config)} is a folder: name a .yaml file")
    near = suggest.closest(Path(name).name, known)
    hint = f"did you mean {near!r}? " if near else ""
    raise UserError(f"there is no config {shown(config)}: {hint}--list configs shows those that are shipped ({', '.join(known)})")


def recipe(config: Path, variant: str) -> Path | None:
    """Recipe for a guidance or a representation beside a config file, `recipes/<stem of the config>/<name>.yaml`; None without one."""
    path = config.parent / "recipes" / config.stem / f"{variant}.yaml"
    return path if path.is_file() else None


def profiles(config: Path) -> dict[str, Path]:
    """Profiles beside a config file, `profiles/<stem of the config>/<name>.yaml`, by name."""
    return {path.stem: path for path in sorted((config.parent / "profiles" / config.stem).glob("*.yaml"))}


def place(path: Path) -> str:
    """A file as messages name it: relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def summary(path: Path) -> str:
    """First comment line of a config."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ") if first.startswith("#") else ""
