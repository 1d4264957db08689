"""Features of genes from control cells."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix
from sklearn.frozen import FrozenEstimator
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.pipeline import FeatureUnion

from skpert import BilinearRidge
from skpert.exceptions import DataWarning
from skpert.preprocessing import ControlExpression, GeneSetFeatures

GENES = [f"G{g}" for g in range(6)]


def controls(n_cells=200, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_cells, 3)) @ rng.normal(size=(3, 6)) + rng.normal(size=(n_cells, 6))
    return pd.DataFrame(np.maximum(X + [0, 1, 2, 0, 1, 2], 0), columns=GENES)


def test_similarity_of_coexpression_is_that_of_rows_of_correlations():
    X = controls()
    features = ControlExpression(level=False).fit(X)
    expected = cosine_similarity(X.corr())
    np.testing.assert_allclose(cosine_similarity(features.transform(GENES)), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(features.transform(GENES), axis=1), 1)


def test_levels_are_standardised_over_genes():
    X = controls()
    values = ControlExpression(coexpression=False).fit(X).transform(GENES)
    plain = np.column_stack([X.mean(), (X > 0).mean()])
    np.testing.assert_allclose(values, (plain - plain.mean(0)) / plain.std(0), rtol=1e-6)


def test_sparse_and_reordered_genes_are_described_the_same():
    X = controls().astype(np.float32)
    expected = cosine_similarity(ControlExpression().fit(X).transform(GENES))
    sparse = ControlExpression().fit(csr_matrix(X), gene_names=GENES)
    np.testing.assert_allclose(cosine_similarity(sparse.transform(GENES)), expected, atol=1e-5)
    turned = ControlExpression().fit(X[GENES[::-1]])
    np.testing.assert_allclose(cosine_similarity(turned.transform(GENES)), expected, atol=1e-5)


def test_a_gene_that_is_constant_repeated_or_not_measured_has_no_coexpression():
    X = controls().assign(G0=1.0)
    features = ControlExpression(level=False).fit(X)
    with pytest.warns(DataWarning, match=r"not measured .*\(1\): 'other'"):
        assert not features.transform(["G0", "other"]).any()
    twice = ControlExpression().fit(X.to_numpy(), gene_names=["G", *GENES[1:5], "G"])
    assert twice.genes_.tolist() == GENES[1:5]
    with pytest.warns(DataWarning, match=r"under one name.*'G'"):
        assert not twice.transform(["G"]).any()
    with pytest.raises(ValueError, match="no gene is known by its name"):
        ControlExpression().fit(X.to_numpy(), gene_names=["G"] * 6)


def test_names_come_from_anndata_and_go_out():
    X = controls()
    expected = ControlExpression(n_components=2).fit(X)
    found = ControlExpression(n_components=2).fit(AnnData(X.set_axis(X.index.map(str))))
    np.testing.assert_allclose(found.transform(GENES), expected.transform(GENES))
    names = ["mean", "share expressing", "co-expression 0", "co-expression 1"]
    assert found.get_feature_names_out().tolist() == names


def test_constant_expression_has_features_of_zero():
    X = pd.DataFrame(np.ones((4, 6)), columns=GENES)
    assert not ControlExpression().fit(X).transform(GENES).any()


def test_a_model_takes_it_beside_gene_sets():
    X, labels = controls(), np.repeat(["control", "G0", "G1", "G2"], 50)
    frozen = FrozenEstimator(ControlExpression(n_components=3).fit(X[labels == "control"]))
    union = FeatureUnion([("sets", GeneSetFeatures({"one": GENES[:4]})), ("controls", frozen)])
    model = BilinearRidge(union).fit(X, labels)
    assert model.predict_intervention(["G3"]).shape == (1, 6)


@pytest.mark.parametrize(
    ("parameters", "X", "match"),
    [
        ({"level": False, "coexpression": False}, controls(), "no feature is left"),
        ({"n_components": 0}, controls(), "n_components"),
        ({}, controls().to_numpy(), "genes have no names"),
        ({}, controls(1), "at least 2 cells"),
        ({}, controls() * np.nan, "NaN"),
    ],
)
def test_what_cannot_be_described_is_refused(parameters, X, match):
    with pytest.raises(ValueError, match=match):
        ControlExpression(**parameters).fit(X)
