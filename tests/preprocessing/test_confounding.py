"""Perturbations that go with the levels of another column."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skpert.preprocessing import CovariateEncoder, PerturbationEncoder

SIZES = "control:b1:95 control:b2:5 P:b1:5 P:b2:95"


def frame(cells, *columns):
    """Cells of treatments and levels, such as "control:b1:20 P1:b2:20", of so many each."""
    rows = [cell.split(":") for cell in cells.split()]
    rows = [row[:-1] for row in rows for _ in range(int(row[-1]))]
    return pd.DataFrame(rows, columns=["perturbation", *(columns or ["batch"])])


def found(A, **parameters):
    """Names, columns and whether they are separable, and the warning, empty without one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = PerturbationEncoder(**parameters).fit(A)
    messages = [str(w.message) for w in caught if str(w.message).startswith("Effects in A")]
    table = encoder.confounded_
    assert len(messages) == bool(len(table))
    for name, column in zip(table["perturbation"], table["column"], strict=True):
        assert repr(name) in messages[0]
        assert repr(column) in messages[0]
    rows = table[["perturbation", "column", "separable"]].itertuples(index=False, name=None)
    nested = encoder.perturbations_[encoder.nested_].tolist()
    assert nested == sorted(set(table["perturbation"][~table["separable"]]))
    return list(rows), messages[0] if messages else ""


def test_a_frame_without_environment_looks_confounded_and_one_with_is():
    A = frame("control:b1:20 P1:b2:20 P2:b1:20")
    rows, message = found(A)
    assert rows == [("P1", "batch", False)]
    assert "look confounded with another column: 'P1' only where 'batch' is 'b2'" in message
    rows, message = found(A, environment="batch")
    assert rows == [("P1", "batch", False)]
    assert "cannot be separated from those of an environment: 'P1' only" in message


def test_perturbations_in_some_levels_of_the_controls_are_separable_by_an_environment():
    A = frame("control:K562:50 control:A172:50 control:T98G:50 P:K562:50 Q:A172:50", "cell_type")
    rows, message = found(A)
    assert rows == [("P", "cell_type", True), ("Q", "cell_type", True)]
    assert "(100% of their cells, 33% of those they are compared with)" in message
    assert "name it in `environment`" in message
    assert found(A, environment=["cell_type"])[0] == []


@pytest.mark.parametrize("environment", [None, ["batch"]])
def test_nearly_nested_perturbations_are_told_with_their_shares(environment):
    A = frame(SIZES)
    assert found(A, environment=environment)[0] == [("P", "batch", True)]
    encoder = PerturbationEncoder(environment=environment)
    with pytest.warns(UserWarning, match="95% of their cells, 5% of those"):
        table = encoder.fit(A).confounded_
    assert table.loc[0, ["levels", "share", "share_of_reference"]].tolist() == ["b2", 0.95, 0.05]


def test_other_perturbations_may_tell_what_an_environment_does():
    A = frame(f"{SIZES} Q:b1:50 Q:b2:50")
    assert found(A, environment=["batch"])[0] == []


def test_environments_may_be_nested_together_that_are_not_by_themselves():
    A = frame("control:b1:d1:20 control:b2:d2:20 Q:b1:d1:20 P:b1:d2:20", "batch", "donor")
    rows, message = found(A, environment=["batch", "donor"])
    assert rows == [("P", "batch, donor", False)]
    assert "'b1/d2'" in message
    A.loc[:4, "donor"] = "d2"  # controls of b1
    assert found(A, environment=["batch", "donor"])[0] == []


def test_effects_that_are_marked_are_those_without_a_contrast():
    """Estimable is what least squares can estimate, by the rank of the whole design."""
    rng = np.random.default_rng(0)
    n_marked = 0
    for _ in range(40):
        labels = rng.choice(["control", "P", "Q", "R"], 12)
        A = pd.DataFrame({"perturbation": labels, "batch": 0, "site": 0})
        for column in ("batch", "site"):
            of_label = dict(zip(["control", "P", "Q", "R"], rng.integers(0, 3, 4), strict=True))
            A[column] = [of_label[label] if rng.random() < 0.8 else 1 for label in labels]
        A = pd.concat([A] * 3)
        if len(set(A["perturbation"])) < 4:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = PerturbationEncoder(environment=["batch", "site"]).fit(A)
        design = np.hstack([encoder.environments(A), encoder.transform(A).toarray()])
        rank = np.linalg.matrix_rank(design)
        for j, marked in enumerate(encoder.nested_):
            column = design.shape[1] - len(encoder.nested_) + j
            contrast = np.eye(design.shape[1])[column]
            assert marked == (np.linalg.matrix_rank(np.vstack([design, contrast])) > rank)
            n_marked += marked
    assert n_marked > 5


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("guide", lambda name, i: f"{name}_{i % 3}"),
        ("guide", lambda name, i: "unassigned" if i % 4 == 0 else f"{name}_{i % 3}"),
        ("hash", lambda name, i: "none" if i % 4 == 0 else f"{name}_{i % 3}"),
        ("hash", lambda name, i: f"{name}_{i % 3}"),
        ("what", lambda name, i: "control" if name == "control" else "treated"),
        ("process", lambda name, i: {"control": "none", "P1": "a", "P2": "a"}.get(name, "b")),
        ("pathway", lambda name, i: {"P1": "a", "P2": "a"}.get(name, "none")),
        ("essential", lambda name, i: name in {"P1", "P2"}),
        ("n_guides", lambda name, i: 2 if name == "P1" else 1),
        ("sample", lambda name, i: f"{name} {i % 2}"),
        ("phase", lambda name, i: "G1" if i % 20 < 16 or name == "P1" and i % 20 < 19 else "S"),
        ("score", lambda name, i: float(name == "P1")),
        ("replicate", lambda name, i: i % 3),
        ("well_position", lambda name, i: "A1" if name in {"P1", "P2"} else name),
        ("plate", lambda name, i: f"plate {i % 4}"),
    ],
)
def test_columns_that_follow_from_the_treatment_do_not_confound(column, values):
    names = np.repeat(["control", "P1", "P2", "P3", "P4", "P5"], 60)
    A = pd.DataFrame({"perturbation": names})
    A[column] = [values(name, i) for i, name in enumerate(names)]
    assert found(A) == ([], "")


def test_a_phase_that_all_cells_are_in_is_told():
    A = frame("control:G1:40 control:S:50 P:G1:80 Q:G1:40 Q:S:40", "Phase")
    assert found(A)[0] == [("P", "Phase", True)]
    A.loc[A["perturbation"] == "P", "Phase"] = ["S", *["G1"] * 79]  # an effect on the cycle
    assert found(A)[0] == []


def test_what_follows_from_an_environment_is_not_told_again():
    A = frame("control:K562:50 control:A172:90 P:K562:50 Q:K562:9 Q:A172:90", "line")
    A["dataset"] = A["line"].map({"K562": "first", "A172": "second"})
    assert [column for _, column, _ in found(A)[0]] == ["line", "dataset"]
    assert found(A, environment="line")[0] == []


@pytest.mark.parametrize("n_cells", [2, 3, 5, 12])
@pytest.mark.parametrize("n_controls", [2, 10, 50])
def test_cells_in_lanes_at_random_give_no_warning(n_cells, n_controls):
    names = np.repeat(["control", *(f"P{j}" for j in range(15))], [n_controls] + [n_cells] * 15)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        A = pd.DataFrame({"perturbation": names, "lane": rng.choice(["1", "2", "3"], len(names))})
        A["which"] = rng.choice(list("abcd"), len(names))
        A["phase"] = rng.choice(["G1", "S", "G2M"], len(names), p=[0.6, 0.2, 0.2])
        assert found(A, environment=[None, "lane"][seed % 2]) == ([], "")


def test_invariant_covariates_of_one_batch_are_told():
    A = frame("ctrl:1:x:20 stim:2:x:20 stim:2:y:20", "batch", "site")
    A = A.rename(columns={"perturbation": "condition"})
    for others in ({"spurious": ["batch", "site"]}, {"environment": ["batch"]}):
        with pytest.warns(UserWarning, match="'ctrl' of 'condition' only where 'batch' is '1'"):
            CovariateEncoder(invariant="condition", **others).fit(A)
    A.loc[0, "batch"] = "2"
    CovariateEncoder(invariant="condition", spurious=["batch", "site"]).fit(A)  # no warning


def test_conditions_that_are_replicated_in_donors_are_not_told():
    A = frame("sick:d1:20 sick:d2:20 well:d3:20 well:d4:20", "donor")
    A = A.rename(columns={"perturbation": "condition"})
    CovariateEncoder(invariant="condition", spurious="donor").fit(A)  # no warning


def test_batches_may_be_numbers_with_gaps():
    A = frame("control:1:30 control:2:30 P:1:40 Q:2:20 Q:1:20")
    A["batch"] = A["batch"].astype(float)
    A.loc[0, "batch"] = np.nan
    assert found(A)[0] == [("P", "batch", True)]
