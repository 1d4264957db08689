"""Expression, designs and parameters that nobody can use, each a function of usable ones.

What is wrong has to be refused by a clear error, in every method.
"""

from datetime import datetime

import numpy as np
import pandas as pd
from scipy import sparse

from .forms import adata, cell_names, frame, gene_names, hot, parts


def _with(X, value, dtype=np.float64):
    changed = X.astype(dtype)
    changed[-1, -1] = value
    return changed


def _with_structure(X, part, change):
    """Sparse expression of which one array is changed after construction."""
    full = np.where(X == 0, 1, X)
    damaged = sparse.csr_array(full)
    change(getattr(damaged, part))
    return damaged


def _set(place, value):
    def change(array):
        array[place] = value

    return change


EXPRESSION = {
    "nan": lambda X: _with(X, np.nan),
    "infinity": lambda X: _with(X, np.inf),
    "minus infinity": lambda X: _with(X, -np.inf),
    "beyond float32": lambda X: _with(X, 1e300),
    "sparse nan": lambda X: sparse.csr_matrix(_with(X, np.nan)),
    "sparse infinity": lambda X: sparse.csc_array(_with(X, np.inf)),
    "frame nan": lambda X: frame(_with(X, np.nan)),
    "frame NA": lambda X: frame(X).astype("Float64").mask(X == X[-1, -1]),
    "adata nan": lambda X: adata(_with(X, np.nan)),
    "masked": lambda X: np.ma.masked_array(X, mask=X == X[-1, -1]),
    "none": lambda X: None,
    "word": lambda X: "expression",
    "number": lambda X: 3.0,
    "dict": lambda X: {"X": X},
    "set": lambda X: {1.0, 2.0},
    "generator": lambda X: (row for row in X),
    "one gene without a dimension": lambda X: X[:, 0],
    "three dimensions": lambda X: X[None],
    "no genes": lambda X: X[:, :0],
    "no cells": lambda X: X[:0],
    "complex": lambda X: X + 1j,
    "text": lambda X: np.full(X.shape, "many"),
    "frame of text": lambda X: frame(X).assign(GENE0="many"),
    "object with None": lambda X: _with(X, None, object),
    "dates": lambda X: np.full(X.shape, datetime(2024, 1, 1)),
    "ragged": lambda X: [*X.tolist(), [1.0] * (X.shape[1] + 1)],
    "records": lambda X: np.zeros(len(X), dtype=[("GENE0", "f4"), ("GENE1", "f4")]),
    "index beyond": lambda X: _with_structure(X, "indices", _set(-1, X.shape[1] + 3)),
    "index below zero": lambda X: _with_structure(X, "indices", _set(0, -1)),
    "pointers that decrease": lambda X: _with_structure(X, "indptr", _set(1, len(X) * 99)),
    "pointers that start late": lambda X: _with_structure(X, "indptr", _set(0, 1)),
}
NAMED = {  # faults of names
    "frame gene twice": lambda X: frame(X).set_axis(["GENE0"] * X.shape[1], axis=1),
    "adata gene twice": lambda X: _gene_twice(X),
}
NEGATIVE = {
    "negative": lambda X: _with(X, -1),
    "sparse negative": lambda X: sparse.csr_matrix(_with(X, -1)),
}


def _gene_twice(X):
    data = adata(X)
    data.var_names = ["GENE0"] * X.shape[1]
    return data


def _dosage_with(A, value):
    dosage = hot(A)
    dosage[-1, 0] = value
    return dosage


DESIGNS = {
    "none": lambda A: None,
    "shorter": lambda A: A[:-1],
    "longer": lambda A: [*A, "control"],
    "no cells": lambda A: A[:0],
    "number": lambda A: 3,
    "dict": lambda A: dict(enumerate(A)),
    "set": lambda A: set(A),
    "generator": lambda A: (label for label in A),
    "three dimensions": lambda A: hot(A)[None],
    "None among labels": lambda A: [*A[:-1], None],
    "nan among labels": lambda A: [*A[:-1], np.nan],
    "NA among labels": lambda A: pd.Series([*A[:-1], pd.NA], dtype="string"),
    "blank label": lambda A: [*A[:-1], "  "],
    "masked label": lambda A: np.ma.masked_array(A, mask=np.arange(len(A)) == 0),
    "label in a list": lambda A: [*A[:-1], ["A", "B"]],
    "dict among labels": lambda A: [*A[:-1], {}],
    "part missing": lambda A: [*A[:-1], parts(A)[0] + "+"],
    "negative dosage": lambda A: _dosage_with(A, -1),
    "nan dosage": lambda A: _dosage_with(A, np.nan),
    "infinite dosage": lambda A: _dosage_with(A, np.inf),
    "sparse nan dosage": lambda A: sparse.csr_array(_dosage_with(A, np.nan)),
    "complex dosage": lambda A: hot(A) + 1j,
    "dosages of text": lambda A: np.full((len(A), 2), "much"),
    "frame without labels": lambda A: pd.DataFrame({"guide": A}),
    "labels twice": lambda A: pd.DataFrame(np.column_stack([A, A]), columns=["perturbation"] * 2),
    "dosage twice": lambda A: pd.DataFrame(np.tile(hot(A), 2), columns=parts(A) * 2),
}
ONE_CONDITION = {
    "controls only": lambda A: np.full(len(A), "control", dtype=object),
    "one perturbation only": lambda A: np.full(len(A), "A", dtype=object),
}


def _both_named(X, A):
    return frame(X, index=cell_names(len(X))), pd.Series(A, index=cell_names(len(X)))


def other_cells(X, A):
    """Expression and labels whose cells have different names."""
    X, A = _both_named(X, A)
    return X, A.set_axis([f"TTTG{i}-1" for i in range(len(A))])


def repeated_cells(X, A):
    """Expression and labels in which two cells have one name, in another order."""
    X, A = _both_named(X, A)
    names = [X.index[0], *X.index[:-1]]
    return X.set_axis(names), A.set_axis(names[::-1])


PAIRS = {"other cells": other_cells, "repeated cells": repeated_cells}


def cells_backwards(X, A):
    """The same cells, by name, in another order in A; by position it means something else."""
    X, A = _both_named(X, A)
    return X, A[::-1]


def genes_backwards(X):
    """The same genes, by name, in another order."""
    return frame(X)[gene_names(X.shape[1])[::-1]]


def more_genes(X):
    """The same genes, by name, and one more between them."""
    more = frame(X)
    more.insert(0, "OTHER", np.float32(1))
    return more


def gene_missing(X):
    """All genes but one."""
    return frame(X).iloc[:, 1:]
