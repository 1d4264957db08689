"""What labels and columns of a design may hold, and what is refused."""

import enum
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from skpert.exceptions import DataWarning
from skpert.preprocessing import (
    CovariateEncoder,
    GeneSetFeatures,
    PerturbationEncoder,
    TargetFeatures,
    perturbation_labels,
)

FRAME = pd.DataFrame({"perturbation": ["control", "A", "B"] * 2})


class Treatment(enum.StrEnum):
    NONE = "control"
    A = "A"


def malformed():
    A = csr_array(np.eye(3))
    A.indices[1] = 7
    return A


@pytest.mark.parametrize(
    ("A", "message"),
    [
        ([("A", "B"), ("control",)], r"must be text or numbers .*'A\+B'\); got 'tuple'"),
        ([frozenset("AB"), frozenset("A")], "got 'frozenset'"),
        ([{"A"}, {"B"}], "got 'set'"),
        ([("A", "B"), ("control", "C")], r"a combination is one text, such as 'A\+B'"),
        (pd.MultiIndex.from_tuples([("A", "B"), ("C", "D")]), "got 'tuple'"),
        ({"A", "B"}, "it is of type set"),
        ({"cell": "A"}, "it is of type dict"),
        ((name for name in "AB"), "it is of type generator"),
        (3, "it is of type int. A single label needs brackets"),
        (np.array("A"), "A is a single value"),
        (np.ma.array(["control", "A", "B"], mask=[0, 0, 1]), "1 of 3 .* missing, .* row 2"),
        (np.ma.array([0, 1, 2], mask=[0, 1, 0]), "1 of 3 .* missing, .* row 1"),
        (["A", np.ma.masked, "B"], "1 of 3 .* missing, .* row 1"),
        (np.ma.array([[0.0, 0], [1, 2]], mask=[[0, 0], [0, 1]]), "nan in row 1, column '1'"),
        ([True, 1, "control", 1.0], "booleans beside numbers, where True equals 1"),
        ([True, np.nan, "control"], "1 of 3 labels in A are missing"),
        ([b"\xff", b"A"], "is not text in UTF-8: decode it first"),
        ([1 + 2j, 1], "got 'complex'"),
        ([object(), "A"], "got 'object'"),
        (np.array([np.array(["A"]), np.array(["B", "C"]), None], dtype=object), "got 'ndarray'"),
        ([[1e300, 0], [0, 1]], r"A has 1e\+300 in row 0"),
        ([[1e-300, 0], [0, 1]], "A has 1e-300 in row 0"),
        (pd.DataFrame({"A": [1j, 0]}), "not all of its columns are numeric"),
        (malformed(), "sparse matrix with a malformed structure"),
        (pd.concat([FRAME, FRAME], axis=1), "A has 2 columns with the name 'perturbation'"),
        (pd.concat({"x": FRAME}, axis=1), "columns of A have 2 levels"),
        (pd.DataFrame([[0, 1]], columns=[1, "1"]), "same name twice: '1', '1'"),
    ],
)
def test_designs_that_are_refused(A, message):
    encoder = PerturbationEncoder().fit(["control", "A", "A"] * 2)
    before = vars(encoder).copy()
    for read in (perturbation_labels, encoder.fit, encoder.extended):
        with pytest.raises(ValueError, match=message):
            read(A)
    assert vars(encoder) == before


def test_an_anndata_is_no_design_and_its_frame_is():
    anndata = pytest.importorskip("anndata")
    adata = anndata.AnnData(np.ones((6, 2)), obs=FRAME.set_axis(list("abcdef")))
    with pytest.raises(ValueError, match="AnnData, which holds the design .* adata.obs"):
        PerturbationEncoder().fit(adata)
    with pytest.raises(ValueError, match="AnnData, which holds the design"):
        CovariateEncoder(invariant="perturbation").fit(adata)
    assert PerturbationEncoder().fit(adata.obs).perturbations_.tolist() == ["A", "B"]


@pytest.mark.parametrize(
    "A",
    [
        pd.Categorical(["control", "A"] * 2, categories=["control", "A", "unused"]),
        pd.array(["control", "A"] * 2, dtype="string"),
        np.array(["control", "A"] * 2, dtype="S"),
        [Treatment.NONE, "A", "control", Treatment.A],
        [np.str_("control"), np.str_("A")] * 2,
        pd.DataFrame({"perturbation": ["control", "A"] * 2}, index=[0] * 4),
    ],
)
def test_labels_are_read_in_every_form(A):
    encoder = PerturbationEncoder().fit(A)
    assert encoder.transform(A).toarray().tolist() == [[0], [1]] * 2


def test_numbers_that_are_equal_are_one_label_whatever_comes_first():
    for labels in ([1, 1.0, Decimal("1.0"), "1"], [Decimal("1.0"), "1", 1.0, 1]):
        assert perturbation_labels(labels).tolist() == ["1"] * 4


def test_dates_are_labels_in_every_form():
    days = pd.Series(pd.date_range("2020", periods=2))
    for A in (days, days.to_numpy(), days.tolist()):
        assert perturbation_labels(A).tolist() == ["2020-01-01 00:00:00", "2020-01-02 00:00:00"]


@pytest.mark.parametrize(
    "name", ["nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "NULL", "-", "NaT", "unassigned"]
)
def test_text_that_looks_like_a_missing_label_gets_one_warning(name):
    A = ["control", "A", name] * 3
    with pytest.warns(DataWarning, match=f"look like missing values, {name!r} \\(3 cells\\)"):
        encoder = PerturbationEncoder().fit(A)
    assert encoder.perturbations_.tolist() == sorted(["A", name])
    assert encoder.transform(A).shape == (9, 2)
    assert PerturbationEncoder(control=name).fit(["A", name] * 3).n_control_cells_ == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([True, 1, 0] * 2, "'batch' of A must hold text or numbers, not booleans beside numbers"),
        ([["a"]] * 6, "'batch' of A must hold text or numbers; got 'list'"),
        (["b1", " "] * 3, "'batch' of A has 3 missing or infinite values, the first in row 1"),
        (pd.array([True, None] * 3, dtype="boolean"), "'batch' of A has 3 missing"),
        ([1e308, -1e308] * 3, "too large"),
    ],
)
def test_environments_that_are_refused(values, message):
    for encoder in (
        PerturbationEncoder(environment=["batch"]),
        CovariateEncoder(invariant="perturbation", environment="batch"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder.fit(FRAME.assign(batch=values))
        assert not hasattr(encoder, "columns_")


@pytest.mark.parametrize(
    "encoder",
    [
        PerturbationEncoder(environment=["batch"]),
        CovariateEncoder(invariant="batch"),
        CovariateEncoder(invariant="perturbation", environment="batch"),
    ],
)
def test_categories_that_look_like_missing_values_get_one_warning(encoder):
    with pytest.warns(
        DataWarning, match="look like missing values, 'batch=nan'; they are treated"
    ):
        encoder.fit(FRAME.assign(batch=["b1", "b1", "nan", "nan", "Unknown", "Unknown"]))


def test_a_column_of_environments_is_there_and_named_once():
    frame = FRAME.assign(batch=list("aabbab"))
    with pytest.raises(ValueError, match="2 columns with the name 'batch'"):
        PerturbationEncoder(environment=["batch"]).fit(
            pd.concat([frame, frame[["batch"]]], axis=1)
        )
    with pytest.raises(ValueError, match="'batch' of A is named more than once"):
        PerturbationEncoder(environment=["batch", "batch"]).fit(frame)
    encoder = PerturbationEncoder(environment=["age"]).fit(FRAME.assign(age=[1.0, 2, 3, 3, 2, 1]))
    with pytest.raises(ValueError, match="had numbers in training"):
        encoder.environments(FRAME.assign(age="young"))
    with pytest.raises(ValueError, match="too far from those of training"):
        encoder.environments(FRAME.assign(age=1e300))


@pytest.mark.parametrize(
    ("transformer", "good", "bad"),
    [
        (PerturbationEncoder(environment=["x"]), FRAME.assign(x="a"), FRAME.assign(x=[["a"]] * 6)),
        (CovariateEncoder(invariant="x"), FRAME.assign(x=list("ab") * 3), FRAME.assign(x="a")),
        (GeneSetFeatures({"s": ["A", "B", "C"]}), ["A"], ["Z"]),
        (TargetFeatures({"A": [1.0], "B": [2.0]}), ["A"], ["Z"]),
    ],
)
def test_a_fit_that_fails_leaves_the_transformer_as_it_was(transformer, good, bad):
    transformer.fit(good)
    before = vars(transformer).copy()
    with pytest.raises(ValueError, match=r"\w"):
        transformer.fit(bad)
    assert vars(transformer) == before
    assert all(vars(transformer)[name] is value for name, value in before.items())


def test_tables_of_other_libraries():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pandas(FRAME)
    encoder = PerturbationEncoder().fit(table)
    assert (
        encoder.transform(table["perturbation"]).toarray().tolist() == [[0, 0], [1, 0], [0, 1]] * 2
    )
