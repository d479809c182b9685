"""What a guidance rule declares: its settings, the predictions it needs, and the residual it makes of them.

A rule is a dataclass of its own settings, registered under its published name; its file lies in this folder and is found by
name. No rule file imports torch at load (its methods receive tensors and use their methods), so that configs are checked fast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from threedgen.config.schema import setting
from threedgen.schedule import at, knots_of

if TYPE_CHECKING:
    from torch import Tensor

    from threedgen.cameras import Cameras
    from threedgen.guidance.core import Step
    from threedgen.guidance.noisers import Noisy

WEIGHTS = ("sigma2", "one", "alpha_sigma2", "sigma_over_alpha")
T_SAMPLERS = ("uniform", "hifa", "dreamtime", "linear", "log_normal")


@dataclass(frozen=True)
class Term:
    """One network evaluation.

    Attributes:
        cond: names the prompt ("text", "negative", "null", "plain": the prompt without view words, ...).
        state: the noisy state it looks at.
        net: "prior", or "critic" for the trained score of the particles.
        camera: whether the network is told the camera.
        guided: whether the network itself is asked for its guided prediction, by the scale it takes as an input.
    """

    cond: str
    state: str = "t"
    net: str = "prior"
    camera: bool = True
    guided: bool = False


@dataclass
class GuidanceSettings:
    """What every guidance has: the range of timesteps and the guidance scale."""

    t_min: Any = setting(0.02, "smallest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    t_max: Any = setting(0.98, "largest timestep, as a share of the schedule", low=0.0, high=1.0, scheduled=True)
    cfg: Any = setting(7.5, "guidance scale s in eps_neg + s (eps_text - eps_neg); 1 is none", low=-100.0, high=1000.0, scheduled=True)
    rescale: Any = setting(
        0.0, "share of the CFG standard-deviation rescale (arXiv 2305.08891, MVDream)", low=0.0, high=1.0, scheduled=True
    )

    def check(self) -> None:
        """ValueError where the range of timesteps is empty at some step."""
        for knot, _ in knots_of(self.t_min) + knots_of(self.t_max):
            for step in (int(knot), int(knot) + 1):  # after a knot too: two of them at one step are a jump
                if at(self.t_min, step) > at(self.t_max, step) + 1e-9:
                    raise ValueError(f"t_min must not exceed t_max, but does at step {step}")

    def check_stage(self, views: int, steps: int) -> None:
        """ValueError where the settings do not go together with the views of a step or the steps of the stage."""

    def scheduled(self, name: str, step: int) -> float:
        """Value of a scheduled setting at a step."""
        return at(getattr(self, name), step)

    def as_of(self, step: int) -> Self:
        """The same guidance with every scheduled setting at its value of a step: it then asks for no prediction whose weight is zero."""
        return replace(self, **{f.name: self.scheduled(f.name, step) for f in fields(self) if f.metadata.get("scheduled")})

    def texts(self) -> dict[str, str]:
        """Further prompts of the guidance, by the name its terms use."""
        return {}

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        """What a prediction is given beside its prompt and camera: fields of `Conditioning`, one row a view."""
        return {}

    def uses(self, name: str) -> bool:
        """Whether a scheduled setting is other than 0 at some step."""
        return any(value != 0 for _, value in knots_of(getattr(self, name)))

    def hears_negative(self) -> bool:
        """Whether the run's negative prompt plays a part."""
        return True

    def wishes(self) -> frozenset[str]:
        """What the prior must be able to be told, in the words of `Prior.capabilities`."""
        return frozenset()


@dataclass
class Rule(GuidanceSettings):
    """A rule that answers with a gradient on the clean latent z: G = weight(t) * residual.

    A rule of its own overrides `residual`, and where it differs from the default `terms` (what to predict), `states` (how noise is
    put on), `conditions` (what a prediction is given beside its prompt) and `images` (what becomes of the rendered views).
    """

    weight: str = setting(
        "sigma2",
        "w(t): sigma^2, 1, alpha sigma^2, or sigma/alpha (the reconstruction form)",
        choices=WEIGHTS,
    )
    space: str = setting(
        "latent",
        "where the gradient lands: on the latent (through the encoder), or on the pixels (render against the decoded estimate)",
        choices=("latent", "pixel", "both"),
    )
    pixel_scale: Any = setting(1.0, "factor on the pixel part of the loss", low=0.0, scheduled=True)
    pixel_loss: str = setting(
        "l2", "distance of the render to the decoded estimate: squared, or pseudo-Huber (arXiv 2310.14189)", choices=("l2", "huber")
    )
    pixel_ema: Any = setting(
        0.0, "share of the render that is kept in the decoded estimate (a moving target, as PS-KD)", low=0.0, high=0.999, scheduled=True
    )
    grad_clip: Any = setting(0.0, "largest absolute value of an entry of the gradient; 0 is none", low=0.0, scheduled=True)
    scale: Any = setting(1.0, "factor on the loss", low=0.0, scheduled=True)
    t_sampler: str = setting(
        "uniform",
        "timestep of a step in [t_min, t_max]: drawn uniformly; falling with the square root of the progress (HiFA), by DreamTime's "
        "weights, or in a line; or drawn log-normal (iCT)",
        choices=T_SAMPLERS,
    )
    crop: Any = setting(1.0, "smallest share of the side of a random crop; 1 is none", low=0.1, high=1.0, scheduled=True)
    cfg_mode: str = setting(
        "two_branch",
        "how the prior is guided: by two predictions, by a scale it takes as an input (distilled models), or not at all",
        choices=("two_branch", "embedded", "none"),
    )
    cfg_range: list[float] = setting(
        [], "lowest and highest guidance scale, one is drawn a step in place of cfg (SNOOPI, arXiv 2412.02687)", low=-100.0, high=1000.0
    )
    perp_neg: Any = setting(
        0.0, "factor on the view-dependent negative prompts of Perp-Neg (arXiv 2304.04968); 0 is off", low=0.0, high=10.0, scheduled=True
    )
    negative_attention: Any = setting(
        0.0,
        "push of cross-attention away from the negative prompt (NASA)",
        low=0.0,
        high=10.0,
        scheduled=True,
    )
    image_scale: Any = setting(0.0, "weight of the image prompt beside the text (VP3D); 0 is off", low=0.0, high=10.0, scheduled=True)

    needs: ClassVar[tuple[str, ...]] = ()  # inputs beyond the rendered views, by name
    prompted: ClassVar[tuple[str, ...]] = ("text", "plain")  # what sees an image prompt, and in the prior is pushed from the negative one
    critic: ClassVar[bool] = False  # whether a critic is trained along
    difference: ClassVar[bool] = False  # whether the rule is a difference of predictions, which takes two branches
    unused: ClassVar[tuple[str, ...]] = ()  # settings of every rule that play no part in this one

    def check(self) -> None:
        super().check()
        if self.cfg_range and (len(self.cfg_range) != 2 or self.cfg_range[0] > self.cfg_range[1]):
            raise ValueError(f"cfg_range must be [] or [lowest, highest], got {self.cfg_range}")
        if self.cfg_mode != "two_branch" and self.uses("perp_neg"):
            raise ValueError("perp_neg needs cfg_mode two_branch: a single prediction has no negative one (use negative_attention)")
        if self.difference and self.cfg_mode != "two_branch":
            raise ValueError("this rule is a difference of predictions: it needs cfg_mode two_branch")
        for name in self.unused:
            if getattr(self, name) != getattr(type(self)(), name):
                raise ValueError(f"{name} plays no part in this rule: leave it out")
        if self.needs and self.crop != 1:
            raise ValueError(f"crop must be 1: it would cut the rendered views, but not their {', '.join(self.needs)}")

    def check_latents(self) -> None:
        """ValueError where the rule cannot work on latents that were rendered as such, without a picture."""
        if self.space != "latent":
            raise ValueError(f"space {self.space} compares pictures, and latent_nerf shows latents: set guidance.space to latent")
        if any(share != 1 for _, share in knots_of(self.crop)):
            raise ValueError("crop cuts pictures, and latent_nerf shows latents: leave guidance.crop at 1")

    def images(self, x: Tensor, cameras: Cameras) -> tuple[Tensor, Cameras]:
        """What the prior sees of the rendered views x [B,3,H,W], with the cameras it is told."""
        return x, cameras

    def states(self, step: Step) -> tuple[dict[str, Noisy], dict[Term, Tensor]]:
        """Noisy states by name, and the predictions that making them has already given; by default the state "t" of random noise."""
        from threedgen.guidance.noisers import random_noise

        return {"t": random_noise(step)}, {}

    def terms(self) -> tuple[Term, ...]:
        """Predictions the residual needs; by default those of `guided`."""
        return self.branches()

    def residual(self, eps: dict[Term, Tensor], state: dict[str, Noisy], step: Step) -> Tensor:
        """Sum of a_k e_k over the predictions `eps` (one a term) and the noise of the states, [B,C,h,w], before w(t)."""
        raise NotImplementedError(f"{type(self).__name__} declares no residual")

    def conditions(self, term: Term, step: Step) -> dict[str, Tensor]:
        given: dict[str, Tensor] = {}
        if term.guided:
            given["guidance"] = step.filled(self.guidance_scale(step))
        seen = term.cond in self.prompted
        # On the negative prompt's own branch the push would only scale the attention down.
        if (push := self.scheduled("negative_attention", step.index)) > 0 and seen and term.net == "prior":
            given |= {"negative": step.text("negative"), "negative_scale": step.filled(push)}
        if (share := self.scheduled("image_scale", step.index)) > 0:
            tokens = step.input("image").to(step.z).expand(step.views, -1, -1)
            given |= {"image": tokens if seen else tokens * 0, "image_scale": step.filled(share)}
        return given

    def hears_negative(self) -> bool:
        return self.uses("negative_attention") or any(term.cond == "negative" for term in self.terms())

    def wishes(self) -> frozenset[str]:
        asked = {
            "guidance": self.cfg_mode == "embedded",
            "negative": self.uses("negative_attention"),
            "image": self.uses("image_scale"),
        }
        return frozenset(name for name, wanted in asked.items() if wanted)

    def branches(self, state: str = "t", cond: str = "text", negative: str = "negative", net: str = "prior") -> tuple[Term, ...]:
        """Predictions that `guided` needs at a state."""
        if self.cfg_mode != "two_branch":
            return (Term(cond, state, net, guided=self.cfg_mode == "embedded"),)
        if self.perp_neg != 0:
            return tuple(Term(name, state, net) for name in (cond, "null", "perp_0", "perp_1"))
        return Term(cond, state, net), Term(negative, state, net)

    def direction(self, eps: dict[Term, Tensor], step: Step, branches: tuple[Term, ...]) -> Tensor:
        """Classifier direction eps_text - eps_neg; with Perp-Neg plus each negative's part perpendicular to it, times its weight."""
        text, base, *negatives = (eps[term] for term in branches)
        towards = text - base
        total = towards
        if negatives:
            weights = step.perp_neg_weights() * self.scheduled("perp_neg", step.index)
            for negative, weight in zip(negatives, weights.T, strict=True):
                total = total + weight[:, None, None, None] * perpendicular(negative - base, towards)
        return total

    def guided(
        self,
        eps: dict[Term, Tensor],
        state: dict[str, Noisy],
        step: Step,
        at_state: str = "t",
        cond: str = "text",
        negative: str = "negative",
    ) -> Tensor:
        """Prediction with classifier-free guidance, by whatever mode, rescaled where asked."""
        branches = self.branches(at_state, cond, negative)
        if len(branches) == 1:
            return eps[branches[0]]
        base = eps[branches[1]]
        guided = base + self.guidance_scale(step) * self.direction(eps, step, branches)
        return state[at_state].rescaled(guided, eps[branches[0]], self.scheduled("rescale", step.index))

    def guidance_scale(self, step: Step) -> float:
        """The guidance scale of a step."""
        if self.cfg_range:
            return float(step.draws.shared_uniform("cfg", (), *self.cfg_range))
        return self.scheduled("cfg", step.index)


def perpendicular(e: Tensor, towards: Tensor) -> Tensor:
    """The part of e [B,C,h,w] that is perpendicular to `towards`, row by row (Perp-Neg)."""
    along = (e * towards).flatten(1).sum(1) / towards.flatten(1).square().sum(1).clamp(min=1e-12)
    return e - along[:, None, None, None] * towards
