"""Least squares of sparse designs: the dense solution, by parts and by conjugate gradients."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.sparse import csr_array, eye_array

from skpert import _least_squares
from skpert._least_squares import components, least_squares, ridge_operator, with_intercept


def design(n_rows, n_columns, n_parts, n_empty=20):
    """Rows of one to ``n_parts`` columns with the entries 1 and 2, and some empty ones."""
    random = np.random.default_rng(0)
    values = np.zeros((n_rows + n_empty, n_columns))
    for row in values[:n_rows]:
        row[random.choice(n_columns, random.integers(1, n_parts + 1), replace=False)] = 1
    return csr_array(values * random.choice([1.0, 2.0], values.shape))


DESIGNS = [design(60, 20, 1), design(60, 20, 2), design(20, 30, 2), design(90, 20, 3)]


@pytest.fixture
def refuse_dense(monkeypatch):
    """Large problems may not be made dense."""
    monkeypatch.setattr(_least_squares, "MOST_COLUMNS", 1)

    def refused(*args, **kwargs):
        raise AssertionError("made dense")

    monkeypatch.setattr(np.linalg, "lstsq", refused)
    monkeypatch.setattr(np.linalg, "eigh", refused)


def targets(A):
    return np.random.default_rng(1).normal(size=(A.shape[0], 3))


@pytest.mark.parametrize("A", DESIGNS)
def test_solution_is_the_smallest_dense_one(A):
    expected = np.linalg.lstsq(A.toarray(), targets(A), rcond=None)[0]
    assert_allclose(least_squares(A, targets(A)), expected, atol=1e-9)


@pytest.mark.parametrize("A", DESIGNS)
def test_conjugate_gradients_find_the_same(A, monkeypatch):
    expected = least_squares(A, targets(A))
    monkeypatch.setattr(_least_squares, "MOST_COLUMNS", 1)
    assert_allclose(least_squares(A, targets(A)), expected, atol=1e-7)


@pytest.mark.parametrize("A", DESIGNS)
def test_intercept_and_variances_are_those_of_the_pseudo_inverse(A):
    whole = csr_array(np.hstack([A.toarray(), np.ones((A.shape[0], 1))]))
    inverse = np.linalg.pinv((whole.T @ whole).toarray(), rcond=1e-10, hermitian=True)
    product = whole.T @ targets(A)
    solution, share = with_intercept(whole, product)
    assert_allclose(solution, inverse @ product, atol=1e-8)
    assert_allclose(share, inverse.diagonal()[:-1], atol=1e-8)


def test_without_intercept_it_is_zero():
    A = DESIGNS[1]
    whole = csr_array(np.hstack([A.toarray(), np.ones((A.shape[0], 1))]))
    solution, _ = with_intercept(whole, whole.T @ targets(A), intercept=False)
    assert_allclose(solution, np.vstack([least_squares(A, targets(A)), np.zeros(3)]), atol=1e-9)


def test_variances_of_many_columns_are_estimated(refuse_dense):
    A = design(600, 40, 2)
    whole = csr_array(np.hstack([A.toarray(), np.ones((A.shape[0], 1))]))
    _, share = with_intercept(whole, whole.T @ targets(A))
    exact = np.linalg.inv((whole.T @ whole).toarray()).diagonal()[:-1]
    assert_allclose(share, exact, rtol=0.1)


def test_many_columns_that_only_come_together_are_solved_dense(monkeypatch):
    monkeypatch.setattr(_least_squares, "MOST_COLUMNS", 1)
    whole = csr_array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0], [2.0, 2.0, 1.0]])
    solution, share = with_intercept(whole, whole.T @ np.array([[3.0], [1.0], [5.0]]))
    assert_allclose(solution.ravel(), [1, 1, 1])
    assert_allclose(share, [0.125, 0.125])


def test_single_columns_are_never_dense(refuse_dense):
    A = eye_array(3000, format="csr") * 2.0
    solution = least_squares(A, np.ones((3000, 2)))
    assert_allclose(solution, 0.5)
    _, share = with_intercept(
        csr_array((np.ones(6000), (np.r_[:3000, :3000], np.r_[:3000, np.full(3000, 3000)]))),
        np.ones((3001, 1)),
    )
    assert_allclose(share, 1)


def test_components_share_neither_rows_nor_columns():
    A = DESIGNS[2]
    parts = list(components(A))
    assert len(parts) > 1
    rows, columns = (np.concatenate(axis) for axis in zip(*parts, strict=True))
    assert len(set(rows)) == len(rows) == (np.diff(A.indptr) > 0).sum()
    assert len(set(columns)) == len(columns)
    assert sum(A[i][:, j].nnz for i, j in parts) == A.nnz


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_ridge_operator_of_a_sparse_matrix_is_the_dense_one(alpha):
    for A in DESIGNS:
        found = ridge_operator(A, alpha)
        assert_allclose(found.toarray(), ridge_operator(A.toarray(), alpha), atol=1e-9)
    assert ridge_operator(eye_array(2000, format="csr"), 1.0).nnz == 2000
