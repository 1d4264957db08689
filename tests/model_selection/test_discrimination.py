"""Choosing models of unseen perturbations by discrimination."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from skpert import BilinearRidge, PerturbedMean
from skpert.datasets import make_causal_shift
from skpert.metrics import perturbation_discrimination
from skpert.model_selection import LeavePerturbationsOut, discrimination_scorer


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
