"""Exceptions that end a program with a single line instead of a traceback."""

import signal


class UserError(Exception):
    """Something the user can mend: the message is one line that says what is wrong and what to do."""


class Stopped(SystemExit):
    """A signal asked a run to stop: its state is saved, the process leaves with 128 + 15, as one that SIGTERM ended."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)
