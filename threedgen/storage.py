"""Files that are either whole or absent, also after a crash or a full disk."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threedgen.errors import UserError


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """A new empty file beside `path` to write to; it takes the place of `path` when the block ends well, and goes when it does not.

    The content is on the disk before the name is changed, and the name before the block is left: whatever is killed or loses its power
    later, the path holds the old content or the new one, whole. Being beside the target, the file never crosses a file system.

    Args:
        path: of the file.
        keep: where the old file goes, in the same folder; it is lost otherwise.

    Raises:
        UserError: the folder or the file cannot be written; the old content stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}): choose another output folder") from error
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        _flush(partial)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(partial, path)
        _flush(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write '{path}' ({error.strerror}): free space or choose another output folder") from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one atomic step; UserError where that cannot be done."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one atomic step; UserError where that cannot be done."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one atomic step; ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what killed writers have left in a folder that nobody else writes to, and in the folders below."""
    for partial in folder.rglob(".*.tmp"):
        partial.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
