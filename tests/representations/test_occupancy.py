import torch

from threedgen.representations.occupancy import OccupancyGrid

CELLS = 10


def grid_of(density, jitter: float = 0.5) -> OccupancyGrid:
    grid = OccupancyGrid(CELLS)
    grid.update(density, torch.full((CELLS**3, 3), jitter))
    return grid


def cell_opacity(sigma: torch.Tensor) -> torch.Tensor:
    return 1 - torch.exp(-sigma * 2 / CELLS)


def test_every_cell_has_a_point_of_its_own():
    grid = OccupancyGrid(CELLS)
    jitter = torch.rand(CELLS**3, 3, generator=torch.Generator().manual_seed(0))
    points = grid.cell_points(jitter)
    cell = ((points + 1) * CELLS / 2).floor().long()
    axis = torch.arange(CELLS)
    assert torch.equal(cell, torch.cartesian_prod(axis, axis, axis))
    centres = grid.cell_points(torch.full((CELLS**3, 3), 0.5))
    assert torch.allclose(centres.mean(0), torch.zeros(3), atol=1e-6)


def test_a_cell_is_occupied_where_it_or_a_neighbour_holds_matter():
    def one_cell(x: torch.Tensor) -> torch.Tensor:
        return 100.0 * ((x - torch.tensor([0.1, 0.3, -0.7])).abs() < 0.05).all(-1)

    expected = torch.zeros(CELLS, CELLS, CELLS, dtype=torch.bool)
    expected[4:7, 5:8, 0:3] = True
    assert torch.equal(grid_of(one_cell).occupied, expected)


def test_the_threshold_is_the_opacity_of_a_cell():
    grid = OccupancyGrid(CELLS)
    limit = -torch.log1p(torch.tensor(-grid.threshold)) * CELLS / 2
    assert not grid_of(lambda x: limit.expand(len(x)) * 0.99).occupied.any()
    assert grid_of(lambda x: limit.expand(len(x)) * 1.01).occupied.all()


def test_opacity_is_a_decayed_maximum_and_forgets_what_is_gone():
    grid = grid_of(lambda x: torch.full((len(x),), 3.0))
    first = grid.opacity.clone()
    assert torch.allclose(first, cell_opacity(torch.tensor(3.0)).expand_as(first))
    jitter = torch.full((CELLS**3, 3), 0.5)
    grid.update(lambda x: torch.full((len(x),), 9.0), jitter)
    assert torch.allclose(grid.opacity, cell_opacity(torch.tensor(9.0)).expand_as(first))
    updates = 0
    while grid.occupied.any():
        grid.update(lambda x: torch.zeros(len(x)), jitter)
        updates += 1
    peak = float(cell_opacity(torch.tensor(9.0)))
    assert peak * grid.decay ** (updates - 1) > grid.threshold >= peak * grid.decay**updates


def test_before_the_first_update_nothing_is_skipped_and_all_of_it_is_state():
    grid = OccupancyGrid(4)
    assert grid.occupied.all()
    assert set(grid.state_dict()) == {"opacity", "occupied"}
