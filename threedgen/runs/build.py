"""From settings to the parts of a run: device, prior with its prompts, representation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from threedgen.cameras import Cameras
from threedgen.config.schema import (
    DMTetSettings,
    FlexiCubesSettings,
    GaussiansSettings,
    HashGridSettings,
    LatentFieldSettings,
    MeshSettings,
    RunSettings,
    SDFSettings,
    StageSettings,
    starts_on_hull,
)
from threedgen.data.hull import hull_distance
from threedgen.data.posed_images import PosedImages
from threedgen.draws import generator
from threedgen.errors import UserError
from threedgen.guidance.core import Teacher
from threedgen.guidance.images import Images
from threedgen.guidance.rule import Rule
from threedgen.guidance.vsd import VSD
from threedgen.priors.analytic import ImageMixturePrior
from threedgen.priors.base import Prior
from threedgen.priors.latent_colours import linear_colours, white_latent
from threedgen.priors.loading import load_prior
from threedgen.priors.prompts import PERP_NEG, PromptBank
from threedgen.representations.base import Representation
from threedgen.representations.dmtet import DMTet
from threedgen.representations.explicit_mesh import ExplicitMesh
from threedgen.representations.flexicubes import FlexiCubes
from threedgen.representations.gaussians import GaussianCloud
from threedgen.representations.hashgrid import HashGridField
from threedgen.representations.latent_field import LatentField
from threedgen.representations.mesh import render_mesh
from threedgen.representations.mesh_loading import load_mesh
from threedgen.representations.particles import Particles
from threedgen.representations.sdf import SDFField
from threedgen.shipped import shipped_folder

ANALYTIC_RESOLUTION = 64
REPRESENTATIONS: dict[type, Callable[..., Representation]] = {
    HashGridSettings: HashGridField,
    LatentFieldSettings: LatentField,
    GaussiansSettings: GaussianCloud,
    DMTetSettings: DMTet,
    FlexiCubesSettings: FlexiCubes,
    MeshSettings: ExplicitMesh,
    SDFSettings: SDFField,
}


def pick_device(name: str) -> str:
    """ "cpu" or "cuda"; UserError if a GPU is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no CUDA device: use device=cpu, or install a CUDA build of torch")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def build_prior(name: str, device: str) -> Prior:
    """The prior a config names: "analytic" is the closed-form one over the shipped meshes, the others are diffusion models."""
    return analytic_prior(device) if name == "analytic" else load_prior(name, device)


def analytic_prior(device: str) -> ImageMixturePrior:
    """Finite mixture of the renders of the known meshes in assets/meshes, seen from the step's cameras."""
    files = sorted((shipped_folder("assets") / "meshes").glob("*.glb"))
    meshes = [load_mesh(file, fit_radius=0.85).to(device) for file in files]

    def images_at(c2w: torch.Tensor, fovy: torch.Tensor, size: int) -> torch.Tensor:
        cameras = Cameras(c2w, fovy, size, size)
        return torch.stack([render_mesh(mesh, cameras, supersample=2).rgb.permute(0, 3, 1, 2) for mesh in meshes])

    return ImageMixturePrior(images_at, [file.stem.replace("_", " ") for file in files], ANALYTIC_RESOLUTION, device=device)


def build_teacher(settings: RunSettings, device: str, cache: Path | None) -> Teacher:
    """The prior with the run's prompts encoded, those of its guidances among them."""
    prior = build_prior(settings.prior, device)
    guidances = [stage.guidance for stage in settings.stages.values() if not isinstance(stage.guidance, Images)]
    further = {name: text for guidance in guidances for name, text in guidance.texts().items()}
    if settings.prior == "analytic":
        further = dict.fromkeys(further, "")  # it knows the names of its objects alone: to it, a rule's own words say nothing
    prompts = PromptBank(prior, settings.prompt, settings.negative_prompt, cache, further, settings.prompts)
    if any(isinstance(guidance, Rule) and guidance.uses("perp_neg") for guidance in guidances):
        prompts.encode(*PERP_NEG)
    return Teacher(prior, prompts)


def build_representation(stage: StageSettings, seed: int, device: str, images: PosedImages | None = None) -> Representation:
    """A freshly initialised representation of a stage; where the guidance has several particles, that many.

    Args:
        images: that a stage fits, in the scene; where the settings say so, the visual hull of their silhouettes is the start.
    """
    made, settings = REPRESENTATIONS[type(stage.representation)], stage.representation
    count = stage.guidance.particles if isinstance(stage.guidance, VSD) else 1
    start = {"hull": hull_distance(images)} if images is not None and starts_on_hull(settings) else {}
    scenes = [made(settings, seed=seed_of_particle(seed, number), **start) for number in range(count)]
    return (Particles(scenes) if count > 1 else scenes[0]).to(device)


def take_prior(representation: Representation, prior: Prior) -> None:
    """Where latents are rendered, let a fresh representation show them in the colours of the prior, before white."""
    fields = [scene for scene in representation.scenes if isinstance(scene, LatentField)]
    if fields:
        (weight, bias), white = linear_colours(prior), white_latent(prior)
        for field in fields:
            field.take_prior(weight, bias, white)


def seed_of_particle(seed: int, number: int) -> int:
    """Seed a scene is initialised with; the first one's is the run's, so that it is what it would be alone."""
    return generator(seed, 0, number, "particle").initial_seed() if number else seed
