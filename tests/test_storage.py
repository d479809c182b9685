"""Files are whole or absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from threedgen.errors import UserError
from threedgen.storage import replacing, sweep, write_bytes, write_json


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path):
    target = tmp_path / "deep" / "file.bin"
    write_bytes(target, b"old")
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert list(target.parent.iterdir()) == [target]


def test_permissions_follow_the_umask(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "file"
    write_bytes(target, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interruption_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="choose another output folder") as caught:
        write_bytes(tmp_path / "file" / "below", b"x")
    assert "\n" not in str(caught.value)


def test_a_block_that_fails_keeps_the_old_file(tmp_path: Path):
    target = tmp_path / "deep" / "file.txt"
    with replacing(target) as partial:
        partial.write_text("first")

    def fail_half_way() -> None:
        with replacing(target) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "first"
    assert list(target.parent.iterdir()) == [target]


def test_numbers_json_does_not_have_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_content_is_on_the_disk_before_the_name_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))[1])
    write_bytes(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_killed_writer_leaves_the_old_file_and_what_it_left_is_swept(tmp_path: Path):
    target, program = tmp_path / "deep" / "file", "import sys, os, pathlib\nfrom threedgen.storage import replacing\n"
    write_bytes(target, b"old")
    program += "with replacing(pathlib.Path(sys.argv[1])) as partial:\n    partial.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    done = subprocess.run([sys.executable, "-c", program, target], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -9
    assert target.read_bytes() == b"old"
    assert len(list(target.parent.iterdir())) == 2
    sweep(tmp_path)
    assert list(target.parent.iterdir()) == [target]
