import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from skpert.rotation import sparse_rotation


def sparse_matrix(rng, n_rows=80, n_latent=12, size=5.0):
    """Each row has one to three entries of about ``size``, of either sign; the others are zero."""
    n_targets = rng.integers(1, 4, size=(n_rows, 1))
    chosen = rng.permuted(np.tile(np.arange(n_latent), (n_rows, 1)), axis=1) < n_targets
    effects = rng.normal(size, 0.1 * size, chosen.shape) * rng.choice([-1, 1], chosen.shape)
    return np.where(chosen, effects, 0.0)


def turned(matrix, random_state=0):
    return matrix @ ortho_group.rvs(matrix.shape[1], random_state=random_state)


def matched(expected, found):
    """Columns of ``found`` in the order and with the signs that fit ``expected`` best."""
    product = expected.T @ found
    order = linear_sum_assignment(np.abs(product), maximize=True)[1]
    return found[:, order] * np.where(product[:, order].diagonal() < 0, -1.0, 1.0)


def penalty(Y, scale):
    return np.log1p((Y / scale) ** 2).sum()


def assert_orthogonal(R):
    np.testing.assert_allclose(R.T @ R, np.eye(len(R)), rtol=0, atol=1e-12)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("n_latent", [4, 12, 25])
def test_a_sparse_matrix_is_found_again_up_to_order_and_sign(n_latent, rng):
    sparse = sparse_matrix(rng, n_latent=n_latent)
    M = turned(sparse)
    R = sparse_rotation(M, scale=0.001)  # entries that share a row attract a little, as scale**2
    assert_orthogonal(R)
    np.testing.assert_allclose(matched(sparse, M @ R), sparse, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_noise_moves_the_axes_little(size, rng):
    sparse = sparse_matrix(rng, n_latent=5, size=size)
    Q = ortho_group.rvs(5, random_state=0)
    R = sparse_rotation((sparse + rng.normal(0, 0.15, sparse.shape)) @ Q)
    cosines = np.abs(Q @ R).max(0)
    assert cosines.min() > 0.99


def test_sparse_columns_stay_where_they_are(rng):
    sparse = sparse_matrix(rng)
    np.testing.assert_allclose(sparse_rotation(sparse, scale=0.001), np.eye(12), atol=1e-6)


def test_a_rotation_of_the_input_changes_nothing(rng):
    M = sparse_matrix(rng) + rng.normal(0, 0.2, (80, 12))
    Y, M_turned = M @ sparse_rotation(M), turned(M)
    np.testing.assert_allclose(matched(Y, M_turned @ sparse_rotation(M_turned)), Y, atol=1e-3)
