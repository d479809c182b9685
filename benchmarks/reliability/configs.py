"""What do damaged configs and misspelt keys lead to?

    python benchmarks/reliability/configs.py [2000]

Mutates shipped configs (text, values of odd types, nesting, anchors that multiply, keys given twice) and asks for the settings. Wrong
are: an exit code other than 0 and 2, more than one line with 2, more than five seconds. Then a quarter as many keys with one or two typing
errors (a letter dropped, exchanged, inserted or replaced) or in the wrong group, in files and on the command line. Wrong are: one that is
taken, one that needs more than a second, and less than 95 % with the right key as the hint. A few go through the real command line.
Prints two tables; exit code 1 when something is wrong.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import signal
import string
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from threedgen import cli  # noqa: E402
from threedgen.config.find import shipped  # noqa: E402
from threedgen.config.keys import keys  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.errors import UserError  # noqa: E402

LONGEST, LONGEST_TYPO, RIGHT = 5.0, 1.0, 0.95
VALUES = [
    "yes",
    "no",
    "~",
    "null",
    ".nan",
    ".inf",
    "-.inf",
    "1e999",
    "-1",
    "0x10",
    "1_0",
    "2026-01-01",
    "12:30:45",
    "[]",
    "{}",
    "[1]",
    "[[1]]",
]
VALUES += ["{a:b}", "!!python/object:os.system", "${x}", "*a", "9" * 400, "'", '"', "\u202e", "\U0001f34e", "\0", "? x", "a: b: c", "- 1"]
VALUES += ["|", ">-", "&a x", "1" * 20_000]
NAMES = "abcdefghi"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise(NAMES))
Mutation = Callable[[str, random.Random], str]


def other_value(text: str, rng: random.Random) -> str:
    places = list(re.finditer(r"(?<=: )[^\s{#][^\n#}]*", text))
    place = rng.choice(places)
    return text[: place.start()] + rng.choice(VALUES) + text[place.end() :]


def text_edits(text: str, rng: random.Random) -> str:
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice([*VALUES, "\t", "\n", ": ", "}", "\ufeff", "<<: "]) + text[at + rng.randint(0, 8) :]
    return text


def shuffled(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    rng.shuffle(lines)
    return "".join(lines)


def nested(text: str, rng: random.Random) -> str:
    depth = rng.choice((3, 50, 3000))
    return text + f"\nexport: {rng.choice(('[', '{a: '))}" * depth


def doubled(text: str, rng: random.Random) -> str:
    line = rng.choice([line for line in text.splitlines() if ":" in line])
    return text + "\n" + line + "\n"


def bomb(text: str, rng: random.Random) -> str:
    key = rng.choice(("prompt", "export", "stages", "export.formats", "seed"))
    return BOMB.replace("a: ", f"{key}: ", 1) if rng.random() < 0.5 else BOMB + text.replace("[glb]", "*i")


def reindented(text: str, rng: random.Random) -> str:
    return "".join(" " * rng.randint(0, 3) + line for line in text.splitlines(keepends=True))


MUTATIONS: dict[str, Mutation] = {
    "values": other_value,
    "text": text_edits,
    "lines shuffled": shuffled,
    "nesting": nested,
    "keys twice": doubled,
    "anchors": bomb,
    "indentation": reindented,
}


class Late(Exception):
    """A config took too long."""


def too_late(*_: Any) -> None:
    raise Late


def mutated(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Ask for the settings of mutated configs."""
    signal.signal(signal.SIGALRM, too_late)
    texts = [path.read_text() for path in shipped().values()]
    rows = {name: {"mutation": name, "configs": 0, "valid": 0, "other code": 0, "not one line": 0, "hangs": 0} for name in MUTATIONS}
    for number in range(count):
        name = list(MUTATIONS)[number % len(MUTATIONS)]
        row, text = rows[name], MUTATIONS[name](rng.choice(texts), rng)
        Path("mutated.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
        out, err, code = io.StringIO(), io.StringIO(), -1
        signal.setitimer(signal.ITIMER_REAL, LONGEST)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = cli.main(["--config", "mutated.yaml", "--print-config"])
        except Late:
            row["hangs"] += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        row["configs"] += 1
        row["valid"] += code == 0
        row["other code"] += code not in (0, 2)
        row["not one line"] += code == 2 and err.getvalue().count("\n") != 1
        if code not in (0, 2):
            print(f"{name}: {code}: {err.getvalue().strip()[:300]}")
    return list(rows.values())


def misspelt(word: str, rng: random.Random) -> str:
    """A word with one or two typing errors, its first letter kept where it is long enough."""
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(min(1, len(word) - 1), len(word))
        letter = rng.choice(string.ascii_lowercase)
        word = rng.choice(
            [
                word[:at] + word[at + 1 :] if len(word) > 2 else word + letter,
                word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
                word[:at] + letter + word[at:],
                word[:at] + letter + word[at + 1 :],
            ]
        )
    return word


def typo(path: str, groups: list[str], rng: random.Random) -> tuple[str, str]:
    """A dotted key with an error, and the error's kind."""
    group, _, name = path.rpartition(".")
    if rng.random() < 0.2:
        return ".".join(filter(None, (rng.choice([other for other in groups if other != group]), name))), "wrong group"
    return ".".join(filter(None, (group, misspelt(name, rng)))), "letters"


def typos(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Misspelt keys of shipped configs; the right one is known."""
    rows = {kind: {"keys": kind, "typos": 0, "taken": 0, "right hint": 0, "longest (s)": 0.0} for kind in ("letters", "wrong group")}
    known = {name: sorted(load(name, inputs_needed=False).sources) for name in shipped()}
    stages = {path.split(".")[1] for paths in known.values() for path in paths if path.startswith("stages.")}
    existing = {key.path for key in keys(sorted(stages))}
    leaves = {path.rpartition(".")[2] for path in existing}
    done = 0
    while done < count:
        config = rng.choice(sorted(known))
        path = rng.choice(known[config])
        groups = sorted({other.rpartition(".")[0] for other in known[config]})
        wrong, kind = typo(path, groups, rng)
        if wrong in existing or (kind == "letters" and wrong.rpartition(".")[2] in leaves):
            continue  # the name of another key: nobody can know which one was meant
        done += 1
        row = rows[kind]
        row["typos"] += 1
        begun = time.monotonic()
        try:
            if rng.random() < 0.5:
                load(config, [f"{wrong}=1"], inputs_needed=False)
            else:
                load(written(config, wrong), inputs_needed=False)
            row["taken"] += 1
        except UserError as error:
            hints = [*re.findall(r"did you mean '?([\w.-]+)'?", str(error)), " "]
            right = hints[0] == path or (kind == "wrong group" and hints[0].rpartition(".")[2] == path.rpartition(".")[2])
            row["right hint"] += right
            if not right:
                print(f"{path} as {wrong}: {error}")
        row["longest (s)"] = max(row["longest (s)"], round(time.monotonic() - begun, 2))
    return list(rows.values())


def written(config: str, key: str) -> str:
    """A file with a shipped config and one more key, in the group that its dotted name says."""
    *groups, name = key.split(".")
    tree = place = yaml.safe_load(shipped()[config].read_text())
    for group in groups:
        if not isinstance(place.get(group), dict):
            place[group] = {}
        place = place[group]
    place[name] = 1
    Path("typo.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return "typo.yaml"


def through_the_command_line(count: int) -> dict[str, Any]:
    """A few misspelt keys in processes of their own; seconds include the start of Python."""
    row = {"keys": "command line", "typos": 0, "taken": 0, "right hint": 0, "longest (s)": 0.0}
    for wrong, right in (("sed", "seed"), ("export.formts", "export.formats"), ("checkpont_every", "checkpoint_every"))[:count]:
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, ROOT / "launch.py", "--config", "quickstart", "prompt=x", f"{wrong}=1"],
            capture_output=True,
            text=True,
            check=False,
        )
        row["typos"] += 1
        row["taken"] += done.returncode != 2
        row["right hint"] += f"'{right}'" in done.stderr
        row["longest (s)"] = max(row["longest (s)"], round(time.monotonic() - begun, 2))
    return row


def main(count: int) -> int:
    from trials import table, workplace

    rng = random.Random(0)
    with workplace() as name:
        os.chdir(name)
        mutations = mutated(count, rng)
        misspellings = [*typos(max(1, count // 4), rng), through_the_command_line(3)]
        os.chdir(ROOT)
    table(mutations)
    print()
    table(misspellings)
    total, right = (sum(row[name] for row in misspellings) for name in ("typos", "right hint"))
    print(f"right hint: {right / total:.1%}")
    wrong = any(row["other code"] or row["not one line"] or row["hangs"] for row in mutations)
    return int(wrong or right < RIGHT * total or any(row["taken"] or row["longest (s)"] > LONGEST_TYPO for row in misspellings))


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if sys.argv[1:] else 2000))
