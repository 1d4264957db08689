"""Perturbations whose effect cannot be separated from that of a batch."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skpert.exceptions import DataWarning
from skpert.preprocessing import PerturbationEncoder


def frame(pairs, column="batch", n_cells=4):
    """Cells of treatments and levels, such as "control:b1 P1:b2"."""
    rows = [pair.split(":") for pair in pairs.split()] * n_cells
    return pd.DataFrame(rows, columns=["perturbation", column])


def nested(A, **parameters):
    """Names that are marked, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = PerturbationEncoder(**parameters).fit(A)
    messages = [str(w.message) for w in caught if "cannot be separated" in str(w.message)]
    return encoder.perturbations_[encoder.nested_].tolist(), messages


@pytest.mark.parametrize("environment", [None, ["batch"]])
@pytest.mark.parametrize(
    ("pairs", "names"),
    [
        ("control:b1 P2:b1 P1:b2", ["P1"]),
        ("control:b1 P2:b1 P1:b1 P1:b2", []),  # b2 is joined to the control by P1
        ("control:b1 P1:b1 P1:b2 P2:b2", []),  # and P2 by P1
        ("control:b1 P1:b2 P2:b2 P3:b1", ["P1", "P2"]),
        ("control:b1 control:b2 P1:b1 P2:b2", []),
        ("control:b1 P1:b2 P1:b3", ["P1"]),
        ("control:b1 A:b1 A+B:b2", ["B"]),
        ("A:b1 B:b1 C:b2 A:b1", ["C"]),  # without a control: apart from most cells
    ],
)
@pytest.mark.filterwarnings("ignore:A has no control")
def test_perturbations_that_no_batch_joins_to_the_control(pairs, names, environment):
    found, messages = nested(frame(pairs), environment=environment)
    assert found == names
    assert len(messages) == bool(names)
    for name, message in zip(names, messages * len(names), strict=True):
        assert repr(name) in message
        assert "'batch'" in message


def test_the_warning_names_the_level():
    with pytest.warns(DataWarning, match="'P1' only where 'lane' is '2'"):
        PerturbationEncoder().fit(frame("control:1 P2:1 P1:2", "lane"))


@pytest.mark.parametrize("column", ["guide_id", "target_batch", "phase", "n_batches", "replicate"])
def test_columns_that_follow_from_the_treatment_are_no_batches(column):
    assert nested(frame("control:c P1:p P2:q", column)) == ([], [])


def test_samples_are_batches_once_they_are_shared():
    assert nested(frame("control:s1 P2:s1 P1:s2", "sample"))[0] == ["P1"]


def test_numbers_are_levels_only_where_controls_do_not_vary():
    A = frame("control:1 P2:1 P1:2").rename(columns={"batch": "age"}).astype({"age": float})
    assert nested(A, environment=["age"])[0] == ["P1"]
    A.loc[np.flatnonzero(A["perturbation"] == "control")[:2], "age"] = 3.0
    assert nested(A, environment=["age"]) == ([], [])


def test_perturbations_that_are_added_are_not_marked():
    with pytest.warns(DataWarning, match="cannot be separated"):
        encoder = PerturbationEncoder().fit(frame("control:b1 P2:b1 P1:b2"))
    assert encoder.with_names(["P3"]).nested_.tolist() == [True, False, False]
