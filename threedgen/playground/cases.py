"""What the playground tries: every registered rule that needs nothing but views, and variants that show what a setting does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from threedgen.config.suggest import choose
from threedgen.errors import UserError
from threedgen.guidance import discover
from threedgen.guidance.rule import Rule
from threedgen.guidance.vsd import VSD
from threedgen.playground.critics import ExactRatioVSD
from threedgen.registry import lookup, names

EVERY = "Every rule on free points, without guidance (s = 1)"
GUIDED = "With guidance scale s = 7.5"
CRITICS = "With the exact score of the points as critic (s = 1)"
DIVERGENCES = "One Gaussian generator on two modes, f-divergences at little noise (s = 1, t < 0.1)"
GROUPS = (EVERY, CRITICS, GUIDED, DIVERGENCES)
# Neighbours in the picture are what should be compared; rules that are not named here follow in the order of the alphabet.
ORDER = (
    *("sds", "video_sds", "sjc", "reconstruction", "mv_sds", "hifa", "nfsd", "csd", "csm", "ism", "sdi", "cds", "asynchronous_sd", "dds"),
    *("vsd", "esd", "adversarial_sd"),
)
GIVEN = {"source"}  # inputs that the plane has
# SDI inverts with the guidance scale of the denoising, negated.
AT_ONE: dict[str, dict[str, Any]] = {"sdi": {"inversion_cfg": -1.0}}


@dataclass(frozen=True)
class Case:
    """A rule with what it is tried on.

    Attributes:
        name: registered name of the rule.
        label: row of the table, title of the panel.
        group: heading that the panel stands under.
        student: "points" (each a scene) or "generator" (one scene, a Gaussian of views).
        shared: whether the critic, where there is one, is shared by the points and cannot tell them apart.
        start: the class whose samples the points start as; "" is a round cloud in the middle.
    """

    name: str
    label: str
    rule: Rule
    group: str = EVERY
    student: str = "points"
    shared: bool = False
    start: str = ""


def rules() -> dict[str, type[Rule]]:
    """The registered rules that run in the plane, by name."""
    discover()
    found = {name: lookup("guidance", name) for name in names("guidance")}
    return {name: rule for name, rule in found.items() if issubclass(rule, Rule) and set(rule.needs) <= GIVEN}


def cases(chosen: list[str] | None = None) -> list[Case]:
    """All cases, or those of the chosen rules, in the order of the groups; UserError for a name that does not run here."""
    known = rules()
    for name in chosen or []:
        if name not in known:
            kept_out = name in names("guidance")
            why = f"the rule {name!r} needs inputs that the plane does not have" if kept_out else f"unknown rule {name!r}"
            raise UserError(f"{why}: {choose(name, list(known))}")
    made = [case for case in [*_every(known), *_variants()] if not chosen or case.name in chosen]
    return sorted(made, key=lambda case: (GROUPS.index(case.group), _place(case.name)))


def _place(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER)), name


def _every(known: dict[str, type[Rule]]) -> list[Case]:
    """A case for each rule with its own defaults, but without guidance, which would hide what the rule itself does."""
    made = {name: kind(cfg=1.0, **AT_ONE.get(name, {})) for name, kind in known.items()}
    return [
        Case(name, name, rule, CRITICS if rule.critic else EVERY, start="right" if "source" in rule.needs else "")
        for name, rule in made.items()
    ]


def _variants() -> list[Case]:
    """Rules with other settings than their defaults."""

    def of(name: str, label: str, group: str, shared: bool = False, **settings: Any) -> Case:
        return Case(name, f"{name}, {label}", lookup("guidance", name)(**{"cfg": 1.0, **settings}), group, shared=shared)

    return [
        of("sds", "t < 0.3", EVERY, t_max=0.3),
        of("ism", "delta = 400", EVERY, delta=400),
        of("vsd", "shared critic", CRITICS, shared=True),
        of("esd", "lambda = 0.5, t < 0.1", CRITICS, t_max=0.1),
        of("esd", "lambda = 1", CRITICS, critic_cfg=0.0),
        *(of(name, "s = 7.5", GUIDED, cfg=7.5) for name in ("sds", "ism", "sdi", "nfsd")),
        of("vsd", "shared, s = 7.5", GUIDED, shared=True, cfg=7.5),
        of("adversarial_sd", "shared, s = 7.5", GUIDED, shared=True, cfg=7.5),
        _divergence("reverse_kl"),
        *(_divergence("jensen_shannon", source) for source in ("exact", "likelihood")),
        *(_divergence("forward_kl", source) for source in ("exact", "likelihood", "heuristic")),
    ]


def _divergence(divergence: str, source: str = "") -> Case:
    """VSD of a Gaussian generator by an f-divergence, with the density ratio of a source; with reverse_kl the ratio plays no part."""
    settings = {"cfg": 1.0, "critic_cfg": 0.0, "divergence": divergence, "t_max": 0.1}
    rule = VSD(**settings, ratio=source) if source in ("likelihood", "heuristic") else ExactRatioVSD(**settings)
    label = ", ".join(filter(None, ("vsd", divergence, source)))
    return Case("vsd", label, rule, DIVERGENCES, student="generator", start="flaws")
