"""Can a damaged checkpoint do harm?

    python benchmarks/reliability/damage.py [1000]

Damages the newest checkpoint of a run in a random way: cut off, bits flipped, bytes exchanged, emptied, replaced by another format, its
header's length raised, a pickle that would make a file under its name, a folder, tensors renamed or missing with a right hash. Then asks
for the newest whole one. Wrong are: any exception, another answer than the checkpoint before, no line that says so, a file that the pickle
made. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trials import KINDS, command, count_from, only_folder, posed_ball, start, table, workplace

from threedgen.runs.checkpoints import newest, previous, read_checkpoint

Damage = Callable[[bytes, random.Random, Path], bytes]


class MakesAFile:
    """What a hostile pickle does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def flipped(content: bytes, rng: random.Random, trap: Path) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 8, 200))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def exchanged(content: bytes, rng: random.Random, trap: Path) -> bytes:
    length = rng.randint(1, 200)
    a, b = rng.randrange(len(content) // 2 - length), rng.randrange(len(content) // 2, len(content) - length)
    return content[:a] + content[b : b + length] + content[a + length : b] + content[a : a + length] + content[b + length :]


def other_header(content: bytes, rng: random.Random, trap: Path) -> bytes:
    """A header that is JSON, and not what was written."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    rng.choice(
        [
            lambda: header["__metadata__"].pop(rng.choice(("format", "digest", "step"))),
            lambda: header["__metadata__"].update(step=rng.choice(("", "x", "-1", "9" * 5000, "1e3"))),
            lambda: header["__metadata__"].update(format="threedgen-stage-0"),
            lambda: header.pop("__metadata__"),
            lambda: header.update(other=header.pop(name)),
            lambda: header[name].update(dtype=rng.choice(("F64", "I8", "X", None))),
            lambda: header[name].update(shape=[2**40, 2**40]),
            lambda: header[name].update(data_offsets=[0, 2**62]),
        ]
    )()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def torch_archive(content: bytes, rng: random.Random, trap: Path) -> bytes:
    """A pickle as torch.save wraps it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(MakesAFile(trap)))
    return file.getvalue()


DAMAGES: dict[str, Damage] = {
    "cut off": lambda content, rng, trap: content[: rng.randrange(len(content))],
    "bits flipped": flipped,
    "bytes exchanged": exchanged,
    "bytes lost": lambda content, rng, trap: content[: (at := rng.randrange(len(content) - 9))] + content[at + rng.randint(1, 8) :],
    "bytes added": lambda content, rng, trap: content + rng.randbytes(rng.randint(1, 5000)),
    "empty": lambda content, rng, trap: b"",
    "noise": lambda content, rng, trap: rng.randbytes(rng.randint(1, 5000)),
    "huge header": lambda content, rng, trap: struct.pack("<Q", rng.choice((2**63 - 1, 2**40, 99_999_999))) + content[8:],
    "other header": other_header,
    "a pickle": lambda content, rng, trap: pickle.dumps(MakesAFile(trap)),
    "a torch archive": torch_archive,
    "a picture": lambda content, rng, trap: b"\x89PNG\r\n\x1a\n" + rng.randbytes(100),
    "text": lambda content, rng, trap: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
}


def trial(name: str, content: bytes, path: Path, rng: random.Random, row: dict[str, Any]) -> None:
    """One damage to the newest checkpoint."""
    trap = path.with_name("trap")
    while (damaged := DAMAGES[name](content, rng, trap)) == content:
        pass
    path.write_bytes(damaged)
    said = io.StringIO()
    row["checkpoints"] += 1
    try:
        with contextlib.redirect_stderr(said):
            state = newest(path)
    except Exception as error:
        row["exceptions"] += 1
        print(f"{name}: {type(error).__name__}: {error}")
        return
    row["taken for whole"] += state is None or state.step != read_checkpoint(previous(path)).step
    row["not one line"] += len(said.getvalue().splitlines()) != 1
    row["files made"] += trap.exists()


def main(count: int) -> int:
    rng = random.Random(0)
    names = ("checkpoints", "exceptions", "taken for whole", "not one line", "files made")
    rows = {name: {"damage": name} | dict.fromkeys(names, 0) for name in DAMAGES}
    with workplace() as name:
        place = Path(name)
        run = start(command(next(iter(KINDS)), posed_ball(place / "data"), place / "runs"), place / "log")
        assert run.end() == 0, run.said()
        folder = only_folder(place / "runs")
        assert folder is not None
        path = place / "damaged" / "fit.safetensors"
        shutil.copytree(folder / "checkpoints", path.parent)
        content = path.read_bytes()
        for number in range(count):
            damage = list(DAMAGES)[number % len(DAMAGES)]
            trial(damage, content, path, rng, rows[damage])
    table(list(rows.values()))
    return int(any(row[name] for row in rows.values() for name in names[1:]))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 1000)))
