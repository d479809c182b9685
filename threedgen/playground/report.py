"""The outcomes as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table

from threedgen.playground.cases import Case
from threedgen.playground.run import Measures, Outcome

HEADS = ("rule", "off", "spread", "within", "upper mode", "lower mode", "gradient variance", "evaluations")
LEGEND = (
    "off: distance of the mean to the prompted class's mean. spread, within: variance over the class's, in all and inside the modes. "
    "modes: share of points within 3 standard deviations. gradient variance: over its squared mean, at t = 0.5 from the start. "
    "evaluations: of the prior, per point and step."
)


def cells(label: str, m: Measures, variance: float | None, evaluations: float | None) -> list[str]:
    """A row of the table."""
    numbers = [f"{m.distance:.2f}", f"{m.spread:.2f}", f"{m.within:.2f}", *(f"{share:.2f}" for share in m.shares)]
    return [label, *numbers, "" if variance is None else f"{variance:.2g}", "" if evaluations is None else f"{evaluations:.1f}"]


def grouped(outcomes: Sequence[Outcome], aim: Measures) -> list[tuple[str, list[list[str]]]]:
    """Heading and rows of each group; the first row is the class itself, a sample as large as the others."""
    groups = dict.fromkeys(outcome.case.group for outcome in outcomes)
    made = [("", [cells("the class itself", aim, None, None)])]
    for group in groups:
        rows = [cells(o.case.label, o.measures, o.variance, o.evaluations) for o in outcomes if o.case.group == group]
        made.append((group, rows))
    return made


def table(outcomes: Sequence[Outcome], aim: Measures) -> Table:
    """The table for a terminal."""
    made = Table(caption=LEGEND, caption_justify="left", box=None, header_style="bold")
    for place, head in enumerate(HEADS):
        made.add_column(head, justify="right" if place else "left", no_wrap=not place)
    for heading, rows in grouped(outcomes, aim):
        if heading:
            made.add_row()
            made.add_row(f"[bold]{heading.partition(' (')[0].partition(',')[0]}[/bold]")
        for row in rows:
            made.add_row(*row)
    return made


def markdown(outcomes: Sequence[Outcome], aim: Measures) -> str:
    """One table a group."""
    parts = []
    for heading, rows in grouped(outcomes, aim):
        lines = [f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
        parts.append("\n".join([*([f"**{heading}**\n"] if heading else []), *lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(parts) + "\n"


def document(outcomes: Sequence[Outcome], aim: Measures, **settings: int) -> str:
    """JSON of the settings and all rows, with the rules' settings."""
    rows = [
        {
            **described(o.case),
            **asdict(o.measures),
            "gradient_variance": o.variance,
            "evaluations": o.evaluations,
            "seconds": round(o.seconds, 2),
        }
        for o in outcomes
    ]
    return json.dumps({**settings, "class": asdict(aim), "rows": rows}, indent=1) + "\n"


def described(case: Case) -> dict[str, object]:
    """A case as plain values."""
    return {
        "label": case.label,
        "rule": case.name,
        "group": case.group,
        "student": case.student,
        "shared_critic": case.shared,
        "settings": asdict(case.rule),
    }
