"""Tables on the terminal: laid out by rich where there is a terminal, plain aligned text where there is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

Row = tuple[str, str]


def table(title: str, rows: Sequence[Row]) -> None:
    """Print rows of two columns under a title."""
    if sys.stdout.isatty():
        _rich(title, rows)
        return
    width = max((len(left) for left, _ in rows), default=0)
    print(title)
    for left, right in rows:
        print(f"  {left.ljust(width)}  {right}".rstrip())


def _rich(title: str, rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    grid.add_column(style="cyan", no_wrap=True)
    grid.add_column()
    for left, right in rows:
        grid.add_row(Text(left), Text(right))
    console = Console()
    console.print(Text(title, style="bold"))
    console.print(grid)
