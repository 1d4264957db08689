"""Cells and minibatches against dense numpy."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import gammaln, xlogy
from torch.distributions import Independent, Normal

from skpert._data import Cells, split
from skpert._rows import ChosenRows, SparseRows, chosen_rows, rows_of, small_counts
from skpert.distributions import Poisson


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(0.4, (57, 11)).astype(np.float32)


@pytest.fixture
def dosage():
    random = np.random.default_rng(1)
    return sparse.csr_array(
        (random.random((57, 5)) < 0.3) * random.random((57, 5)), dtype=np.float32
    )


def saturated(x):
    """Log-probability of the counts of each cell, were they their own means."""
    return (xlogy(x, x) - x - gammaln(x + 1.0)).sum(1)


def test_rows_of_a_sparse_matrix_are_those_of_the_dense_one(counts):
    rows = SparseRows.from_csr(sparse.csr_array(counts))
    index = torch.tensor([3, 3, 56, 0, 12])
    np.testing.assert_array_equal(rows.index_select(0, index).numpy(), counts[index])
    subset = rows.subset(torch.arange(10, 40))
    np.testing.assert_array_equal(subset.index_select(0, torch.arange(30)).numpy(), counts[10:40])
    assert subset.shape == (30, 11)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(10, [10] * 5 + [7]), (28, [28, 29]), (99, [57])]
)
def test_minibatches_hold_every_cell_once_and_never_one_alone(
    counts, dosage, form, batch_size, sizes
):
    cells = Cells.from_arrays(form(counts), dosage, np.arange(57.0)[:, None])
    batches = list(cells.minibatches(batch_size))
    assert [batch.n_cells for batch in batches] == sizes
    order = torch.cat([batch.environment[:, 0] for batch in batches]).long().numpy()
    assert sorted(order) == list(range(57))
    assert (order != np.arange(57)).any()
    np.testing.assert_array_equal(torch.cat([b.x for b in batches]).numpy(), counts[order])
    in_order = torch.cat([b.x for b in cells.minibatches(batch_size, shuffle=False)])
    np.testing.assert_array_equal(in_order.numpy(), counts)


def test_effects_add_up_by_dosage_as_a_matrix_product_does(counts, dosage):
    cells = Cells.from_arrays(counts, dosage, np.empty((57, 0)))
    effect = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_allclose(
        cells.shift(torch.from_numpy(effect)).numpy(), dosage @ effect, atol=1e-6
    )


def test_library_size_is_the_total_and_memory_is_shared(counts, dosage):
    cells = Cells.from_arrays(counts, dosage, np.empty((57, 0)))
    np.testing.assert_array_equal(cells.library[:, 0].numpy(), counts.sum(1))
    assert cells.x.data_ptr() == counts.ctypes.data
    assert cells.to(torch.device("cpu")).x is cells.x
    matrix = sparse.csr_array(counts)
    assert SparseRows.from_csr(matrix).value.data_ptr() == matrix.data.ctypes.data


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_known_constants_change_no_likelihood(counts, dosage, form):
    cells = Cells.from_arrays(form(counts), dosage, np.empty((57, 0)))
    known = cells.with_saturated()
    np.testing.assert_allclose(known.log_saturated, saturated(counts), rtol=1e-6)
    index = torch.tensor([5, 0, 31])
    p_x = Poisson(torch.randn(3, 11))
    expected = p_x.log_prob(cells.take(index).x)
    for batch in (cells.take(index), known.take(index), known.subset(index).take(torch.arange(3))):
        np.testing.assert_allclose(batch.log_prob(p_x), expected, rtol=1e-6)
    p_real = Independent(Normal(torch.zeros(3, 11), 1.0), 1)
    assert torch.equal(known.take(index).log_prob(p_real), p_real.log_prob(cells.take(index).x))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_a_subset_of_a_subset_copies_no_expression_but_to_another_device(counts, dosage, form):
    cells = Cells.from_arrays(form(counts), dosage, np.arange(57.0)[:, None])
    subset = cells.subset(torch.tensor([50, 3, 3, 20])).subset(torch.tensor([3, 0]))
    assert subset.x.x is cells.x
    assert (subset.n_cells, subset.n_genes) == (2, 11)
    batch = subset.take(torch.tensor([1, 0, 1]))
    np.testing.assert_array_equal(batch.x.numpy(), counts[[50, 20, 50]])
    assert batch.environment[:, 0].tolist() == [50, 20, 50]
    assert subset.to(torch.device("cpu")).x is subset.x
    elsewhere = subset.to(torch.device("meta")).x
    assert not isinstance(elsewhere, ChosenRows)
    assert tuple(elsewhere.shape) == (2, 11)


def test_split_keeps_each_cell_and_each_perturbation(counts):
    dosage = sparse.csr_array(np.eye(57, 5, dtype=np.float32))
    cells = Cells.from_arrays(sparse.csr_array(counts), dosage, np.arange(57.0)[:, None])
    training, validation = split(cells, 0.5, torch.device("cpu"))
    assert (training.n_cells, validation.n_cells) == (29, 28)
    assert set(range(5)) <= set(training.environment[:, 0].int().tolist())
    order = torch.cat([training.environment, validation.environment])[:, 0].long()
    assert sorted(order.tolist()) == list(range(57))
    constants = torch.cat([training.log_saturated, validation.log_saturated])
    np.testing.assert_allclose(constants, saturated(counts[order]), rtol=1e-6)


def test_data_without_cells_of_two_parts_hold_one_part_each():
    dosage = sparse.csr_array(np.array([[0, 1], [0, 0], [1, 0]], dtype=np.float32))
    cells = Cells.from_arrays(np.ones((3, 2), dtype=np.float32), dosage, np.empty((3, 0)))
    assert cells.part.shape == (3, 1)
    assert cells.dosage[:, 0].tolist() == [1, 0, 1]
    assert cells.part[[0, 2], 0].tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["dense", "sparse", "chosen"])
def test_counts_become_small_integers_where_nothing_is_lost(kind):
    X = np.random.default_rng(0).poisson(1.0, (30, 7)).astype(np.float32)
    X[3, 2] = 2**15 - 1
    index = torch.tensor([5, 3, 3, 29])

    def rows(X):
        if kind == "chosen":
            return chosen_rows(rows_of(sparse.csr_array(X)), torch.arange(len(X)))
        return rows_of(X if kind == "dense" else sparse.csr_array(X))

    small = small_counts(rows(X), 1e9)
    assert small.value.dtype == torch.int16
    assert small.shape == X.shape
    found = small.to(torch.device("cpu")).index_select(0, index)
    np.testing.assert_array_equal(found, X[index])
    assert found.dtype == torch.float32
    for value in (0.5, 2.0**15, 70_000.0):
        odd = rows(np.where(X == 1, value, X).astype(np.float32))
        assert small_counts(odd, 1e9) is odd
    whole = rows(X)
    assert small_counts(whole, 2 * X.size - 1) is whole
