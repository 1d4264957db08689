"""Combinations: which are measured, how cells are read, scales and probabilities."""

import numpy as np
import pytest
import torch

from skpert._data import Cells
from skpert.sparsity.edges import edges_at_fdr
from skpert.sparsity.effects import additive_effects
from skpert.sparsity.interactions import (
    LEAST_CELLS,
    Interactions,
    error_of_sums,
    interaction_probability,
    measured_combinations,
    usual_scale,
)

SETS = [(), (0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2), (0, 3), (1, 0)]


def cells_of(sets, n_each=1, amount=1.0):
    width = max(map(len, sets))
    rows = [row for row in sets for _ in range(n_each)]
    part = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    dosage = torch.tensor([[amount] * len(row) + [0.0] * (width - len(row)) for row in rows])
    nothing = torch.zeros(len(rows), 0)
    return Cells(nothing, torch.ones(len(rows), 1), part, dosage, nothing)


def test_combinations_are_sets_of_enough_cells_with_parts_alone():
    found = measured_combinations(cells_of(SETS, LEAST_CELLS))
    assert found.tolist() == [[0, 1, 2], [0, 1, -1], [1, 2, -1]]  # 3 was not measured alone
    few = measured_combinations(cells_of(SETS, LEAST_CELLS - 1))
    assert few.tolist() == [[0, 1]]  # which comes in two orders
    assert not len(measured_combinations(cells_of(SETS[:4], LEAST_CELLS)))


def test_cells_have_scaled_parts_and_what_is_their_own():
    module = Interactions(np.array([[0, 1, -1], [0, 1, 2], [1, 2, -1]]))
    module.scale.copy_(torch.tensor([1.0, 1.0, 0.5, 0.25]))
    own, single = torch.randn(3, 2), torch.randn(4, 2)
    rows = torch.cat([own, single])
    for amount in (1.0, 2.0):
        cells = module(cells_of(SETS, amount=amount))
        shift = cells.summed(rows[cells.part])
        expected = [
            torch.zeros(2),
            *amount * single[:3],
            0.5 * amount * (single[0] + single[1]) + amount**2 * own[0],
            0.5 * amount * (single[1] + single[2]) + amount**2 * own[2],
            0.25 * amount * single[:3].sum(0) + amount**3 * own[1],
            0.5 * amount * (single[0] + single[3]),
            0.5 * amount * (single[0] + single[1]) + amount**2 * own[0],
        ]
        torch.testing.assert_close(shift, torch.stack(expected))


def test_a_control_cell_and_a_single_perturbation_stay_what_they_are():
    module = Interactions(np.array([[0, 1]]))
    cells = cells_of([(), (0,), (1,)])
    read = module(cells)
    assert (read.dosage[:, :1] == cells.dosage).all()
    assert (read.dosage[:, -1] == 0).all()
    assert module.sums(torch.eye(3)).tolist() == [[0.0, 1.0, 1.0]]


def test_scales_and_interactions_are_taken_from_sums_of_effects():
    """Without noise, all but the one interaction follow the scale."""
    random = np.random.default_rng(0)
    pairs = [(i, j) for i in range(6) for j in range(i)]
    single = 3 * torch.from_numpy(random.normal(size=(6, 3)))
    cells = cells_of([(), *[(i,) for i in range(6)], *pairs], 8)
    module = Interactions(measured_combinations(cells))
    Z = torch.stack(
        [cells.dosage[i].double() @ single[cells.part[i]] for i in range(cells.n_cells)]
    )
    several = (cells.dosage > 0).sum(1) > 1
    Z[several] *= 0.8
    there = (cells.part == torch.tensor([5, 2])).all(1) & several
    Z[there, 1] -= 2.0
    noise = torch.from_numpy(random.normal(size=Z.shape)) * 1e-3
    states, read = Z + noise, module(cells)

    def seen():
        place = iter(states.split(4096))
        return additive_effects(lambda batch: next(place), module(cells), 6 + len(module))

    module.find_scales(seen())
    assert module.scale.tolist() == pytest.approx([1, 1, 0.8], abs=1e-3)
    effects = seen()
    n = len(module)
    torch.testing.assert_close(effects.difference[n:], single, atol=5e-3, rtol=0)
    logit = module.logit(effects, effects.standard_error)
    assert [module.part[i].tolist() for i in (logit > 0).nonzero()[:, 0]] == [[2, 5]]
    assert (logit > 0).nonzero()[:, 1].tolist() == [1]
    assert read.n_cells == cells.n_cells


def test_a_minority_of_interactions_leaves_the_scale():
    random = np.random.default_rng(1)
    sums = 3 * random.normal(size=(40, 5))
    measured = 0.7 * sums + 0.05 * random.normal(size=sums.shape)
    measured[:4] += 10
    assert usual_scale(sums, measured, 0.05) == pytest.approx(0.7, abs=0.03)
    assert usual_scale(sums, measured, 100.0) == 1.0  # nothing is known of the sums
    assert usual_scale(-sums, -measured, 0.05) == usual_scale(sums, measured, 0.05)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_false_discovery_rate_holds_beside_deviations_in_proportion(share):
    """Deviations grow with sums; five in forty pairs have an interaction."""
    false = called = hits = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        sums = random.normal(size=(40, 10)) * random.choice([0.0, 4.0], (40, 10), p=[0.8, 0.2])
        size = np.linalg.norm(sums, axis=1, keepdims=True)
        error = np.full(sums.shape, 0.1)
        rest = random.normal(size=sums.shape) * np.hypot(error, share * size)
        truth = np.zeros(sums.shape, dtype=bool)
        truth[np.arange(5), random.integers(10, size=5)] = True
        rest[truth] += random.choice([-5.0, 5.0], 5)
        found = edges_at_fdr(interaction_probability(rest, sums, error), 0.05)
        false, called, hits = (
            false + (found & ~truth).sum(),
            called + found.sum(),
            hits + (found & truth).sum(),
        )
    assert false <= 0.05 * called + 1
    assert hits >= 45


def test_nothing_is_called_where_all_adds_up():
    random = np.random.default_rng(0)
    sums, error = 3 * random.normal(size=(30, 6)), np.full((30, 6), 0.1)
    rest = random.normal(size=sums.shape) * 0.1
    assert (interaction_probability(rest, sums, error) < 0.5).all()
    assert not edges_at_fdr(interaction_probability(0 * rest, 0 * sums, error)).any()
    assert (error_of_sums(rest, 0 * sums, error) == error).all()
