"""Numbers that may change with the step: a constant, or knots `[step0, value0, value1, step1, ...]`. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

Schedulable = float | int | Sequence[float] | Mapping[int, float]


def knots_of(number: Schedulable) -> list[tuple[float, float]]:
    """(step, value) pairs of a schedulable number; raises ValueError with what is wrong.

    Forms: a constant; `[start_step, start, end, end_step]`; two segments `[s0, v0, v1, s1, v2, s2]` and longer alike
    (after the first four, pairs value, step). A mapping `{step: value}` is read as milestones by `milestone`.
    """
    if isinstance(number, bool) or not isinstance(number, int | float | Sequence) or isinstance(number, str):
        raise ValueError(f"expected a number or [start_step, start, end, end_step], got {number!r}")
    if isinstance(number, int | float):
        return [(0.0, float(number))]
    values = list(number)
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise ValueError(f"a schedule holds numbers only, got {values!r}")
    if len(values) < 4 or len(values) % 2:
        raise ValueError(f"a schedule has 4, 6, 8 ... numbers [start_step, start, end, end_step, ...], got {len(values)}")
    knots = [(float(values[0]), float(values[1]))]
    knots += [(float(values[i + 1]), float(values[i])) for i in range(2, len(values), 2)]
    if any(b[0] < a[0] for a, b in pairwise(knots)):
        raise ValueError(f"the steps of a schedule must not decrease, got {[k[0] for k in knots]}")
    return knots


def at(number: Schedulable, step: int) -> float:
    """Value at a step: linear between knots, constant outside."""
    knots = knots_of(number)
    if step <= knots[0][0]:
        return knots[0][1]
    for (s0, v0), (s1, v1) in pairwise(knots):
        if step <= s1:
            return v1 if s1 == s0 else v0 + (v1 - v0) * (step - s0) / (s1 - s0)
    return knots[-1][1]


def milestone(number: float | Mapping[int, float], step: int) -> float:
    """Value of a step function `{from_step: value}` (or a constant): the last milestone at or before the step."""
    if not isinstance(number, Mapping):
        return number
    passed = [s for s in number if s <= step]
    if not passed:
        raise ValueError(f"milestones must start at step 0, got {sorted(number)}")
    return number[max(passed)]
