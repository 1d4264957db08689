import numpy as np
import pytest

from skpert.edges import edge_probability, edges_at_fdr


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def screen(rng, shape=(80, 15), share=0.12, size=5.0, spread=0.5, width=0.2, error=0.04):
    """Mean latents, their standard errors and which entries are effects."""
    mask = rng.random(shape) < share
    effects = rng.normal(size, spread, shape) * rng.choice([-1, 1], shape)
    return (
        mask * effects + rng.normal(0, np.hypot(width, error), shape),
        np.full(shape, error),
        mask,
    )


def test_strong_effects_are_found_and_nothing_else(rng):
    M, error, mask = screen(rng)
    np.testing.assert_array_equal(edge_probability(M, error) > 0.5, mask)


def test_edges_at_fdr_is_the_largest_set_within_the_rate():
    probability = [0.9, 0.99, 0.2, 0.6, 0.9]  # means of 1 - p: .01 .07 .1525 .282
    np.testing.assert_array_equal(
        edges_at_fdr(probability, 0.07), [True, True, False, False, True]
    )
    np.testing.assert_array_equal(edges_at_fdr(probability, 0.05), [False, True] + 3 * [False])


@pytest.mark.parametrize("M", [[[np.nan, 1]], [1.0, 2.0]])
def test_a_matrix_that_is_none_is_an_error(M):
    with pytest.raises(ValueError, match="M|array"):
        edge_probability(M, np.ones((1, 2)))


def test_errors_of_another_shape_or_sign_are_an_error():
    with pytest.raises(ValueError, match="shape"):
        edge_probability(np.ones((3, 2)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="negative"):
        edge_probability(np.ones((3, 2)), -np.ones((3, 2)))
