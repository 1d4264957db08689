"""Penetrance from a reference, found exactly where the reference is the model's own."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from skpert import SCCVAE, BilinearRidge, ControlMean
from skpert.datasets import make_causal_shift
from skpert.model_selection import select_penetrance

UNSEEN = ["P6", "P7"]
GENES = [f"gene {g}" for g in range(50)]
FAST = {"n_latent": 4, "n_hidden": 16, "max_epochs": 3, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def screen():
    return make_causal_shift(
        8, n_cells_per_perturbation=30, n_control_cells=60, n_latent=4, n_genes=50, random_state=0
    )


@pytest.fixture(scope="module")
def model(screen):
    X = pd.DataFrame(screen.X[screen.train], columns=GENES)
    return SCCVAE(features=screen.features, **FAST).fit(X, screen.A[screen.train])


@pytest.fixture(scope="module")
def bulk(model):
    """What the model itself expects at these penetrances."""
    told = model.with_penetrance({"P6": -1.0, "P7": 2.5, "P0": 0.5})
    names = ["P7", "P0", "P6"]
    return pd.DataFrame(told.predict_intervention(names), index=names, columns=GENES)


# A reference that some penetrance explains exactly


def test_the_penetrances_behind_the_reference_are_found(model, bulk):
    grid = [-2, -1, 0, 0.5, 1, 2.5, 3]
    selection = select_penetrance(model, ["P6", "P7", "P0"], bulk, grid=grid)
    assert selection.penetrance.to_dict() == {"P6": -1.0, "P7": 2.5, "P0": 0.5}
    assert selection.source == "given means"
    np.testing.assert_array_equal((selection.errors == 0).sum(axis=1), [1, 1, 1])
    predicted = selection.estimator.predict_intervention(["P6", "P7", "P0"])
    np.testing.assert_array_equal(predicted, bulk.loc[["P6", "P7", "P0"]])


def test_what_looks_like_control_has_penetrance_zero(model):
    control = np.repeat(model.predict_intervention("control"), 2, axis=0)
    selection = select_penetrance(model, UNSEEN, control)
    assert selection.penetrance.tolist() == [0.0, 0.0]
    assert selection.errors[0.0].tolist() == [0.0, 0.0]


def test_a_model_that_refers_to_itself_keeps_its_penetrances(model):
    selection = select_penetrance(model, model.perturbations_, model)
    step = np.diff(selection.errors.columns).max()
    np.testing.assert_allclose(selection.penetrance, model.penetrance_, rtol=0, atol=step)
    assert selection.source == "predictions of SCCVAE"
    exact = select_penetrance(model, model.perturbations_, model, grid=model.penetrance_)
    np.testing.assert_array_equal(exact.penetrance, model.penetrance_)


def test_errors_are_mean_squares_over_genes_and_the_smallest_is_chosen(screen, model):
    truth = screen.expected_expression[~screen.seen]
    grid = [-0.5, 0.75, 2.0]
    selection = select_penetrance(model, UNSEEN, truth, grid=grid)
    for c in grid:
        predicted = model.with_penetrance(dict.fromkeys(UNSEEN, c)).predict_intervention(UNSEEN)
        expected = ((predicted - truth) ** 2).mean(1)
        np.testing.assert_allclose(selection.errors[c], expected, rtol=1e-5)
    assert selection.penetrance.tolist() == selection.errors.idxmin(axis=1).tolist()


# Where the numbers come from


def test_without_a_reference_nothing_is_chosen(model):
    selection = select_penetrance(model, ["P6", "P1"])
    assert selection.source == "features"
    assert selection.errors is None
    expected = model.predict_intervention(["P6", "P1"])
    np.testing.assert_array_equal(selection.estimator.predict_intervention(["P6", "P1"]), expected)
    assert selection.penetrance["P1"] == model.penetrance_[1]
    told = model.with_penetrance(selection.penetrance)
    np.testing.assert_array_equal(told.predict_intervention(["P6", "P1"]), expected)


def test_a_linear_model_may_be_the_reference(screen, model):
    X = pd.DataFrame(screen.X[screen.train], columns=GENES)
    ridge = BilinearRidge(screen.features).fit(X, screen.A[screen.train])
    selection = select_penetrance(model, UNSEEN, ridge)
    assert selection.source == "predictions of BilinearRidge"
    means = select_penetrance(model, UNSEEN, ridge.predict_intervention(UNSEEN))
    pd.testing.assert_frame_equal(selection.errors, means.errors)
    none = select_penetrance(model, UNSEEN, ControlMean().fit(X, screen.A[screen.train]))
    assert none.penetrance.max() < none.errors.columns.max() / 10  # hardly any


def test_the_default_grid_spans_what_was_learned(model, bulk):
    grid = select_penetrance(model, UNSEEN, bulk).errors.columns
    assert 0.0 in grid
    learned = model.penetrance_
    np.testing.assert_allclose(grid.max(), max(0, learned.max()), rtol=1e-6)
    np.testing.assert_allclose(grid.min(), min(0, learned.min()), rtol=1e-6)


# Invariances


def test_order_of_perturbations_rows_and_genes_does_not_matter(model, bulk):
    first = select_penetrance(model, ["P6", "P7"], bulk.loc[["P6", "P7"]].to_numpy())
    second = select_penetrance(model, ["P7", "P6"], bulk.iloc[::-1, ::-1])
    pd.testing.assert_frame_equal(first.errors, second.errors.loc[["P6", "P7"]])
    alone = select_penetrance(model, "P6", bulk)
    pd.testing.assert_frame_equal(first.errors.iloc[:1], alone.errors)


def test_the_estimator_and_other_perturbations_stay_as_they_are(model, bulk):
    before = model.predict_intervention(["P0", "P1", "P6"])
    selection = select_penetrance(model, ["P6"], bulk, grid=[3.0])
    np.testing.assert_array_equal(model.predict_intervention(["P0", "P1", "P6"]), before)
    after = selection.estimator.predict_intervention(["P0", "P1", "P6"])
    np.testing.assert_array_equal(after[:2], before[:2])
    assert np.abs(after[2] - before[2]).max() > 0.01


def test_counts_are_compared_as_counts(screen):
    X = np.random.default_rng(0).poisson(4, (len(screen.train), 50))
    counts = SCCVAE(features=screen.features, likelihood="poisson", **FAST)
    counts.fit(X, screen.A[screen.train])
    expected = counts.with_penetrance({"P6": 2.0}).predict_intervention("P6")
    selection = select_penetrance(counts, "P6", expected, grid=[1, 2, 3])
    assert selection.penetrance.to_dict() == {"P6": 2.0}


# Bad input


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ([], "perturbations is empty"),
        (["P6", "P6"], "names twice: 'P6'"),
        (["P6+P0"], r"single perturbations, got 'P0\+P6'"),
        (["control", "P0"], "single perturbations, got 'control'"),
        (["P9"], "unknown perturbations: 'P9'"),
    ],
)
def test_names_are_single_perturbations_that_can_be_predicted(model, bulk, names, match):
    for reference in (None, bulk):
        with pytest.raises(ValueError, match=match):
            select_penetrance(model, names, reference)


@pytest.mark.parametrize("grid", [[], [[0, 1]], [0, np.nan], [np.inf]])
def test_a_grid_is_finite_numbers(model, bulk, grid):
    with pytest.raises(ValueError, match="grid must be one or more finite numbers"):
        select_penetrance(model, UNSEEN, bulk, grid=grid)


def test_a_reference_has_all_perturbations_and_genes(model, bulk):
    with pytest.raises(ValueError, match="reference has no rows for 'P5'"):
        select_penetrance(model, ["P5", "P6"], bulk)
    with pytest.raises(ValueError, match="no columns for the genes 'gene 49'"):
        select_penetrance(model, UNSEEN, bulk.drop(columns="gene 49"))
    with pytest.raises(ValueError, match=r"shape \(3, 50\), but 2 perturbations of 50 genes"):
        select_penetrance(model, UNSEEN, bulk.to_numpy())
    with pytest.raises(ValueError, match="several rows of one name: 'P7'"):
        select_penetrance(model, UNSEEN, bulk.loc[["P6", "P7", "P7"]])
    with pytest.raises(ValueError, match="reference contains NaN"):
        select_penetrance(model, UNSEEN, bulk.where(bulk != bulk.iloc[2, 0]))


def test_only_a_fitted_model_with_penetrances_can_choose(model, bulk):
    with pytest.raises(TypeError, match="BilinearRidge has no penetrances"):
        select_penetrance(BilinearRidge(), UNSEEN, bulk)
    with pytest.raises(NotFittedError):
        select_penetrance(SCCVAE(), UNSEEN, bulk)
    with pytest.raises(NotFittedError):
        select_penetrance(model, UNSEEN, BilinearRidge())
