import os
from pathlib import Path

import pytest

from threedgen.config.requirements import check_output
from threedgen.errors import UserError


def test_a_folder_that_can_be_made_is_fine_and_is_not_made(tmp_path):
    check_output(str(tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["", "a\0b"])
def test_impossible_names(output):
    with pytest.raises(UserError, match="is no folder"):
        check_output(output)


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_file_in_the_way(tmp_path, below):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        check_output(f"{tmp_path}/file{below}")


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(UserError, match="cannot use"):
        check_output(f"{tmp_path}/{'x' * 300}")


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # root may write anywhere: let the system refuse
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked)
    with pytest.raises(UserError, match="no permission to write"):
        check_output(str(locked / "runs"))
