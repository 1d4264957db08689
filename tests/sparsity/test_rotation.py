import numpy as np
import pytest
from scipy.linalg import expm
from scipy.optimize import linear_sum_assignment
from scipy.stats import ortho_group

from skpert.sparsity.rotation import _disjoint_pairs, sparse_rotation


def sparse_matrix(rng, n_rows=80, n_latent=12, size=5.0):
    """Each row has one to three entries of about ``size``, of either sign; the others are zero."""
    n_targets = rng.integers(1, 4, size=(n_rows, 1))
    chosen = rng.permuted(np.tile(np.arange(n_latent), (n_rows, 1)), axis=1) < n_targets
    effects = rng.normal(size, 0.1 * size, chosen.shape) * rng.choice([-1, 1], chosen.shape)
    return np.where(chosen, effects, 0.0)


def some_rotation(n_latent, random_state=0):
    return ortho_group.rvs(n_latent, random_state=random_state)


def matched(expected, found):
    """Columns of ``found`` in the order and with the signs that fit ``expected`` best."""
    product = expected.T @ found
    order = linear_sum_assignment(np.abs(product), maximize=True)[1]
    return found[:, order] * np.where(product[:, order].diagonal() < 0, -1.0, 1.0)


def cosines(Q, R):
    """Between the true axes, in which ``sparse @ Q`` is sparse, and those found."""
    return np.abs(matched(Q.T, R) * Q.T).sum(0)


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
    M = sparse @ some_rotation(n_latent)
    R = sparse_rotation(M, scale=0.001)  # entries that share a row attract a little, as scale**2
    np.testing.assert_allclose(matched(sparse, M @ R), sparse, atol=1e-5)


def test_rows_of_one_entry_are_found_again_at_any_scale(rng):
    sparse = np.eye(6)[rng.integers(6, size=40)] * rng.normal(size=(40, 1))
    M = sparse @ some_rotation(6)
    for scale in [None, 0.01, 1.0]:
        Y = M @ sparse_rotation(M, scale=scale)
        np.testing.assert_allclose(matched(sparse, Y), sparse, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize(("n_latent", "worst"), [(5, 0.99), (15, 0.95)])
def test_noise_moves_the_axes_little(size, n_latent, worst):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        Q, sparse = some_rotation(n_latent, seed), sparse_matrix(rng, 100, n_latent, size)
        R = sparse_rotation((sparse + rng.normal(0, 0.15, sparse.shape)) @ Q)
        assert cosines(Q, R).min() > worst


def test_effects_of_very_different_sizes_are_found(rng):
    sparse = sparse_matrix(rng, 100, 10, size=1) * rng.lognormal(0, 0.7, size=(100, 10))
    Q = some_rotation(10)
    R = sparse_rotation((sparse + rng.normal(0, 0.03, sparse.shape)) @ Q)
    assert cosines(Q, R).min() > 0.999


def test_two_in_five_entries_may_be_effects(rng):
    effects = rng.normal(5, 0.5, (100, 5)) * rng.choice([-1, 1], (100, 5))
    Q, sparse = some_rotation(5), np.where(rng.random((100, 5)) < 0.4, effects, 0)
    R = sparse_rotation((sparse + rng.normal(0, 0.1, sparse.shape)) @ Q)
    assert cosines(Q, R).min() > 0.99


def test_few_moved_rows_and_few_moved_latents_are_enough(rng):
    sparse = np.zeros((25, 15))
    sparse[:4, 0], sparse[4, 1] = [-1.7, -2.6, -2.1, -2.3], 1.2
    Q = some_rotation(15)
    R = sparse_rotation((sparse + rng.normal(0, 0.03, sparse.shape)) @ Q)
    found = np.abs(Q @ R)[:2]
    assert found.max(1).min() > 0.97
    assert found.argmax(1)[0] != found.argmax(1)[1]


def test_rows_known_poorly_have_little_say(rng):
    sparse, Q = sparse_matrix(rng, 100, 10, size=1), some_rotation(10)
    standard_error = rng.choice([0.05, 1.0], size=100)
    M = (sparse + standard_error[:, None] * rng.normal(size=sparse.shape)) @ Q
    weighed = cosines(Q, sparse_rotation(M, standard_error=standard_error))
    assert weighed.min() > 0.99
    assert 1 - weighed.mean() < 0.5 * (1 - cosines(Q, sparse_rotation(M)).mean())


def test_equal_standard_errors_only_set_the_unit_of_the_scale(rng):
    M = sparse_matrix(rng) @ some_rotation(12)
    R = sparse_rotation(M, scale=2, standard_error=np.full(80, 0.25))
    np.testing.assert_array_equal(R, sparse_rotation(M, scale=0.5))


def test_the_result_is_a_local_minimum_of_the_penalty(rng):
    M = (sparse_matrix(rng) + rng.normal(0, 0.3, (80, 12))) @ some_rotation(12)
    Y = M @ sparse_rotation(M, scale=0.7)
    for _ in range(20):
        S = rng.normal(size=(12, 12))
        angles = 1e-3 * (S - S.T)
        assert penalty(Y @ expm(angles), 0.7) > penalty(Y, 0.7)


@pytest.mark.parametrize("shape", [(80, 12), (5, 8), (3, 2), (2, 30)])
@pytest.mark.parametrize("scale", [0.03, 0.5, 30.0])
def test_the_penalty_is_never_above_that_of_the_input(shape, scale, rng):
    M = rng.normal(size=shape)
    R = sparse_rotation(M, scale=scale)
    assert_orthogonal(R)
    assert penalty(M @ R, scale) <= penalty(M, scale) * (1 + 1e-12)


def test_sparse_columns_stay_where_they_are(rng):
    sparse = sparse_matrix(rng)
    np.testing.assert_allclose(sparse_rotation(sparse, scale=0.001), np.eye(12), atol=1e-6)


def test_columns_are_those_closest_to_the_identity(rng):
    R = sparse_rotation(sparse_matrix(rng) @ some_rotation(12))
    order = linear_sum_assignment(np.abs(R), maximize=True)[1]
    assert order.tolist() == list(range(12))
    assert (R.diagonal() >= 0).all()


@pytest.mark.parametrize(("scale", "atol"), [(0.5, 1e-5), (None, 1e-3)])  # None: is estimated
def test_a_rotation_of_the_input_changes_nothing(scale, atol, rng):
    M = sparse_matrix(rng) + rng.normal(0, 0.2, (80, 12))
    M_turned = M @ some_rotation(12)
    Y = M @ sparse_rotation(M, scale=scale)
    Y_turned = M_turned @ sparse_rotation(M_turned, scale=scale)
    np.testing.assert_allclose(matched(Y, Y_turned), Y, atol=atol)


def test_the_unit_and_the_order_of_the_rows_do_not_matter(rng):
    M = (sparse_matrix(rng) + rng.normal(0, 0.2, (80, 12))) @ some_rotation(12)
    R = sparse_rotation(M)
    np.testing.assert_allclose(sparse_rotation(1e-3 * M), R, atol=1e-5)
    np.testing.assert_allclose(sparse_rotation(rng.permutation(M)), R, atol=1e-5)
    np.testing.assert_allclose(sparse_rotation(np.repeat(M, 2, axis=0)), R, atol=1e-5)


def test_same_seed_same_result_and_global_state_untouched(rng):
    M = rng.normal(size=(30, 8))  # no structure: many local minima
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    R = sparse_rotation(M, random_state=3)
    np.testing.assert_array_equal(sparse_rotation(M, random_state=3), R)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_more_starts_are_never_worse(rng):
    M = rng.normal(size=(30, 8))
    one, five, forty = [
        penalty(M @ sparse_rotation(M, scale=0.5, n_starts=n), 0.5) for n in (1, 5, 40)
    ]
    assert five <= one * (1 + 1e-4)
    assert forty <= five * (1 + 1e-4)


def test_one_row_lies_on_one_axis(rng):
    M = rng.normal(size=(1, 7))
    R = sparse_rotation(M)
    assert_orthogonal(R)
    Y = np.sort(np.abs(M @ R)[0])
    np.testing.assert_allclose(Y, [0, 0, 0, 0, 0, 0, np.linalg.norm(M)], atol=1e-6)


def test_fewer_rows_than_columns(rng):
    sparse = np.zeros((4, 9))
    sparse[[0, 1, 2, 3], [0, 0, 3, 5]] = [2, -3, 1, 4]
    M = sparse @ some_rotation(9)
    R = sparse_rotation(M)
    assert_orthogonal(R)
    Y = matched(sparse, M @ R)  # the axes that no row moves are free, and their entries zero
    np.testing.assert_allclose(Y, sparse, atol=1e-5)


def test_rank_deficient_matrix(rng):
    sparse = sparse_matrix(rng, n_latent=6)
    M = np.hstack([sparse, np.zeros((80, 4))]) @ some_rotation(10)
    R = sparse_rotation(M, scale=0.001)
    assert_orthogonal(R)
    Y = matched(np.hstack([sparse, np.zeros((80, 4))]), M @ R)
    np.testing.assert_allclose(Y[:, :6], sparse, atol=1e-5)


@pytest.mark.parametrize("M", [np.zeros((5, 3)), np.full((4, 1), -2.0), np.zeros((1, 1))])
def test_nothing_to_turn(M):
    np.testing.assert_array_equal(sparse_rotation(M), np.eye(M.shape[1]))


@pytest.mark.parametrize("size", [1e-150, 1e150])
def test_extreme_units(size, rng):
    sparse = sparse_matrix(rng, n_latent=4)
    R = sparse_rotation(size * (sparse @ some_rotation(4)))
    np.testing.assert_allclose(R, sparse_rotation(sparse @ some_rotation(4)), atol=1e-5)


@pytest.mark.parametrize("n_latent", [2, 3, 7, 8])
def test_every_two_columns_meet_once(n_latent):
    met = [set(pair) for i, j in _disjoint_pairs(n_latent) for pair in zip(i, j, strict=True)]
    assert len(met) == n_latent * (n_latent - 1) / 2
    assert {0, n_latent - 1} in met
    assert len({frozenset(pair) for pair in met}) == len(met)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"M": [[1.0, np.nan]]}, "M contains NaN"),
        ({"M": [1.0, 2.0]}, "Expected 2D array"),
        ({"M": [[1.0, 2.0]], "scale": 0}, "scale == 0"),
        ({"M": [[1.0, 2.0]], "standard_error": [1.0, 1.0]}, r"should have shape \(1,\)"),
        ({"M": [[1.0, 2.0]], "standard_error": [0.0]}, "must be positive; got 0"),
        ({"M": [[1.0, 2.0]], "n_starts": 0}, "n_starts == 0"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparse_rotation(**arguments)
