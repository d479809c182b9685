"""Where a value of the settings came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Origin of a value: the schema's default, a line of a config file, or the command line (line 0 where there is none)."""

    place: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.place}:{self.line}" if self.line else self.place


DEFAULT = Source("default")
COMMAND_LINE = Source("command line")


def shown(value: object, limit: int = 60) -> str:
    """A value as it appears in a message: one line, escaped, shortened."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"
