"""Finding a prior by the name a config gives it. Never imports torch before a prior is really loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.config.aliases import PRIOR_ALIASES
from threedgen.errors import UserError

if TYPE_CHECKING:
    import torch

    from threedgen.priors.diffusion import DiffusionPrior

EMBEDDED = Path(__file__).resolve().parents[2] / "assets" / "priors" / "embedded"


def folder_of(name: str) -> Path:
    """Folder of the prior `name`: "embedded", an alias, or a local folder.

    Raises:
        UserError: the name is none of these, or the alias stands for a model that was never downloaded (nothing is fetched).
    """
    if name == "embedded":
        return EMBEDDED
    if name in PRIOR_ALIASES:
        return _cached_snapshot(name, PRIOR_ALIASES[name])
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    raise UserError(f"unknown prior '{name}': choose embedded, {', '.join(sorted(PRIOR_ALIASES))}, or give a folder in diffusers format")


def _cached_snapshot(name: str, repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"prior '{name}' is not on this machine: run `hf download {repository}` once, or give the path of a local folder"
        ) from error


def load_prior(name: str, device: torch.device | str = "cpu", precision: str = "auto") -> DiffusionPrior:
    """The frozen prior a config names: "embedded", an alias, or a folder in diffusers format.

    Args:
        name: see `folder_of`.
        device: where it computes.
        precision: "auto", "float32", "bfloat16" or "float16" (threedgen.priors.precision).

    Raises:
        UserError: one line that names what is unknown, missing, damaged or not supported.
    """
    folder = folder_of(name)

    from threedgen.priors.diffusion import DiffusionPrior

    return DiffusionPrior(folder, device, precision)
