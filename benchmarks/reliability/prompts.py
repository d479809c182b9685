"""Is a prompt kept as it was given, and can a name lead out of the folder of the runs?

    python benchmarks/reliability/prompts.py [2000]

Gives fuzzed prompts (any characters, YAML, interpolations, quotes, line ends), half of them on the command line and half in a config, to
runs that stop short of their first step. Wrong are: a prompt that is not byte for byte what the run is given, and what config.yaml and
command.txt in its folder hold. Then half as many hostile prompts, config names, priors, seeds and folders of images, while every file that
is opened for writing, made, renamed or removed is watched. Wrong is one outside of the folder of the runs. Prints one table; exit code 1
when something is wrong.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from trials import count_from, table, workplace

from threedgen import cli
from threedgen.config.find import shipped
from threedgen.config.loader import load
from threedgen.config.schema import RunSettings
from threedgen.runs import run

PIECES = "a red apple|yes|no|null|~|1:30|0x1F|1e3|.nan|a # b|a: b|- a|[red] car|{a: b}|${oc.env:HOME}|${x}|$HOME|`id`|$(id)|'|\"|'''|\\|\\n"
PIECES += "|!!str|&a|*a|%|@|?|>|---|...|=|==| |  |\t|\n|\r\n|\u2028|\u00a0|\u202e|\u200b|\ufeff|e\u0301|\u00e9|\U0001f34e"
PIECES += "|\U0001f468\u200d\U0001f680|\u0000|\x1b[31m|\x7f|\u0085|..|/|../..|~root|<b>|%00|;|&&"
HOSTILE = ["../../x", "/etc/x", "..", ".", "~", "~root/x", "CON", "NUL.txt", "a\0b", "x" * 10_240, "\u2025/x", "\uff0e\uff0e/x", "..\\x"]
HOSTILE += ["%2e%2e/x", "$HOME/x", "file:///etc/x", "-rf", "\n../x", "a/../../../x", "\u202e../x", "....//x", "/proc/self/cwd/../x"]
HOSTILE += [".lock", " ", "\ud800"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
}


class Watch:
    """Paths that this process changes, as long as it is on."""

    def __init__(self) -> None:
        self.on, self.changed = False, set[str]()
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        written = event == "open" and int(arguments[2] or 0) & WRITING
        for place in (0,) if written else CHANGES.get(event, ()):
            if isinstance(arguments[place], str | bytes | os.PathLike):
                self.changed.add(os.path.realpath(os.fsdecode(arguments[place])))


def fuzzed(rng: random.Random) -> str:
    """A prompt with at least one visible character."""
    pieces = PIECES.split("|")
    text = "".join(
        rng.choice(pieces) if rng.random() < 0.7 else chr(rng.choice((rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000))))
        for _ in range(rng.randint(1, 12))
    )
    return text if text.strip() else text + "x"


def kept(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Prompts that runs are given."""
    given: list[RunSettings] = []
    run._work = lambda settings, *rest: given.append(settings) or {}
    rows = []
    for where in ("command line", "config"):
        row = {"what": f"prompts, {where}", "trials": 0, "refused": 0, "changed": 0, "outside": 0, "other code": 0}
        for _ in range(count // 2):
            prompt = fuzzed(rng)
            words = ["--config", "quickstart", f"prompt={prompt}", "output=runs"]
            if where == "config":
                text = shipped()["quickstart"].read_text().replace("prompt: ???", f"prompt: {quoted(prompt)}")
                Path("own.yaml").write_text(text, newline="")
                words = ["--config", "own.yaml", "output=runs"]
            shutil.rmtree("runs", ignore_errors=True)
            given.clear()
            code, said = silently(words)
            row["trials"] += 1
            row["other code"] += code not in (0, 2)
            if code:
                row["refused"] += 1
                print(f"{prompt!r}: {said.strip()[:200]}")
                continue
            [folder] = Path("runs").glob("*/*")
            again = load(str(folder / "config.yaml")).settings
            command = shlex.split((folder / "command.txt").read_bytes().decode("utf-8", "surrogateescape"))
            same = given[0].prompt == again.prompt == prompt and (where == "config" or f"prompt={prompt}" in command)
            row["changed"] += not same
            if not same:
                print(f"{prompt!r} became {given[0].prompt!r}, {again.prompt!r}, {command[-2:]}")
        rows.append(row)
    return rows


def quoted(text: str) -> str:
    """Text as a YAML scalar in double quotes, everything but plain ASCII escaped."""
    return '"' + "".join(c if c.isascii() and c.isalnum() else f"\\U{ord(c):08x}" for c in text) + '"'


def silently(words: list[str]) -> tuple[int, str]:
    """Exit code of a command line, and what it said on stderr."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return code, err.getvalue()


def hostile(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Values that try to lead out of the folder of the runs."""
    run._work = lambda *rest: {}
    watch, place, rows = Watch(), Path.cwd(), []
    Path("configs").mkdir()
    for what in ("prompt", "config", "prior", "seed", "data"):
        row = {"what": f"hostile {what}", "trials": 0, "refused": 0, "changed": 0, "outside": 0, "other code": 0}
        for number in range(count // 5):
            text = HOSTILE[number % len(HOSTILE)] + (fuzzed(rng) if number >= len(HOSTILE) else "")
            words = {"config": "quickstart", "prompt": "an apple", what: text}
            if what == "config" and number % 2:  # a file that is there, under a hostile name
                own = Path("configs") / (text.replace("/", "_").replace("\0", "_")[:60].encode("utf-8", "replace").decode() + ".yaml")
                shutil.copyfile(shipped()["quickstart"], own)
                words["config"] = str(own)
            watch.changed.clear()
            watch.on = True
            code, said = silently(["--config", words.pop("config"), "output=runs", *(f"{key}={value}" for key, value in words.items())])
            watch.on = False
            outside = {path for path in watch.changed if not path.startswith(str(place / "runs")) and path != os.devnull}
            row["trials"] += 1
            row["refused"] += code == 2
            row["outside"] += bool(outside)
            row["other code"] += code not in (0, 2)
            if outside or code not in (0, 2):
                print(f"{what} {text[:100]!r}: {code} {sorted(outside)} {said[:200]}")
        rows.append(row)
    return rows


def main(count: int) -> int:
    rng = random.Random(0)
    with workplace() as name:
        os.chdir(os.path.realpath(name))
        rows = kept(count, rng) + hostile(count // 2, rng)
        os.chdir("/")
    table(rows)
    return int(any(row[name] for row in rows for name in ("changed", "outside", "other code")) or any(row["refused"] for row in rows[:2]))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 2000)))
