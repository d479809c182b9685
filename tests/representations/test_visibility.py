import numpy as np
import pytest

from threedgen.representations.visibility import seen_along, seen_from_around, without_hidden_space

N = 16


def empty() -> np.ndarray:
    return np.zeros((N, N, N), bool)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [1, -1])
def test_light_along_an_axis_ends_at_the_first_solid_cell(axis, sign):
    solid = empty()
    solid[4, 5, 6] = True
    direction = [0.0, 0.0, 0.0]
    direction[axis] = float(sign)
    dark = [slice(i, i + 1) for i in (4, 5, 6)]
    dark[axis] = slice((4, 5, 6)[axis] + 1, None) if sign > 0 else slice(0, (4, 5, 6)[axis])
    expected = np.ones_like(solid)
    expected[tuple(dark)] = False
    assert np.array_equal(seen_along(solid, tuple(direction)), expected)


def test_a_slanted_shadow_is_where_geometry_puts_it():
    solid = empty()
    solid[2, 7, 7] = True
    seen = seen_along(solid, (1.0, 0.5, -0.25))
    assert sorted(map(tuple, np.argwhere(~seen))) == [(x, 7 + round(x * 0.5) - 1, 7 + round(-x * 0.25)) for x in range(3, N)]


def test_empty_space_is_seen_and_the_inside_of_a_box_is_not():
    assert seen_from_around(empty()).all()
    solid = empty()
    solid[3:13, 3:13, 3:13] = True
    seen = seen_from_around(solid)
    assert not seen[5:11, 5:11, 5:11].any()
    assert seen[~solid].all()
    assert seen[3:13, 3:13, 12].mean() > 0.9


def box_with_a_hole(size: int) -> np.ndarray:
    solid = empty()
    solid[2:14, 2:14, 2:14] = True
    solid[4:12, 4:12, 4:12] = False
    low = 8 - size // 2
    solid[low : low + size, low : low + size, 12:14] = False
    return solid


def test_closed_and_cracked_boxes_are_filled_and_open_ones_are_not():
    assert without_hidden_space(box_with_a_hole(0), 1)[2:14, 2:14, 2:14].all()
    cracked = without_hidden_space(box_with_a_hole(1), 1)
    assert cracked[4:12, 4:12, 4:11].all()
    assert not without_hidden_space(box_with_a_hole(8), 1)[6:10, 6:10, 6:10].any()


def test_nothing_outside_a_convex_solid_is_filled():
    solid = empty()
    solid[4:12, 4:12, 4:12] = True
    assert np.array_equal(without_hidden_space(solid, 1), solid)
    assert not without_hidden_space(empty(), 1).any()
