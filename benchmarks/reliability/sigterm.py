"""Does a run that is asked to stop keep its state?

    python benchmarks/reliability/sigterm.py [50]

Sends SIGTERM (every third time SIGUSR1) to small runs at a random moment. Wrong are: a run that ends later than ten seconds after it, one
that ends with another code than 143, one whose newest checkpoint lacks steps that were done, and a next start that does not go on from
there. Prints one table; exit code 1 when something is wrong.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

from trials import KINDS, command, count_from, emptied, only_folder, posed_ball, start, table, workplace

from threedgen.runs.checkpoints import newest

ENDLESS = ["stages.fit.steps=1000000", "checkpoint_every=0", "preview_every=0"]
LIMIT = 10.0  # seconds
STOPPED = 128 + signal.SIGTERM


def main(count: int) -> int:
    rng = random.Random(0)
    rows = {kind: {"runs": kind, "signals": 0, "longest (s)": 0.0, "other code": 0, "steps lost": 0, "not gone on": 0} for kind in KINDS}
    with workplace() as name:
        place = Path(name)
        data = posed_ball(place / "data")
        for number in range(count):
            kind = list(KINDS)[number % len(KINDS)]
            row, output = rows[kind], emptied(place / "runs")
            words = command(kind, data, output, "--resume", *ENDLESS)
            run = start(words, place / "log")
            run.until(lambda name, _: name == "begun")
            run.until(seconds=rng.uniform(0, 1.0))
            sent = time.monotonic()
            run.kill(signal.SIGUSR1 if number % 3 == 2 else signal.SIGTERM)
            code = run.end()
            row["signals"] += 1
            row["longest (s)"] = max(row["longest (s)"], round(time.monotonic() - sent, 2))
            row["other code"] += code != STOPPED
            folder = only_folder(output)
            state = newest(folder / "checkpoints" / "fit.safetensors") if folder else None
            done = state.step if state else 0
            row["steps lost"] += run.last("step") - done
            again = start(words, place / "log")
            again.until(lambda name, _: name == "step")
            again.kill()
            again.end()
            row["not gone on"] += again.last("begun", -1) != done
    table(list(rows.values()))
    wrong = ("other code", "steps lost", "not gone on")
    return int(any(row["longest (s)"] > LIMIT or any(row[name] for name in wrong) for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main(count_from(sys.argv[1:], 50)))
