import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_array, csr_matrix
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator

from skpert.exceptions import DataWarning
from skpert.preprocessing import GeneSetFeatures, TargetFeatures, _target_features

GENES = [f"G{j}" for j in range(12)]
SETS = {"abc": ["A", "B", "C"], "cde": ["C", "D", "E"]}
TABLE = {"A": [1, 0], "B": [0, 1], "D": [2, 3]}


@pytest.fixture
def controls():
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 3)) @ random.normal(size=(3, 12)) + random.normal(size=(40, 12))
    return X * (X > 0)


def gene_features(X, genes=GENES, **parameters):
    return TargetFeatures("genes", **parameters).fit(["G1"], X, genes)


def test_components_are_the_left_singular_vectors_of_the_centred_transpose(controls):
    centred = controls.T - controls.T.mean(0)
    U, S, _ = np.linalg.svd(centred, full_matrices=False)
    scores = gene_features(controls, n_components=4).transform(GENES)
    assert scores.shape == (12, 4)
    np.testing.assert_allclose(np.abs(scores), np.abs(U[:, :4] * S[:4]), atol=1e-8)


def test_all_components_keep_the_distances_between_genes(controls):
    features = gene_features(controls)
    assert features.n_features_out_ == 11  # genes less one
    scores = features.transform(GENES)
    centred = controls.T - controls.T.mean(0)
    np.testing.assert_allclose(scores @ scores.T, centred @ centred.T, atol=1e-6)


@pytest.mark.parametrize("n_cells", [1, 3])
def test_no_more_components_than_control_cells(controls, n_cells):
    features = gene_features(controls[:n_cells])
    assert features.n_features_out_ == features.transform(["G3"]).shape[1] == n_cells


def test_genes_are_looked_up_by_name_whatever_their_order(controls):
    order = np.random.default_rng(1).permutation(12)
    shuffled = gene_features(controls[:, order], [GENES[j] for j in order], n_components=3)
    straight = gene_features(controls, n_components=3)
    np.testing.assert_allclose(shuffled.transform(GENES), straight.transform(GENES), atol=1e-8)


def test_the_order_of_cells_does_not_matter(controls):
    straight = gene_features(controls, n_components=3).transform(GENES)
    turned = gene_features(controls[::-1], n_components=3).transform(GENES)
    np.testing.assert_allclose(turned, straight, atol=1e-8)


@pytest.mark.parametrize("form", [csr_matrix, csc_array, pd.DataFrame, np.ndarray.tolist])
def test_sparse_and_dense_controls_agree(controls, form):
    expected = gene_features(controls, n_components=3).transform(GENES)
    features = gene_features(form(controls), n_components=3)
    np.testing.assert_allclose(features.transform(GENES), expected, atol=1e-8)


def test_many_controls_are_thinned_evenly(controls, monkeypatch):
    monkeypatch.setattr(_target_features, "MAX_CONTROLS", 4)
    thinned = gene_features(controls).transform(GENES)
    chosen = gene_features(controls[[0, 13, 26, 39]]).transform(GENES)
    np.testing.assert_array_equal(thinned, chosen)


def test_one_hot_is_the_identity_of_the_training_names():
    features = TargetFeatures("one_hot").fit(["B", "A"])
    assert features.transform(["A", "B", "A"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert features.has(["A", "C"]).tolist() == [True, False]
    with pytest.raises(ValueError, match="not seen in training.* 'C'. Known are 'B', 'A'"):
        features.transform(["A", "C"])


@pytest.mark.parametrize("table", [TABLE, pd.DataFrame(TABLE, index=["x", "y"]).T])
def test_a_table_describes_what_is_in_it(table):
    features = TargetFeatures(table).fit(["B", "A"])
    assert (features.kind_, features.n_features_out_) == ("table", 2)
    values = features.transform(["D", "A"])
    assert values.dtype == np.float64
    assert values.tolist() == [[2, 3], [1, 0]]
    assert features.has(["D", "E", "A"]).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="not in the table of features: 'E', 'F'. Known are 'A'"):
        features.transform(["E", "A", "F", "E"])


def test_names_of_a_table_are_compared_as_text():
    table = pd.DataFrame([[1.0], [2.0]], index=[1, 2])
    assert TargetFeatures(table).fit(["1"]).transform(["2"]).tolist() == [[2]]


def test_a_transformer_is_copied_and_fitted_on_the_training_names():
    gene_sets = GeneSetFeatures(SETS, weight="idf")
    features = TargetFeatures(gene_sets).fit(["A", "C"])
    expected = clone(gene_sets).fit(["A", "C"]).transform(["C", "E"]).toarray()
    np.testing.assert_array_equal(features.transform(["C", "E"]), expected)
    assert (features.kind_, features.n_features_out_) == ("transformer", 2)
    assert features.has(["E", "Q"]).tolist() == [True, False]
    assert not hasattr(gene_sets, "genes_")


def test_a_frozen_transformer_stays_as_it_was_fitted():
    gene_sets = GeneSetFeatures(SETS, weight="idf").fit(list("ABCDE"))
    features = TargetFeatures(FrozenEstimator(gene_sets)).fit(["A"])
    assert features.n_features_out_ == 2  # one more than with a training name
    expected = gene_sets.transform(["A", "E"]).toarray()
    np.testing.assert_array_equal(features.transform(["A", "E"]), expected)


def test_none_is_genes_where_all_names_are_measured(controls):
    chosen = TargetFeatures(n_components=2).fit(["G1", "G5"], controls, GENES)
    assert chosen.kind_ == "genes"
    expected = gene_features(controls, n_components=2).transform(GENES)
    np.testing.assert_array_equal(chosen.transform(GENES), expected)


@pytest.mark.parametrize(
    ("n_cells", "genes", "reason"),
    [
        (40, GENES, "no measured genes: 'X1', 'X2'"),
        (40, None, "no control cells, or the genes have no names"),
        (0, GENES, "no control cells, or the genes have no names"),
        (40, ["G1"], "one gene only"),
        (40, ["X1", "X2", *["G1"] * 10], "no measured genes: 'G1'"),  # of ten, which?
    ],
)
def test_none_is_one_hot_where_they_are_not(controls, n_cells, genes, reason):
    with pytest.warns(DataWarning, match=reason):
        features = TargetFeatures().fit(["G1", "X1", "X2"], controls[:n_cells], genes)
    assert features.kind_ == "one_hot"
    assert features.transform(["X1"]).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    "arguments", [(), (None, GENES), ([[1.0, 2.0]],), (np.ones((0, 2)), "AB")]
)
def test_genes_need_named_control_cells(arguments):
    with pytest.raises(ValueError, match="needs control cells and the names of genes"):
        TargetFeatures("genes").fit(["G1"], *arguments)


@pytest.mark.parametrize(
    ("X", "genes", "message"),
    [
        ([[1.0], [2.0]], ["A"], "at least 2 genes"),
        ([[1.0, 2.0]], ["A"], "2 genes, gene_names 1"),
        ([[1.0, 1.0], [2.0, 2.0]], ["A", "B"], "genes cannot be distinguished"),
        ([[1.0, np.nan]], ["A", "B"], "NaN"),
        ([[1.0, 2.0]], ["B", "C"], "no measured genes.*: 'A'. Known are 'B', 'C'. Leave their"),
        ([[1.0, 2.0, 3.0]], ["A", "C", "A"], "have the name of two: 'A'. Known are 'C'"),
    ],
)
def test_controls_that_describe_nothing(X, genes, message):
    with pytest.raises(ValueError, match=message):
        TargetFeatures("genes").fit(["A"], X, genes)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"A": [1, 2], "B": [1]}, r"one length; shapes are \[\(1,\), \(2,\)\]"),
        ({"A": [[1, 2]]}, "1-D and of one length"),
        ({}, "1-D and of one length"),
        ({"A": [1.0, np.nan], "B": [1, 2]}, "NaN or infinity: 'A'"),
        ({"A": ["x"]}, "must hold numbers"),
        ({"B": [1.0]}, "not in the table of features: 'A'. Known are 'B'. Add a row"),
        (pd.DataFrame([[1], [2]], index=["A", "A"]), "names twice: 'A'"),
        (pd.DataFrame([[1], [2]], index=[1, "1"]), "names twice: '1'"),
        (pd.DataFrame([[np.inf]], index=["A"]), "NaN or infinity: 'A'"),
        (pd.DataFrame(index=["A"]), r"shape \(1, 0\)"),
        ("pca", "must be 'genes' or 'one_hot'"),
    ],
)
def test_tables_that_cannot_be_used(table, message):
    with pytest.raises(ValueError, match=message):
        TargetFeatures(table).fit(["A"])


class Constant(TransformerMixin, BaseEstimator):
    """Gives the value, whatever the names."""

    def __init__(self, value):
        self.value = value

    def fit(self, names, y=None):
        return self

    def transform(self, names):
        return self.value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0]], r"a row for each of 2 names.* shape \(1, 1\)"),
        ([1.0, 2.0], r"shape \(2,\)"),
        (3.0, r"shape \(\)"),
        ([[1.0], [np.nan]], "NaN or infinite"),
    ],
)
def test_transformers_that_give_no_features(value, message):
    with pytest.raises(ValueError, match=f"Constant.*{message}"):
        TargetFeatures(Constant(value)).fit(["A", "B"])


@pytest.mark.parametrize("names", ["A", [["A"]], [1], []])
def test_names_must_be_names(names):
    with pytest.raises(ValueError, match=r"1-D list of names|no names"):
        TargetFeatures("one_hot").fit(names)


@pytest.mark.parametrize("n_components", [0, 1.5, "all"])
def test_number_of_components(n_components):
    with pytest.raises(ValueError, match="n_components must be an integer of at least 1"):
        TargetFeatures("one_hot", n_components=n_components).fit(["A"])


def test_other_objects_are_no_features():
    with pytest.raises(TypeError, match="got a float"):
        TargetFeatures(1.0).fit(["A"])


@pytest.mark.parametrize("features", ["genes", "one_hot", TABLE, GeneSetFeatures(SETS)])
def test_conduct_as_an_estimator(controls, features):
    estimator = TargetFeatures(features, n_components=2)
    with pytest.raises(NotFittedError):
        estimator.transform(["A"])
    names = ["A", "B"]
    estimator.fit(names, controls[:, :3], ["A", "B", "C"])
    copies = [
        pickle.loads(pickle.dumps(estimator)),
        clone(estimator).fit(names, X_control=controls[:, :3], gene_names=["A", "B", "C"]),
    ]
    for copy in copies:
        np.testing.assert_array_equal(copy.transform(names), estimator.transform(names))


def test_fitting_again_forgets_the_first_names():
    features = TargetFeatures(GeneSetFeatures(SETS)).fit(["A", "C"])
    assert features.fit(["A"]).transform(["A", "C"]).tolist() == [[1], [1]]


def test_asking_for_unknown_genes_is_silent():
    features = TargetFeatures(GeneSetFeatures(SETS)).fit(["A"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not features.has(["Q"])[0]
    with pytest.warns(DataWarning, match="in no gene set"):
        assert features.transform(["Q"]).tolist() == [[0]]
