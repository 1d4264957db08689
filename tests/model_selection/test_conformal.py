"""Intervals and reliability of predictions for perturbations that were never seen."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from skpert import (
    SCCVAE,
    SVAE,
    BilinearRidge,
    EffectRegression,
    PerturbedMean,
    make_perturbation_pipeline,
)
from skpert.model_selection import (
    ConformalIntervals,
    LeavePerturbationsOut,
    error_by_share_answered,
    evaluate_perturbations,
)
from skpert.preprocessing import LogNormalize

N, N_GENES = 40, 6
NAMES = [f"P{i:02d}" for i in range(N)]


def screen(n=N, seed=0, n_genes=N_GENES):
    """A cell of each perturbation, whose effect is linear in features, and two controls."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, 3))
    effects = features @ random.normal(size=(3, n_genes)) + random.normal(size=(n, n_genes))
    X = np.vstack([np.zeros((2, n_genes)), effects]).astype(np.float32)
    names = [f"P{i:02d}" for i in range(n)]
    return X, np.array(["control"] * 2 + names), pd.DataFrame(features, names)


pytestmark = pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")


def test_a_single_split_is_the_quantile_of_absolute_errors():
    X, A, _ = screen()
    held_out = np.isin(A, NAMES[:19])
    cv = [(np.flatnonzero(~held_out), np.flatnonzero(held_out))]
    model = ConformalIntervals(PerturbedMean(), cv=cv, difficulty=None).fit(X, A)
    mean = X[np.isin(A, NAMES[19:])].mean(0)
    width = np.sort(np.abs(X[held_out] - mean), axis=0)[17]  # ceil(.9 * 20) = 18th of 19
    lower, upper = model.predict_interval("never seen")
    np.testing.assert_allclose(lower[0], mean - width, rtol=1e-5)
    np.testing.assert_allclose(upper[0], mean + width, rtol=1e-5)


def test_coverage_is_the_level_on_new_perturbations():
    X, A, features = screen(240)
    first = np.arange(len(A)) < 122
    model = ConformalIntervals(BilinearRidge(features), level=0.8, cv=8, random_state=0)
    model.fit(X[first], A[first])
    lower, upper = model.predict_interval(A[~first])
    within = (lower <= X[~first]) & (X[~first] <= upper)
    assert 0.74 < within.mean() < 0.87
    model = clone(model).set_params(simultaneous=True).fit(X[first], A[first])
    lower, upper = model.predict_interval(A[~first])
    within = (lower <= X[~first]) & (X[~first] <= upper)
    assert 0.68 < within.all(1).mean() < 0.92


def test_too_few_perturbations_are_refused_with_how_many_are_needed():
    X, A, _ = screen(8)
    with pytest.raises(ValueError, match=r"8 perturbations can be held out.* needs 9"):
        ConformalIntervals(PerturbedMean()).fit(X, A)
    ConformalIntervals(PerturbedMean(), level=0.85).fit(X, A)  # needs 6
    X, A, _ = screen(9)
    ConformalIntervals(PerturbedMean()).fit(X, A)
    X, A, _ = screen(1)
    with pytest.raises(ValueError, match="at least 2 perturbations.* A has 1"):
        ConformalIntervals(PerturbedMean(), level=0.4).fit(X, A)


def test_a_search_sets_the_parameters_of_the_estimator_within():
    X, A, features = screen()
    model = ConformalIntervals(BilinearRidge(features), cv=3, random_state=0)
    cv = LeavePerturbationsOut(2, random_state=0)
    search = GridSearchCV(model, {"estimator__alpha_targets": [1e-3, 1e4]}, cv=cv).fit(X, A)
    plain = GridSearchCV(BilinearRidge(features), {"alpha_targets": [1e-3, 1e4]}, cv=cv).fit(X, A)
    scores = [s.cv_results_["mean_test_score"] for s in (search, plain)]
    np.testing.assert_array_equal(*scores)
    assert search.score(X, A) == search.best_estimator_.estimator_.score(X, A)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"level": 0}, "level"),
        ({"level": 1.5}, "level"),
        ({"difficulty": "distance"}, "difficulty='distance' must be one of"),
        ({"difficulty": "std"}, "needs an estimator with predict_std"),
        ({"estimator": Ridge()}, "no predict_intervention"),
        ({"estimator": SVAE()}, "predicts counts"),
        ({"estimator": make_perturbation_pipeline(PerturbedMean())}, "into its last step"),
        ({"cv": 41}, "41 folds"),
        ({"cv": [(np.arange(20), np.arange(20, 42))] * 2}, "twice"),
    ],
)
def test_bad_parameters_are_refused(parameters, message):
    X, A, _ = screen()
    model = ConformalIntervals(PerturbedMean()).set_params(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X, A)
    assert not hasattr(model, "folds_")


def test_a_perturbation_on_both_sides_is_refused():
    X, A, _ = screen()
    X, A = np.vstack([X, X]), np.concatenate([A, A])
    with pytest.raises(ValueError, match="trains on and tests 40 perturbations"):
        ConformalIntervals(PerturbedMean(), cv=[(np.arange(42), np.arange(42, 84))]).fit(X, A)


def test_difficult_perturbations_have_wide_intervals_and_low_reliability():
    X, A, features = screen()
    new = pd.DataFrame([[0.0, 0, 0], [9, 9, 9]], ["easy", "hard"])
    model = ConformalIntervals(
        BilinearRidge(pd.concat([features, new]), normalize_features=False, center=None),
        random_state=0,
    ).fit(X, A)
    lower, upper = model.predict_interval(["easy", "hard"])
    assert (upper - lower)[1].mean() > 2 * (upper - lower)[0].mean()
    easy, hard = model.reliability(["easy", "hard"])
    assert easy == 1
    assert hard == pytest.approx(1 / (N + 1))
    np.testing.assert_array_equal(
        model.predict_intervention("hard"), model.estimator_.predict_intervention("hard")
    )


def test_without_a_difficulty_there_is_no_reliability():
    model = ConformalIntervals(PerturbedMean(), difficulty=None)
    assert not hasattr(model, "reliability")


def test_units_and_order_do_not_matter():
    X, A, features = screen()
    model = ConformalIntervals(BilinearRidge(features), random_state=0)
    lower, upper = clone(model).fit(X, A).predict_interval(NAMES[:3])
    cells, genes = np.random.default_rng(1).permutation(len(A)), np.arange(N_GENES)[::-1]
    other = clone(model).fit(1000 * X[cells][:, genes], A[cells]).predict_interval(NAMES[:3])
    np.testing.assert_allclose(other[0][:, genes], 1000 * lower, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(other[1][:, genes], 1000 * upper, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("form", ["frame", "dosages"])
def test_every_form_of_design_agrees(form):
    X, A, features = screen()
    design = pd.DataFrame({"perturbation": A, "batch": "a"})
    if form == "dosages":
        design = pd.DataFrame({name: (A == name).astype(float) for name in NAMES})
    cv = list(LeavePerturbationsOut(5, random_state=0).split(A, A))
    model = ConformalIntervals(BilinearRidge(features), cv=cv)
    expected = clone(model).fit(X, A).predict_interval(NAMES[:2])
    found = clone(model).fit(X, design).predict_interval(NAMES[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_trees_say_how_much_they_disagree():
    X, A, features = screen(20)
    model = EffectRegression(features, random_state=0)
    intervals = ConformalIntervals(model, difficulty="std", cv=3, random_state=0)
    lower, upper = intervals.fit(X[:19], A[:19]).predict_interval(["P18", "P19"])
    assert (lower < upper).all()
    std = intervals.estimator_.predict_std(["control", "P18"])
    assert (std[0] == 0).all()
    assert (std[1] > 0).all()


def test_intervals_of_a_network():
    X, A, features = screen(12)
    X, A = np.repeat(X, 8, axis=0), np.repeat(A, 8)
    X += np.random.default_rng(0).normal(0, 0.1, X.shape).astype(np.float32)
    model = SCCVAE(n_latent=2, n_hidden=8, max_epochs=1, features=features)
    model = ConformalIntervals(model, cv=2, random_state=0).fit(X[:96], A[:96])
    lower, upper = model.predict_interval(["P10", "P11"])
    assert lower.shape == (2, N_GENES)
    assert (lower < upper).all()
    assert model.reliability("P11").shape == (1,)


def test_evaluation_reports_coverage_width_and_reliability():
    X, A, features = screen()
    models = {
        "intervals": ConformalIntervals(BilinearRidge(features), cv=5, random_state=0),
        "plain": BilinearRidge(features),
    }
    options = {"space": "lognorm", "metrics": ["response_mse"], "cv": 4, "random_state": 0}
    table = evaluate_perturbations(models, X, A, **options).per_perturbation
    own = table[table["estimator"] == "intervals"]
    assert own["coverage"].between(0, 1).all()
    assert 0.8 < own["coverage"].mean() < 1
    assert (own["interval_width"] > 0).all()
    assert table.loc[table["estimator"] == "plain", "coverage"].isna().all()
    errors = error_by_share_answered(table, "response_mse", shares=[0.5, 1])
    assert errors.index.tolist() == ["intervals"]
    assert errors.loc["intervals", 1.0] == pytest.approx(own["response_mse"].mean())


def test_the_surest_are_answered_first():
    table = pd.DataFrame(
        {
            "estimator": "ridge",
            "split": [0, 0, 1, 1],
            "reliability": [0.9, 0.1, 0.2, 0.3],
            "response_mse": [1.0, 5.0, 7.0, 3.0],
        }
    )
    errors = error_by_share_answered(table, "response_mse", shares=[0.01, 0.5, 1])
    assert errors.loc["ridge"].tolist() == [2, 2, 4]
    with pytest.raises(ValueError, match=r"shares must be in \(0, 1\]"):
        error_by_share_answered(table, "response_mse", shares=[0])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"reliability": None}, {}, r"no \['reliability'\]"),
        ({"split": None}, {}, r"no \['split'\]"),
        ({"reliability": np.nan}, {}, "no row .* both a reliability"),
        ({"response_mse": "large"}, {}, "column of numbers"),
        ({}, {"shares": []}, "at least one number"),
        ({}, {"shares": 0.5}, "at least one number"),
        ({}, {"shares": [np.nan]}, "shares must be in"),
    ],
)
def test_tables_without_an_answer_are_refused(change, options, message):
    table = pd.DataFrame(
        {"estimator": "a", "split": [0, 0], "reliability": [0.2, 0.9], "response_mse": [1.0, 2]}
    ).assign(**change)
    table = table.drop(columns=[name for name, value in change.items() if value is None])
    with pytest.raises(ValueError, match=message):
        error_by_share_answered(table, "response_mse", **options)


def test_a_pipeline_passes_intervals_on():
    X, A, features = screen()
    counts = np.random.default_rng(0).poisson(20, (len(A), N_GENES))
    model = make_perturbation_pipeline(LogNormalize(), ConformalIntervals(PerturbedMean()))
    lower, upper = model.fit(counts, A).predict_interval("never seen")
    assert (lower < upper).all()
    assert model.reliability("never seen").shape == (1,)
    assert not hasattr(make_perturbation_pipeline(PerturbedMean()), "predict_interval")
