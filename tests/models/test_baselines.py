"""Baselines: exact cases, closed forms, invariances, forms of input, what is refused."""

import inspect
import pickle
import warnings
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from numpydoc.docscrape import NumpyDocString
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import skpert
from benchmarks.unseen.gene_set_ridge import leave_one_out
from benchmarks.unseen.shared import merged, read
from skpert import (
    AdditiveEffects,
    BilinearRidge,
    ControlMean,
    EffectRegression,
    InteractionRidge,
    PerturbedMean,
    _pseudobulk,
)
from skpert._least_squares import ridge_operator
from skpert.exceptions import DataWarning
from skpert.model_selection import LeavePerturbationsOut
from skpert.models.baselines import SumOfParts, _components
from skpert.preprocessing import GeneSetFeatures, LogNormalize

BASELINES = [
    cls
    for _, cls in inspect.getmembers(skpert, inspect.isclass)
    if cls.__module__ == "skpert.models.baselines"
]
every = pytest.mark.parametrize("cls", BASELINES)

GENES = [f"P{j}" for j in range(8)]
NAMES = ["P0", "P1", "P2", "P3"]
A = np.repeat(["control", *NAMES], [12, 5, 6, 7, 8])
X = np.random.default_rng(0).normal(2.0, 1.0, (len(A), 8)).astype(np.float32)
X[X < 1] = 0
FRAME = pd.DataFrame(X, columns=GENES)
TABLE = pd.DataFrame(np.random.default_rng(1).normal(size=(6, 3)), index=[*NAMES, "P4", "P5"])


def estimator(cls, **parameters):
    """With features where they are needed, so that nothing warns."""
    if cls is EffectRegression:
        return cls(TABLE, Ridge(0.1), **parameters)
    return cls(TABLE, **parameters) if cls is BilinearRidge else cls(**parameters)


def mean_of(label, X=X, A=A):
    return X[A == label].mean(0, dtype=np.float64)


CONTROL = mean_of("control")
EFFECTS = np.array([mean_of(name) - CONTROL for name in NAMES])


def assert_close(found, expected, atol=1e-6):
    np.testing.assert_allclose(found, expected, atol=atol)


def test_all_baselines_are_found():
    linear = {AdditiveEffects, BilinearRidge, ControlMean, InteractionRidge, PerturbedMean}
    assert set(BASELINES) == linear | {EffectRegression}


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([cls() for cls in BASELINES if cls is not EffectRegression])
def test_estimator(estimator, check):
    check(estimator)


# What each predicts


def test_control_mean_is_the_mean_of_controls_for_every_design():
    model = ControlMean().fit(X, A)
    expected = np.tile(CONTROL, (4, 1))
    assert_close(model.predict_intervention(["P1", "control", "P0+P1", "never seen"]), expected)
    np.testing.assert_array_equal(model.effect_, np.zeros((4, 8)))


def test_perturbed_mean_counts_each_treatment_once():
    labels = np.where(A == "P3", "P0+P1", A)
    effect = np.mean([mean_of(t, A=labels) for t in ("P0", "P1", "P2", "P0+P1")], 0) - CONTROL
    model = PerturbedMean().fit(X, labels)
    found = model.predict_intervention(["P1", "control", "P0+P1", "never seen"]) - CONTROL
    assert_close(found, [effect, np.zeros(8), effect, effect])
    assert_close(model.effect_, np.tile(effect, (3, 1)))


def test_additive_effects_are_mean_differences_and_add_up():
    model = AdditiveEffects().fit(X, A)
    assert_close(model.effect_, EFFECTS)
    found = model.predict_intervention(["P3", "P2+P0", "control"]) - CONTROL
    assert_close(found, [EFFECTS[3], EFFECTS[0] + EFFECTS[2], np.zeros(8)])
    dosed = model.predict_intervention([[0, 0.5, 0, 2]]) - CONTROL
    assert_close(dosed, [0.5 * EFFECTS[1] + 2 * EFFECTS[3]])


def test_additive_effects_with_combinations_are_least_squares_over_cells():
    dosage = np.column_stack([A == name for name in NAMES]).astype(float)
    dosage[A == "P3", :2] = [1, 0.5]  # P3 comes with P0 and half of P1
    expected = np.linalg.lstsq(dosage, X.astype(float) - CONTROL, rcond=None)[0]
    model = AdditiveEffects().fit(X, dosage)
    assert_close(model.effect_, expected)


def test_parts_that_only_come_together_share_their_effect():
    labels = np.where(A == "P3", "Q+P3", A)
    with pytest.warns(DataWarning, match="only co-occur"):
        model = AdditiveEffects().fit(X, labels)
    assert_close(model.effect_[model.perturbations_ == "Q"], EFFECTS[3:] / 2)


def pairs_that_interact(rule, seed=0, n_parts=12, n_genes=6):
    """A cell of each single perturbation and of each pair, whose effect is ``rule`` of the sum."""
    effects = np.random.default_rng(seed).normal(size=(n_parts, n_genes))
    names = np.array([f"Q{i:02}" for i in range(n_parts)], dtype=object)
    parts = np.array(list(combinations(range(n_parts), 2)))
    labels = np.array([f"{names[i]}+{names[j]}" for i, j in parts], dtype=object)
    sums = effects[parts].sum(1)
    X = np.vstack([np.zeros((1, n_genes)), effects, rule(sums)])
    return X, np.array(["control", *names, *labels], dtype=object), n_parts + 1


of_single_cells = pytest.mark.filterwarnings("ignore:Perturbations with one cell only")


@of_single_cells
def test_one_scale_of_sums_is_learned():
    X, labels, first = pairs_that_interact(lambda sums: 0.6 * sums)
    model = AdditiveEffects(scale="learned").fit(X, labels)
    assert model.scale_ == pytest.approx(0.6, abs=1e-6)
    assert_close(model.predict_intervention(labels[first:]), X[first:], 1e-5)
    assert_close(model.effect_, X[1:first], 1e-5)
    fixed = AdditiveEffects(scale=0.6).fit(X, labels)
    assert_close(fixed.predict_intervention(labels), X, 1e-6)
    assert AdditiveEffects(scale="learned").fit(X[:first], labels[:first]).scale_ == 1
    with pytest.raises(ValueError, match="scale='half' must be a finite number or 'learned'"):
        AdditiveEffects(scale="half").fit(X, labels)


@of_single_cells
@pytest.mark.parametrize("seed", [0, 1])
def test_combinations_like_others_interact_like_them(seed):
    X, labels, first = pairs_that_interact(lambda s: s - 0.8 * np.maximum(s, 0), seed)
    unseen = first + np.random.default_rng(seed).permutation(len(X) - first)[:20]
    known = np.setdiff1d(np.arange(len(X)), unseen)
    errors = [
        np.square(m.fit(X[known], labels[known]).predict_intervention(labels[unseen]) - X[unseen])
        for m in (AdditiveEffects(scale="learned"), InteractionRidge())
    ]
    assert errors[1].mean() < 0.8 * errors[0].mean()
    model = InteractionRidge().fit(X[:first], labels[:first])  # has seen no combination
    plain = AdditiveEffects().fit(X[:first], labels[:first])
    assert_close(model.predict_intervention(labels), plain.predict_intervention(labels))
    for name in ("gamma", "alpha"):
        with pytest.raises(ValueError, match=f"{name}=-1 must be a positive number or 'auto'"):
            InteractionRidge(**{name: -1}).fit(X, labels)


@of_single_cells
def test_leave_one_out_errors_are_those_of_leaving_out():
    X, labels, first = pairs_that_interact(lambda s: np.tanh(s), n_parts=6)
    model = InteractionRidge().fit(X, labels)
    K = rbf_kernel(model._sums, gamma=model.gamma_)
    rest = model._weights @ np.eye(X.shape[1])
    residual = (K + model.alpha_ * np.eye(len(K))) @ rest
    inverse = np.linalg.inv(K + model.alpha_ * np.eye(len(K)))
    i, others = 0, np.arange(1, len(K))
    of_others = K[np.ix_(others, others)] + model.alpha_ * np.eye(len(others))
    left_out = residual[i] - K[i, others] @ np.linalg.solve(of_others, residual[others])
    assert_close(left_out, rest[i] / inverse[i, i], 1e-8)


def test_landmarks_that_are_all_sums_span_what_these_do():
    random = np.random.default_rng(0)
    sums, rest = random.normal(size=(30, 3)), random.normal(size=(30, 4))
    kernel, alphas = rbf_kernel(sums, gamma=0.5), [0.1, 1.0]
    exact = list(_pseudobulk._dual(kernel, rest, alphas))
    spanned = list(_pseudobulk._nystroem(kernel, np.arange(30), rest, alphas))
    for (a, weights, error), (b, of_landmarks, other) in zip(exact, spanned, strict=True):
        assert a == b
        assert error == pytest.approx(other)
        assert_close(kernel @ weights, kernel @ of_landmarks, 1e-6)


def test_many_combinations_are_compared_with_some(monkeypatch):
    X, labels, first = pairs_that_interact(lambda s: s - 0.8 * np.maximum(s, 0))
    exact = InteractionRidge().fit(X, labels)
    monkeypatch.setattr(_pseudobulk, "N_LANDMARKS", (len(X) - first) * 2 // 3)
    some = InteractionRidge().fit(X, labels)
    assert len(some._sums) == len(some._weights) == _pseudobulk.N_LANDMARKS < len(exact._sums)
    plain = AdditiveEffects(scale="learned").fit(X, labels)
    errors = [
        np.square(m.predict_intervention(labels[first:]) - X[first:]).mean()
        for m in (plain, some, exact)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 3 * errors[2]


def test_bilinear_ridge_reproduces_known_values():
    G = np.array([[1, 0], [0.5, 1], [-1, 0.5], [0, -1]])
    P = np.array([[1, 0, 0.5], [0, 1, -0.5]])
    Y = np.array([[1, 2, 0], [0, 1, 1], [-1, 0, 2], [0.5, -0.5, 1]])
    center = Y.mean(1, keepdims=True)
    K = ridge_operator(G, 0.1) @ (Y - center) @ ridge_operator(P.T, 0.1).T
    assert_close(K, [[0.084622824, 0.8824951644], [-0.3626692456, 0.169245648]], atol=1e-10)
    expected = [1.6431334623, 0.9979045777, -0.304964539, 0.3236621534]
    assert_close(center[:, 0] + G @ K @ [0.3, 0.7], expected, atol=1e-10)


@pytest.mark.parametrize("center", ["perturbations", "conditions", None])
@pytest.mark.parametrize("n_gene_components", [None, 2])
def test_bilinear_ridge_is_its_closed_form(center, n_gene_components):
    options = {"alpha_genes": 0.3, "alpha_targets": 0.2, "normalize_features": False}
    model = BilinearRidge(TABLE, n_gene_components=n_gene_components, center=center, **options)
    model.fit(X, A)
    Y, P = EFFECTS.T, TABLE.loc[NAMES].to_numpy().T
    c = {"perturbations": Y.mean(1), "conditions": Y.sum(1) / 5, None: np.zeros(8)}[center]
    G, penalty = np.eye(8), 0.0
    if n_gene_components:
        means = np.column_stack([Y + CONTROL[:, None], CONTROL])
        U, s, _ = np.linalg.svd(means - means.mean(0))
        G, penalty = U[:, :2] * s[:2], 0.3
    left = np.linalg.inv(G.T @ G + penalty * np.eye(G.shape[1])) @ G.T
    right = P.T @ np.linalg.inv(P @ P.T + 0.2 * np.eye(3))
    W = left @ (Y - c[:, None]) @ right
    single, double = TABLE.loc["P4"], TABLE.loc["P4"] + TABLE.loc["P1"]
    expected = [CONTROL + c + G @ W @ single, CONTROL + c + G @ W @ double, CONTROL]
    assert_close(model.predict_intervention(["P4", "P1+P4", "control"]), expected)
    assert_close(model.effect_.T, c[:, None] + G @ W @ P)
    assert_close(model.center_, c)


def test_defaults_are_kernel_ridge_regression_on_cosines():
    model = BilinearRidge(TABLE).fit(X, A)
    unit = TABLE.to_numpy() / np.linalg.norm(TABLE, axis=1, keepdims=True)
    kernel = unit @ unit.T
    mean = EFFECTS.mean(0)
    ridge = KernelRidge(alpha=0.1, kernel="precomputed").fit(kernel[:4, :4], EFFECTS - mean)
    expected = CONTROL + mean + ridge.predict(kernel[:, :4])
    assert_close(model.predict_intervention(list(TABLE.index)), expected)


def test_contrasts_are_predictions_without_the_mean_effect():
    whole = BilinearRidge(TABLE).fit(X, A)
    model = BilinearRidge(TABLE, center="contrast").fit(X, A)
    names = ["P1", "P4"]
    expected = whole.predict_intervention(names) - whole.center_
    assert_close(model.predict_intervention(names), expected)
    assert_close(model.center_, whole.center_)
    new = np.repeat("P5", 4)
    adapted = model.adapt(X[:4], new).predict_intervention("P5")
    assert_close(adapted, whole.adapt(X[:4], new).predict_intervention("P5") - whole.center_)


def test_without_penalty_and_with_as_many_features_it_interpolates():
    square = pd.DataFrame(np.random.default_rng(2).normal(size=(4, 4)), index=NAMES)
    options = {"alpha_targets": 0, "alpha_genes": 0}
    for center in ("perturbations", "conditions", None):
        model = BilinearRidge(square, center=center, **options).fit(X, A)
        assert_close(model.effect_, EFFECTS)
    # all components of five conditions know everything but what is common to all genes
    model = BilinearRidge(square, n_gene_components=8, center=None, **options).fit(X, A)
    assert model.gene_embedding_.shape == (8, 5)
    assert_close(model.effect_, EFFECTS - EFFECTS.mean(1, keepdims=True))


def test_targets_without_features_get_the_mean_effect():
    zero = TABLE.copy()
    zero.loc["P5"] = 0
    expected = PerturbedMean().fit(X, A).predict_intervention("P5")
    assert_close(BilinearRidge(zero).fit(X, A).predict_intervention("P5"), expected)
    sets = GeneSetFeatures({"ab": ["P0", "P1", "P4"], "cd": ["P2", "P3", "P9"]})
    model = BilinearRidge(sets).fit(X, A)
    assert model.target_features_.has(["P4", "P5"]).tolist() == [True, False]
    with pytest.warns(DataWarning, match="in no gene set"):
        assert_close(model.predict_intervention("P5"), expected)
    alike = model.predict_intervention(["P4", "P0", "P1"])
    assert_close(alike[0], alike[1])
    assert_close(alike[0], alike[2])


def test_a_large_penalty_leaves_the_mean_effect():
    model = BilinearRidge(TABLE, alpha_targets=1e9).fit(X, A)
    expected = PerturbedMean().fit(X, A).predict_intervention("P4")
    assert_close(model.predict_intervention("P4"), expected)


def test_published_targets_are_rows_of_the_gene_embedding():
    options = {"n_gene_components": 3, "normalize_features": False, "center": "conditions"}
    model = BilinearRidge(**options).fit(FRAME, A)
    table = pd.DataFrame(_components(np.vstack([EFFECTS + CONTROL, CONTROL]).T, 3), index=GENES)
    by_table = BilinearRidge(table, **options).fit(FRAME, A)
    designs = ["P7", "P1+P6", "P2"]
    assert_close(model.predict_intervention(designs), by_table.predict_intervention(designs))


def test_none_describes_targets_by_how_they_vary_in_controls():
    model = BilinearRidge().fit(FRAME, A)
    named = BilinearRidge("genes").fit(FRAME, A)
    np.testing.assert_array_equal(
        model.predict_intervention(["P7"]), named.predict_intervention(["P7"])
    )


@pytest.mark.screen
def test_gene_sets_predict_a_pathway_that_was_left_out(data_dir):
    """Figures of an independent kernel ridge regression, times 10,000."""
    expected = pd.DataFrame(
        {"IFNGR1": [89.4, 13.6], "JAK2": [125, 66], "STAT1": [268, 211]}, index=["mean", "sets"]
    )
    path = data_dir / "papalexi2021_thp1_crispr.h5ad"
    screen = read(path, 500)
    sets = merged([data_dir / "genesets"])
    features = GeneSetFeatures(sets, weight="idf").fit(sorted(set().union(*sets.values())))
    models = {"mean": PerturbedMean(), "sets": BilinearRidge(FrozenEstimator(features))}
    targets = sorted(set(screen.A) - {"control"})
    for name, model in models.items():
        found = 1e4 * leave_one_out(model, screen, targets, left_out=list(expected))
        np.testing.assert_allclose(found[expected.columns], expected.loc[name], rtol=0.01)


# Invariances


def designs_of(cls):
    return ["P2", "P1+P3", "control"] + (["P4"] if not issubclass(cls, SumOfParts) else [])


@every
def test_permuting_genes_permutes_predictions(cls):
    order = np.random.default_rng(3).permutation(8)
    model = cls(n_gene_components=3) if cls is BilinearRidge else estimator(cls)
    straight = clone(model).fit(FRAME, A)
    permuted = clone(model).fit(FRAME.iloc[:, order], A)
    designs = designs_of(cls)
    expected = straight.predict_intervention(designs)[:, order]
    assert_close(permuted.predict_intervention(designs), expected)
    assert permuted.score(FRAME.iloc[:, order], A) == pytest.approx(straight.score(FRAME, A))


@every
def test_permuting_or_repeating_cells_changes_nothing(cls):
    order = np.random.default_rng(4).permutation(np.tile(np.arange(len(A)), 2))
    straight, mixed = estimator(cls).fit(X, A), estimator(cls).fit(X[order], A[order])
    designs = designs_of(cls)
    assert_close(mixed.predict_intervention(designs), straight.predict_intervention(designs))
    assert mixed.score(X[order], A[order]) == pytest.approx(straight.score(X, A))


@every
def test_predictions_shift_and_scale_with_expression(cls):
    designs = designs_of(cls)
    straight = estimator(cls).fit(X, A).predict_intervention(designs)
    moved = estimator(cls).fit(3 * X + 1, A).predict_intervention(designs)
    assert_close(moved, 3 * straight + 1, atol=1e-5)


# Cells


@every
def test_given_cells_are_shifted_by_the_effect(cls):
    model, cells = estimator(cls).fit(X, A), X[:5]
    for label in designs_of(cls):
        effect = model.predict_intervention(label)[0] - CONTROL
        assert_close(model.predict_intervention(label, cells), cells + effect, atol=1e-5)
    each = model.predict_intervention(["P0", "P1", "control", "P1", "P0"], cells)
    effect = model.predict_intervention(["P0", "P1"]) - CONTROL
    assert_close(each[[0, 3]] - cells[[0, 3]], effect, atol=1e-5)
    np.testing.assert_array_equal(each[2], cells[2])


@every
def test_samples_have_the_predicted_mean_and_the_noise_of_cells(cls):
    model = estimator(cls).fit(X, A)
    designs = designs_of(cls)
    samples = model.sample_intervention(designs, 4000, random_state=0)
    assert samples.shape == (len(designs), 4000, 8)
    assert samples.dtype == np.float32
    error = 5 * samples.std(1) / np.sqrt(4000)
    assert (np.abs(samples.mean(1) - model.predict_intervention(designs)) < error).all()
    drawn = samples[designs.index("control")]
    assert {tuple(cell) for cell in drawn} == {tuple(cell) for cell in X[A == "control"]}


def test_samples_of_means_are_training_cells():
    treated = {tuple(cell) for cell in X[A != "control"]}
    found = PerturbedMean().fit(X, A).sample_intervention("anything", 2000, random_state=0)[0]
    assert {tuple(cell) for cell in found} == treated
    found = ControlMean().fit(X, A).sample_intervention("anything", 500, random_state=0)[0]
    assert {tuple(cell) for cell in found} == {tuple(cell) for cell in X[A == "control"]}


@every
def test_samples_from_given_cells_are_these_shifted(cls):
    model, cells = estimator(cls).fit(X, A), X[:2]
    shifted = model.predict_intervention("P1", cells)
    samples = model.sample_intervention("P1", 20, X=cells, random_state=0)[0]
    assert {tuple(cell) for cell in samples} == {tuple(cell) for cell in shifted}


@every
def test_samples_depend_on_the_seed_only(cls):
    model = estimator(cls).fit(X, A)
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again, other = (
        model.sample_intervention(["P1", "P2"], 9, random_state=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# Score


def test_score_is_minus_the_error_of_means():
    model = ControlMean().fit(X, A)
    assert model.score(X, A) == pytest.approx(-np.mean(EFFECTS**2))
    assert AdditiveEffects().fit(X, A).score(X, A) == pytest.approx(0, abs=1e-12)
    only = np.where(np.isin(A, ["control", "P1"]), 1.0, 0.0)
    assert model.score(X, A, only) == pytest.approx(-np.mean(EFFECTS[1] ** 2))
    weight = np.where(A == "P1", np.linspace(0, 1, len(A)), 1)
    weighted = np.average(X[A == "P1"], axis=0, weights=weight[A == "P1"]) - CONTROL
    expected = -np.mean(np.vstack([np.delete(EFFECTS, 1, axis=0), weighted]) ** 2)
    assert model.score(X, A, weight) == pytest.approx(expected)


@every
def test_score_tells_combinations_apart_and_scores_what_can_be_predicted(cls):
    model = estimator(cls).fit(X, A)
    labels = np.where(A == "P3", "P0+P1", np.where(A == "P2", "P1", A))
    means = np.array([mean_of(t, A=labels) for t in ("P0", "P1", "P0+P1")])
    expected = -np.mean((model.predict_intervention(["P0", "P1", "P1+P0"]) - means) ** 2)
    assert model.score(X, labels) == pytest.approx(expected)


@pytest.mark.parametrize("cls", [ControlMean, PerturbedMean, BilinearRidge])
def test_perturbations_left_out_can_be_scored(cls):
    folds = LeavePerturbationsOut(2, random_state=0)
    model = make_pipeline(LogNormalize(), estimator(cls))
    scores = cross_val_score(model, np.rint(X), A, cv=folds, error_score="raise")
    assert (scores < 0).all()


# No control cells, and adapting


@every
def test_without_controls_the_reference_is_the_mean_of_all_cells(cls):
    treated = A != "control"
    with pytest.warns(DataWarning) as caught:
        model = estimator(cls).fit(X[treated], A[treated])
    assert len(caught) == 1
    assert "no control cell" in str(caught[0].message)
    reference = X[treated].mean(0, dtype=np.float64)
    assert_close(model.predict_intervention("control")[0], reference)
    assert_close(model.control_mean_, reference)
    samples = model.sample_intervention("control", 900, random_state=0)[0]
    assert {tuple(cell) for cell in samples} == {tuple(cell) for cell in X[treated]}


@every
def test_adapting_adds_perturbations_and_changes_none(cls):
    known = A != "P3"
    model = estimator(cls).fit(X[known], A[known])
    adapted = model.adapt(X, np.where(np.isin(A, ["control", "P3"]), A, "control"))
    assert adapted.perturbations_.tolist() == NAMES
    assert model.perturbations_.tolist() == NAMES[:3]
    np.testing.assert_array_equal(
        adapted.predict_intervention(NAMES[:3]), model.predict_intervention(NAMES[:3])
    )
    found = adapted.predict_intervention("P3")[0] - CONTROL
    if issubclass(cls, (SumOfParts, BilinearRidge, EffectRegression)):
        assert_close(found, EFFECTS[3])
    else:
        assert_close(found, model.effect_[0])
    with pytest.raises(ValueError, match="known already"):
        adapted.adapt(X, A)


def test_an_adapted_combination_is_the_sum_of_old_and_new():
    known = A != "P3"
    model = AdditiveEffects().fit(X[known], A[known]).adapt(X[~known], A[~known])
    found = model.predict_intervention("P3+P1")[0] - CONTROL
    assert_close(found, EFFECTS[3] + EFFECTS[1])


# Forms of input


def outputs(model, X=X):
    return [
        model.predict_intervention(["P1", "P0+P2"]),
        model.predict_intervention("P1", X[:3]),
        model.sample_intervention("P1", 3, random_state=0),
        model.score(X, A),
    ]


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, sparse.csc_array])
@every
def test_sparse_and_dense_expression_agree(cls, form):
    dense, thin = estimator(cls).fit(X, A), estimator(cls).fit(form(X), A)
    for one, other in zip(outputs(thin, sparse.csr_array(X)), outputs(dense), strict=True):
        assert_close(one, other)


@every
def test_frames_and_anndata_agree(cls):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"guide": A}, index=[f"cell {i}" for i in range(len(A))])
    data = anndata.AnnData(FRAME.set_axis(obs.index), obs=obs, layers={"log": X})
    expected = outputs(estimator(cls).fit(FRAME, A), FRAME)
    model = estimator(cls, perturbation="guide", layer="log").fit(data, data.obs)
    assert model.feature_names_in_.tolist() == GENES
    assert_close(model.predict_intervention("P1", data[:3]), expected[1])
    assert_close(model.predict_intervention(["P1", "P0+P2"]), expected[0])
    assert model.score(data, data.obs) == expected[3]


@pytest.mark.parametrize(
    "design",
    [
        pd.Series(A, dtype="category"),
        np.column_stack([A == name for name in NAMES]),
        pd.DataFrame({name: A == name for name in ["control", *NAMES[::-1]]}),
        pd.DataFrame({"perturbation": A, "batch": 1}),
    ],
)
@every
def test_every_form_of_design_agrees(cls, design):
    if cls in (BilinearRidge, EffectRegression) and isinstance(design, np.ndarray):
        model = estimator(cls).set_params(features=TABLE.set_axis(list("012345"))).fit(X, design)
    else:
        model = estimator(cls).fit(X, design)
    expected = estimator(cls).fit(X, A)
    assert model.score(X, design) == pytest.approx(expected.score(X, A))
    order = np.argsort(model.perturbations_)
    assert_close(model.effect_[order], expected.effect_)


@every
def test_names_that_no_design_uses_may_be_unknown(cls):
    model = estimator(cls).fit(X, A)
    frame = pd.DataFrame({"P1": [1, 0], "unknown": [0, 0]})
    assert_close(model.predict_intervention(frame), model.predict_intervention(["P1", "control"]))


# Refused


@every
def test_library_size_is_refused_with_the_reason(cls):
    model = estimator(cls).fit(X, A)
    for method in (
        lambda: model.predict_intervention("P1", library_size=1e4),
        lambda: model.sample_intervention("P1", 2, library_size=1e4),
    ):
        with pytest.raises(ValueError, match="applies to count models only.*log-normalised"):
            method()


@every
def test_bad_expression_and_designs_are_refused(cls):
    model = estimator(cls)
    hollow = X.copy()
    hollow[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        clone(model).fit(hollow, A)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(model).fit(X, A[:-1])
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        clone(model).fit(X, None)
    with pytest.raises(ValueError, match="no cell received: '4'. Leave them out"):
        clone(model).fit(X, np.column_stack([*(A == name for name in NAMES), 0 * (A == "P0")]))
    with pytest.raises(NotFittedError):
        model.predict_intervention("P1")
    model.fit(FRAME, A)
    with pytest.raises(ValueError, match="expecting 8 features"):
        estimator(cls).fit(X, A).predict_intervention("P1", X[:, :7])
    with pytest.raises(ValueError, match="lacks 1 of the 8 genes"):
        model.score(FRAME.iloc[:, 1:], A)
    with pytest.raises(ValueError, match="2 designs for 3 cells"):
        model.predict_intervention(["P1", "P2"], FRAME[:3])
    with pytest.raises(ValueError, match="A holds no design"):
        model.predict_intervention([])
    with pytest.raises(ValueError, match="no perturbed cell"):
        model.score(FRAME[:3], A[:3])
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        model.sample_intervention("P1", 0)


def test_unknown_perturbations_are_listed():
    model = AdditiveEffects().fit(X, A)
    message = "unknown perturbations: 'Q', 'R'. Known are 'P0', 'P1', 'P2', 'P3', and the control"
    with pytest.raises(ValueError, match=message):
        model.predict_intervention(["P1", "Q+R"])
    model = BilinearRidge(TABLE).fit(X, A)
    with pytest.raises(ValueError, match="not in the table of features: 'Q'. Known are 'P0'"):
        model.predict_intervention(["P1", "P1+Q"])


def test_targets_of_training_need_features():
    with pytest.raises(ValueError, match="not in the table of features: 'P3'"):
        BilinearRidge(TABLE.drop(index="P3")).fit(X, A)
    with pytest.raises(ValueError, match="one length"):
        BilinearRidge({"P0": [1, 2], "P1": [1], "P2": [1, 2], "P3": [1, 2]}).fit(X, A)
    for expression in (X, FRAME.rename(columns={"P3": "Q"})):
        with pytest.raises(ValueError, match="no measured genes, by name.*'P3'. With n_gene_comp"):
            BilinearRidge(n_gene_components=2).fit(expression, A)
    with pytest.warns(DataWarning, match="one-hot features, because"):
        model = BilinearRidge().fit(X, A)
    with pytest.raises(ValueError, match="not seen in training.*'P4'"):
        model.predict_intervention("P4")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_gene_components": 0}, "n_gene_components must be None or an integer"),
        ({"n_gene_components": 1.5}, "n_gene_components must be None or an integer"),
        ({"alpha_targets": -1}, "alpha_genes and alpha_targets must be at least 0"),
        ({"alpha_genes": np.nan}, "alpha_genes and alpha_targets must be at least 0"),
        ({"center": "mean"}, "center='mean' must be"),
        ({"features": "pca"}, "'genes' or 'one_hot'"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        BilinearRidge(**{"features": TABLE} | parameters).fit(X, A)


@every
def test_a_failed_fit_leaves_the_model_as_it_was(cls):
    model = estimator(cls).fit(X, A)
    before = outputs(model)
    with pytest.raises(ValueError, match="inconsistent"):
        model.fit(X[:, :5], A[:-1])
    for one, other in zip(outputs(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


# Conduct


@every
def test_copies_learn_and_predict_the_same(cls):
    model = estimator(cls).fit(X, A)
    copies = [pickle.loads(pickle.dumps(model)), clone(model).fit(X, A)]
    for copy in copies:
        for one, other in zip(outputs(copy), outputs(model), strict=True):
            np.testing.assert_array_equal(one, other)


@every
def test_what_is_documented_is_what_there_is(cls):
    doc = NumpyDocString(inspect.cleandoc(cls.__doc__))
    assert [p.name for p in doc["Parameters"]] == list(inspect.signature(cls).parameters)
    options = {"n_gene_components": 2} if cls is BilinearRidge else {}
    model = cls(**options).fit(FRAME, A)
    learned = {name for name, _ in inspect.getmembers(model) if name.endswith("_")}
    documented = {attribute.name for attribute in doc["Attributes"]}
    assert {name for name in learned if not name.startswith("_")} == documented


@every
def test_input_stays_as_it_is(cls):
    frozen, table = X.copy(), TABLE.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs(estimator(cls).fit(frozen, A), frozen)
    pd.testing.assert_frame_equal(TABLE, table)


# Any regressor


def test_effects_by_ridge_are_those_of_ridge_of_scikit_learn():
    model = EffectRegression(TABLE, Ridge(0.5)).fit(X, A)
    ridge = Ridge(0.5).fit(TABLE.loc[NAMES], EFFECTS)
    expected = CONTROL + ridge.predict(TABLE.loc[["P4", "P5"]])
    assert_close(model.predict_intervention(["P4", "P5"]), expected, atol=1e-5)
    both = CONTROL + ridge.predict(TABLE.loc[["P0", "P4"]]).sum(0)
    assert_close(model.predict_intervention("P0+P4"), [both], atol=1e-5)


def test_features_that_one_perturbation_has_are_not_used():
    table = pd.DataFrame({"shared": [1, 1, 0, 0, 1], "own": [0, 0, 1, 0, 0]}, [*NAMES, "P4"])
    model = EffectRegression(table, random_state=0).fit(X, A)
    assert model.used_features_.tolist() == [True, False]
    expected = CONTROL + EFFECTS[:2].mean(0)
    assert_close(model.predict_intervention("P4"), [expected], atol=1e-5)
    model = EffectRegression(table[["own"]], random_state=0).fit(X, A)
    assert model.used_features_.all()  # there are no others


def test_standard_deviations_of_ensembles_and_posteriors():
    gaussian = GaussianProcessRegressor(alpha=0.1)
    model = EffectRegression(TABLE, gaussian).fit(X, A)
    values = gaussian.fit(TABLE.loc[NAMES], EFFECTS).predict(TABLE.loc[["P4"]], return_std=True)
    assert_close(model.predict_std("P4"), np.broadcast_to(values[1], (1, 8)), atol=1e-5)
    assert not hasattr(EffectRegression(TABLE, Ridge()).fit(X, A), "predict_std")
    assert hasattr(EffectRegression(TABLE), "predict_std")


@pytest.mark.parametrize("regressor", ["trees", 3])
def test_what_is_no_regressor_is_refused(regressor):
    with pytest.raises(ValueError, match="The .regressor. parameter .* must be"):
        EffectRegression(TABLE, regressor).fit(X, A)
