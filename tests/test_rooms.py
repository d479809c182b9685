"""The table of rooms in docs/architecture.md, held against the imports of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATIONS = {"errors", "registry", "schedule", "draws", "ranks", "shipped", "storage", "config.schema", "config.aliases"}


def allowed_imports() -> dict[str, set[str]]:
    """Room -> rooms it may import, read from the table."""
    table = {}
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        room = re.match(r"`threedgen/(\w+)(?:/|\.py)`", cells[0])
        if room and len(cells) == 3:
            table[room[1]] = set(re.findall(r"[a-z_]+", re.sub(r"\(.*?\)|lazily|-", "", cells[2])))
    return table


def imports_of(file: Path) -> set[str]:
    """Dotted names below `threedgen` that a file imports, at load or later."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "threedgen" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: relative import"
    return {name.removeprefix("threedgen.") for name in found if name.startswith("threedgen.")}


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / "threedgen").parts[0].removesuffix(".py")


FILES = [f for f in sorted((ROOT / "threedgen").rglob("*.py")) if room_of(f) not in ("__init__", "__main__")]


def violations(file: Path, table: dict[str, set[str]]) -> list[str]:
    room = room_of(file)
    permitted = table.get(room, set()) | {room}
    return [
        name
        for name in imports_of(file)
        if name.split(".")[0] not in permitted
        and name not in FOUNDATIONS
        and not any(name.startswith(f + ".") for f in FOUNDATIONS)
        and name != "__version__"
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_keep_to_the_table(file):
    assert violations(file, allowed_imports()) == []


def test_every_room_is_in_the_table():
    rooms = {room_of(f) for f in FILES} - {f for f in FOUNDATIONS if "." not in f}
    assert rooms <= set(allowed_imports())


def test_a_wrong_import_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    file = tmp_path / "threedgen/priors/bad.py"
    file.parent.mkdir(parents=True)
    file.write_text("def f():\n    from threedgen.systems.distillation import Distillation\n    return Distillation\n")
    assert violations(file, {"priors": set()}) == ["systems.distillation"]


def test_no_room_is_called_utils():
    assert not [f for f in FILES if "utils" in f.name]
