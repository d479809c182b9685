"""What is left of a run that is killed?

    python benchmarks/reliability/kill.py [200]

Kills small runs with SIGKILL: every other one at a random moment, the rest while they write a checkpoint; every other pair with TMPDIR on
another file system. Each start goes on from what the last kill left, until the run ends; then another begins. Wrong are: a checkpoint that
cannot be read, a half-written file that the next start leaves behind, more steps lost than lie between two checkpoints, a run that ends
with other bytes than one that was never killed. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from trials import (
    EVERY,
    KINDS,
    STEPS,
    Trial,
    command,
    count_from,
    emptied,
    only_folder,
    other_filesystem,
    posed_ball,
    start,
    table,
    workplace,
)

from threedgen.runs.checkpoints import digest, previous, read_checkpoint


class Chain:
    """Runs of one kind of representation, killed again and again."""

    def __init__(self, kind: str, data: Path, place: Path, rng: random.Random) -> None:
        self.kind, self.output, self.place, self.rng = kind, place / kind, place, rng
        self.words = command(kind, data, self.output, "--resume")
        self.kills = 0
        self.found = {"in a save": 0, "other file system": 0, "ended": 0}
        self.wrong = {"unreadable": 0, "stray files": 0, "most steps lost": 0, "other bytes": 0, "failed": 0}
        started = time.monotonic()
        whole = start(self.words, place / "log")
        assert whole.end() == 0, whole.said()
        self.seconds, self.expected = time.monotonic() - started, self.result()
        saves = [b - a for (a, b), (name, _) in zip(pairwise(whole.moments), whole.events, strict=False) if name == "save"]
        self.done, self.save_seconds = 0, sorted(saves)[len(saves) // 2]
        emptied(self.output)

    def result(self) -> str:
        """Hash of the asset and of the last state."""
        folder = only_folder(self.output)
        assert folder is not None
        [asset] = folder.glob("export/*.glb")
        state = read_checkpoint(folder / "checkpoints" / "fit.safetensors")
        return hashlib.sha256(asset.read_bytes()).hexdigest() + digest(state.tensors, state.step)

    def trial(self, saving: bool, temporary: Path) -> None:
        """One start and its kill."""
        before = self.done
        run = start(self.words, self.place / "log", emptied(temporary))
        wait = self.rng.uniform(0, self.seconds)
        if run.until(lambda name, _: name == "begun", wait if not saving else 120):
            self.check_start(run, before)
            if saving:
                self.wait_for_save(run)
            else:
                run.until(seconds=max(0.0, run.started + wait - time.monotonic()))
        run.kill()
        code = run.end()
        self.done = max(run.last("step"), before if run.last("begun", -1) < 0 else run.last("begun"))
        if code == -signal.SIGKILL:
            self.kills += 1
            self.found["in a save"] += run.last("save") > run.last("saved")
            self.found["other file system"] += temporary.stat().st_dev != self.place.stat().st_dev
        self.wrong["failed"] += code not in (0, -signal.SIGKILL)
        self.wrong["stray files"] += sum(1 for _ in temporary.rglob("*"))
        self.check_checkpoints()
        if code == 0:
            self.found["ended"] += 1
            self.wrong["other bytes"] += self.result() != self.expected
            emptied(self.output)
            self.done = 0

    def check_start(self, run: Trial, before: int) -> None:
        """What the last kill left, seen once the next run begins."""
        self.wrong["most steps lost"] = max(self.wrong["most steps lost"], before - run.last("begun"))
        self.wrong["stray files"] += sum(1 for _ in self.output.rglob(".*.tmp"))

    def wait_for_save(self, run: Trial) -> None:
        """Until a moment within one of the next saves, as far as the time that the last one took can tell."""
        for _ in range(self.rng.randint(1, 3)):
            if not run.until(lambda name, _: name == "save"):
                return
        begun = max(moment for (name, _), moment in zip(run.events, run.moments, strict=True) if name == "save")
        time.sleep(max(0.0, begun + self.rng.uniform(0, self.save_seconds) - time.monotonic()))

    def check_checkpoints(self) -> None:
        folder = only_folder(self.output)
        newest = folder / "checkpoints" / "fit.safetensors" if folder else None
        for file in (newest, previous(newest)) if newest else ():
            try:
                if file.is_file():
                    read_checkpoint(file)
            except Exception:
                self.wrong["unreadable"] += 1

    def row(self) -> dict[str, Any]:
        return {"runs": self.kind, "kills": self.kills} | self.found | self.wrong

    def is_wrong(self) -> bool:
        return self.wrong["most steps lost"] > EVERY or any(number for name, number in self.wrong.items() if name != "most steps lost")


def main(count: int) -> int:
    rng = random.Random(0)
    with workplace() as name:
        place = Path(name)
        data, other = posed_ball(place / "data"), other_filesystem(place)
        temporaries = [place / "tmp", (other or place) / f"{place.name}-tmp"]
        chains = [Chain(kind, data, place, rng) for kind in KINDS]
        for number in itertools.count():
            if sum(chain.kills for chain in chains) >= count:
                break
            chains[number % len(chains)].trial(number % 2 == 0, temporaries[number // 2 % 2])
        emptied(temporaries[1]).rmdir()
    table([chain.row() for chain in chains])
    print(f"{STEPS} steps a run, a checkpoint every {EVERY}" + ("" if other else "; there is no second file system here"))
    return int(any(chain.is_wrong() for chain in chains))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 200)))
