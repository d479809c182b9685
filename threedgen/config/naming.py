"""Name of a run's folder: never longer than a file system allows, never outside the folder of the runs, whatever the prompt."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from threedgen.config.schema import RunSettings
from threedgen.config.serialize import affecting_result

SLUG_LENGTH = 48
HASH_LENGTH = 8


def run_folder(settings: RunSettings, config_name: str) -> Path:
    """`output/<config>/<slug of the prompt>-<hash of the settings>`; without a prompt, that of the folder of images.

    Settings that do not change the result (output, device, threads, previews, checkpoints) leave the hash alone.
    """
    name = slug(settings.prompt or Path(settings.data).name, "run")
    return Path(settings.output) / slug(config_name, "config") / f"{name}-{digest(settings)}"


def slug(text: str, otherwise: str) -> str:
    """At most 48 characters of [a-z0-9-]; `otherwise` where the text holds no such character."""
    ascii_text = unicodedata.normalize("NFKD", text[:1000]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")[:SLUG_LENGTH].rstrip("-") or otherwise


def digest(settings: RunSettings) -> str:
    """Short hexadecimal hash of what the settings make."""
    flat = {path: _canonical(value) for path, value in affecting_result(settings).items()}
    text = json.dumps(flat, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def stage_digests(settings: RunSettings) -> dict[str, str]:
    """Hash of all that a stage's result depends on, by its name: what the run starts from, the stages up to it, and not the export."""
    flat = {path: _canonical(value) for path, value in affecting_result(settings).items() if not path.startswith("export.")}
    digests, names = {}, list(settings.stages)
    for number, name in enumerate(names, 1):
        kept = {path: value for path, value in flat.items() if path.split(".")[0] != "stages" or path.split(".")[1] in names[:number]}
        text = json.dumps([names[:number], kept], sort_keys=True)
        digests[name] = hashlib.sha256(text.encode()).hexdigest()[: 2 * HASH_LENGTH]
    return digests


def _canonical(value: Any) -> Any:
    """The same for 1 and 1.0."""
    if isinstance(value, dict):
        return [[_canonical(k), _canonical(v)] for k, v in value.items()]
    if isinstance(value, list):
        return [_canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
