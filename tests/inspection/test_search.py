"""Search for latent states: exact where all candidates are tried, honest draws elsewhere."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from skpert import IVAE, InVAE
from skpert.datasets import make_invariant
from skpert.inspection import _search, posterior_search

FAST = {"n_hidden": 16, "n_layers": 1, "max_epochs": 3, "random_state": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def cells():
    return make_invariant(10, n_invariant=2, n_spurious=1, n_genes=40, random_state=0)


@pytest.fixture(scope="module")
def model(cells):
    settings = {"invariant": "cell_type", "spurious": "batch", **FAST}
    return InVAE(3, **settings).fit(cells.X[:90], cells.obs[:90])


def every_pair(model, X, Z):
    """Log-likelihood of each cell, a row, given each state, a column."""
    return np.stack([model.log_likelihood(X, np.tile(z, (len(X), 1))) for z in Z], axis=1)


@pytest.mark.parametrize("known", [True, False])
def test_with_all_training_cells_as_candidates_the_best_of_all_is_found(model, cells, known):
    obs = cells.obs[:90] if known else None
    search = posterior_search(model, cells.X[90:], cells.X[:90], obs, n_candidates=90)
    states = model.posterior(cells.X[:90], obs).z
    each = every_pair(model, cells.X[90:], states)
    np.testing.assert_allclose(search.log_likelihood, each.max(1), rtol=1e-5)
    lent = each[np.arange(30), search.index]
    np.testing.assert_allclose(lent, each.max(1), rtol=1e-5)
    np.testing.assert_array_equal(search.Z, states[search.index])


def test_the_likelihood_is_that_of_the_state_found(model, cells):
    X = cells.X[90:]
    search = posterior_search(model, X, cells.X[:90], n_candidates=7, random_state=0)
    np.testing.assert_allclose(search.log_likelihood, model.log_likelihood(X, search.Z), rtol=1e-5)
    every = posterior_search(model, X, cells.X[:90], n_candidates=90)
    assert (search.log_likelihood <= every.log_likelihood * (1 - 1e-6)).all()
    assert search.log_likelihood.mean() < every.log_likelihood.mean()


def test_a_single_candidate_is_a_fair_draw(model, cells):
    X = np.tile(cells.X[90:91], (3000, 1))
    index = posterior_search(model, X, cells.X[:9], n_candidates=1, random_state=0).index
    counts = np.bincount(index, minlength=9)
    assert ((counts - 3000 / 9) ** 2 / (3000 / 9)).sum() < 26.1  # of chi-square, 8, to 0.001


def test_candidates_come_from_every_combination_of_covariates(model, cells):
    """The one cell of a rare type is among the candidates of each cell, with its type known."""
    kept = np.r_[0, np.flatnonzero(cells.obs["cell_type"][:90] != cells.obs["cell_type"].iloc[0])]
    X, X_train, A = cells.X[90:], cells.X[kept], cells.obs[["cell_type"]].iloc[kept]
    search = posterior_search(model, X, X_train, A, n_candidates=1, random_state=0)
    rare = np.tile(model.posterior(X_train, A).z[0], (30, 1))
    of_rare = model.log_likelihood(X, rare)
    assert (search.log_likelihood >= of_rare - 1e-3).all()
    assert 0 < (search.index == 0).mean() < 1
    uniform = posterior_search(model, X, X_train, n_candidates=1, random_state=0)
    assert (uniform.index == 0).mean() < 0.2


def test_neither_blocks_nor_containers_change_what_is_found(model, cells, monkeypatch):
    X, X_train = cells.X[90:], cells.X[:90]

    def search(X):
        return posterior_search(model, X, X_train, n_candidates=8, random_state=3)

    whole, sparse, listed = search(X), search(csr_array(X)), search(X.tolist())
    monkeypatch.setattr(_search, "MAX_ELEMENTS", 3 * 8 * 40)  # three cells at once
    for other in (sparse, listed, search(X)):
        np.testing.assert_array_equal(other.index, whole.index)
        np.testing.assert_allclose(other.log_likelihood, whole.log_likelihood, rtol=1e-5)


def test_frames_with_the_names_of_training_are_read(cells):
    names = [f"gene {g}" for g in range(40)]
    X = pd.DataFrame(cells.X, columns=names)
    model = InVAE(3, invariant="cell_type", **FAST).fit(X[:90], cells.obs[:90])
    search = posterior_search(model, X[90:], X[:90], random_state=0)
    assert search.Z.shape == (30, 3)
    reversed_ = posterior_search(model, X[names[::-1]].iloc[90:], X[:90], random_state=0)
    np.testing.assert_array_equal(reversed_.Z, search.Z)
    with pytest.raises(ValueError, match="lacks 1 of the 40 genes"):
        posterior_search(model, X[names[1:]], X[:90])


def test_environments_are_those_of_the_new_cells(cells):
    settings = {"invariant": "cell_type", "environment": ["batch"], "n_spurious": 0, **FAST}
    model = InVAE(3, **settings).fit(cells.X, cells.obs)
    X, A = cells.X[90:], cells.obs[90:]
    search = posterior_search(model, X, cells.X[:90], cells.obs[:90], A=A, random_state=0)
    expected = model.log_likelihood(X, search.Z, A)
    np.testing.assert_allclose(search.log_likelihood, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="batch"):
        posterior_search(model, X, cells.X[:90])


def test_what_cannot_be_searched_is_refused(model, cells):
    X = cells.X
    with pytest.raises(ValueError, match="n_candidates must be an integer of at least 1, got 0"):
        posterior_search(model, X, X, n_candidates=0)
    with pytest.raises(ValueError, match="n_candidates must be an integer of at least 1, got 1.5"):
        posterior_search(model, X, X, n_candidates=1.5)
    with pytest.raises(ValueError, match="39 features"):
        posterior_search(model, X[:, :39], X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        posterior_search(model, X, X, cells.obs[:-1])
    other = IVAE(2, control="T0", **FAST).fit(X, cells.obs["cell_type"])
    with pytest.raises(TypeError, match="IVAE has no log_likelihood"):
        posterior_search(other, X, X)
