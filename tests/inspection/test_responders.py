"""Cells that responded are told from those that escaped, by the truth of simulated states."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import responders
from skpert.preprocessing import PerturbationEncoder

N_CONTROLS, N_CELLS, N_LATENT = 600, 300, 6
NAMES = np.array(["A", "B", "C", "D"])
SHARES = np.array([0.9, 0.6, 0.3, 0.0])


class States(BaseEstimator):
    """Estimator whose latent states are X, so that these can be of any kind."""

    control = "control"

    def fit(self, A):
        self.design_ = PerturbationEncoder().fit(A)
        return self

    def transform(self, X):
        return np.asarray(X)


def screen(size=4.0, seed=0):
    """States, labels, and whether a cell responded; D does nothing."""
    random = np.random.default_rng(seed)
    A = np.concatenate([np.full(N_CONTROLS, "control"), np.repeat(NAMES, N_CELLS)])
    spread = random.normal(size=(N_LATENT, N_LATENT)) / 4 + np.eye(N_LATENT)
    Z = random.normal(size=(len(A), N_LATENT)) @ spread + 3.0
    shifts = random.normal(size=(len(NAMES), N_LATENT))
    inverse = np.linalg.inv(spread.T @ spread)
    length = np.sqrt(np.einsum("ij,jk,ik->i", shifts, inverse, shifts))
    shifts *= size / length[:, None]
    responded = np.zeros(len(A), dtype=bool)
    for name, share, shift in zip(NAMES, SHARES, shifts, strict=True):
        rows = np.flatnonzero(A == name)
        responded[rows] = random.random(len(rows)) < share
        Z[rows] += responded[rows, None] * shift
    return Z, A, responded


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shares_and_shifts_are_those_of_the_truth(seed):
    Z, A, responded = screen(seed=seed)
    shares = responders(States().fit(A), Z, A).shares
    assert shares.index.tolist() == NAMES.tolist()
    for name in NAMES[:3]:
        assert shares.loc[name, "share"] == pytest.approx(responded[A == name].mean(), abs=0.05)
        assert shares.loc[name, "shift"] == pytest.approx(4, abs=0.4)
        assert shares.loc[name, "lower"] < shares.loc[name, "share"] < shares.loc[name, "upper"]
    assert not shares.loc["D", "detected"]
    assert shares.loc["D", ["lower", "upper"]].tolist() == [0, 1]
    assert np.isnan(shares.loc["D", "share"])


@pytest.mark.parametrize("size", [2.0, 4.0])
def test_probabilities_rank_cells_and_are_calibrated(size):
    Z, A, responded = screen(size)
    cells = responders(States().fit(A), Z, A).cells
    some = np.isin(A, NAMES[:3])
    probability = cells["probability"].to_numpy()
    assert np.isnan(probability[~some]).all()
    for name in NAMES[:3]:
        rows = A == name
        assert roc_auc_score(responded[rows], probability[rows]) > (0.85 if size == 2 else 0.98)
    assert probability[some].mean() == pytest.approx(responded[some].mean(), abs=0.05)
    sure = some & (probability > 0.8)
    assert responded[sure].mean() == pytest.approx(probability[sure].mean(), abs=0.05)


def test_intervals_cover_the_share():
    inside = []
    for seed in range(8):
        Z, A, responded = screen(3.0, seed=10 + seed)
        shares = responders(States().fit(A), Z, A, level=0.9).shares
        for name, share in zip(NAMES[:3], SHARES[:3], strict=True):
            inside.append(shares.loc[name, "lower"] <= share <= shares.loc[name, "upper"])
    assert np.mean(inside) > 0.75


@pytest.mark.parametrize(("n_controls", "n_cells"), [(20, 100), (100, 400), (500, 60)])
def test_null_perturbations_are_not_detected(n_controls, n_cells):
    random = np.random.default_rng(0)
    names = np.repeat([f"N{i}" for i in range(40)], n_cells)
    A = np.concatenate([np.full(n_controls, "control"), names])
    Z = random.normal(size=(len(A), 10))
    assert responders(States().fit(A), Z, A).shares["detected"].sum() <= 1


def drifting(drift, n_guides=16, n_cells=250, seed=0):
    """States and labels of guides that do nothing, N0..., and of one that does, after control."""
    random = np.random.default_rng(seed)
    names = ["control", *(f"N{i}" for i in range(n_guides)), "works"]
    A = np.repeat(names, [2000, *[n_cells] * (n_guides + 1)])
    codes = np.repeat(np.arange(len(names)), [2000, *[n_cells] * (n_guides + 1)])
    means = drift * random.normal(size=(len(names), 8))
    Z = random.normal(size=(len(A), 8)) + means[codes]
    Z[(A == "works") & (random.random(len(A)) < 0.7), 0] += 3
    return Z, A, names[1:-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_guides_that_drift_are_not_detected_beside_others(seed):
    Z, A, nulls = drifting(0.12, seed=seed)
    model = States().fit(A)
    alone = responders(model, Z, A).shares
    beside = responders(model, Z, A, nulls=nulls).shares
    assert alone.loc[nulls, "detected"].sum() >= 2
    assert not beside.loc[nulls, "detected"].any()
    assert beside.loc["works", "detected"]
    assert beside.loc["works", "share"] == alone.loc["works", "share"]


def test_guides_of_control_cells_say_how_far_guides_drift():
    Z, A, nulls = drifting(0.12)
    guides = A.astype(object)
    controls = np.isin(A, nulls[:10])
    labels = np.where(controls, "control", A)
    guides[A == "control"] = None  # cells of no guide
    found = responders(States().fit(labels), Z, labels, guides=guides).shares
    assert found.loc["works", "detected"].all()
    assert not found.loc[nulls[10:], "detected"].any()
    design = pd.DataFrame({"perturbation": labels, "guide": guides})
    named = responders(States().fit(design), Z, design, guides="guide", nulls="control").shares
    pd.testing.assert_frame_equal(named, found)
    without = responders(States().fit(labels), Z, labels).shares
    assert without.loc[nulls[10:], "detected"].any()


def test_nulls_without_drift_take_little_power():
    Z, A, nulls = drifting(0.0)
    rows = A == "works"
    Z[rows] = np.random.default_rng(1).normal(size=(rows.sum(), 8))
    Z[rows, 0] += 0.6
    model = States().fit(A)
    assert responders(model, Z, A).shares.loc["works", "detected"]
    assert responders(model, Z, A, nulls=nulls).shares.loc["works", "detected"]
    few = responders(model, Z, A, nulls=nulls[:4]).shares
    pd.testing.assert_frame_equal(few, responders(model, Z, A).shares)


def test_an_affine_map_of_the_states_changes_nothing():
    Z, A, _ = screen()
    first = responders(States().fit(A), Z, A)
    second = responders(States().fit(A), 2.0 - [1, 2, 3, 4, 5, 6] * Z[:, ::-1], A)
    pd.testing.assert_frame_equal(first.shares, second.shares)
    pd.testing.assert_frame_equal(first.cells, second.cells, atol=1e-6)


def test_guides_share_the_shift_of_their_gene():
    Z, A, responded = screen()
    guides = np.where(np.arange(len(A)) % 3 == 0, "g1", "g2")
    dead = (A == "B") & (guides == "g1")
    Z[dead & responded] -= Z[(A == "B") & responded].mean(0) - Z[A == "control"].mean(0)
    found = responders(States().fit(A), Z, A, guides=guides)
    assert found.shares.loc[("B", "g1"), "upper"] < 0.1
    assert found.shares.loc[("B", "g2"), "share"] == pytest.approx(0.6, abs=0.1)
    shifts = found.shares["shift"].groupby("perturbation").nunique()
    assert shifts[["A", "B", "C"]].tolist() == [1, 1, 1]
    assert found.shares["n_cells"].sum() == (A != "control").sum()


def test_few_cells_say_nothing():
    Z, A, _ = screen()
    keep = np.flatnonzero((A != "A") | (np.cumsum(A == "A") <= 5))
    shares = responders(States().fit(A), Z[keep], A[keep]).shares
    assert not shares.loc["A", "detected"]
    assert shares.loc["A", "n_cells"] == 5


def test_cells_keep_their_names_and_combinations_are_their_own():
    Z, A, _ = screen()
    A = A.astype(object)
    A[A == "C"] = "A+B"
    frame = pd.DataFrame(Z, index=[f"cell{i}" for i in range(len(A))])
    found = responders(States().fit(A), frame, A)
    assert found.cells.index[5] == "cell5"
    assert found.shares.index.tolist() == ["A", "A+B", "B", "D"]


def test_what_cannot_be_told_is_an_error():
    Z, A, _ = screen()
    model, few = States().fit(A), np.r_[0:10, N_CONTROLS : len(A)]
    with pytest.raises(ValueError, match="A has 10 cells of the control 'control' and 4"):
        responders(model, Z[few], A[few])
    with pytest.raises(ValueError, match="600 cells of the control 'control' and 0 perturbations"):
        responders(model, Z[:N_CONTROLS], A[:N_CONTROLS])
    with pytest.raises(ValueError, match="guides must have one value for each of the 1800 cells"):
        responders(model, Z, A, guides=A[:-1])
    with pytest.raises(ValueError, match="guides='guide' names a column, and A is no DataFrame"):
        responders(model, Z, A, guides="guide")
    guides = np.where(A == "A", None, "g")
    with pytest.raises(ValueError, match="300 treated cells have no guide, the first in row 600"):
        responders(model, Z, A, guides=guides)
    with pytest.raises(ValueError, match="nulls names 'NT', which have no treated cells in A"):
        responders(model, Z, A, nulls=["NT", "D"])
    with pytest.raises(ValueError, match="level"):
        responders(model, Z, A, level=1.0)


def test_a_model_tells_them_in_counts():

    data = make_sparse_shift(
        6,
        n_cells_per_perturbation=100,
        n_control_cells=400,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        library_size=5000,
        random_state=0,
    )
    A = data.A.copy()
    escaped = np.flatnonzero(A == "control")[:100]
    A[escaped] = "P0"
    model = SVAEPlus(max_epochs=30, random_state=0).fit(data.X, A)
    found = responders(model, data.X, A)
    assert found.shares.loc["P0", "share"] == pytest.approx(0.5, abs=0.05)
    rows = A == "P0"
    truth = np.where(np.isin(np.flatnonzero(rows), escaped), 0, 1)
    assert roc_auc_score(truth, found.cells["probability"][rows]) > 0.98
