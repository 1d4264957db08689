"""Lengths of shifts: against the truth, and whatever the axes."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from skpert._data import Cells
from skpert._lengths import components, shift_lengths

N_EACH, N_CONTROLS = 400, 2000
SHIFTS = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.5, 0.0]])


def make_cells(dosage=1.0, seed=0):
    """Standard normal states of three perturbations and of controls, and some pairs."""
    rng = np.random.default_rng(seed)
    group = np.repeat([0, 1, 2, 3], [N_EACH] * 3 + [N_CONTROLS])
    design = dosage * np.vstack([np.eye(3), np.zeros(3)])[group]
    pairs = np.tile([1.0, 1.0, 0.0], (50, 1))
    shift = np.vstack([design @ SHIFTS, np.full((50, 3), 100.0)])
    states = np.float32(rng.normal(size=shift.shape) + shift)
    return Cells.from_arrays(
        states, csr_array(np.vstack([design, pairs])), np.empty((len(shift), 0))
    )


def lengths(cells, n=3, features=lambda cells: cells.x.double()):
    return shift_lengths(cells.minibatches(500, shuffle=False), features, n).numpy()


@pytest.mark.parametrize("dosage", [1.0, 0.5])
def test_lengths_are_those_of_the_shifts_for_a_dosage_of_one(dosage):
    expected = np.linalg.norm(SHIFTS, axis=1)
    np.testing.assert_allclose(lengths(make_cells(dosage)), expected, atol=0.15 / dosage)


def test_sampling_error_does_not_make_shifts_longer():
    found = np.array([lengths(make_cells(0.1, seed))[2] for seed in range(40)])
    assert found.mean() * 0.1 == pytest.approx(0.05, abs=0.03)  # the plain distance: about 0.1


def test_no_invertible_map_of_the_features_changes_them():
    cells, maps = make_cells(), torch.tensor([[2.0, 1, 0], [0, 0.1, 5], [1, 0, 1]]).double()
    mapped = lengths(cells, features=lambda cells: cells.x.double() @ maps - 7)
    np.testing.assert_allclose(mapped, lengths(cells), rtol=1e-9)
    doubled = lengths(cells, features=lambda cells: cells.x.double().repeat(1, 2))
    np.testing.assert_allclose(doubled, lengths(cells), rtol=1e-6)


def test_what_cannot_be_measured_is_not_a_number():
    cells = make_cells()
    assert np.isnan(lengths(cells.subset(torch.arange(3 * N_EACH)))).all()
    few = cells.subset(torch.cat([torch.arange(N_EACH + 1), torch.arange(3 * N_EACH, 3000)]))
    assert np.isfinite(lengths(few)).tolist() == [True, False, False]
    assert np.isnan(lengths(cells.subset(torch.arange(0, 3000, 500)))).all()


def test_components_are_orthonormal_and_have_most_of_the_variance():
    x = torch.randn(80, 2) @ torch.randn(2, 30) + 3
    axes = components(x)
    assert axes.shape == (30, 2)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-6)
    centred = (x - x.mean(0)).double()
    np.testing.assert_allclose(centred @ axes @ axes.T, centred, atol=1e-5)
