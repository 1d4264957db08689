"""Latents that data have are told from functions of these, and from latents out of use."""

import numpy as np
import pytest
from scipy.sparse import csc_array

from skpert.sparsity.dimension import Alike, alike, width_to_start
from skpert.sparsity.dimension import independent_axes as axes_of_alike
from skpert.sparsity.rotation import axis_stability, sparse_rotation

N_CELLS, N_GROUPS = 3000, 20
GROUP = np.arange(N_CELLS) % N_GROUPS


def independent_axes(Z, group):
    """Axes of states of which cells of a group were treated equally."""
    return axes_of_alike(Z, alike(Z, group))


def true_states(n_latent, seed=0):
    """Sparse shifts of the groups, plus unit normal noise."""
    random = np.random.default_rng(seed)
    shifts = random.normal(0, 4, (N_GROUPS, n_latent)) * (
        random.random((N_GROUPS, n_latent)) < 0.4
    )
    return shifts[GROUP] + random.normal(size=(N_CELLS, n_latent))


def bent(Z, seed=0):
    """The states, functions of them, and latents that are hardly in use, in a rotated space."""
    random = np.random.default_rng(seed)
    functions = [0.5 * np.abs(Z[:, 0]), 0.7 * np.sin(Z[:, 1]), 0.3 * Z[:, 0] * Z[:, 2] / 3]
    unused = 0.05 * random.normal(size=(len(Z), 4))
    wide = np.column_stack([Z, *functions, unused])
    return wide @ np.linalg.qr(random.normal(size=(wide.shape[1],) * 2))[0] + 1.0


def explained(found, wanted):
    """Share of the variance of each wanted column that is linear in the found ones."""
    design = np.column_stack([found, np.ones(len(found))])
    rest = wanted - design @ np.linalg.lstsq(design, wanted)[0]
    return 1 - rest.var(0) / wanted.var(0)


@pytest.mark.parametrize("n_latent", [3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_functions_of_latents_are_none(n_latent, seed):
    Z = true_states(n_latent, seed)
    axes = independent_axes(bent(Z, seed), GROUP)
    assert axes.projection.shape == (n_latent + 7, n_latent)
    found = (bent(Z, seed) - axes.centre) @ axes.projection
    assert explained(found, Z).min() > 0.98


def test_axes_have_unit_spread_and_come_back():
    Z = bent(true_states(4))
    axes = independent_axes(Z, GROUP)
    found = (Z - axes.centre) @ axes.projection
    means = np.stack([found[GROUP == g].mean(0) for g in range(N_GROUPS)])
    within = np.cov((found - means[GROUP]).T, bias=True)
    np.testing.assert_allclose(within, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(axes.lift @ axes.projection, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("known", [0.9, 0.75])
def test_functions_are_found_where_states_are_known_with_noise(known):
    random = np.random.default_rng(0)
    Z = true_states(4)
    wide = np.column_stack([Z, 0.8 * np.abs(Z[:, 0]), 0.7 * np.abs(Z[:, 1])])
    noise = random.normal(size=wide.shape) * np.sqrt(known * (1 - known))
    axes = independent_axes(wide * known + noise, GROUP)
    assert axes.projection.shape[1] == 4
    assert explained((wide * known - axes.centre) @ axes.projection, Z).min() > 0.95


def test_a_rotation_of_the_states_changes_nothing():
    Z = bent(true_states(3))
    R = np.linalg.qr(np.random.default_rng(5).normal(size=(Z.shape[1],) * 2))[0]
    first, second = independent_axes(Z, GROUP), independent_axes(Z @ R - 2, GROUP)
    found = (Z - first.centre) @ first.projection
    again = (Z @ R - 2 - second.centre) @ second.projection
    np.testing.assert_allclose(np.abs(found), np.abs(again), atol=1e-4)


def test_a_latent_that_bends_over_two_axes_is_straightened():
    Z = true_states(2)
    bend = 1.5 * np.tanh(Z[:, 0] / 2)  # saturates; what is left over is small, but known
    wide = np.column_stack([bend, Z[:, 1], 0.4 * (Z[:, 0] - bend)])
    axes = independent_axes(wide, GROUP)
    assert axes.projection.shape[1] == 2
    straight = explained((wide - axes.centre) @ axes.projection, Z)
    assert straight[0] > explained(wide[:, :2], Z)[0] + 0.02
    assert straight[1] > 0.99


def test_independent_latents_all_stay():
    Z = true_states(5)
    axes = independent_axes(Z, GROUP)
    assert axes.projection.shape == (5, 5)
    assert explained((Z - axes.centre) @ axes.projection, Z).min() > 1 - 1e-9


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e12])
def test_states_of_any_spread_have_an_axis(scale):
    Z = scale * true_states(3)[:60]
    axes = independent_axes(Z, GROUP[:60])
    assert axes.projection.shape[1] >= 1
    assert all(np.isfinite(part).all() for part in axes)


def test_groups_of_one_cell():
    axes = independent_axes(true_states(3)[:30], np.arange(30))
    assert all(np.isfinite(part).all() for part in axes)


def test_training_begins_with_more_latents_than_are_kept():
    assert width_to_start("auto", 2000, reduced=True) == 32
    assert width_to_start("auto", 12, reduced=False) == 12
    assert width_to_start(5, 2000, reduced=True) == 32
    assert width_to_start(40, 2000, reduced=True) == 48
    assert width_to_start(40, 2000, reduced=False) == 40


def shifts_of(n_rows, n_latent, seed):
    """Noisy shifts with one to three entries in each row, on their sparsest axes."""
    random = np.random.default_rng(seed)
    M = 0.15 * random.normal(size=(n_rows, n_latent))
    for row in M:
        targets = random.choice(n_latent, random.integers(1, 4), replace=False)
        row[targets] += 5 * random.choice([-1, 1], len(targets))
    return M @ sparse_rotation(M)


def test_axes_that_hang_on_single_rows_are_not_stable():
    many, few = shifts_of(80, 8, 0), shifts_of(12, 10, 0)
    assert axis_stability(many, np.abs(many) > 1).min() > 0.98
    assert axis_stability(few, np.abs(few) > 1).min() < 0.9


def test_an_axis_of_one_row_is_as_stable_as_any():
    M = np.vstack([np.kron(np.eye(3), [[4.0], [3.0], [-3.0]]), [[0.0, 0, 0]]])
    M = np.column_stack([M, np.append(np.zeros(9), 5.0)])
    np.testing.assert_allclose(axis_stability(M, M != 0), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moved": np.ones((2, 3), dtype=bool)}, "moved has shape"),
        ({"M": np.full((20, 5), np.nan)}, "NaN"),
        ({"standard_error": np.ones(3)}, "standard_error has shape"),
        ({"standard_error": -np.ones(20)}, "standard_error must be positive"),
        ({"n_resamples": 0}, "n_resamples"),
    ],
)
def test_what_has_no_stability_is_told(change, message):
    M = shifts_of(20, 5, 1)
    with pytest.raises(ValueError, match=message):
        axis_stability(**{"M": M, "moved": np.abs(M) > 1} | change)


def test_stability_is_repeatable_and_needs_rows():
    M = shifts_of(20, 5, 1)
    first, second = (axis_stability(M, np.abs(M) > 1, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(axis_stability(M[:1], np.abs(M[:1]) > 1), np.ones(5))


def test_axes_of_many_perturbations_in_a_cell_are_those_of_single_ones():
    random = np.random.default_rng(0)
    n_perturbations, n_latent = 40, 4
    received = random.random((N_CELLS, n_perturbations)) < 0.2
    effect = random.normal(0, 0.7, (n_perturbations, n_latent)) * (random.random((40, 4)) < 0.3)
    Z = received @ effect + random.normal(size=(N_CELLS, n_latent))
    wide = bent(Z)
    design = csc_array(np.column_stack([received, np.ones(N_CELLS)]).astype(float))
    rest = wide - design @ np.linalg.lstsq(design.toarray(), wide)[0]
    axes = axes_of_alike(wide, Alike(rest, design[:, :-1]))
    assert axes.projection.shape[1] == n_latent
    assert explained((wide - axes.centre) @ axes.projection, Z).min() > 0.97
