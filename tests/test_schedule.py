import pytest

from threedgen.schedule import at, knots_of, milestone


@pytest.mark.parametrize(
    ("number", "step", "value"),
    [
        (3, 0, 3.0),
        (0.5, 10_000, 0.5),
        ([10, 1.0, 3.0, 20], 0, 1.0),
        ([10, 1.0, 3.0, 20], 15, 2.0),
        ([10, 1.0, 3.0, 20], 99, 3.0),
        ([0, 1.0, 3.0, 10, 0.0, 40], 25, 1.5),
        ([0, 0.98, 0.5, 0], 1, 0.5),
    ],
)
def test_values_between_and_outside_the_knots(number, step, value):
    assert at(number, step) == pytest.approx(value)


def test_a_jump_happens_after_its_step():
    jump = [5, 0.0, 0.0, 10, 1.0, 10]
    assert at(jump, 10) == 0.0
    assert at(jump, 11) == 1.0


@pytest.mark.parametrize("number", ["3", True, [1, 2, 3], [1, 2, 3, 4, 5], [10, 0, 1, 5], [0, "a", 1, 5], None])
def test_what_is_not_a_schedule_is_refused_with_a_reason(number):
    with pytest.raises(ValueError, match=r"number|schedule|steps"):
        knots_of(number)


def test_milestones_hold_until_the_next():
    sizes = {0: 64, 100: 128}
    assert [milestone(sizes, s) for s in (0, 99, 100, 5000)] == [64, 64, 128, 128]
    assert milestone(32, 7) == 32
    with pytest.raises(ValueError, match="start at step 0"):
        milestone({10: 64}, 3)
