"""Damaged configs and overrides end with one line, whatever is wrong with them."""

import random

from threedgen.cli import main
from threedgen.config.find import shipped
from threedgen.config.loader import load
from threedgen.config.serialize import flat

MUTANTS = 250
JUNK = [
    "???",
    "[",
    "]",
    "{",
    "}",
    ": ",
    "- ",
    "&a ",
    "*a",
    "!!x ",
    "\t",
    "\0",
    "'",
    '"',
    "|",
    ">",
    "%",
    "@",
    "${x}",
    "\ufeff",
    "\n",
    "<<: ",
    "1e999",
    "~",
    "\x85",
    "#",
]
VALUES = [
    "",
    "yes",
    "-1",
    "1e999",
    "nan",
    ".inf",
    "[]",
    "[1]",
    "[1, 2, 3, 4]",
    "{0: 1}",
    "{}",
    "{a: [b]}",
    "[[1]]",
    "${oc.env:HOME}",
    "&a x",
    "*a",
    "!!python/x y",
]
VALUES += ["\0", "9" * 400, "[" * 1500, "? x", "a: b: c", "'", "\udcff", "#", "null", "0x10", "1_0", "glb", "auto", "../../x"]


def mutated(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(text))
        edit = rng.randrange(4)
        if edit == 0:
            text = text[:i] + rng.choice(JUNK) + text[i:]
        elif edit == 1:
            text = text[:i] + text[i + rng.randint(1, 12) :]
        elif edit == 2:
            lines = text.splitlines(keepends=True)
            rng.shuffle(lines)
            text = "".join(lines)
        else:
            j = rng.randrange(len(text))
            text = text[:i] + text[j : j + 20] + text[i:]
        text = text or "x"
    return text


def answers_in_one_line(argv: list[str], capsys) -> None:
    code = main(argv)
    captured = capsys.readouterr()
    if code == 0:
        assert captured.err == ""
        assert captured.out.startswith(("prompt: ", "threedgen"))
    else:
        assert code == 2, captured.err
        assert captured.err.startswith("threedgen: ")
        assert captured.err.count("\n") == 1
        assert captured.out == ""


def test_damaged_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(7)
    texts = [path.read_text() for path in shipped().values()]
    for _ in range(MUTANTS):
        (tmp_path / "damaged.yaml").write_bytes(mutated(rng.choice(texts), rng).encode())
        answers_in_one_line(["--config", "damaged.yaml", "--print-config"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.yaml"]


def test_damaged_recipes(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes" / "mine").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_bytes(shipped()["quickstart"].read_bytes())
    monkeypatch.chdir(tmp_path)
    rng = random.Random(9)
    texts = {path.stem: path.read_text() for path in (shipped()["quickstart"].parent / "recipes" / "quickstart").glob("*.yaml")}
    for _ in range(MUTANTS // 2):
        guidance = rng.choice(sorted(texts))
        (tmp_path / "recipes" / "mine" / f"{guidance}.yaml").write_bytes(mutated(texts[guidance], rng).encode())
        answers_in_one_line(["--config", "mine.yaml", "--print-config", f"stages.coarse.guidance.type={guidance}"], capsys)


def test_odd_overrides(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(8)
    keys = [
        *flat(load("quickstart", ["prompt=x"]).settings),
        "stages",
        "stages.coarse",
        "export",
        "stages.coarse.guidance",
        "x",
        "a..b",
        ".",
    ]
    for _ in range(MUTANTS):
        overrides = [f"{rng.choice(keys)}={rng.choice(VALUES)}" for _ in range(rng.randint(1, 3))]
        answers_in_one_line(["--config", "quickstart", "--print-config", *overrides], capsys)
    assert list(tmp_path.iterdir()) == []
