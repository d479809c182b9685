import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from threedgen import __version__
from threedgen.cli import main
from threedgen.config.keys import keys
from threedgen.config.listing import LISTS
from threedgen.config.loader import load
from threedgen.config.naming import run_folder
from threedgen.errors import UserError

ROOT = Path(__file__).parents[1]
RUN = ["--config", "quickstart", "prompt=a red apple"]


@dataclass
class Result:
    folder: Path
    files: dict[str, Path]
    seconds: float


@dataclass
class Estimate:
    seconds: float
    peak_bytes: int
    parts: dict[str, float]


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Stand-ins for the room of the runs; `execute` records its calls and does what `runs.does` says."""
    monkeypatch.chdir(tmp_path)
    room, run, estimate = ModuleType("threedgen.runs"), ModuleType("threedgen.runs.run"), ModuleType("threedgen.runs.estimate")
    room.calls = []
    room.does = lambda folder: None

    def execute(settings, config_name, command, sources, resume, last, first):
        assert (resume, last, first) == ("--resume" in command, "", "")
        assert sources["prompt"] == "command line"
        folder = run_folder(settings, config_name)
        room.calls.append((settings, config_name, command))
        folder.mkdir(parents=True)
        room.does(folder)
        return Result(folder, {"glb": folder / "export" / "asset.glb", "gif": folder / "turntable.gif"}, 83.4)

    run.execute = execute
    estimate.estimate = lambda settings: Estimate(90.0, 2 * 2**30, {"coarse": 80.0, "export": 10.0})
    for name, module in (("", room), (".run", run), (".estimate", estimate)):
        monkeypatch.setitem(sys.modules, f"threedgen.runs{name}", module)
    return room


def refused(capsys, *argv: str) -> str:
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_a_run_is_given_settings_and_ends_with_its_files(runs, capsys):
    assert main([*RUN, "seed=3"]) == 0
    [(settings, name, command)] = runs.calls
    assert (settings.prompt, settings.seed, name) == ("a red apple", 3, "quickstart")
    assert command == "threedgen --config quickstart 'prompt=a red apple' seed=3"
    out = capsys.readouterr().out
    assert "1 min 23 s" in out
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["GLB", "turntable"]
    assert "asset.glb" in out
    assert "turntable.gif" in out


def test_options_and_overrides_mix(runs):
    assert main(["seed=3", "--config", "quickstart", "prompt=--x -y=1", "threads=2"]) == 0
    assert runs.calls[0][0].prompt == "--x -y=1"


def test_a_dry_run_estimates_and_starts_nothing(runs, capsys, tmp_path):
    assert main([*RUN, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "1 min 30 s" in out
    assert "2.0 GiB" in out
    assert "export" in out
    assert runs.calls == []
    assert list(tmp_path.iterdir()) == []


def test_an_internal_error_is_one_line_with_its_log_in_the_run_folder(runs, capsys, tmp_path):
    def fail(folder):
        raise ValueError("first\nsecond")

    runs.does = fail
    assert main(RUN) == 1
    err = capsys.readouterr().err
    log = next(tmp_path.rglob("error.log"))
    assert err == f"threedgen: internal error: ValueError: first second (traceback in {log.relative_to(tmp_path)})\n"
    assert "Traceback" in log.read_text()


def test_traceback_shows_the_traceback(runs, capsys):
    runs.does = lambda folder: 1 / 0
    assert main([*RUN, "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_says_where_things_are(runs, capsys, tmp_path):
    def interrupt(folder):
        raise KeyboardInterrupt

    runs.does = interrupt
    assert main(RUN) == 130
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert "outputs/quickstart/a-red-apple-" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_a_run_that_begins_or_exports(number, runs, capsys):
    handlers = [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGUSR1)]
    runs.does = lambda folder: os.kill(os.getpid(), number)
    assert main(RUN) == 143
    assert "asked to stop; what was made so far is in outputs/quickstart/a-red-apple-" in capsys.readouterr().err
    assert [signal.getsignal(other) for other in (signal.SIGTERM, signal.SIGUSR1)] == handlers


@pytest.mark.parametrize("error", [UserError("mend this"), PermissionError(13, "Permission denied", "/there"), OSError(28, "Full")])
def test_what_the_user_can_mend_is_bad_input(runs, capsys, error):
    def fail(folder):
        raise error

    runs.does = fail
    refused(capsys, *RUN)


@pytest.mark.parametrize("prompt", ["../../x", "a\0b", "x" * 10_240, "/etc", "~"])
def test_hostile_prompts_write_only_below_the_run_root(runs, tmp_path, prompt):
    assert main(["--config", "quickstart", f"prompt={prompt}"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert len(list((tmp_path / "outputs" / "quickstart").iterdir())) == 1


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "--config quickstart"),
        (["--config"], "--config"),
        (["--config", "quikstart", "prompt=x"], "did you mean 'quickstart'"),
        (["--config", "quickstart"], "no prompt"),
        (["--config", "quickstart", "prompt= "], "prompt is empty"),
        (["--config", "quickstart", "prompt=x", "sed=3"], "did you mean 'seed'"),
        (["--config", "quickstart", "prompt=x", "seed=three"], "whole number"),
        (["--config", "quickstart", "prompt=x", "prior=embeded"], "did you mean 'embedded'"),
        (["--config", "quickstart", "prompt=x", "prior=../nowhere"], "no folder"),
        (["--config", "quickstart", "prompt=x", "--seed=3"], "without dashes"),
        (["--config", "quickstart", "prompt=x", "--dryrun"], "did you mean '--dry-run'"),
        (["--config", "quickstart", "a red apple"], "key=value"),
        (["--list", "config"], "did you mean 'configs'"),
        (["--explain", "stps"], "did you mean 'steps'"),
        (["--config", "new\nline"], "there is no config"),
        (["--list", "configs", "--explain", "seed"], "--list and --explain cannot be answered together"),
        ([*RUN, "--dry-run", "--print-config"], "--print-config and --dry-run cannot be answered together"),
        (["--version", "--explain"], "--explain and --version cannot be answered together"),
        (["--list="], "choose one of configs"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(runs, capsys, tmp_path, argv, part):
    assert part in refused(capsys, *argv)
    assert runs.calls == []
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file(runs, capsys, tmp_path):
    (tmp_path / "taken").touch()
    assert "is not a folder" in refused(capsys, *RUN, "output=taken")
    assert "is not a folder" in refused(capsys, *RUN, "output=taken/deeper", "--dry-run")


def test_help_names_every_option_and_every_setting_of_the_run(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--config", "--list", "--print-config", "--explain", "--dry-run", "--version", "--traceback"):
        assert option in out
    assert all(key.path in out for key in keys() if not key.group)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"threedgen {__version__}\n"


@pytest.mark.parametrize("what", LISTS)
def test_lists(capsys, what):
    assert main(["--list", what]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_explain_covers_every_key(capsys):
    assert main(["--explain"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {key.name} " in out for key in keys())
    assert all(key.meta["doc"] in out for key in keys() if not key.variant)


def test_explain_one_key(capsys):
    assert main(["--explain", "stages.coarse.cameras.fovy"]) == 0
    out = capsys.readouterr().out
    for part in ("field of view", "degrees", "from 1.0 to 150.0", "[40.0, 40.0]"):
        assert part in out


def test_print_config_gives_every_value_its_origin_and_is_a_config(capsys, tmp_path):
    assert main(["--config", "quickstart", "seed=3", "--print-config"]) == 0
    out = capsys.readouterr().out
    lines = {line.partition("#")[0].strip(): line.partition("# ")[2] for line in out.splitlines()}
    assert lines["seed: 3"] == "command line"
    assert lines["prompt: ???"] == "must be given"
    assert lines["threads: 0"] == "default"
    assert lines["type: im3d"].endswith(".yaml:" + lines["type: im3d"].rpartition(":")[2])
    path = tmp_path / "mine.yaml"
    path.write_text(out)
    assert load(str(path), ["prompt=x"]).settings == load("quickstart", ["prompt=x", "seed=3"]).settings


def test_print_config_names_recipes_and_what_a_new_type_drops(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["--config", "quickstart.yaml", "--print-config", "stages.coarse.guidance.type=sds"]) == 0
    out = capsys.readouterr().out
    assert "type: sds" in out
    assert "# configs/recipes/quickstart/sds.yaml:" in out
    assert "# dropped: stages.coarse.guidance.bank (configs/quickstart.yaml:" in out


def test_help_answers_whatever_stands_beside_it(capsys):
    assert main(["--help", "--list", "configs", "--version"]) == 0
    assert "Examples" in capsys.readouterr().out


IMPORT_CHECK = """
import sys
from threedgen.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "numpy", "rich", "pytorch_lightning"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--help"], 0),
        (["--explain"], 0),
        (["--list", "guidances"], 0),
        ([*RUN, "--print-config"], 0),
        ([*RUN, "sed=3"], 2),
        ([*RUN, "stages.coarse.guidance.type=dds"], 2),
        ([*RUN, "stages.coarse.guidance.type=vsd", "prior=analytic"], 2),
        ([*RUN, "output=/dev/null"], 2),
    ],
)
def test_torch_is_not_imported_before_everything_is_checked(argv, code):
    done = subprocess.run([sys.executable, "-c", IMPORT_CHECK, *argv], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("start", [["launch.py"], ["-m", "threedgen"]])
def test_both_ways_to_start_do_the_same(start):
    done = subprocess.run([sys.executable, *start, "--version"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, f"threedgen {__version__}\n")


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} launch.py --explain | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_gets_the_same_words_as_a_file(capsys, monkeypatch):
    main(["--list", "priors"])
    plain = capsys.readouterr().out.split()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "300")
    main(["--list", "priors"])
    assert capsys.readouterr().out.split() == plain
