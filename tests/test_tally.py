"""Mean over cells of what dispersions change, from how often counts occur."""

import numpy as np
import pytest
import torch
from scipy import sparse

from skpert._data import Cells, split
from skpert._tally import MOST_VALUES, Tallying
from skpert.distributions import NegativeBinomial, Poisson, dispersion_term


def tally_of(*blocks):
    tallying = Tallying(blocks[0].shape[1], torch.device("cpu"))
    for block in blocks:
        tallying.add(block)
    return tallying.tally()


@pytest.fixture
def counts():
    random = np.random.default_rng(0)
    X = random.negative_binomial(1.0, 0.2, (90, 13)).astype(np.float32)
    X[3, 4], X[7, 4], X[9, 4], X[:, 5] = 300, 300, 1e6, 0  # beyond the table, and silent
    return X


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_slope_are_the_mean_of_those_of_cells(counts, dtype):
    X = torch.from_numpy(counts)
    theta = torch.logspace(-3, 4, 13, dtype=torch.float64)
    given, exact_theta = (t.clone().requires_grad_() for t in (theta.to(dtype), theta))
    value = tally_of(X[:40], X[40:]).dispersion_term(given)
    exact = dispersion_term(X.double(), exact_theta).mean()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(value.item(), exact.item(), rtol=tolerance)
    value.backward(torch.tensor(2.0, dtype=torch.float64))
    exact.backward()
    rtol = 1e-9 if dtype == torch.float64 else 2e-3
    np.testing.assert_allclose(given.grad, 2 * exact_theta.grad, rtol=rtol, atol=1e-6)


def test_blocks_do_not_matter(counts):
    X = torch.from_numpy(counts)
    for one, other in zip(tally_of(X), tally_of(*X.split(7)), strict=True):
        assert torch.equal(one, other)


def test_no_tally_of_what_are_no_counts_or_too_many_values():
    for value in (0.5, -1.0, 1e30, float("inf"), float("nan")):
        assert tally_of(torch.tensor([[0.0, 1.0, value]])) is None
    assert tally_of(torch.arange(4.0 * MOST_VALUES)[:, None].expand(-1, 3)) is None
    assert tally_of(1e5 + torch.arange(4.0 * MOST_VALUES)[:, None].expand(-1, 3)) is None
    assert len(tally_of(torch.zeros(4, 3)).gene) == 3


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_minibatches_of_training_cells_have_the_right_mean(counts, form):
    dosage = sparse.csr_array((90, 1), dtype=np.float32)
    cells, _ = split(
        Cells.from_arrays(form(counts), dosage, np.empty((90, 0))), 0, torch.device("cpu")
    )
    log_dispersion = torch.linspace(-2, 2, 13)
    values = []
    for batch in cells.minibatches(30):
        p_x = NegativeBinomial(torch.zeros(len(batch.x), 13), log_dispersion)
        values.append(batch.log_prob(p_x).double().mean())
    exact = NegativeBinomial(torch.zeros(90, 13), log_dispersion).log_prob(
        torch.from_numpy(counts)
    )
    np.testing.assert_allclose(torch.stack(values).mean(), exact.double().mean(), rtol=1e-6)


def test_chosen_cells_and_others_than_training_cells_have_their_own(counts):
    dosage = sparse.csr_array((90, 1), dtype=np.float32)
    cells = Cells.from_arrays(counts, dosage, np.empty((90, 0)))
    training, validation = split(cells, 0.3, torch.device("cpu"))
    assert training.tally is not None
    some = torch.arange(5)
    for one in (validation, training.take(some), training.subset(some)):
        assert one.tally is None
    batch = next(training.minibatches(20))
    p_x = Poisson(torch.zeros(20, 13))
    np.testing.assert_allclose(batch.log_prob(p_x), p_x.log_prob(batch.x), rtol=1e-6)
    assert all(b.tally is None for b in training.minibatches(20, shuffle=False))
