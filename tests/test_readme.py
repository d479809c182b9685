"""What the pages for users quote must exist: commands, configs, keys, make targets, files."""

import re
import shlex
from pathlib import Path

import pytest

from threedgen.cli import main
from threedgen.config.arguments import parse
from threedgen.config.loader import load

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
STARTS = (["python", "launch.py"], ["threedgen"], ["make"])


def commands(text: str) -> list[list[str]]:
    """Words of each command that starts threedgen or make in a block without a language, but for those with a rule of the page's own."""
    blocks = [code for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL) if not language]
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    own = re.findall(r'@register\("guidance", "(\w+)"\)', text)
    return [words for words in lines if any(words[: len(start)] == start for start in STARTS) and not uses(words, own)]


def uses(words: list[str], rules: list[str]) -> bool:
    """Whether a command chooses one of the rules."""
    return any(word.endswith(f"guidance.type={rule}") for word in words for rule in rules)


def arguments(words: list[str]) -> list[str]:
    """What a command passes to threedgen, without a redirection at its end."""
    words = words[2:] if words[0] == "python" else words[1:]
    return words[: words.index(">")] if ">" in words else words


COMMANDS = [(page.name, words) for page in PAGES for words in commands(page.read_text())]
CALLS = [(name, arguments(words)) for name, words in COMMANDS if words[0] != "make"]


@pytest.fixture
def checkout(tmp_path, monkeypatch, capsys):
    """A folder with the files that the pages ask a user to make or to have: a config, a model, posed images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to" / "stable-diffusion").mkdir(parents=True)
    (tmp_path / "path" / "to" / "lego").mkdir()
    (tmp_path / "path" / "to" / "lego" / "transforms_train.json").write_text("{}")
    main(["--config", "quickstart.yaml", "--print-config"])
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)


def test_the_readme_quotes_commands():
    assert len([call for call in COMMANDS if call[0] == "README.md"]) >= 10


@pytest.mark.parametrize(("page", "words"), CALLS, ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_quoted_call_is_valid(checkout, capsys, page, words):
    asked = parse(words)
    if asked.config:
        assert load(asked.config, asked.overrides, inputs_needed=not asked.print_config).settings.stages
    else:
        assert main(words) == 0
        assert capsys.readouterr().out


def test_quoted_targets_and_variables_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY:(.*)$", makefile, flags=re.MULTILINE)[1].split())
    variables = set(re.findall(r"^([A-Z_]+)\s*\?=", makefile, flags=re.MULTILINE))
    quoted = [word for _, words in COMMANDS if words[0] == "make" for word in words[1:]]
    assert {word for word in quoted if "=" not in word} <= targets
    assert {word.partition("=")[0] for word in quoted if "=" in word} <= variables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_by_their_path_exist(page):
    names = re.findall(r"`((?:threedgen|tests|configs|assets|custom_cuda|docs|benchmarks)/[\w./-]+)`", page.read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []
