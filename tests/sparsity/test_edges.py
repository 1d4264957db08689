import numpy as np
import pytest
from scipy.stats import norm

from skpert.sparsity.edges import edge_probability, edges_at_fdr


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def screen(rng, shape=(80, 15), share=0.12, size=4.0, spread=0.5, width=0.2, error=0.04, leak=0.0):
    """Mean latents, their standard errors and which entries are effects.

    Entries that are no effects have the standard deviation ``width`` besides the error, and
    ``leak`` times the length of the effects of their perturbation.
    """
    mask = rng.random(shape) < share
    effects = rng.normal(size, spread, shape) * rng.choice([-1, 1], shape) * mask
    leaked = leak * np.linalg.norm(effects, axis=1, keepdims=True) * ~mask
    M = effects + rng.normal(size=shape) * np.sqrt(width**2 + error**2 + leaked**2)
    return M, np.full(shape, error), mask


def f1(mask, edges):
    return 2 * (mask & edges).sum() / max(mask.sum() + edges.sum(), 1)


SETTINGS = {
    "strong": {},
    "strong that leak": {"width": 0.05, "leak": 0.06},
    "50 cells": {"size": 2.3, "width": 0.25, "error": 0.09},
    "weak": {"shape": (80, 5), "share": 0.2, "size": 1.0, "width": 0.03},
    "weak and dense": {"shape": (80, 5), "share": 0.4, "size": 1.0, "width": 0.04, "leak": 0.03},
    "few perturbations": {"shape": (20, 15), "error": 0.013},
    "mostly effects": {"shape": (60, 5), "share": 0.9, "size": 3.0, "width": 0.1},
    "one latent": {"shape": (60, 1), "share": 0.4, "size": 3.0, "width": 0.1},
    "two perturbations": {"shape": (2, 15), "size": 5.0, "width": 0.1},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_as_good_as_the_best_threshold_and_few_false(setting, rng):
    lost, n_false, n_called = [], 0, 0
    for _ in range(3):
        M, error, mask = screen(rng, **SETTINGS[setting])
        probability = edge_probability(M, error)
        best = max(f1(mask, np.abs(M) >= threshold) for threshold in np.abs(M).ravel())
        lost.append(best - f1(mask, probability > 0.5))
        called = edges_at_fdr(probability, 0.05)
        n_false, n_called = n_false + (called & ~mask).sum(), n_called + called.sum()
    assert np.mean(lost) < 0.02
    assert n_false <= 0.05 * n_called


def test_probability_is_the_share_of_true_edges(rng):
    probability, mask = [], []
    for _ in range(20):
        typical = np.exp(rng.uniform(np.log(0.8), np.log(2.5)))
        tail = np.where(rng.random((60, 8)) < 0.08, 2, 1)
        M, error, true = screen(
            rng,
            shape=(60, 8),
            share=rng.uniform(0.1, 0.3),
            size=typical,
            spread=typical * rng.uniform(0.2, 0.6),
            width=0.15 * tail,
        )
        probability.append(edge_probability(M, error).ravel())
        mask.append(true.ravel())
    probability, mask = np.concatenate(probability), np.concatenate(mask)
    for low, high in [(0.05, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 0.999)]:
        inside = (probability > low) & (probability < high)
        assert inside.sum() > 100
        assert mask[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.1)


def test_many_entries_give_the_true_local_false_discovery_rate(rng):
    size = 0.08 * 2**4.5  # on the grid of slabs, as half of it is on that of widths
    tail = np.where(rng.random((1000, 20)) < 0.05, 2, 1)
    M, error, _ = screen(
        rng, shape=(1000, 20), share=0.2, size=size, spread=size / 2, width=0.3 * tail
    )
    wide = np.sqrt(0.3**2 + 0.04**2 + size**2 / 4)
    effects = 0.1 * (norm.pdf(M, size, wide) + norm.pdf(M, -size, wide))
    null = 0.76 * norm.pdf(M, 0, 0.3) + 0.04 * norm.pdf(M, 0, 0.6)
    difference = edge_probability(M, error) - effects / (effects + null)
    assert np.abs(difference).mean() < 0.01
    assert np.abs(difference).max() < 0.25


@pytest.mark.parametrize("shape", [(100, 20), (25, 20), (10, 5), (40, 1)])
@pytest.mark.parametrize("width", [0.0, 0.05, 0.3])
def test_a_screen_without_effects_has_no_edges(shape, width, rng):
    for _ in range(3):
        M, error, _ = screen(rng, shape=shape, share=0.0, width=width)
        assert edge_probability(M, error).max() < 0.5


def test_latents_that_leak_more_than_others_are_no_effects(rng):
    widths = 0.2 * np.exp(0.4 * rng.normal(size=20))
    M = rng.normal(0, widths, (100, 20))
    assert edge_probability(M, np.full(M.shape, 0.04)).max() < 0.5


def test_weak_effects_stand_beside_strong_ones(rng):
    M, error, mask = screen(rng, share=0.06, size=3.0, width=0.03)
    weak = ~mask & (rng.random(M.shape) < 0.06) & ~mask.any(1, keepdims=True)
    M[weak] += rng.choice([-1, 1], weak.sum()) * rng.normal(0.5, 0.05, weak.sum())
    probability = edge_probability(M, error)
    assert probability[mask].min() > 0.99
    assert probability[weak].min() > 0.9
    assert probability[~mask & ~weak].max() < 0.5


def test_few_strong_effects_in_a_screen_of_latents_out_of_use(rng):
    M, error = 0.005 * rng.normal(size=(25, 20)), np.full((25, 20), 0.001)
    M[:, :6], error[:, :6] = 0.05 * rng.normal(size=(25, 6)), 0.03
    M[[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]] = [2.3, 1.5, 1.6, 1.8, -1.0]
    probability = edge_probability(M, error)
    strong = np.abs(M) > 0.9
    assert probability[strong].min() > 0.99
    assert probability[~strong].max() < 0.3
    assert not probability[:, 6:].any()


def test_latents_out_of_use_change_nothing(rng):
    M, error, _ = screen(rng)
    dead, small = rng.normal(0, 0.002, (80, 7)), np.full((80, 7), 0.001)
    both = edge_probability(np.hstack([M, dead]), np.hstack([error, small]))
    np.testing.assert_array_equal(both[:, :15], edge_probability(M, error))
    assert not both[:, 15:].any()


def test_a_latent_that_hardly_differs_among_cells_is_out_of_use(rng):
    M, error, _ = screen(rng)
    error[:, 3] *= 0.05
    assert not edge_probability(M, error)[:, 3].any()


def test_what_may_have_leaked_is_less_probable(rng):
    M, error, mask = screen(rng, spread=2.0, width=0.05, leak=0.06)
    lone, beside = np.flatnonzero(~mask.any(1))[0], np.flatnonzero(mask.any(1))[0]
    latent = np.flatnonzero(~mask[beside])[0]
    M[[lone, beside], latent] = 0.8
    probability = edge_probability(M, error)
    assert probability[lone, latent] > 0.8
    assert probability[beside, latent] < 0.3


def test_what_is_measured_less_well_is_less_probable(rng):
    M, error, mask = screen(rng, shape=(80, 5), share=0.2, size=1.0, width=0.03)
    row, other = np.flatnonzero(~mask.any(1))[:2]
    M[[row, other], 0] = 0.35
    error[other] = 0.2
    probability = edge_probability(M, error)
    assert probability[row, 0] > 0.9
    assert probability[other, 0] < 0.5


def test_signs_and_order_do_not_matter(rng):
    M, error, _ = screen(rng, size=1.0)
    error *= rng.uniform(0.5, 3, (80, 1))
    probability = edge_probability(M, error)
    np.testing.assert_allclose(edge_probability(-M, error), probability, atol=1e-9)
    rows, columns = rng.permutation(80), rng.permutation(15)
    turned = edge_probability(M[rows][:, columns], error[rows][:, columns])
    np.testing.assert_allclose(turned, probability[rows][:, columns], atol=1e-9)


@pytest.mark.parametrize("error", [0.0, 0.05])
@pytest.mark.parametrize(
    ("M", "edges"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2))),
        (np.full((5, 3), 2.0), np.zeros((5, 3))),  # all alike: nothing stands out
        (np.array([[5.0, 0.0, 0.0, 0.0]]), np.array([[1, 0, 0, 0]])),
        (np.array([[4.0], [-4.0]]), np.ones((2, 1))),
        (1e6 * np.eye(5), np.eye(5)),
        (np.eye(41, 3) * [3.0, 0.0, 0.0], np.eye(41, 3) * [1, 0, 0]),
    ],
)
def test_small_and_degenerate_screens(M, error, edges):
    probability = edge_probability(M, np.full(M.shape, error))
    np.testing.assert_array_equal(probability > 0.5, edges)


def test_edges_at_fdr_is_the_largest_set_within_the_rate():
    probability = [0.9, 0.99, 0.2, 0.6, 0.9]  # means of 1 - p: 0.01, 0.07, 0.1525, 0.282
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.0), 5 * [False])
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.05), [False, True] + 3 * [False])
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.07), [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.2), [1, 1, 0, 1, 1])
    np.testing.assert_array_equal(edges_at_fdr(probability, 1.0), 5 * [True])


def test_nothing_improbable_is_called_to_fill_the_rate():
    probability = np.r_[np.ones(99), 0.3, 0.0]  # with 0.3 the mean of 1 - p would be 0.007
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.05), probability == 1)


def test_sets_grow_with_the_rate_and_keep_it(rng):
    probability = rng.beta(0.5, 0.5, (30, 6))
    before = np.zeros(probability.shape, bool)
    for fdr in [0.01, 0.05, 0.1, 0.3, 0.6]:
        called = edges_at_fdr(probability, fdr)
        assert (1 - probability[called]).mean() <= fdr
        assert (called | ~before).all()
        assert called.sum() > before.sum()
        before = called


@pytest.mark.parametrize("probability", [[0.5, np.nan], [1.2], [-0.1]])
def test_no_probability_is_an_error(probability):
    with pytest.raises(ValueError, match="probability must be"):
        edges_at_fdr(probability)


@pytest.mark.parametrize("fdr", [-0.1, 1.5, np.nan])
def test_no_rate_is_an_error(fdr):
    with pytest.raises(ValueError, match="fdr must be"):
        edges_at_fdr([0.5], fdr)


@pytest.mark.parametrize("wrong", [[[np.nan, 1]], [[np.inf, 1]], [1.0, 2.0]])
def test_what_is_no_matrix_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"\bM\b|2D array"):
        edge_probability(wrong, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"standard_error|2D array"):
        edge_probability(np.ones((1, 2)), wrong)


def test_errors_of_another_shape_or_sign_are_an_error():
    with pytest.raises(ValueError, match="shape"):
        edge_probability(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="negative"):
        edge_probability(np.ones((3, 2)), -np.ones((3, 2)))
