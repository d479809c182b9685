"""Files that are either whole or absent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from threedgen.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that nobody ever sees half a file.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}): choose another output folder") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, 0o666 & ~mask)
        os.replace(partial, path)
    except BaseException as error:
        Path(partial).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f"cannot write '{path}' ({error.strerror}): free space or choose another output folder") from error
        raise


def to_image(rgb: Tensor) -> Image.Image:
    """[H,W,3] in [0,1] as an 8-bit image, rounded to nearest."""
    return Image.fromarray(np.rint(rgb.detach().cpu().double().clamp(0, 1).numpy() * 255).astype(np.uint8))
