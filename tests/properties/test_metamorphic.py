"""What must not change an answer, for every estimator, encoder and transformer."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone

import skpert
from skpert import metrics, preprocessing

from . import faults, forms
from .estimators import BASELINES, ESTIMATORS, INVARIANT, MODELS, answers, cheap_of, renamed
from .oracle import same
from .screens import Screen

pytestmark = [
    pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning"),
    pytest.mark.filterwarnings("ignore::skpert.exceptions.TrainingWarning"),
    pytest.mark.filterwarnings("ignore:X (has|does not have) .*feature names:UserWarning"),
]
everyone = pytest.mark.parametrize("name", sorted(ESTIMATORS))
models = pytest.mark.parametrize("name", MODELS)
baselines = pytest.mark.parametrize("name", BASELINES)


@st.composite
def screens(draw, names=("plain", "combinations", "many", "guides")):
    """Expression and labels of a usable screen."""
    return Screen(
        cells=draw(st.integers(12, 24)),
        genes=draw(st.integers(2, 6)),
        values=draw(st.sampled_from(["counts", "few counts", "deep counts", "an empty cell"])),
        names=draw(st.sampled_from(names)),
        control=True,
        seed=draw(st.integers(0, 999)),
    )


def read(name, screen):
    """Expression in the units that the estimator takes, and labels."""
    X = screen.expression()
    return (X if name in MODELS and name != "SCCVAE" else np.log1p(X)), screen.labels()


def made(name, **parameters):
    """The unfitted estimator, cheap to fit."""
    return ESTIMATORS[name](**cheap_of(name) | parameters)


def told(model, X, A):
    """What a fitted model says of cells."""
    return answers(model, "fit", X, A)


def by_cell(name):
    """Methods that answer for each cell; states drawn from a population are no cell's own."""
    return ["transform", "score_cells", *([] if name in INVARIANT else ["predict_intervention"])]


def orders(n):
    """Strategy of orders of n things."""
    return st.permutations(range(n)).map(np.array)


@everyone
@given(screen=screens(), data=st.data())
def test_cells_are_answered_for_in_any_order(name, screen, data):
    X, A = read(name, screen)
    model, order = made(name).fit(X, A), data.draw(orders(len(X)))
    for method in by_cell(name):
        if hasattr(model, method):
            straight = answers(model, method, X, A)
            same(answers(model, method, X[order], A[order]), straight[order], method)
    same(model.score(X[order], A[order]), model.score(X, A), "score")


@baselines
@given(screen=screens(), data=st.data())
def test_order_of_training_cells_does_not_matter(name, screen, data):
    X, A = read(name, screen)
    control_last = np.argsort(A == "control", kind="stable")
    order = data.draw(st.one_of(orders(len(X)), st.just(control_last)))
    same(told(made(name).fit(X[order], A[order]), X, A), told(made(name).fit(X, A), X, A), "order")


@models
@given(screen=screens())
def test_control_cells_may_come_last(name, screen):
    X, A = read(name, screen)
    order = np.argsort(A == "control", kind="stable")
    answer = told(made(name, validation_fraction=0).fit(X[order], A[order]), X, A)
    assert all(np.isfinite(part).all() for part in answer)


@everyone
@given(screen=screens())
def test_names_of_perturbations_do_not_matter(name, screen):
    X, A = read(name, screen)
    other = np.array(
        ["+".join(f"Q{part}" for part in label.split("+")) for label in A], dtype=object
    )
    other[A == "control"] = "NT"
    renamed_model = made(name, **({} if name in INVARIANT else {"control": "NT"}))
    if name in INVARIANT:  # whose covariates are read in the order of their names
        other = np.array([f"Q{label}" for label in A], dtype=object)
    same(told(renamed_model.fit(X, other), X, other), told(made(name).fit(X, A), X, A), "names")


@baselines
@given(screen=screens(), data=st.data())
def test_order_of_genes_does_not_matter_to_baselines(name, screen, data):
    X, A = read(name, screen)
    order = data.draw(orders(X.shape[1]))
    expected, score = told(made(name).fit(X, A), X, A)
    X = X[:, order]
    same(told(made(name).fit(X, A), X, A), [expected[:, order], score], "genes")


@everyone
@pytest.mark.parametrize("other", ["genes_backwards", "more_genes"])
@given(screen=screens())
def test_genes_go_by_their_names(name, other, screen):
    X, A = read(name, screen)
    model = made(name).fit(forms.frame(X), A)
    same(told(model, getattr(faults, other)(X), A), told(model, forms.frame(X), A), other)


@everyone
@given(screen=screens())
def test_a_missing_gene_is_an_error_that_names_it(name, screen):
    X, A = read(name, screen)
    model = made(name).fit(forms.frame(X), A)
    for method in ("transform", "score", "predict_intervention"):
        if hasattr(model, method):
            with pytest.raises(ValueError, match="GENE0"):
                answers(model, method, faults.gene_missing(X), A)


@everyone
@given(screen=screens())
def test_cells_go_by_their_names_or_are_refused(name, screen):
    X, A = read(name, screen)
    backwards = faults.cells_backwards(X, A)
    with pytest.raises(ValueError, match="order"):
        made(name).fit(*backwards)
    model = made(name).fit(X, A)
    for method in ("score", "score_cells", "posterior", "adapt", "refine"):
        if hasattr(model, method):
            with pytest.raises(ValueError, match="order|adapt"):
                answers(model, method, *backwards)


@everyone
@given(screen=screens())
def test_sparse_gives_what_dense_gives(name, screen):
    X, A = read(name, screen)
    S = sparse.csr_array(X)
    same(told(made(name).fit(S, A), S, A), told(made(name).fit(X, A), X, A), "sparse")


@everyone
@given(screen=screens())
def test_float64_gives_what_float32_gives(name, screen):
    X, A = read(name, screen)
    D = X.astype(np.float64)
    same(told(made(name).fit(D, A), D, A), told(made(name).fit(X, A), X, A), "float64")


@everyone
@given(screen=screens(), data=st.data())
def test_a_cell_does_not_depend_on_the_others(name, screen, data):
    X, A = read(name, screen)
    model = made(name).fit(X, A)
    some = data.draw(st.lists(st.integers(0, len(X) - 1), min_size=1, max_size=4).map(np.array))
    for method in by_cell(name):
        if hasattr(model, method):
            together = answers(model, method, X, A)[some]
            same(answers(model, method, X[some], A[some]), together, f"{method} of some cells")


@everyone
@given(screen=screens(), data=st.data())
def test_a_weight_is_a_number_of_cells(name, screen, data):
    X, A = read(name, screen)
    model = made(name).fit(X, A)
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(X), max_size=len(X)))
    repeated = np.repeat(np.arange(len(X)), weights)
    if name in BASELINES and not (A[repeated] != "control").any() or len(repeated) == 0:
        return
    weighted = model.score(X, A, sample_weight=np.array(weights, float))
    same(model.score(X[repeated], A[repeated]), weighted, "weights")


@baselines
@given(screen=screens())
def test_every_cell_twice_is_the_same_to_baselines(name, screen):
    X, A = read(name, screen)
    twice = made(name).fit(np.tile(X, (2, 1)), np.tile(A, 2))
    same(told(twice, X, A), told(made(name).fit(X, A), X, A), "cells twice")


@everyone
@given(screen=screens(names=("plain", "many", "guides")))
def test_labels_are_dosages(name, screen):
    if name in INVARIANT:
        return
    X, A = read(name, screen)
    D = forms.hot(A)
    same(told(made(name).fit(X, D), X, D), told(made(name).fit(X, A), X, A), "dosages")


@everyone
@given(screen=screens())
def test_anndata_is_its_array(name, screen):
    X, A = read(name, screen)
    data = forms.adata(sparse.csr_matrix(X), labels=A)
    plain = told(made(name).fit(X, A), X, A)
    same(told(made(name).fit(data, data.obs["perturbation"]), data, A), plain, "AnnData")
    if name not in INVARIANT:
        same(told(made(name).fit(data, data.obs), data, data.obs), plain, "AnnData and its obs")


@everyone
@given(screen=screens())
def test_copies_say_the_same(name, screen, tmp_path_factory):
    X, A = read(name, screen)
    model = made(name).fit(X, A)
    copies = [pickle.loads(pickle.dumps(model)), clone(model).fit(X, A)]
    if name != "EffectRegression":  # whose trees are scikit-learn's, and only pickled
        path = tmp_path_factory.mktemp("models") / "model.npz"
        skpert.save(model, path)
        copies.append(skpert.load(path))
    expected = told(model, X, A)
    for copy in copies:
        same(told(copy, X, A), expected, "a copy", rtol=0)


@everyone
@given(screen=screens(), other=screens())
def test_a_second_fit_knows_nothing_of_the_first(name, screen, other):
    X, A = read(name, screen)
    model = made(name).fit(*read(name, other))
    parameters = repr(model.get_params())
    same(told(model.fit(X, A), X, A), told(made(name).fit(X, A), X, A), "fit again", rtol=0)
    assert repr(model.get_params()) == parameters


@everyone
@given(screen=screens())
def test_adapt_leaves_what_is_known(name, screen):
    if name in INVARIANT:
        return
    X, A = read(name, screen)
    model = made(name).fit(X, A)
    adapted = model.adapt(X, renamed(A))
    for method in ("transform", "predict_intervention"):
        if hasattr(model, method):
            known = answers(model, method, X, A)
            same(answers(adapted, method, X, A), known, "known perturbations", rtol=0)


@given(screen=screens(), data=st.data())
def test_transformers_know_no_order(screen, data):
    X = screen.expression()
    cells, genes = data.draw(orders(len(X))), data.draw(orders(X.shape[1]))
    for target_sum in (None, 1e4):
        model = preprocessing.LogNormalize(target_sum).fit(X)
        other = preprocessing.LogNormalize(target_sum).fit(X[cells][:, genes])
        same(other.transform(X[cells][:, genes]), model.transform(X)[cells][:, genes], "order")
    selector = preprocessing.HighlyVariableGenes().fit(X)
    other = preprocessing.HighlyVariableGenes().fit(X[cells][:, genes])
    same(other.standardized_variances_, selector.standardized_variances_[genes], "order")


@given(screen=screens(), data=st.data())
def test_encoders_know_no_order(screen, data):
    A, order = screen.labels(), data.draw(orders(screen.cells))
    for encoder in (preprocessing.PerturbationEncoder(), preprocessing.CovariateEncoder()):
        straight, other = clone(encoder).fit(A), clone(encoder).fit(A[order])
        assert other.perturbations_.tolist() == straight.perturbations_.tolist()
        same(other.transform(A[order]), straight.transform(A)[order], "order")
        assert other.labels(A[order]).tolist() == straight.labels(A)[order].tolist()


@given(screen=screens(), data=st.data())
def test_effects_know_no_order(screen, data):
    X, A = np.log1p(screen.expression()), screen.labels()
    cells, genes = data.draw(orders(len(X))), data.draw(orders(X.shape[1]))
    effect = metrics.differential_expression(X, A, method="mean")
    other = metrics.differential_expression(X[cells][:, genes], A[cells], method="mean")
    assert other.index.tolist() == effect.index.tolist()
    same(other.to_numpy(), effect.to_numpy()[:, genes], "order")


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.maximum_mean_discrepancy])
@given(screen=screens(), data=st.data())
def test_distances_know_no_order(distance, screen, data):
    X, Y = np.log1p(screen.expression()), np.log1p(screen._replace(seed=1001).expression())
    cells, genes = data.draw(orders(len(X))), data.draw(orders(X.shape[1]))
    straight = distance(X, Y)
    same(distance(X[cells][:, genes], Y[:, genes]), straight, "order")
    same(distance(Y, X), straight, "sides")
    assert distance(X, X[cells], unbiased=False) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "score", [metrics.response_mse, metrics.profile_pearson, metrics.ate_pearson, metrics.ate_r2]
)
@given(screen=screens(), data=st.data())
def test_scores_of_responses_know_no_order(score, screen, data):
    true, predicted = screen.expression(), screen._replace(seed=1001).expression()
    rows, genes = data.draw(orders(len(true))), data.draw(orders(true.shape[1]))
    straight = score(true, predicted)
    other = score(true[rows][:, genes], predicted[rows][:, genes])
    same(other, straight if np.isscalar(straight) else straight.to_numpy()[rows], "order")
    names = [f"P{j}" for j in range(len(true))]
    frames = [forms.frame(X, index=names) for X in (true, predicted)]
    same(score(frames[0], frames[1].iloc[rows, genes]), straight, "names")
