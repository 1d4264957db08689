import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from skpert.preprocessing import perturbation_labels


def test_dosages_are_part_of_a_label():
    A = pd.DataFrame({"b": [0.5, 1, 0, 0.1], "a": [2, 0, 0, 1]})
    assert perturbation_labels(A).tolist() == ["a*2+b*0.5", "b", "control", "a+b*0.1"]


@pytest.mark.parametrize(
    ("label", "canonical"),
    [
        ("B+A", "A+B"),
        (" A + B ", "A+B"),
        ("A+control", "A"),
        ("A+A", "A"),
        ("control+control", "control"),
        ("control", "control"),
        ("C+A+B+A", "A+B+C"),
        (1, "1"),
        (1.0, "1"),
        (np.float32(2), "2"),
        (0.5, "0.5"),
        (True, "True"),
        (b"A", "A"),
    ],
)
def test_canonical_label(label, canonical):
    assert perturbation_labels([label]).tolist() == [canonical]


def test_labels_without_separator_are_single_perturbations():
    A = ["CD4+", "A+B", "B+A", "control"]
    assert perturbation_labels(A, sep=None).tolist() == A


def test_equal_labels_mean_equal_rows_of_dosage():
    A = np.random.default_rng(0).integers(0, 3, size=(500, 4)) / 2
    labels, (_, row) = perturbation_labels(A), np.unique(A, axis=0, return_inverse=True)
    pairs = set(zip(labels, row.tolist(), strict=True))
    assert len(pairs) == len(set(labels)) == row.max() + 1


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (["A", None, "B", float("nan")], "2 of 4 labels in A are missing, the first in row 1"),
        (pd.Series(["A", pd.NA], dtype="string"), "1 of 2 labels in A are missing"),
        ([1.0, np.nan, 2.0], "1 of 3 labels in A are missing, the first in row 1"),
        (["A", "  ", "B"], "1 of 3 labels in A are missing, the first in row 1"),
        (["A", "CD4+"], r"Label 'CD4\+' in A has an empty part .* use sep=None"),
        ([["A", "B"], ["C", "D"]], "1-D array, or a DataFrame with a column of labels"),
        ([["A", "B"], ["C"]], "Labels in A must be text or numbers"),
        (np.zeros((2, 2, 2)), "it has 3 dimensions"),
        (np.zeros((2, 2), dtype=complex), "its dtype complex128"),
        ([[0, 1], [0, -2.5]], r"A has -2.5 in row 1, column '1' \(1 such values\)"),
        ([[0, 1], [np.nan, np.nan]], r"A has nan in row 1, column '0' \(2 such values\)"),
        (csr_matrix([[0, np.inf]]), "A has inf in row 0, column '1'"),
        (pd.DataFrame({"A": [1, pd.NA]}, dtype="Int64"), "A has nan in row 1, column 'A'"),
        (pd.DataFrame({"gene": ["A"], "n": [1]}), "columns are 'gene', 'n'; name the one"),
        (pd.DataFrame([[0, 1]], columns=["A", "A"]), "same name twice"),
    ],
)
def test_designs_that_cannot_be_read(A, message):
    with pytest.raises(ValueError, match=message):
        perturbation_labels(A)


def test_designs_that_only_the_parameters_rule_out():
    with pytest.raises(ValueError, match="sep='' cannot separate"):
        perturbation_labels(["A"], sep="")
    with pytest.raises(ValueError, match="Column 0 of the dosages A has the name of the control"):
        perturbation_labels([[0, 1]], control=0)
