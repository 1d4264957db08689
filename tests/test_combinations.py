"""Held-out combinations: what is trained on, what is tested, and what no model could know."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from skpert import IVAE
from skpert.exceptions import DataWarning
from skpert.model_selection import CombinationHoldout

SINGLES = list("ABCDEF")
PAIRS = ["+".join(pair) for pair in combinations(SINGLES, 2)]  # 15
LABELS = np.repeat(["control", *SINGLES, *PAIRS], [20, *[8] * 6, *range(2, 17)])
LABELS = np.random.default_rng(0).permutation(LABELS)
CELLS = np.arange(len(LABELS))[:, None]
COMBINED = np.char.count(LABELS, "+") > 0
MODES = pytest.mark.parametrize("mode", ["out_of_distribution", "data_efficiency"])


def splits_of(A=LABELS, n_splits=3, random_state=0, **parameters):
    splitter = CombinationHoldout(n_splits, random_state=random_state, **parameters)
    return list(splitter.split(np.zeros((len(CELLS), 1)), A))


def as_lists(splits):
    return [(train.tolist(), test.tolist()) for train, test in splits]


@MODES
def test_controls_and_singles_are_always_trained_on_and_combinations_only_tested(mode):
    splits = splits_of(mode=mode)
    assert len(splits) == CombinationHoldout(3).get_n_splits() == 3
    for train, test in splits:
        assert not set(train) & set(test)
        assert set(np.flatnonzero(~COMBINED)) <= set(train)
        assert COMBINED[test].all()
        assert len(train) + len(test) == len(LABELS)  # train_fraction=1 leaves no cell out
        for cells in (train, test):
            assert (np.diff(cells) > 0).all()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_whole_combinations_are_held_out_of_distribution(fraction):
    for train, test in splits_of(test_fraction=fraction):
        tested = set(LABELS[test])
        assert len(tested) == max(round(fraction * 15), 1)
        assert not tested & set(LABELS[train])
        assert np.isin(LABELS, list(tested)).sum() == len(test)


@pytest.mark.parametrize("fraction", [0.001, 0.2, 0.5, 1.0])
def test_cells_are_held_out_for_data_efficiency(fraction):
    for train, test in splits_of(mode="data_efficiency", test_fraction=fraction):
        assert len(test) == max(round(fraction * COMBINED.sum()), 1)
        assert COMBINED[train].sum() == COMBINED.sum() - len(test)


@MODES
def test_train_sets_grow_and_tests_stay(mode):
    curve = [splits_of(mode=mode, train_fraction=f) for f in (0, 0.25, 0.5, 1)]
    for smaller, larger in zip(curve, curve[1:], strict=False):
        for (train, test), (more, same) in zip(smaller, larger, strict=True):
            np.testing.assert_array_equal(test, same)
            assert set(train) < set(more)
    for (none, test), (half, _) in zip(curve[0], curve[2], strict=True):
        assert not COMBINED[none].any()
        rest = np.setdiff1d(np.flatnonzero(COMBINED), test)
        trained = half[COMBINED[half]]
        if mode == "out_of_distribution":
            assert len(set(LABELS[trained])) == round(0.5 * len(set(LABELS[rest])))
            assert np.isin(LABELS, LABELS[trained]).sum() == len(trained)  # whole ones
        else:
            assert len(trained) == round(0.5 * len(rest))


@MODES
def test_splits_are_independent_and_reproducible(mode):
    splits = [as_lists(splits_of(mode=mode, random_state=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert len({str(test) for _, test in splits[0]}) == 3
    assert as_lists(splits_of(mode=mode, n_splits=1)) == splits[0][:1]
    splitter = CombinationHoldout(3, mode=mode, random_state=0)
    assert clone(splitter).get_params() == splitter.get_params()
    assert "CombinationHoldout(" in repr(splitter)


def test_every_combination_is_held_out_now_and_then():
    counts = pd.Series(0, index=PAIRS)
    for _, test in splits_of(n_splits=200):
        counts[np.unique(LABELS[test])] += 1
    expected, spread = 200 * 4 / 15, np.sqrt(200 * 4 / 15 * 11 / 15)
    assert ((counts - expected).abs() < 4 * spread).all()


@MODES
def test_every_form_of_design_is_split_alike(mode):
    expected = as_lists(splits_of(mode=mode))
    mirrored = [label[::-1] if "+" in label else label for label in LABELS]
    hot = pd.DataFrame({n: [n in a.split("+") for a in LABELS] for n in SINGLES}).astype(float)
    unnamed = hot.to_numpy() * 1.0
    forms = [LABELS.tolist(), pd.Categorical(LABELS), mirrored, hot, unnamed, csr_array(unnamed)]
    for form in forms:
        assert as_lists(splits_of(form, mode=mode)) == expected
    obs = pd.DataFrame({"guide": np.where(LABELS == "control", "NT", LABELS)})
    obs["guide"] = obs["guide"].str.replace("+", "&")
    frame = splits_of(obs, mode=mode, control="NT", sep="&", perturbation="guide")
    assert as_lists(frame) == expected


def test_doses_of_one_perturbation_are_no_combination():
    dosage = np.array([[0, 0], [1, 0], [0.5, 0], [0, 2], [1, 1], [0.5, 2.0], [1, 1]])
    seen = set()
    for train, test in CombinationHoldout(20, random_state=0).split(dosage, dosage):
        assert {0, 1, 2, 3} <= set(train)
        seen.add(tuple(test.tolist()))
    assert seen == {(4, 6), (5,)}  # doses make two combinations of the same parts


def test_what_no_model_could_know_is_trained_on():
    A = ["control", "A", "B", "A+B", "A+X", "B+X", "A+Y"]  # X and Y are never alone
    cells = np.zeros((7, 1))
    tested = set()
    for train, test in CombinationHoldout(50, random_state=0).split(cells, A):
        assert 6 in train
        tested |= set(test)
    assert tested == {3, 4, 5}
    with pytest.warns(DataWarning, match="2 combinations are held out instead of 4"):
        splits = list(CombinationHoldout(20, test_fraction=1, random_state=0).split(cells, A))
    assert {tuple(test.tolist()) for _, test in splits} == {(3, 4), (3, 5)}


def test_combinations_that_alone_show_a_part_are_trained_on_first():
    pairs = ["A+B", "A+C", "B+C", "A+D", "B+D", "C+D"]
    A = ["control", "A", "B", "C", *pairs]  # D is never alone
    cells = np.zeros((10, 1))
    splitter = CombinationHoldout(50, test_fraction=0.3, train_fraction=0.25, random_state=0)
    for train, test in splitter.split(cells, A):
        known = set("".join(A[i].replace("control", "") for i in train))
        assert all(set(A[i]) <= known for i in test)
        assert sum("+" in A[i] for i in train) == 1
    splitter.set_params(train_fraction=0.0)
    with pytest.raises(ValueError, match="no training cell has, 'D': raise train_fraction"):
        list(splitter.split(cells, A))


def test_held_out_cells_of_an_unknown_part_are_told():
    A = ["control", "A", "A", "A+Z"]
    with pytest.raises(ValueError, match="parts that no training cell has, 'Z'"):
        list(CombinationHoldout(1, mode="data_efficiency").split(A, A))
    with pytest.raises(ValueError, match="no combination can be held out"):
        list(CombinationHoldout(1).split(A, A))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_splits": 0}, "n_splits must be an integer of at least 1"),
        ({"mode": "random"}, "mode must be one of"),
        ({"test_fraction": 0}, r"test_fraction must be in \(0, 1\], got 0"),
        ({"test_fraction": 1.5}, r"test_fraction must be in \(0, 1\], got 1.5"),
        ({"train_fraction": -0.1}, r"train_fraction must be in \[0, 1\], got -0.1"),
        ({"train_fraction": None}, r"train_fraction must be in \[0, 1\], got None"),
        ({"sep": None}, "none of its 22 treatments has more than one part"),
        ({"sep": "&"}, r"A has no combination .* joined by sep='&'"),
        ({"A": ["control", *["A"] * (len(LABELS) - 1)]}, "A has no combination to hold out"),
        ({"A": None}, r"the split needs the design: split\(X, A\)"),
    ],
)
def test_bad_parameters_are_told(parameters, message):
    with pytest.raises(ValueError, match=message):
        splits_of(**parameters)


def test_a_model_is_scored_on_the_splits():
    A = np.repeat(["control", "A", "B", "A+B"], 20)
    X = np.random.default_rng(0).poisson(3.0, (80, 10))
    model = IVAE(n_latent=2, n_hidden=8, max_epochs=1, n_particles=5, random_state=0)
    cv = CombinationHoldout(2, mode="data_efficiency", random_state=0)
    scores = cross_val_score(model, X, A, cv=cv)
    (train, test), _ = cv.split(X, A)
    assert scores[0] == model.fit(X[train], A[train]).score(X[test], A[test])
