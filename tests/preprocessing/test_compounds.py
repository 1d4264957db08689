"""Features of compounds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import FunctionTransformer

from skpert import BilinearRidge
from skpert.preprocessing import CompoundFingerprints, GeneSetFeatures, TargetFeatures, TargetGenes

SETS = {"one": ["G1", "G2", "G3"], "two": ["G3", "G4", "G5"]}
TARGETS = {"a": "G1", "b": ["G3", "G4"], "c": "G5", "d": "G3"}


def test_a_compound_is_the_mean_of_its_targets():
    features = TargetGenes(TARGETS, GeneSetFeatures(SETS)).fit(["a", "b", "c"])
    expected = [[1, 0], [0.5, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(features.transform(["a", "b", "c", "d"]), expected)
    series = pd.Series(TARGETS)
    other = TargetGenes(series, FrozenEstimator(GeneSetFeatures(SETS).fit(["G1", "G5"])))
    np.testing.assert_array_equal(other.fit(["a"]).transform(["b", "d"]), [[0.5, 1], [1, 1]])


def test_targets_of_unknown_compounds_are_refused():
    features = TargetGenes(TARGETS | {"e": []}, GeneSetFeatures(SETS))
    with pytest.raises(ValueError, match="without a target.*'e', 'f'"):
        features.fit(["a", "e", "f"])
    with pytest.raises(ValueError, match="targets must be a mapping"):
        TargetGenes(["G1"], GeneSetFeatures(SETS)).fit(["a"])
    has = TargetFeatures(features).fit(["a", "b"]).has(["c", "e", "f"])
    assert has.tolist() == [True, False, False]


def test_a_series_may_have_a_row_for_each_target():
    rows = pd.Series(["G1", "G3", "G4", "G3"], ["a", "b", "b", "b"])
    features = TargetGenes(rows, GeneSetFeatures(SETS)).fit(["a", "b"])
    np.testing.assert_array_equal(features.transform(["a", "b"]), [[1, 0], [0.5, 1]])
    assert features.get_feature_names_out().tolist() == ["one", "two"]
    assert features.transform([]).shape == (0, 2)
    nameless = FunctionTransformer(lambda genes: np.ones((len(genes), 1)))
    assert not hasattr(TargetGenes(rows, nameless), "get_feature_names_out")


@pytest.mark.parametrize("value", [None, np.nan, pd.NA])
def test_missing_targets_are_refused(value):
    for targets in (value, [value]):
        with pytest.raises(ValueError, match="without a target.*'e'"):
            TargetGenes(TARGETS | {"e": targets}, GeneSetFeatures(SETS)).fit(["a", "e"])
    with pytest.raises(ValueError, match="missing value among their targets: 'e'"):
        TargetGenes(TARGETS | {"e": ["G1", value]}, GeneSetFeatures(SETS)).fit(["a", "e"])


def test_fingerprints_tell_structures_apart_and_not_spellings():
    pytest.importorskip("rdkit")
    smiles = {"ethanol": "CCO", "again": "OCC", "benzene": "c1ccccc1", "toluene": "Cc1ccccc1"}
    features = CompoundFingerprints(smiles, n_bits=512).fit(["ethanol"])
    values = features.transform(list(smiles))
    assert values.shape == (4, 512)
    np.testing.assert_array_equal(values[0], values[1])
    similarity = np.minimum(values[:, None], values).sum(2) / np.maximum(
        values[:, None], values
    ).sum(2)
    assert similarity[2, 3] > similarity[2, 0]
    exact = CompoundFingerprints(smiles, pharmacophores=False).fit_transform(["benzene"])
    assert exact.shape == (1, 2048)


def test_bad_structures_are_refused():
    pytest.importorskip("rdkit")
    features = CompoundFingerprints({"a": "CCO", "b": "no such thing", "c": None})
    with pytest.raises(ValueError, match="cannot read the structures of 'b"):
        features.fit(["a", "b"])
    with pytest.raises(ValueError, match="without a structure.*'c', 'd'"):
        features.fit(["a", "c", "d"])
    with pytest.raises(ValueError, match="n_bits"):
        CompoundFingerprints({"a": "CCO"}, n_bits=0).fit(["a"])


def test_missing_rdkit_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"skpert\[compounds\]"):
        CompoundFingerprints({"a": "CCO"}).fit(["a"])


def test_compounds_of_one_target_act_alike():
    X = np.array([[0.0, 0], [0, 0], [2, 1], [0, 3]])
    features = TargetGenes({"a": "G1", "b": "G5", "new": "G2"}, GeneSetFeatures(SETS))
    with pytest.warns(match="one cell only"):
        model = BilinearRidge(features, alpha_targets=1e-6).fit(
            X, ["control", "control", "a", "b"]
        )
    np.testing.assert_allclose(model.predict_intervention(["new"]), [[2, 1]], atol=1e-4)
