"""`python -m threedgen.playground`: every distillation rule in the plane, as a table, a picture and JSON."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from threedgen.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from threedgen.playground.prior import PlanePrior
    from threedgen.playground.run import Outcome


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help shows how it is used)")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; UserError for bad ones."""
    parser = _Parser(
        prog="python -m threedgen.playground",
        description="What each distillation rule does to points in the plane, where the right answer is known.",
        allow_abbrev=False,
    )
    parser.add_argument("--rules", type=_names, metavar="A,B", help="only these rules, with their variants (default: all)")
    parser.add_argument("--out", type=Path, default=Path("outputs/playground"), metavar="FOLDER", help="for the files (%(default)s)")
    parser.add_argument("--steps", type=_count, default=500, metavar="N", help="optimization steps (%(default)s)")
    parser.add_argument("--points", type=_count, default=400, metavar="N", help="points, 8 to 4096 (%(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all draws (%(default)s)")
    found = parser.parse_args(list(words))
    if not 8 <= found.points <= 4096:
        raise UserError(
            f"--points {found.points}: choose from 8 (a spread needs some) to 4096 (the time of a critic grows with the square)"
        )
    return found


def _names(text: str) -> list[str]:
    names = [name for part in text.split(",") if (name := part.strip())]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no rule")
    return names


def _count(text: str) -> int:
    if _seed(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small: at least 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 999999")
    return int(text)


def play(arguments: argparse.Namespace) -> None:
    """Run the cases, print the table, write the files."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from threedgen.playground import report
    from threedgen.playground.cases import cases
    from threedgen.playground.prior import two_classes
    from threedgen.playground.run import PROMPT, measure, run, start_points

    chosen, folder = cases(arguments.rules), made(arguments.out)
    # The tensors are small: further threads would only wait for each other.
    torch.set_num_threads(1)
    prior, console = two_classes(), Console()
    console = console if console.is_terminal else Console(width=120)
    cases_left = track(chosen, "Distilling", console=console, transient=True, disable=not console.is_terminal)
    outcomes = [run(prior, case, arguments.points, arguments.steps, arguments.seed) for case in cases_left]
    aim = measure(start_points(prior, PROMPT, arguments.points, arguments.seed), prior.of_class(PROMPT))
    console.print(report.table(outcomes, aim))
    settings = {"steps": arguments.steps, "points": arguments.points, "seed": arguments.seed}
    (folder / "playground.json").write_text(report.document(outcomes, aim, **settings), encoding="utf-8")
    (folder / "playground.md").write_text(report.markdown(outcomes, aim), encoding="utf-8")
    pictured(prior, outcomes, arguments).save(folder / "playground.png", optimize=True)
    for kind in ("png", "json", "md"):
        print(folder / f"playground.{kind}")


def pictured(prior: PlanePrior, outcomes: Sequence[Outcome], arguments: argparse.Namespace) -> Image:
    """The picture: the class and the start, then a panel for each outcome."""
    from threedgen.playground.cases import EVERY
    from threedgen.playground.picture import Panel, draw
    from threedgen.playground.run import PROMPT, start_points

    sample, start = (start_points(prior, name, arguments.points, arguments.seed) for name in (PROMPT, ""))
    panels = [Panel(EVERY, "the class itself", "what was asked for", sample), Panel(EVERY, "start", "of most runs", start)]
    for o in outcomes:
        panels.append(Panel(o.case.group, o.case.label, f"off {o.measures.distance:.2f}   spread {o.measures.spread:.2f}", o.points))
    ended = f"Red: {arguments.points} points after {arguments.steps} steps."
    legend = f"Blue: what the prompt asks for. Outlined: what else the prior knows. {ended}"
    return draw(panels, prior.of_class(PROMPT), prior.of_class("right"), legend)


def made(folder: Path) -> Path:
    """The folder, made where it is missing; UserError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        usable = False
    if not usable:
        raise UserError(f"--out {str(folder)!r} cannot be written to: choose another folder")
    return folder


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for bad arguments."""
    try:
        play(parse(sys.argv[1:] if words is None else words))
    except UserError as error:
        print(f"threedgen.playground: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
