"""The words of the command line, sorted into options and overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from threedgen.config.listing import LISTS
from threedgen.config.source import shown
from threedgen.config.suggest import choose
from threedgen.errors import UserError

AUTO = "auto"
OPTIONS = ("--config", "--dry-run", "--explain", "--from", "--help", "--list", "--print-config", "--resume", "--traceback", "--until")
OPTIONS += ("--version",)


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        explain: None unless asked, then a key, a group or "" for all.
        resume: "auto", the folder of a run, or "" where nothing is gone on with.
        until, begin: names of stages, or "".
    """

    config: str
    overrides: list[str]
    list: str
    explain: str | None
    help: bool
    version: bool
    print_config: bool
    dry_run: bool
    resume: str
    until: str
    begin: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help shows how it is used)")


def parse(words: Sequence[str]) -> Arguments:
    """Sort words; options and overrides may come in any order. UserError for unknown options and lists, and for two questions at once."""
    parser = _Parser(prog="threedgen", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", default="", metavar="NAME")
    parser.add_argument("--list", metavar="WHAT")
    parser.add_argument("--explain", nargs="?", const="", metavar="KEY")
    parser.add_argument("--resume", nargs="?", const=AUTO, metavar="RUN")
    parser.add_argument("--until", default="", metavar="STAGE")
    parser.add_argument("--from", dest="begin", default="", metavar="STAGE")
    for flag in ("--print-config", "--dry-run", "--traceback", "--version"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    try:
        found, overrides = parser.parse_known_args(_resume_apart(words))
    except argparse.ArgumentError as error:
        parser.error(str(error))
    for word in overrides:
        if word.startswith("-"):
            raise UserError(_unknown_option(word))
    _refuse_two_questions(found)
    if found.list is not None and found.list not in LISTS:
        raise UserError(f"--list {shown(found.list)}: {choose(found.list, LISTS)}")
    return Arguments(
        found.config,
        overrides,
        found.list or "",
        found.explain,
        found.help,
        found.version,
        found.print_config,
        found.dry_run,
        found.resume or "",
        found.until,
        found.begin,
    )


def _resume_apart(words: Sequence[str]) -> list[str]:
    """The words, where --resume stands before a setting as --resume=auto: a setting is not the folder of a run."""
    following = [*words, ""][1:]
    return [
        f"--resume={AUTO}" if word == "--resume" and "=" in after and not Path(after).is_dir() else word
        for word, after in zip(words, following, strict=True)
    ]


def _refuse_two_questions(found: argparse.Namespace) -> None:
    """UserError for two options of which only one could be answered; --help answers whatever stands beside it."""
    asked = {
        "--list": found.list is not None,
        "--explain": found.explain is not None,
        "--print-config": found.print_config,
        "--dry-run": found.dry_run,
        "--version": found.version,
    }
    given = [option for option, is_given in asked.items() if is_given]
    if len(given) > 1 and not found.help:
        raise UserError(f"{given[0]} and {given[1]} cannot be answered together: give one of them")


def _unknown_option(word: str) -> str:
    name, equals, value = word.partition("=")
    bare = name.lstrip("-")
    if equals and bare:
        return f"unknown option {shown(name)}: settings are written without dashes, {bare}={shown(value)}; {choose(name, OPTIONS)}"
    return f"unknown option {shown(word)}: {choose(name, OPTIONS)}"
