"""Measured effects: numbers of the published transform, naive loops, forms of X and A."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array, csc_matrix, csr_array

from skpert.exceptions import DataWarning
from skpert.metrics import cells, differential_expression

KNOWN_X = np.array([[1, 3, 6], [0, 5, 5], [4, 4, 2], [2, 2, 0]])
KNOWN_A = ["control", "control", "JAK2", "JAK2"]

LABELS = np.repeat(["control", "A", "A+B", "B"], [30, 20, 15, 5])
LABELS = np.random.default_rng(0).permutation(LABELS)
COUNTS = np.random.default_rng(1).poisson(1.5, size=(70, 12))
METHODS = pytest.mark.parametrize("method", ["perturbseq", "mean"])


def naive(method="perturbseq", X=COUNTS):
    Y = np.log2(1 + 1e4 * X / X.sum(1, keepdims=True)) if method == "perturbseq" else X
    means = {label: Y[LABELS == label].mean(0) for label in np.unique(LABELS)}
    return np.array([means[label] - means["control"] for label in ("A", "A+B", "B")])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("perturbseq", [7.1434597721, 0.2074586549, -6.9362413262]),
        ("mean", [2.5, -1.0, -4.5]),
    ],
)
def test_known_effects(method, expected):
    effect = differential_expression(KNOWN_X, KNOWN_A, method=method)
    assert effect.index.tolist() == ["JAK2"]
    np.testing.assert_allclose(effect.loc["JAK2"], expected, rtol=0, atol=1e-10)


@METHODS
def test_effects_are_differences_of_means(method, monkeypatch):
    effect = differential_expression(COUNTS, LABELS, method=method)
    assert effect.index.tolist() == ["A", "A+B", "B"]
    assert effect.index.name == "perturbation"
    np.testing.assert_allclose(effect, naive(method))
    monkeypatch.setattr(cells, "MAX_ELEMENTS", 100)  # eight cells at once
    np.testing.assert_allclose(differential_expression(COUNTS, LABELS, method=method), effect)


@METHODS
@pytest.mark.parametrize("form", [csr_array, csc_matrix, coo_array, np.float32, pd.DataFrame])
def test_every_form_of_expression_has_the_same_effects(form, method):
    before = COUNTS.copy()
    X = form(COUNTS)
    effect = differential_expression(X, LABELS, method=method)
    np.testing.assert_allclose(effect, naive(method))
    after = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
    np.testing.assert_array_equal(after, before)


def test_genes_keep_their_names():
    anndata = pytest.importorskip("anndata")
    genes = [f"gene {g}" for g in range(12)]
    frame = differential_expression(pd.DataFrame(COUNTS, columns=genes), LABELS)
    assert frame.columns.tolist() == genes
    adata = anndata.AnnData(np.log1p(COUNTS), layers={"counts": csr_array(COUNTS)})
    adata.var_names = genes
    pd.testing.assert_frame_equal(
        differential_expression(adata, LABELS, layer="counts"), frame, check_names=False
    )
    means = differential_expression(adata, LABELS, method="mean")
    np.testing.assert_allclose(means, naive("mean", np.log1p(COUNTS)))
    with pytest.raises(ValueError, match=r"no layer 'raw' in X; its layers are \['counts'\]"):
        differential_expression(adata, LABELS, layer="raw")
    with pytest.raises(ValueError, match="layer='counts' chooses a layer of an AnnData"):
        differential_expression(COUNTS, LABELS, layer="counts")


def test_every_form_of_design_has_the_same_effects():
    expected = differential_expression(COUNTS, LABELS)
    hot = pd.DataFrame({n: [n in a.split("+") for a in LABELS] for n in "AB"}).astype(float)
    obs = pd.DataFrame({"guide": np.where(LABELS == "control", "NT", LABELS)})
    mirrored = np.where(LABELS == "A+B", "B + A", LABELS)
    for A in (list(LABELS), pd.Categorical(LABELS), mirrored, hot):
        pd.testing.assert_frame_equal(differential_expression(COUNTS, A), expected)
    renamed = differential_expression(COUNTS, obs, control="NT", perturbation="guide")
    pd.testing.assert_frame_equal(renamed, expected)
    array = differential_expression(COUNTS, csr_array(hot.to_numpy()))
    assert array.index.tolist() == ["0", "0+1", "1"]
    np.testing.assert_array_equal(array, expected)
    whole = differential_expression(COUNTS, np.where(LABELS == "control", 0, 1), control=0)
    assert whole.index.tolist() == ["1"]


def test_order_of_cells_and_names_of_perturbations_do_not_matter():
    expected = differential_expression(COUNTS, LABELS)
    order = np.random.default_rng(2).permutation(len(LABELS))
    shuffled = differential_expression(COUNTS[order], LABELS[order])
    pd.testing.assert_frame_equal(shuffled, expected)
    renamed = [label.replace("A", "C") for label in LABELS]
    swapped = differential_expression(COUNTS, renamed)
    assert swapped.index.tolist() == ["B", "B+C", "C"]
    np.testing.assert_array_equal(swapped.loc[["C", "B+C", "B"]], expected)


def test_depth_of_a_cell_matters_to_the_mean_only():
    depth = np.random.default_rng(3).integers(1, 20, size=(70, 1))
    np.testing.assert_allclose(
        differential_expression(COUNTS * depth, LABELS), differential_expression(COUNTS, LABELS)
    )
    deeper = differential_expression(COUNTS * depth, LABELS, method="mean")
    assert np.abs(deeper - naive("mean")).to_numpy().max() > 1


def test_cells_without_counts_are_left_out():
    X = np.vstack([COUNTS, np.zeros((3, 12))])
    A = [*LABELS, "A", "control", "D"]
    message = "3 of 73 cells have no counts .* 1 conditions have no other cells, such as 'D'"
    for form in (np.array, csr_array):
        with pytest.warns(DataWarning, match=message):
            effect = differential_expression(form(X), A)
        pd.testing.assert_frame_equal(effect, differential_expression(COUNTS, LABELS))
    mean = differential_expression(X, A, method="mean")  # where nothing is divided by
    assert mean.index.tolist() == ["A", "A+B", "B", "D"]
    np.testing.assert_allclose(mean.loc["D"], -X[np.array(A) == "control"].mean(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((COUNTS, LABELS[1:]), "inconsistent numbers of samples"),
        ((COUNTS, np.where(LABELS == "control", "NT", LABELS)), "the control label 'control'"),
        ((COUNTS, ["control"] * 70), "no cell with counts is perturbed"),
        ((COUNTS - 1.0, LABELS), "the smallest value is -1: use method='mean'"),
        ((csr_array(COUNTS - 1), LABELS), "the smallest value is -1: use method='mean'"),
        ((np.where(COUNTS > 3, np.nan, COUNTS), LABELS), "X contains NaN"),
        ((COUNTS, None), "the design"),
    ],
)
def test_bad_data_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        differential_expression(*arguments)


def test_a_method_that_does_not_exist_is_told():
    with pytest.raises(ValueError, match="method must be 'perturbseq' or 'mean', got 'deseq2'"):
        differential_expression(COUNTS, LABELS, method="deseq2")
