"""Choosing models of unseen perturbations by discrimination."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_array
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert import BilinearRidge, ContextEffects, PerturbedMean, make_perturbation_pipeline
from skpert.datasets import make_causal_shift
from skpert.metrics import perturbation_discrimination
from skpert.model_selection import (
    ConformalIntervals,
    LeavePerturbationsOut,
    discrimination_scorer,
)


@pytest.fixture(scope="module")
def screen():
    return make_causal_shift(
        20, n_unseen=5, n_cells_per_perturbation=30, n_control_cells=60, random_state=0
    )


def test_it_is_the_discrimination_of_means_of_the_fold(screen):
    model = BilinearRidge(screen.features).fit(screen.X[screen.train], screen.A[screen.train])
    X, A = pd.DataFrame(screen.X[screen.test]), screen.A[screen.test]
    measured = X.astype(np.float64).groupby(A).mean()
    expected = perturbation_discrimination(
        measured,
        pd.DataFrame(model.predict_intervention(measured.index), measured.index),
        reference=model.control_mean_,
    )
    assert discrimination_scorer(model, X, A) == pytest.approx(expected.mean())
    controls = np.flatnonzero(screen.A == "control")
    more = np.concatenate([screen.test, controls])
    assert discrimination_scorer(model, screen.X[more], screen.A[more]) == pytest.approx(
        expected.mean()
    )


def test_what_is_the_same_for_all_is_at_chance(screen):
    cv = LeavePerturbationsOut(4, random_state=0)
    found = cross_val_score(
        PerturbedMean(), screen.X, screen.A, scoring=discrimination_scorer, cv=cv
    )
    np.testing.assert_allclose(found, 0.5)


def test_a_search_chooses_by_it(screen):
    rng = np.random.default_rng(0)
    noise = pd.DataFrame(rng.normal(size=screen.features.shape), screen.features.index)
    search = GridSearchCV(
        BilinearRidge(),
        {
            "features": [
                dict(zip(f.index, f.to_numpy(), strict=True)) for f in (noise, screen.features)
            ]
        },
        scoring=discrimination_scorer,
        cv=LeavePerturbationsOut(5, random_state=0),
    ).fit(screen.X, screen.A)
    assert search.best_index_ == 1


def test_one_perturbation_cannot_be_distinguished(screen):
    model = PerturbedMean().fit(screen.X, screen.A)
    rows = screen.A == "P01"
    with pytest.raises(ValueError, match="one perturbation"):
        discrimination_scorer(model, screen.X[rows], screen.A[rows])


@pytest.mark.parametrize("make", [make_pipeline, make_perturbation_pipeline])
def test_cells_go_through_the_steps_of_a_pipeline(screen, make):
    scaler, (train, test) = StandardScaler(), (screen.train, screen.test)
    model = make(scaler, BilinearRidge(screen.features)).fit(screen.X[train], screen.A[train])
    expected = discrimination_scorer(model[-1], scaler.transform(screen.X[test]), screen.A[test])
    assert discrimination_scorer(model, screen.X[test], screen.A[test]) == expected


def test_intervals_score_as_what_they_wrap(screen):
    X, A = screen.X[screen.train], screen.A[screen.train]
    model = ConformalIntervals(BilinearRidge(screen.features), level=0.5, cv=2).fit(X, A)
    for wrapper in (model, make_pipeline(model)):
        found, expected = (
            discrimination_scorer(m, screen.X[screen.test], screen.A[screen.test])
            for m in (wrapper, model.estimator_)
        )
        assert found == expected


@pytest.mark.parametrize("form", ["frame", "dosages", "AnnData", "sparse"])
def test_every_form_of_cells_and_design_agrees(screen, form):
    X, A = screen.X[screen.test], screen.A[screen.test]
    model = BilinearRidge(screen.features).fit(screen.X[screen.train], screen.A[screen.train])
    expected = discrimination_scorer(model, X, A)
    given = {
        "frame": (X, pd.DataFrame({"perturbation": pd.Categorical(A), "batch": "a"})),
        "dosages": (X, pd.get_dummies(pd.Series(A))),
        "AnnData": (AnnData(X), A),
        "sparse": (csr_array(X), A),
    }
    if form == "AnnData":
        model.fit(AnnData(screen.X[screen.train]), screen.A[screen.train])
    assert discrimination_scorer(model, *given[form]) == pytest.approx(expected)


def test_perturbations_are_told_apart_within_their_context():
    A = pd.DataFrame({"perturbation": ["control", "a", "b"] * 2, "donor": list("xxxyyy")})
    X = np.array([[0, 0], [1, 0], [0, 1], [9, 9], [10, 9], [9, 10.0]])
    model = ContextEffects("donor").fit(X, A)
    assert discrimination_scorer(model, X, A) == 1
    swapped = A.assign(perturbation=["control", "b", "a", "control", "a", "b"])
    assert discrimination_scorer(model, X, swapped) == 0.5
    with pytest.raises(ValueError, match="DataFrame"):
        discrimination_scorer(model, X, A["perturbation"])


def test_bad_cells_are_refused(screen):
    X, A = screen.X[screen.test], screen.A[screen.test]
    model = BilinearRidge(screen.features).fit(screen.X[screen.train], screen.A[screen.train])
    with pytest.raises(ValueError, match="NaN"):
        discrimination_scorer(model, np.full_like(X, np.nan), A)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        discrimination_scorer(model, X, A[:-1])
    with pytest.raises(ValueError, match="no cell of a perturbation"):
        discrimination_scorer(model, X[:2], ["control"] * 2)
