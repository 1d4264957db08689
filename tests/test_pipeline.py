"""Interventions through a pipeline are those of its last step on what the others make."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skpert import (
    AdditiveEffects,
    InteractionRidge,
    PerturbationPipeline,
    SVAEPlus,
    make_perturbation_pipeline,
)
from skpert.model_selection import PerturbationKFold, evaluate_perturbations
from skpert.preprocessing import HighlyVariableGenes, LogNormalize
from tests.test_base import FAST, A, X

LOG = LogNormalize(target_sum=100).fit_transform(X)


@pytest.fixture
def pipeline():
    return make_perturbation_pipeline(LogNormalize(target_sum=100), AdditiveEffects()).fit(X, A)


def test_it_answers_as_the_last_step_on_prepared_cells(pipeline):
    model = AdditiveEffects().fit(LOG, A)
    designs, controls = ["P1", "P0+P2", "control"], A == "control"
    for found, expected in (
        (pipeline.predict_intervention(designs), model.predict_intervention(designs)),
        (
            pipeline.predict_intervention("P1", X[controls]),
            model.predict_intervention("P1", LOG[controls]),
        ),
        (
            pipeline.sample_intervention("P1", 4, X=X[:9], random_state=0),
            model.sample_intervention("P1", 4, X=LOG[:9], random_state=0),
        ),
        (pipeline.score(X, A), model.score(LOG, A)),
    ):
        np.testing.assert_array_equal(found, expected)
    assert pipeline.perturbations_.tolist() == ["P0", "P1", "P2", "P3"]


def test_new_perturbations_are_learned_and_the_old_pipeline_stays(pipeline):
    known = A != "P3"
    first = clone(pipeline).fit(X[known], A[known])
    adapted = first.adapt(X[~known], A[~known])
    assert adapted.perturbations_.tolist() == ["P0", "P1", "P2", "P3"]
    assert first.perturbations_.tolist() == ["P0", "P1", "P2"]
    expected = pipeline.predict_intervention("P3")
    np.testing.assert_allclose(adapted.predict_intervention("P3"), expected, atol=1e-6)


def test_a_model_behind_a_choice_of_genes():
    model = make_perturbation_pipeline(HighlyVariableGenes(10), SVAEPlus(**FAST)).fit(X, A)
    assert model.predict_intervention(["P0"], X[:1]).shape == (1, 10)
    assert model.transform(X).shape == (len(X), 3)
    alone = PerturbationPipeline([("model", SVAEPlus(**FAST))]).fit(X, A)
    assert alone.predict_intervention("P0", X[:2]).shape == (2, 20)


def test_a_search_over_preprocessing(pipeline):
    grid = {"lognormalize__target_sum": [10, 1000]}
    search = GridSearchCV(pipeline, grid, cv=PerturbationKFold(2, random_state=0)).fit(X, A)
    assert search.best_estimator_.predict_intervention("P1").shape == (1, 20)


def test_it_is_evaluated_as_other_pipelines_are():
    models = {
        "sum": make_perturbation_pipeline(LogNormalize(), AdditiveEffects()),
        "ridge": make_perturbation_pipeline(LogNormalize(), InteractionRidge()),
    }
    cv = PerturbationKFold(2, random_state=0)
    result = evaluate_perturbations(models, X, A, cv=cv, space="counts", random_state=0)
    assert {"sum", "ridge"} <= set(result.summary.reset_index()["estimator"])


def test_what_the_last_step_cannot_do_is_not_there(pipeline):
    plain = PerturbationPipeline([("log", LogNormalize()), ("pca", PCA(2))])
    for name in ("predict_intervention", "sample_intervention", "adapt"):
        assert hasattr(pipeline, name)
        assert not hasattr(plain, name)
    with pytest.raises(NotFittedError):
        clone(pipeline).predict_intervention("P1")
    with pytest.raises(ValueError, match="unknown perturbations: 'Q'"):
        pipeline.predict_intervention("Q")
