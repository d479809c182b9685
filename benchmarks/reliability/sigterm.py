"""Does a run that is asked to stop keep its state?

    python benchmarks/reliability/sigterm.py [50]

Sends SIGTERM (every third time SIGUSR1) to small runs at a random moment, from the loading of the settings to the export. Wrong are: a run
that ends later than ten seconds after it, one that ends with another code than 143, one whose newest checkpoint lacks steps that were
done, and a next start that does not go on from there. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from trials import KINDS, STEPS, command, count_from, emptied, only_folder, posed_ball, start, table, workplace

from threedgen.runs.checkpoints import newest

UNSAVED = ["checkpoint_every=0", "preview_every=0"]
LIMIT = 10.0  # seconds
ENDING = 0.1  # seconds from the end in which a signal may come too late
STOPPED = 128 + signal.SIGTERM
WRONG = ("other code", "steps lost", "not gone on")


def trial(words: list[str], output: Path, log: Path, wait: float, number: int, row: dict[str, Any]) -> None:
    """One run, stopped after a while."""
    run = start(words, log)
    run.until(lambda name, _: name == "started")
    run.until(seconds=wait)
    sent = time.monotonic()
    run.kill(number)
    code = run.end()
    if code == 0 and time.monotonic() - sent < ENDING:
        return
    row["signals"] += 1
    row["while it begins"] += run.last("begun", -1) < 0
    row["while it exports"] += run.last("step") == STEPS
    row["longest (s)"] = max(row["longest (s)"], round(time.monotonic() - sent, 2))
    row["other code"] += code != STOPPED
    if code != STOPPED:
        print(
            f"signal {number}: code {code} after {time.monotonic() - sent:.2f} s, {run.events[-1:]}",
            *run.said().splitlines()[-2:],
            sep="\n    ",
        )
    folder = only_folder(output)
    state = newest(folder / "checkpoints" / "fit.safetensors") if folder else None
    done = state.step if state else 0
    row["steps lost"] += run.last("step") - done
    if done < STEPS:
        again = start(words, log)
        again.until(lambda name, _: name == "step")
        again.kill()
        again.end()
        row["not gone on"] += again.last("begun", -1) != done


def main(count: int) -> int:
    rng = random.Random(0)
    rows: dict[str, dict[str, Any]] = {}
    with workplace() as name:
        place = Path(name)
        data = posed_ball(place / "data")
        for kind in KINDS:
            begun = time.monotonic()
            start(command(kind, data, emptied(place / "runs"), *UNSAVED), place / "log").end()
            seconds = time.monotonic() - begun
            row = {"runs": kind, "signals": 0, "while it begins": 0, "while it exports": 0, "longest (s)": 0.0} | dict.fromkeys(WRONG, 0)
            rows[kind] = row
            while row["signals"] < -(-count // len(KINDS)):
                output = emptied(place / "runs")
                number = signal.SIGUSR1 if row["signals"] % 3 == 2 else signal.SIGTERM
                trial(command(kind, data, output, "--resume", *UNSAVED), output, place / "log", rng.uniform(0, seconds), number, row)
    table(list(rows.values()))
    return int(any(row["longest (s)"] > LIMIT or any(row[name] for name in WRONG) for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 50)))
