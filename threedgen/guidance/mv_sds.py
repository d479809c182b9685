"""Multi-view score distillation: the views of one object answered jointly (MVDream, arXiv 2308.16512; BoostDream, arXiv 2401.16764)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threedgen.config.schema import setting
from threedgen.errors import UserError
from threedgen.guidance.rule import WEIGHTS, Term
from threedgen.guidance.sds import SDS
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.cameras import Cameras

TILES = 4


@register("guidance", "mv_sds")
@dataclass
class MVSDS(SDS):
    """SDS whose network sees all views of the object: together in its attention, or side by side in one picture of 2 x 2 tiles.

    Joint views need a network trained on them, and keep the defaults of MVDream: the reconstruction form, one timestep for all views.
    Tiles work with any text-to-image network; camera and view words are withheld, for no picture of four views has one.
    """

    weight: str = setting("sigma_over_alpha", "w(t); see sds", choices=WEIGHTS)
    cfg: Any = setting(50.0, "guidance scale; see sds", low=-100.0, high=1000.0, scheduled=True)
    rescale: Any = setting(0.5, "share of the CFG standard-deviation rescale", low=0.0, high=1.0, scheduled=True)
    views: str = setting("joint", "how the network sees several views", choices=("joint", "tiled"))

    def check(self) -> None:
        super().check()
        if self.views == "tiled" and self.uses("perp_neg"):
            raise ValueError("perp_neg needs views joint: a picture of four views has no camera")

    def wishes(self) -> frozenset[str]:
        return super().wishes() | ({"multiview"} if self.views == "joint" else {"no camera"})

    def check_stage(self, views: int, steps: int) -> None:
        super().check_stage(views, steps)
        if self.views == "tiled" and views % TILES:
            raise ValueError(f"views tiled needs a multiple of {TILES} views a step, got cameras.views={views}")

    def check_latents(self) -> None:
        super().check_latents()
        if self.views == "tiled":
            raise ValueError("tiles are made of pictures, and latent_nerf shows latents: set guidance.views to joint")

    def branches(self, state: str = "t", cond: str = "text", negative: str = "negative", net: str = "prior") -> tuple[Term, ...]:
        return super().branches(state, "plain" if self.views == "tiled" and cond == "text" else cond, negative, net)

    def images(self, x: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
        if self.views == "joint":
            return x, cameras
        whole = cameras[slice(0, None, TILES)].resized(2 * cameras.height, 2 * cameras.width)
        return tiled(x), type(whole)(whole.c2w * 0, whole.fovy, whole.height, whole.width)


def tiled(x: Tensor) -> Tensor:
    """[B/4,C,2H,2W] pictures of four consecutive views [B,C,H,W] each: 0 1 above 2 3; UserError unless B is a multiple of 4."""
    if len(x) % TILES:
        raise UserError(f"tiles of 2 x 2 views need a multiple of {TILES} views a step, got {len(x)}: set cameras.views")
    groups = x.unflatten(0, (-1, 2, 2))
    return groups.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
