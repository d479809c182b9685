"""Several scenes that are optimized in turn (the particles of VSD, ProlificDreamer, arXiv 2305.16213)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from threedgen.cameras import Cameras
from threedgen.draws import Draws
from threedgen.representations.base import Forgotten, Mesh, Render, Representation


class Particles(Representation):
    """n scenes of the same kind; step k renders and trains scene k mod n, and the others get no gradient from it.

    So each scene is trained in every n-th step. What carries no step (renderings without draws, single rays, mesh and colours) is
    the first scene's; the others are reached through `scenes`.
    """

    def __init__(self, scenes: Sequence[Representation]) -> None:
        """ValueError without a scene."""
        super().__init__()
        if not scenes:
            raise ValueError("particles need at least one scene")
        self.members = nn.ModuleList(scenes)

    @property
    def scenes(self) -> tuple[Representation, ...]:
        """The scenes, in the order of their steps."""
        return tuple(cast(Representation, member) for member in self.members)

    @property
    def casts_rays(self) -> bool:
        """Whether the scenes do."""
        return self.scenes[0].casts_rays

    def scene_of(self, step: int) -> Representation:
        """The scene that a step trains."""
        return self.scenes[step % len(self.members)]

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of the scene of the step; of the first one without draws."""
        return self.scene_of(0 if draws is None else draws.step).render(cameras, draws=draws, normals=normals)

    def render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor, random_rgb: Tensor | None = None, normals: bool = False
    ) -> Render:
        """What single rays see of the first scene."""
        return self.scenes[0].render_rays(origins, directions, jitter, random_rgb, normals)

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """Groups of all scenes. Adam skips parameters without gradient, so a step moves those of its own scene alone."""
        return [group for scene in self.scenes for group in scene.param_groups(lr, lr_background)]

    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Upkeep of the scene of the step, which counts its own steps: what is due every 16 steps is so in each scene."""
        return self.scene_of(step).after_step(step // len(self.members), draws)

    def start_from(self, other: Representation, threshold: float | str = "auto", seed: int = 0) -> None:
        """Each scene from the other's of its number, or all from the only one."""
        others = other.scenes if len(other.scenes) > 1 else other.scenes * len(self.scenes)
        for number, (scene, before) in enumerate(zip(self.scenes, others, strict=True)):
            scene.start_from(before, threshold, seed + number)

    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """The surface of the first scene; UserError if there is none."""
        return self.scenes[0].to_mesh(resolution, threshold)

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the first scene's surface."""
        return self.scenes[0].albedo(points)
