"""Splits by hand counts, interventional NLL by hand, UDR on known latents, fits in processes."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, ParameterGrid, cross_validate
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.distributions import Normal

from skpert import IVAE, VAE, AdditiveEffects, BilinearRidge, SVAEPlus
from skpert.exceptions import DataWarning
from skpert.model_selection import (
    LeavePathwaysOut,
    LeavePerturbationsOut,
    PerturbationKFold,
    fit_many,
    interventional_nll,
    interventional_nll_scorer,
    udr_score,
)
from skpert.model_selection._scores import pair_ranking
from skpert.preprocessing import HighlyVariableGenes

FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 2, "batch_size": 32}
FAST |= {"n_particles": 5, "device": "cpu", "random_state": 0}

LABELS = np.repeat(["control", "A", "A+B", "B", "C", "D"], [23, 17, 4, 12, 2, 1])
LABELS = np.random.default_rng(0).permutation(LABELS)
CELLS = np.arange(len(LABELS))[:, None]
HOT = pd.DataFrame({n: [n in a.split("+") for a in LABELS] for n in "ABCD"}).astype(float)


def folds_of(splitter, A=LABELS):
    return [test.tolist() for _, test in splitter.split(CELLS, A)]


# Splits


@pytest.mark.parametrize("n_splits", [2, 3, 5])
def test_folds_are_even_for_every_condition(n_splits):
    folds = PerturbationKFold(n_splits, random_state=0)
    splits = list(folds.split(CELLS, LABELS))
    assert len(splits) == folds.get_n_splits() == n_splits
    tested = np.concatenate([test for _, test in splits])
    assert sorted(tested) == np.flatnonzero(LABELS != "D").tolist()  # its one cell never
    for label in np.unique(LABELS):
        counts = [(LABELS[test] == label).sum() for _, test in splits]
        assert max(counts) - min(counts) <= 1
    for train, test in splits:
        assert not set(train) & set(test)
        assert len(train) + len(test) == len(LABELS)
        assert set(LABELS[train]) == set(LABELS)  # what is tested was seen
    sizes = [len(test) for _, test in splits]
    assert max(sizes) - min(sizes) <= 1


def test_folds_are_shuffled_and_reproducible():
    splits = [folds_of(PerturbationKFold(3, random_state=seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    state = np.random.RandomState(0)
    assert folds_of(PerturbationKFold(3, random_state=state)) == splits[0]
    in_order = np.sort(LABELS)
    test = folds_of(PerturbationKFold(2, random_state=0), in_order)[0]
    assert test != list(range(test[0], len(LABELS), 2))


PATHWAYS = {"first": ["P0", "P1", "unmeasured"], "second": ["P1", "P2"]}
MIXED = np.array(["control", "P0", "P1", "P2", "P3", "P0+P3", "P2+P1", "control"])


@pytest.mark.parametrize("form", [list, np.array, lambda A: pd.DataFrame({"perturbation": A})])
def test_a_pathway_is_left_out_with_its_combinations(form):
    splits = list(LeavePathwaysOut(PATHWAYS).split(MIXED, form(MIXED)))
    assert [test.tolist() for _, test in splits] == [[1, 2, 5, 6], [2, 3, 6]]
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(len(MIXED)))
    assert LeavePathwaysOut(PATHWAYS).get_n_splits() == 2
    assert clone(LeavePathwaysOut(PATHWAYS)).pathways == PATHWAYS


@pytest.mark.parametrize(
    ("pathways", "message"),
    [
        ({"none": ["Q"]}, "none of the perturbations of 'none', 'Q', was measured"),
        ({"all": ["P0", "P1", "P2", "P3"]}, "'all' has all perturbations"),
        ({}, "must map names of groups"),
        (["P0"], "must map names of groups"),
        ({"nothing": []}, "'nothing' is empty"),
        ({"text": "P0"}, "must be a list of names, got 'P0'"),
        ({"control": ["control"]}, "was measured"),
    ],
)
def test_pathways_that_cannot_be_left_out_are_named(pathways, message):
    with pytest.raises(ValueError, match=message):
        list(LeavePathwaysOut(pathways).split(MIXED, MIXED))
    with pytest.raises(ValueError, match="needs the design"):
        list(LeavePathwaysOut(PATHWAYS).split(MIXED))


@pytest.mark.parametrize("splitter", [PerturbationKFold, LeavePerturbationsOut])
def test_every_form_of_design_is_split_alike(splitter):
    expected = folds_of(splitter(3, random_state=0))
    frame = pd.DataFrame({"perturbation": LABELS, "batch": "b"})
    mirrored = np.where(LABELS == "A+B", "B + A", LABELS)
    forms = [LABELS.tolist(), pd.Series(LABELS), pd.Categorical(LABELS), frame, HOT, mirrored]
    for form in forms:
        assert folds_of(splitter(3, random_state=0), form) == expected
    renamed = pd.DataFrame({"guide": np.where(LABELS == "control", "NT", LABELS)})
    other = splitter(3, random_state=0, control="NT", perturbation="guide")
    tested = sorted(np.concatenate(folds_of(other, renamed)))
    assert tested == sorted(np.concatenate(expected))


@pytest.mark.parametrize("n_splits", [2, 3, 5])
def test_perturbations_left_out_have_no_cell_in_training(n_splits):
    splits = list(LeavePerturbationsOut(n_splits, random_state=0).split(CELLS, LABELS))
    assert len(splits) == n_splits
    for train, test in splits:
        assert not set(LABELS[train]) & set(LABELS[test])
        assert (LABELS[train] == "control").sum() == 23
        assert len(train) + len(test) == len(LABELS)
    left_out = [name for _, test in splits for name in np.unique(LABELS[test])]
    assert sorted(left_out) == ["A", "A+B", "B", "C", "D"]
    names = [len(np.unique(LABELS[test])) for _, test in splits]
    assert max(names) - min(names) <= 1
    assert folds_of(LeavePerturbationsOut(n_splits, random_state=1)) != [
        test.tolist() for _, test in splits
    ]


@pytest.mark.parametrize("control", [0, 0.0, "0", " 0 ", np.float32(0)])
def test_controls_are_known_however_their_label_is_written(control):
    A = np.repeat([0.0, 1.0, 2.0], 5)
    for train, _ in LeavePerturbationsOut(2, control=control, random_state=0).split(A, A):
        assert (A[train] == 0).sum() == 5


@pytest.mark.parametrize("splitter", [PerturbationKFold, LeavePerturbationsOut])
def test_impossible_splits_are_refused(splitter):
    for n_splits in (1, 0, 2.0, "5"):
        with pytest.raises(ValueError, match="n_splits must be an integer of at least 2"):
            folds_of(splitter(n_splits))
    with pytest.raises(ValueError, match=r"needs the design: split\(X, A\)"):
        folds_of(splitter(2), None)
    with pytest.raises(ValueError, match="cannot make 60 folds of (59 cells|5 perturbations)"):
        folds_of(splitter(60))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        folds_of(splitter(2), LABELS[:-1])
    with pytest.raises(ValueError, match="labels in A are missing"):
        folds_of(splitter(2), [None, *LABELS[1:]])


def test_folds_without_a_cell_to_test_are_refused():
    alone = [f"P{i}" for i in range(30)]
    for n_splits, labels, remedy in [
        (3, alone, "0 of 30 cells can be tested, .* give one label per treatment"),
        (3, [*alone, "A", "A"], "2 of 32 cells can be tested, .* Lower n_splits to at most 2"),
    ]:
        with pytest.raises(ValueError, match=f"cannot make {n_splits} folds: {remedy}"):
            list(PerturbationKFold(n_splits, random_state=0).split(np.zeros(len(labels)), labels))
    folds = list(PerturbationKFold(2).split(np.zeros(32), [*alone, "A", "A"]))
    assert [len(test) for _, test in folds] == [1, 1]


SORTED = np.repeat(["P0", "P1", "P2", "control"], 8)
PROFILES = np.random.default_rng(0).poisson(3.0, (32, 5)).astype(np.float32)


@pytest.mark.parametrize("model", [SVAEPlus(**FAST), AdditiveEffects(), BilinearRidge("one_hot")])
@pytest.mark.filterwarnings("ignore:One or more of the test scores:UserWarning")
@pytest.mark.filterwarnings("ignore:A has no control cell")
def test_folds_that_leave_perturbations_out_say_so_and_name_the_splitters(model):
    advice = "unknown perturbations|were not seen in training|no perturbed cell"
    named = r"KFold without shuffling[\s\S]*PerturbationKFold[\s\S]*LeavePerturbationsOut"
    grid = GridSearchCV(model, {"perturbation": ["perturbation"]}, cv=4, refit=False)
    cells = PROFILES if hasattr(model, "likelihood") else np.log1p(PROFILES)
    with pytest.warns(UserWarning, match="Scoring failed") as caught:
        grid.fit(cells, SORTED)
    texts = [str(w.message) for w in caught if "Scoring failed" in str(w.message)]
    assert all(re.search(advice, text) and re.search(named, text) for text in texts)
    with pytest.raises(ValueError, match=named):
        grid.set_params(error_score="raise").fit(cells, SORTED)
    grid.set_params(cv=PerturbationKFold(4, random_state=0)).fit(cells, SORTED)
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()


# Interventional likelihood

A = np.repeat(["control", "P0", "P1", "P2", "P3"], [20, 20, 20, 14, 8])
X = np.random.default_rng(0).poisson(3.0, (82, 20)).astype(np.float32)
X[A == "P0", :5] *= 3
X[A == "P2", 5:9] *= 3
NEW = np.isin(A, ["P2", "P3", "control"])
OLD = np.isin(A, ["P0", "P1", "control"])


@pytest.mark.parametrize("cls", [VAE, IVAE, SVAEPlus])
def test_interventional_nll_is_the_mean_over_perturbations(cls):
    model = cls(**FAST).fit(X[OLD], A[OLD])
    state = {name: value.clone() for name, value in model.module_.state_dict().items()}
    result = interventional_nll(model, X[NEW], A[NEW], n_particles=7, min_cells=0)
    scores = model.adapt(X[NEW], A[NEW]).score_cells(X[NEW], A[NEW], n_particles=7)
    by_hand = [-scores[A[NEW] == name].mean() for name in ("P2", "P3")]
    table = result.per_perturbation
    assert table.index.tolist() == ["P2", "P3"]
    assert table["n_cells"].tolist() == [14, 8]
    np.testing.assert_allclose(table["nll"], by_hand, rtol=1e-12)
    assert result.nll == pytest.approx(np.mean(by_hand), rel=1e-12)
    assert result.refined is False
    assert result.estimator.perturbations_.tolist() == ["P0", "P1", "P2", "P3"]
    assert model.perturbations_.tolist() == ["P0", "P1"]
    assert all(torch.equal(state[k], v) for k, v in model.module_.state_dict().items())


def test_small_perturbations_do_not_count():
    model = IVAE(**FAST).fit(X[OLD], A[OLD])
    result = interventional_nll(model, X[NEW], A[NEW], n_particles=7)
    assert result.per_perturbation["counted"].tolist() == [True, False]
    assert result.nll == result.per_perturbation.loc["P2", "nll"]
    edge = interventional_nll(model, X[NEW], A[NEW], n_particles=7, min_cells=8)
    assert edge.nll == result.nll  # more than 8 cells
    with pytest.raises(ValueError, match="more than min_cells=14 cells; the largest has 14"):
        interventional_nll(model, X[NEW], A[NEW], n_particles=7, min_cells=14)


def test_control_cells_among_the_new_do_not_count():
    model = SVAEPlus(**FAST).fit(X[OLD], A[OLD])
    other = np.where(A[:, None] == "control", 50 * X, X)
    first, second = (
        interventional_nll(model, x[NEW], A[NEW], n_particles=7, min_cells=0) for x in (X, other)
    )
    pd.testing.assert_frame_equal(first.per_perturbation, second.per_perturbation)
    assert first.nll == second.nll


def test_controls_of_any_dtype_are_left_out():
    numbers = np.select([A == f"P{j}" for j in range(4)], [1.0, 2.0, 3.0, 4.0], 0.0)
    model = IVAE(control=0.0, **FAST).fit(X[OLD], numbers[OLD])
    result = interventional_nll(model, X[NEW], numbers[NEW], n_particles=7, min_cells=0)
    assert result.per_perturbation.index.tolist() == ["3", "4"]


def test_with_training_cells_the_model_is_refined_first():
    model = SVAEPlus(**FAST).fit(X[OLD], A[OLD])
    arguments = {"n_particles": 7, "min_cells": 0}
    result = interventional_nll(model, X[NEW], A[NEW], X[OLD], A[OLD], **arguments)
    by_hand = interventional_nll(model.refine(X[OLD], A[OLD]), X[NEW], A[NEW], **arguments)
    assert result.refined is True
    assert result.nll == by_hand.nll
    assert result.nll != interventional_nll(model, X[NEW], A[NEW], **arguments).nll
    np.testing.assert_array_equal(result.estimator.mask_[:2], model.mask_)
    for half in ({"X_train": X[OLD]}, {"A_train": A[OLD]}):
        with pytest.raises(ValueError, match="both X_train and A_train, or neither"):
            interventional_nll(model, X[NEW], A[NEW], **half)


def test_the_scorer_cross_validates_over_perturbations():
    folds = LeavePerturbationsOut(2, random_state=0)
    model = SVAEPlus(**FAST)
    scores = cross_validate(
        model, X, A, cv=folds, scoring=interventional_nll_scorer, error_score="raise"
    )["test_score"]
    for (train, test), score in zip(folds.split(X, A), scores, strict=True):
        part = clone(model).fit(X[train], A[train])
        result = interventional_nll(part, X[test], A[test], n_particles=5, min_cells=0)
        assert score == -result.nll


# Unsupervised disentanglement ranking


def test_a_known_pair_has_its_known_ranking():
    similarity = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0.1], [0, 0.1, 0.05]])
    informative, none = np.array([1, 1, 0]), np.zeros(3)
    ranking = pair_ranking(similarity, informative, informative)
    assert ranking == pytest.approx(0.6920454545, abs=1e-10)
    assert pair_ranking(similarity.T, informative, informative) == pytest.approx(ranking)
    assert pair_ranking(np.eye(3), np.ones(3), np.ones(3)) == 1
    assert pair_ranking(np.eye(3), none, none) == 0


VALUES = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)


class Axes(nn.Module):
    """Encoder of which each latent is a weighted sum of genes."""

    def __init__(self, weight, scale):
        super().__init__()
        self.weight, self.scale = torch.from_numpy(weight.astype(np.float32)), scale

    def forward(self, x):
        return Normal(x @ self.weight.T, self.scale)


def reading(weight, scale=0.1):
    """Estimator whose latents are these sums of genes, (3, n_genes), with this posterior scale."""
    model = VAE(likelihood="normal", **FAST).fit(VALUES, np.resize(["control", "P0"], 500))
    model.module_.encoder = Axes(weight, scale)
    return model


def test_models_with_the_same_axes_rank_above_others():
    axes = np.eye(3, 6)
    permuted = axes[[2, 0, 1]] * [[-1], [1], [-3]]  # order, sign and scale do not matter
    rotated = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] @ axes
    scores = udr_score([reading(axes), reading(permuted), reading(axes), reading(rotated)], VALUES)
    assert scores.shape == (4,)
    assert scores[:3].min() > 0.9
    assert scores[3] < 0.7


def test_unrelated_models_rank_low():
    axes = np.eye(6)
    scores = udr_score([reading(axes[:3]), reading(axes[3:])], VALUES)
    assert scores.max() < 0.2
    assert scores[0] == pytest.approx(scores[1])


def test_latents_that_say_nothing_do_not_count():
    axes = np.eye(3, 6)
    few = axes * [[1], [1], [0]]
    models = [reading(few, scale=1.0) for _ in range(2)]  # of the third the KL is 0
    assert udr_score(models, VALUES).min() > 0.9
    assert udr_score(models, VALUES, threshold=10).tolist() == [0, 0]


@pytest.mark.parametrize("n_models", [0, 1])
def test_a_ranking_needs_two_models(n_models):
    with pytest.raises(ValueError, match=f"at least two estimators, got {n_models}"):
        udr_score([VAE()] * n_models, VALUES)


# Many fits at once

COUNTS = np.random.default_rng(0).poisson(2.0, (1400, 200)).astype(np.float32)  # over 1 MB
DESIGN = np.repeat(["control", "P0", "P1", "P2"], 350)


def same_fit(model, expected, data=COUNTS):
    """Whether two fitted estimators have the same parameters, weights and outputs, bit for bit."""
    weights, others = model.module_.state_dict(), expected.module_.state_dict()
    some = data[:70]
    return (
        type(model) is type(expected)
        and model.history_.equals(expected.history_)
        and weights.keys() == others.keys()
        and all(torch.equal(weights[name], others[name]) for name in weights)
        and np.array_equal(model.transform(some), expected.transform(some))
        and model.score(some, DESIGN[:70]) == expected.score(some, DESIGN[:70])
    )


FORMS = {
    "array": COUNTS,
    "sparse": csr_array(COUNTS),
    "frame": pd.DataFrame(COUNTS).add_prefix("gene "),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_many_fits_in_processes_are_those_one_by_one(form):
    state = np.random.RandomState(3)
    settings = FAST | {"batch_size": 256}
    estimators = [
        SVAEPlus(**settings),
        VAE(**settings).set_params(n_init=2),
        SVAEPlus(**settings).set_params(edges="learned", sparsity=5.0, random_state=7),
        IVAE(**settings).set_params(random_state=state, n_latent=4),
    ]
    data = FORMS[form]
    models = fit_many(estimators, data, DESIGN, n_jobs=2)
    expected = [clone(estimator).fit(data, DESIGN) for estimator in estimators]
    assert all(same_fit(*pair, data) for pair in zip(models, expected, strict=True))
    assert not same_fit(models[0], models[2], data)
    assert all(not hasattr(estimator, "module_") for estimator in estimators)
    assert (state.get_state()[1] == np.random.RandomState(3).get_state()[1]).all()


def test_many_fits_come_in_the_order_of_a_grid():
    grid = list(ParameterGrid({"n_latent": [2, 3], "random_state": [0, 1]}))
    X, A = COUNTS[::7], DESIGN[::7]
    models = fit_many([IVAE(**FAST).set_params(**values) for values in grid], X, A, n_jobs=1)
    for values, model in zip(grid, models, strict=True):
        assert values.items() <= model.get_params().items()
        assert same_fit(model, IVAE(**FAST).set_params(**values).fit(X, A))
    assert len(udr_score(models[:2], X)) == 2


def test_any_estimator_can_be_among_many():
    pipeline = make_pipeline(HighlyVariableGenes(20), VAE(**FAST))
    hot = (DESIGN[:, None] == np.unique(DESIGN)[1:]).astype(float)
    piped, linear = fit_many((pipeline, LinearRegression()), COUNTS, hot, n_jobs=1)
    assert np.array_equal(
        piped.transform(COUNTS), clone(pipeline).fit(COUNTS, hot).transform(COUNTS)
    )
    assert np.array_equal(linear.coef_, LinearRegression().fit(COUNTS, hot).coef_)


@pytest.mark.parametrize(
    ("estimators", "error", "message"),
    [
        ([], ValueError, "nothing to fit"),
        (VAE(), TypeError, r"a list of estimators, got VAE\(\): put it into a list"),
        (make_pipeline(VAE()), TypeError, "a list of estimators, got Pipeline"),
        ({"a": VAE()}, TypeError, "a list of estimators, got {'a': VAE"),
        ([VAE(), "SVAE"], TypeError, r"estimators\[1\] is no estimator.*: 'SVAE'"),
        ([VAE(), SVAEPlus], TypeError, r"estimators\[1\] is the class SVAEPlus"),
        ([VAE(), VAE(n_latent=-3)], ValueError, "'n_latent' parameter of VAE .* Got -3"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_anything_is(estimators, error, message):
    with pytest.raises(error, match=message):
        fit_many(estimators, COUNTS, None)  # without a design nothing could be fitted


def test_cells_and_design_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[1400, 9\]"):
        fit_many([VAE(**FAST)], COUNTS, DESIGN[:9])


def test_an_error_says_which_of_many_fits_it_is_of():
    estimators = [VAE(**FAST), VAE(**FAST).set_params(learning_rate=1e38)]
    with pytest.raises(ValueError, match="epoch 0") as caught:
        fit_many(estimators, COUNTS, DESIGN, n_jobs=1)
    (note,) = caught.value.__notes__
    assert note.startswith("in estimators[1], VAE(")
    assert "learning_rate=1e+38" in note


def test_many_fits_warn_once_and_say_which_it_concerns():
    few, labels = COUNTS[:60], np.repeat(["control", "P0", "P1"], 20)
    estimators = [VAE(**FAST), VAE(**FAST), VAE(**FAST).set_params(control="other")]
    with pytest.warns(DataWarning) as caught:
        fit_many(estimators, few + 0.5, labels, n_jobs=1)
    texts = [str(warning.message) for warning in caught]
    ends = [text.endswith(" (estimators[2])") for text in texts]
    assert len(texts) == len(set(texts))
    assert "not whole" in texts[ends.index(False)]
    assert "control" in texts[ends.index(True)]
    assert {warning.filename for warning in caught} == {__file__}
