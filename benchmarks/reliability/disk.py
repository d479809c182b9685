"""What does a run do when the disk is full, or does not let it write?

    python benchmarks/reliability/disk.py [120]

Two ways to fail at every write of a small run that goes on from a checkpoint. Real ones: the output lies on a memory disk of its own with
room for some pages or some files and no more, for ever more of them (needs `unshare`, as most Linux systems allow it to everybody). Made
ones: Python's audit hook refuses one opening, renaming or making of a file in the output with ENOSPC, EDQUOT, EPERM, EACCES, EROFS or EIO,
once or from then on. Wrong are: a checkpoint that was there and is not whole any more, an exit code other than 2 (or 0, where a run could
do without), more than one line beside the progress, a traceback. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trials import KINDS, command, count_from, emptied, only_folder, posed_ball, start, table, workplace

from threedgen.runs import stages
from threedgen.runs.checkpoints import newest

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EPERM, errno.EACCES, errno.EROFS, errno.EIO)
EVENTS = {"open": 0, "os.rename": 1, "os.mkdir": 0}  # position of the path that is written in the event's arguments
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PAGE = 4096
INSIDE = "THREEDGEN_PRIVATE_MOUNTS"


def refusing(output: Path, number: int, error: int, lasting: bool) -> Callable[[], None]:
    """Have the system refuse the write with this number below a folder, or all from there on."""
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or (event == "open" and not int(arguments[2] or 0) & WRITING):
            return
        path = arguments[EVENTS[event]]
        if not isinstance(path, str | bytes | os.PathLike) or not str(os.fsdecode(path)).startswith(str(output)):
            return
        seen[0] += 1
        if seen[0] == number or (lasting and seen[0] > number):
            raise OSError(error, os.strerror(error), os.fsdecode(path))

    return lambda: sys.addaudithook(hook)


class Disk:
    """A folder with a run that was stopped half way, and what becomes of it."""

    def __init__(self, kind: str, place: Path) -> None:
        self.place, self.output, self.kept = place, place / "runs", place / "kept"
        self.words = command(kind, posed_ball(place / "data"), self.output, "--resume")
        run = start(self.words, place / "log")
        run.until(lambda name, step: name == "saved" and step >= 8)
        run.kill()
        run.end()
        shutil.copytree(self.output, self.kept)
        folder = only_folder(self.kept)
        assert folder is not None
        self.before, self.most = self.saved(self.kept), size_of(self.kept)
        assert self.before

    def saved(self, output: Path) -> int:
        """Step of the newest whole checkpoint."""
        folder = only_folder(output)
        state = newest(folder / "checkpoints" / "fit.safetensors") if folder else None
        return state.step if state else 0

    def trial(self, row: dict[str, Any], prepare: Callable[[], None] | None = None) -> bool:
        """A run that goes on under bad conditions; whether it got to its end."""
        run = start(self.words, self.place / "log", prepare=prepare)
        code = run.end()
        other = [line for line in run.said().splitlines() if not line.startswith("fit: step ")]
        row["runs"] += 1
        if code == 0:
            row["ended well"] += 1
        else:
            row["other code"] += code != 2
            row["lines"] = max(row["lines"], len(other))
        tracebacks = run.said().count("Traceback")
        row["tracebacks"] += tracebacks
        lost = self.saved(self.output) < self.before
        row["lost states"] += lost
        if lost or tracebacks or code not in (0, 2) or (code and len(other) != 1):
            print(f"{row['writes refused']}: {code}", *(other or ["nothing said"])[-3:], sep="\n    ")
        return code == 0

    def made(self, count: int) -> list[dict[str, Any]]:
        """Each error at numbers of writes spread over the whole run."""
        rows = []
        writes = self.writes()
        for error in ERRORS:
            row = new_row(errno.errorcode[error])
            each = max(1, count // len(ERRORS))
            for trial in range(each):
                self.put_back(emptied(self.output))
                number = 1 + trial * writes // each
                self.trial(row, refusing(self.output, number, error, lasting=trial % 2 == 0))
            rows.append(row)
        return rows

    def writes(self) -> int:
        """How often a run opens, renames or makes something."""
        told = self.place / "writes"

        def count_all() -> None:
            from threedgen import cli

            seen, go = [0], cli.main

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                writing = event in EVENTS and (event != "open" or int(arguments[2] or 0) & WRITING)
                seen[0] += bool(writing) and str(arguments[EVENTS[event]]).startswith(str(self.output))

            def main(words: list[str]) -> int:
                code = go(words)
                told.write_text(str(seen[0]))
                return code

            sys.addaudithook(hook)
            cli.main = main

        self.put_back(emptied(self.output))
        run = start(self.words, self.place / "log", prepare=count_all)
        assert run.end() == 0, run.said()
        self.most = size_of(self.output)
        return int(told.read_text())

    def put_back(self, output: Path) -> None:
        """The run that was stopped half way, in an empty folder."""
        shutil.copytree(self.kept, output, dirs_exist_ok=True)

    def real(self, count: int) -> list[dict[str, Any]]:
        """Memory disks with ever more pages, then with ever more files, until a run has room."""
        rows = []
        for name, option, least, most in zip(("pages", "files"), ("size={}k", "nr_inodes={}"), size_of(self.kept), self.most, strict=True):
            row = new_row(f"no more {name}")
            for room in range(least, 2 * most, max(1, (most - least) // count)):
                emptied(self.output)
                options = option.format(room * (PAGE // 1024 if name == "pages" else 1))
                subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.output], check=True)
                try:
                    self.put_back(self.output)
                    if self.trial(row, unforeseen):
                        break
                except shutil.Error:  # not even room for what was there
                    continue
                finally:
                    subprocess.run(["umount", self.output], check=True)
            rows.append(row)
        return rows


def unforeseen() -> None:
    """Have a run begin although there is little room, as if the disk had filled up later."""
    stages._check_room = lambda *rest: None


def size_of(folder: Path) -> tuple[int, int]:
    """Pages and files below a folder."""
    files = list(folder.rglob("*"))
    return sum(-(-file.stat().st_size // PAGE) for file in files if file.is_file()), len(files) + 1


def new_row(name: str) -> dict[str, Any]:
    return {"writes refused": name, "runs": 0, "ended well": 0, "lost states": 0, "other code": 0, "lines": 0, "tracebacks": 0}


def main(count: int) -> int:
    if not os.environ.get(INSIDE) and subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "-rm", sys.executable, *sys.argv])
    with workplace() as name:
        disk = Disk(next(iter(KINDS)), Path(name))
        rows = disk.made(count)
        if os.environ.get(INSIDE):
            rows += disk.real(max(1, count // 4))
    table(rows)
    return int(any(row["lost states"] or row["other code"] or row["lines"] > 1 or row["tracebacks"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 120)))
