"""Tiny random diffusers folders, saved once a session for each combination that is asked for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import save_prior, seeded
from threedgen.priors.loading import load_prior


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[..., Path]:
    """Folder of a tiny random model; read only, copy it before damaging it."""
    made: dict[tuple[str, bool, bool], Path] = {}

    def make(prediction_type: str = "epsilon", camera: bool = False, multiview: bool = False) -> Path:
        key = (prediction_type, camera, multiview)
        if key not in made:
            made[key] = seeded(save_prior, tmp_path_factory.mktemp("prior"), *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def embedded():
    """The prior that comes with the package, in float32 on the CPU."""
    return load_prior("embedded", precision="float32")
