"""Image-to-view score distillation (Zero-1-to-3, arXiv 2303.11328; Magic123, arXiv 2306.17843)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from threedgen.config.schema import setting
from threedgen.guidance.rule import Term
from threedgen.guidance.sds import SDS
from threedgen.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.guidance.core import Step


@register("guidance", "zero123")
@dataclass
class Zero123(SDS):
    """G = w(t) (eps_s(z_t, t | image, pose) - eps): SDS on a network that paints a reference image's object from another camera.

    Inputs: "reference" [1,3,H,W] in [0,1]; "reference_c2w" [4,4]. The network is told the camera relative to the reference's, the
    reference's latents beside the noisy ones, and with `image_scale` its image tokens ("image" [1,N,D]); the null branch has none of
    them. Neither branch has a prompt.
    """

    needs: ClassVar[tuple[str, ...]] = ("reference", "reference_c2w")
    prompted: ClassVar[tuple[str, ...]] = ("image",)
    cfg: Any = setting(3.0, "guidance scale; see sds", low=-100.0, high=1000.0, scheduled=True)

    def texts(self) -> dict[str, str]:
        return super().texts() | {"image": ""}

    def wishes(self) -> frozenset[str]:
        return super().wishes() | {"concat:4", "camera"}

    def branches(self, state: str = "t", cond: str = "image", negative: str = "null", net: str = "prior") -> tuple[Term, ...]:
        return super().branches(state, "image", "null", net)

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        seen = 1.0 if term.cond in self.prompted else 0.0
        image = step.input("reference").to(step.z)
        reference = step.once("reference", lambda: step.teacher.prior.encode_beside(image)).expand(step.views, -1, -1, -1)
        pose = relative(step.cameras.c2w, step.input("reference_c2w").to(step.cameras.c2w))
        return super().conditions(term, step) | {"concat": seen * reference, "c2w": seen * pose}


def relative(c2w: Tensor, reference: Tensor) -> Tensor:
    """[B,4,4] cameras in the frame of a reference camera [4,4]."""
    return reference.inverse() @ c2w
