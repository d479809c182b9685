"""The command line: checks everything before torch is imported, answers questions about configs, starts runs."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from threedgen.config.arguments import AUTO, Arguments, parse
from threedgen.errors import Stopped, UserError

OK, INTERNAL_ERROR, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# What a disk answers when it is full, or does not let a run write.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
TITLES = {"gif": "turntable", "mp4": "turntable"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 internal error, 2 bad input, 130 interrupted, 143 stopped."""
    words = list(sys.argv[1:] if argv is None else argv)
    folder: list[Path] = []  # of the run, once there is one
    try:
        _dispatch(parse(words), words, folder)
        sys.stdout.flush()
        return OK
    except UserError as error:
        return _fail(str(error), BAD_INPUT)
    except BrokenPipeError:  # the reader of the output (a pager, head) has gone: nobody is left to write to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        if error.errno not in DISK:
            return _fail(_report(error, folder, "--traceback" in words), INTERNAL_ERROR)
        place = f"{error.filename!r}" if error.filename else "the files of the run"
        return _fail(f"cannot use {place} ({error.strerror}): free space, or choose another folder with output=FOLDER", BAD_INPUT)
    except KeyboardInterrupt:
        return _fail(f"interrupted{_kept(folder)}", INTERRUPTED)
    except Stopped as stop:
        return _fail(f"asked to stop{_kept(folder)}", int(stop.code or 0))
    except Exception as error:
        return _fail(_report(error, folder, "--traceback" in words), INTERNAL_ERROR)


def _dispatch(arguments: Arguments, words: Sequence[str], folder: list[Path]) -> None:
    from threedgen.config import answers

    if arguments.help:
        answers.print_help()
    elif arguments.version:
        answers.print_version()
    elif arguments.list:
        answers.print_list(arguments.list)
    elif arguments.explain is not None:
        answers.print_explanation(arguments.explain)
    elif not arguments.config and arguments.resume in ("", AUTO):
        raise UserError("name a config: --config quickstart (--list configs shows them, --help explains the rest)")
    elif arguments.print_config:
        answers.print_config(arguments.config, arguments.overrides)
    elif arguments.dry_run:
        _dry_run(arguments)
    else:
        with _stoppable():
            _run(arguments, words, folder)


def _dry_run(arguments: Arguments) -> None:
    from threedgen.config.layout import table
    from threedgen.config.loader import load
    from threedgen.config.naming import run_folder
    from threedgen.config.requirements import check_output

    loaded = load(arguments.config, arguments.overrides)
    check_output(loaded.settings.output)
    _say_dropped(len(loaded.dropped))
    from threedgen.runs.estimate import estimate

    expected = estimate(loaded.settings)
    rows = [("settings", "valid"), ("run folder", str(run_folder(loaded.settings, loaded.name)))]
    rows += [("time", f"about {_duration(expected.seconds)}"), ("peak memory", f"about {expected.peak_bytes / 2**30:.1f} GiB")]
    rows += [(f"  {part}", _duration(seconds)) for part, seconds in expected.parts.items()]
    table("Dry run: nothing was started", rows)


def _run(arguments: Arguments, words: Sequence[str], folder: list[Path]) -> None:
    from threedgen.config.loader import load, load_run
    from threedgen.config.naming import run_folder
    from threedgen.config.requirements import check_output

    if arguments.resume in ("", AUTO):
        loaded = load(arguments.config, arguments.overrides)
    else:
        loaded = load_run(arguments.resume, arguments.overrides, arguments.config)
    check_output(loaded.settings.output)
    folder.append(run_folder(loaded.settings, loaded.name))
    _say_dropped(len(loaded.dropped))
    from threedgen.runs.run import execute

    sources = {key: str(source) for key, source in loaded.sources.items()}
    command = shlex.join(["threedgen", *words])
    result = execute(loaded.settings, loaded.name, command, sources, bool(arguments.resume), arguments.until, arguments.begin)
    print(f"Done in {_duration(result.seconds)}.")
    for kind, path in result.files.items():  # no table: a path must not be wrapped
        print(f"  {TITLES.get(kind, kind.upper()).ljust(9)}  {path}")


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM and SIGUSR1 raise Stopped while a run begins or exports; its steps answer them themselves."""

    def stop(number: int, frame: FrameType | None) -> None:
        for further in before:
            signal.signal(further, signal.SIG_IGN)
        raise Stopped

    in_main = threading.current_thread() is threading.main_thread()  # the only one that may answer signals
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)} if in_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kept(folder: Sequence[Path]) -> str:
    made = [path for path in folder if path.is_dir()]
    return f"; what was made so far is in {made[0]}, and the same command with --resume goes on" if made else ""


def _say_dropped(count: int) -> None:
    if count:
        print(
            f"{count} settings of the config were written for another choice and are left out; --print-config lists them", file=sys.stderr
        )


def _report(error: Exception, folder: Sequence[Path], wanted: bool) -> str:
    """One line on an unexpected exception; the traceback goes to error.log in the run folder, or to a temporary file."""
    text = "".join(traceback.format_exception(error))
    if wanted:
        print(text, file=sys.stderr, end="")
    said = " ".join(str(error).split())[:200]
    return f"internal error: {type(error).__name__}: {said} ({_written(text, folder)})"


def _written(text: str, folder: Sequence[Path]) -> str:
    try:
        if folder and folder[0].is_dir():
            log = folder[0] / "error.log"
            log.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            with tempfile.NamedTemporaryFile("w", prefix="threedgen-", suffix=".log", delete=False, encoding="utf-8") as file:
                file.write(text)
            log = Path(file.name)
    except OSError:
        return "no place to write the traceback: add --traceback to see it"
    return f"traceback in {log}"


def _fail(message: str, code: int) -> int:
    printable = message.encode(sys.stderr.encoding or "utf-8", "backslashreplace").decode(sys.stderr.encoding or "utf-8")
    print(f"threedgen: {' '.join(printable.splitlines())}", file=sys.stderr)
    return code


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
