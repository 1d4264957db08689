"""What goes in: every form of X and A, what is refused and how, and what is odd but works."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skpert import (
    CPAVAE,
    IVAE,
    SAMSVAE,
    SCCVAE,
    SVAE,
    VAE,
    BetaVAE,
    ConditionalVAE,
    ControlMean,
    SVAEPlus,
)
from skpert.exceptions import DataWarning
from skpert.nn import LIKELIHOODS

ESTIMATORS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus, ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:X looks like raw counts"),  # for models of real values
]
ADDITIVE = [ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
FAST = {"n_latent": 2, "n_hidden": 16, "n_layers": 1, "max_epochs": 2, "batch_size": 32}
FAST |= {"n_particles": 5, "device": "cpu", "random_state": 0}

A = np.repeat(["control", "P0", "P1", "P2", "P3"], 20)
X = np.random.default_rng(0).poisson(3.0, (100, 20)).astype(np.float32)
X[A == "P0", :5] *= 3
GENES = [f"gene {g}" for g in range(20)]


def fitted(X=X, A=A, cls=SVAEPlus, **parameters):
    return cls(**FAST | parameters).fit(X, A)


def outputs(model, X=X, A=A):
    names = model.perturbations_[:2]
    samples = model.sample_intervention(names, 3, random_state=0)
    prediction = model.predict_intervention(names)
    return [model.transform(X), model.score_cells(X, A), prediction, samples]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


# Forms


@pytest.mark.parametrize(
    "form",
    [
        np.float64,
        np.int64,
        np.uint8,
        np.asfortranarray,
        np.ndarray.tolist,
        lambda X: pd.DataFrame(X, columns=GENES),
        lambda X: pd.DataFrame(X, columns=GENES).astype(pd.SparseDtype(np.float32, 0)),
        sparse.csr_matrix,
        sparse.csr_array,
        sparse.csc_array,
        sparse.coo_matrix,
    ],
)
@pytest.mark.parametrize("cls", [VAE, SVAEPlus])
def test_every_form_of_expression_gives_the_same(form, cls):
    assert_same(outputs(fitted(form(X), cls=cls), form(X)), outputs(fitted(cls=cls)))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_anndata_gives_the_same_as_its_array_and_its_layer(form):
    anndata = pytest.importorskip("anndata")
    obs = pd.DataFrame({"perturbation": A}, index=[f"cell {i}" for i in range(100)])
    var = pd.DataFrame(index=GENES)
    data = anndata.AnnData(form(X), obs=obs, var=var)
    layered = anndata.AnnData(form(np.log1p(X)), obs=obs, var=var, layers={"counts": form(X)})
    expected = outputs(fitted())
    assert_same(outputs(fitted(data, data.obs), data, data.obs), expected)
    model = fitted(layered, layered.obs, layer="counts")
    assert_same(outputs(model, layered, layered.obs), expected)
    assert model.feature_names_in_.tolist() == GENES
    assert_same([model.transform(layered[:7])], [expected[0][:7]])


HOT = np.column_stack([A == f"P{j}" for j in range(4)])
NAMED = pd.DataFrame(HOT, columns=["P0", "P1", "P2", "P3"])


@pytest.mark.parametrize(
    ("design", "parameters"),
    [
        (A.tolist(), {}),
        (A.astype(object), {}),
        (pd.Series(A, index=np.arange(100)[::-1]), {}),
        (pd.Series(A, dtype="category"), {}),
        (pd.Categorical(A), {}),
        (np.repeat(np.arange(5), 20), {"control": 0}),
        (np.repeat(np.arange(5.0), 20), {"control": 0.0}),
        (np.char.replace(A, "control", "NT"), {"control": "NT"}),
        (HOT, {}),
        (HOT.astype(int), {}),
        (sparse.csr_array(HOT.astype(float)), {}),
        (NAMED.astype(float), {}),
        (NAMED.assign(control=A == "control"), {}),
        (pd.DataFrame({"perturbation": A, "n_counts": X.sum(1)}), {}),
        (pd.DataFrame({"guide": A, "perturbation": "none"}), {"perturbation": "guide"}),
    ],
)
@pytest.mark.parametrize("cls", [IVAE, SVAEPlus])
def test_every_form_of_design_gives_the_same(design, parameters, cls):
    model, expected = fitted(A=design, cls=cls, **parameters), fitted(cls=cls)
    assert_same(
        [model.embedding_, model.mask_, model.score_cells(X, design)],
        [expected.embedding_, expected.mask_, expected.score_cells(X, A)],
    )


def test_order_of_a_combination_does_not_matter():
    double = np.where(A == "P3", "P1+P0", A)
    model = fitted(A=double)
    assert model.perturbations_.tolist() == ["P0", "P0+P1", "P1", "P2"]
    mixed = double.astype(object)
    mixed[A == "P3"] = ["P0+P1", "P1 + P0", "P0+P1+control", "P1+P0+P1"] * 5
    mixed[A == "P2"] = "P2+control"
    assert_same(outputs(fitted(A=mixed), A=mixed), outputs(model, A=double))
    prediction = model.predict_intervention(["P1+P0", "P0+P1"])
    np.testing.assert_array_equal(prediction[0], prediction[1])
    assert fitted(A=mixed, sep=None).perturbations_.tolist()[:2] == ["P0", "P0+P1"]


def test_a_cell_does_not_depend_on_the_others():
    model = fitted()
    alone = np.vstack([model.transform(X[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(model.transform(X)[:10], alone, atol=1e-5)
    assert np.isfinite(model.score(X[:1], A[:1]))


# Refused


def with_value(value, row=3):
    changed = X.copy()
    changed[row, 2] = value
    return changed


def graded(value):
    dosage = HOT.astype(float)
    dosage[25, 0] = value
    return dosage


BAD = {
    "negative counts": (with_value(-1), A, {}, "Negative values.*-1.*row 3"),
    "sparse negative": (sparse.csr_array(with_value(-1)), A, {}, "Negative values.*row 3"),
    "astronomic count": (with_value(1e13), A, {}, "1e\\+13 as a count.*no experiment"),
    "nan": (with_value(np.nan), A, {}, "contains NaN"),
    "infinity": (with_value(np.inf), A, {}, "contains infinity"),
    "normal nan": (with_value(np.nan), A, {"likelihood": "normal"}, "contains NaN"),
    "sparse nan": (sparse.csr_array(with_value(np.nan)), A, {}, "contains NaN"),
    "one dimension": (X[:, 0], A, {}, "Expected 2D array"),
    "no genes": (X[:, :0], A, {}, "0 feature"),
    "no cells": (X[:0], A[:0], {}, "A is empty"),
    "lengths": (X, A[:-1], {}, r"inconsistent numbers of samples: \[100, 99\]"),
    "other lengths": (X[:-1, :10], A, {}, r"inconsistent numbers of samples: \[99, 100\]"),
    "no design": (X, None, {}, r"fit\(X, A\)"),
    "one condition": (X, ["P0"] * 100, {}, "one perturbation only, 'P0'.*no control"),
    "controls only": (X, ["control"] * 100, {}, "no perturbed cell"),
    "missing label": (X, [None, *A[1:]], {}, "1 of 100 labels in A are missing.*row 0"),
    "negative dosage": (X, graded(-1), {}, "not negative.*-1.0 in row 25"),
    "graded dosage": (X, graded(0.5), {}, "must be 0 or 1.*0.5"),
    "nan dosage": (X, graded(np.nan), {}, "finite.*nan in row 25"),
    "no column": (X, pd.DataFrame({"guide": A}), {}, "no column 'perturbation'.*'guide'"),
    "no environment": (X, pd.DataFrame({"perturbation": A}), {"environment": ["lane"]}, "'lane'"),
    "environment of labels": (X, A, {"environment": ["lane"]}, "need the design frame.*'lane'"),
    "layer of an array": (X, A, {"layer": "counts"}, "layer='counts'.*X is a ndarray"),
    "n_particles": (X, A, {"n_particles": 0}, "'n_particles' parameter of SVAEPlus"),
    "n_latent": (X, A, {"n_latent": 0}, "'n_latent' parameter"),
    "likelihood": (X, A, {"likelihood": "gaussian"}, "'likelihood' parameter"),
    "batch_size": (X, A, {"batch_size": 1}, "'batch_size' parameter"),
    "environment": (X, A, {"environment": 3}, "'environment' parameter"),
    "environment without order": (X, A, {"environment": {"lane"}}, "'environment' parameter"),
    "environment as an index": (X, A, {"environment": pd.Index(["a"])}, "'environment' parameter"),
    "sep": (X, A, {"sep": ""}, "sep=''"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_and_leaves_nothing_behind(case):
    X_bad, A_bad, parameters, message = BAD[case]
    model = SVAEPlus(**FAST | parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X_bad, A_bad)
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    assert vars(model) == SVAEPlus(**FAST | parameters).__dict__


@pytest.mark.parametrize("case", BAD)
def test_a_refit_that_fails_leaves_the_fitted_model_as_it_was(case):
    model = fitted(pd.DataFrame(X, columns=GENES))
    before = outputs(model, pd.DataFrame(X, columns=GENES))
    X_bad, A_bad, parameters, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(X_bad, A_bad)
    model.set_params(**{name: SVAEPlus(**FAST).get_params()[name] for name in parameters})
    assert_same(outputs(model, pd.DataFrame(X, columns=GENES)), before)


def test_training_that_fails_leaves_the_fitted_model_as_it_was():
    model = fitted()
    before = outputs(model)
    model.set_params(learning_rate=1e38, batch_size=16)
    with pytest.raises(ValueError, match="epoch 0: lower learning_rate"):
        model.fit(X[:, :9], np.char.replace(A, "P", "Q"))
    assert_same(outputs(model), before)


def test_an_unknown_layer_is_refused_and_the_known_are_listed():
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(X, layers={"raw": X, "log": np.log1p(X)})
    with pytest.raises(ValueError, match=r"no layer 'counts' in X; its layers are \['log', 'raw'"):
        fitted(data, layer="counts")


FRAME = pd.DataFrame(X, columns=GENES)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (FRAME.rename(columns={"gene 3": "gene x"}), "lacks 1 of the 20 genes .* 'gene 3'"),
        (FRAME.drop(columns="gene 3"), "lacks 1 of the 20 genes .* 'gene 3'"),
        (FRAME.set_axis(["gene 0", *GENES[:-1]], axis=1), "not unique: 'gene 0' .2 times"),
        (X[:, :-1], "19 features, but SVAEPlus is expecting 20"),
        (with_value(-1), "Negative values"),
        (with_value(np.nan), "contains NaN"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_other_genes_or_values_than_in_training_are_refused_everywhere(form, message):
    model = fitted(FRAME)
    calls = [
        lambda: model.transform(form),
        lambda: model.posterior(form, A),
        lambda: model.score(form, A),
        lambda: model.predict_intervention("P0", form),
        lambda: model.sample_intervention("P0", 2, X=form),
        lambda: model.adapt(form, ["new"] * 100),
        lambda: model.refine(form, A),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


def test_anndata_with_other_genes_is_refused():
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(X, var=pd.DataFrame(index=GENES))
    with pytest.raises(ValueError, match="lacks 2 of the 20 genes .* 'gene 18', 'gene 19'"):
        fitted(data).transform(data[:, GENES[:18]])


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_unknown_perturbations_are_listed_with_the_known(cls):
    model = fitted(cls=cls)
    message = "unknown perturbations: 'Q7', 'Q9'. Known are 'P0', 'P1', 'P2', 'P3'.*'control'"
    unknown = np.where(A == "P1", "Q7", np.where(A == "P2", "Q9", A))
    calls = [
        lambda: model.score(X, unknown),
        lambda: model.posterior(X, unknown),
        lambda: model.refine(X, unknown),
        lambda: model.predict_intervention(["P0", "Q9", "Q7"]),
        lambda: model.predict_intervention(unknown, X),
        lambda: model.sample_intervention(["Q7", "Q9"], 3),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_unseen_combinations_are_refused_unless_effects_add_up(cls):
    model = fitted(cls=cls)
    if cls in ADDITIVE:
        response = model.predict_intervention(["P1+P0", "P0+P1"])
        assert np.array_equal(*response)
        with pytest.raises(ValueError, match="unknown perturbations: 'Q7'"):
            model.predict_intervention("P1+Q7")
    else:
        with pytest.raises(ValueError, match="'P0\\+P1'.*cannot predict one that it has not seen"):
            model.predict_intervention("P1+P0")
    with pytest.raises(ValueError, match="have 3 columns, but 4 are expected"):
        model.predict_intervention(HOT[:, :3])


@pytest.mark.parametrize("n_particles", [0, -1, 2.5, "many"])
def test_number_of_particles_is_checked(n_particles):
    with pytest.raises(ValueError, match="n_particles must be an integer of at least 1"):
        fitted().score_cells(X, A, n_particles=n_particles)


SIZES = [0, -5.0, np.nan, np.inf, 1e300, 3e38, 1e-300, True, "1e4", [1e4], np.array([1e4, 1e4])]


@pytest.mark.parametrize("size", SIZES)
def test_library_size_is_checked(size):
    model = fitted()
    for call in (model.predict_intervention, model.sample_intervention):
        arguments = ("P0",) if call == model.predict_intervention else ("P0", 3)
        with pytest.raises(ValueError, match="library_size must be a positive number"):
            call(*arguments, library_size=size)


def test_the_largest_library_size_gives_finite_counts():
    model = fitted()
    assert np.isfinite(model.predict_intervention(["P0"], library_size=1e15)).all()
    assert np.isfinite(model.sample_intervention(["P0"], 3, library_size=1e15)).all()


WEIGHTS = {
    "negative": (
        np.r_[-1.0, np.ones(99)],
        "must not be negative; 1 are, the first is -1 in row 0",
    ),
    "missing": (np.r_[np.nan, np.ones(99)], "contains NaN"),
    "masked": (np.ma.masked_less(np.arange(100.0), 1), "contains NaN"),
    "infinite": (np.r_[np.inf, np.ones(99)], "contains infinity"),
    "nothing": (np.zeros(100), "zero"),
    "too few": (np.ones(3), "sample_weight.shape"),
}


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("model", [fitted(), ControlMean().fit(np.log1p(X), A)], ids=type)
def test_weights_that_are_none_are_refused(model, case):
    weights, message = WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        model.score(X, A, sample_weight=weights)


@pytest.mark.parametrize("model", [fitted(), ControlMean().fit(np.log1p(X), A)], ids=type)
def test_only_the_ratio_of_weights_counts(model):
    weights = np.random.default_rng(0).random(100)
    score = model.score(X, A, sample_weight=weights)
    for factor in (1e-300, 1e308):
        assert model.score(X, A, sample_weight=factor * weights) == pytest.approx(score)


def test_library_size_of_real_values_is_refused():
    model = fitted(likelihood="normal")
    with pytest.raises(ValueError, match="no meaning with likelihood='normal'"):
        model.predict_intervention("P0", library_size=100)
    with pytest.raises(ValueError, match="no meaning with likelihood='normal'"):
        model.sample_intervention("P0", 2, library_size=100)


@pytest.mark.parametrize("n_samples", [0, -1, 1.5])
def test_number_of_samples_is_checked(n_samples):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1"):
        fitted().sample_intervention("P0", n_samples)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_only_new_perturbations_can_be_adapted_to(cls):
    model = fitted(cls=cls)
    with pytest.raises(ValueError, match="'P0', known already"):
        model.adapt(X[:4], ["P0", "P0", "new", "new"])
    with pytest.raises(ValueError, match="no perturbed cell"):
        model.adapt(X[:4], ["control"] * 4)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[5, 4\]"):
        model.adapt(X[:5], ["new"] * 4)
    assert model.perturbations_.tolist() == ["P0", "P1", "P2", "P3"]


@pytest.mark.parametrize("method", ["transform", "score", "predict_intervention", "adapt"])
def test_nothing_works_before_fit(method):
    with pytest.raises(NotFittedError):
        getattr(SVAEPlus(), method)(*(X, A)[: 1 if method == "transform" else 2])


# Odd, but it works


def assert_finite(model, X, A):
    assert all(np.isfinite(result).all() for result in outputs(model, X, A))
    assert np.isfinite(model.predict_intervention(model.perturbations_[0], X)).all()
    assert np.isfinite(model.history_.drop(columns="phase")).all(axis=None)
    for name in ("embedding_", "mask_probability_"):
        assert np.isfinite(getattr(model, name, 0)).all()


ODD = {
    "genes without counts": (X * (np.arange(20) > 4), A, {}),
    "one gene": (X[:, :1] + 1, A, {}),
    "three cells": (X[:3], ["control", "P0", "P0"], {}),
    "two cells of a batch": (X[:3], ["control", "P0", "P0"], {"batch_size": 2}),
    "more latents than genes": (X[:, :4] + 1, A, {"n_latent": 9}),
    "a batch of one cell": (X[:33], A[:33], {"batch_size": 16, "validation_fraction": 0}),
    "hardly any training cells": (X[18:24], A[18:24], {"validation_fraction": 0.99}),
    "large counts": (X * 1e5, A, {}),
    "no hidden width": (X, A, {"n_hidden": 1}),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("case", ODD)
def test_odd_data_work_without_a_warning(case, likelihood):
    X, A, parameters = ODD[case]
    assert_finite(fitted(X, A, likelihood=likelihood, **parameters), X, A)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_three_cells_work_for_every_estimator(cls):
    A = ["control", "P0", "P0"]
    assert_finite(fitted(X[:3], A, cls), X[:3], A)


WARNED = {
    "a single cell": (X[:61], A[:61], {}, r"one cell only \(1\): 'P2'"),
    "no control": (X[20:], A[20:], {}, "no control cell.*relative to the mean"),
    "another control": (X, np.char.replace(A, "control", "NT"), {}, "look like a control, 'NT'"),
    "fractions": (X / 2, A, {}, "not whole, such as .*likelihood='normal'"),
    "sparse fractions": (sparse.csr_array(X / 2), A, {}, "not whole"),
    "empty cells": (X * (np.arange(100)[:, None] > 1), A, {}, "2 of 100 cells.*first is row 0"),
    "more perturbations than cells": (
        X[:20],
        ["control", *(f"P{i // 2}" for i in range(19))],
        {"validation_fraction": 0.5},
        r"one cell only \(1\): 'P9'",
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_looks_wrong_gives_one_warning_and_a_model(case):
    X, A, parameters, message = WARNED[case]
    with pytest.warns(DataWarning, match=message) as record:
        model = fitted(X, A, **parameters)
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        assert_finite(model, X, A)


COUNTS = sorted(name for name, head in LIKELIHOODS.items() if head.counts)


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@pytest.mark.parametrize("likelihood", COUNTS)
def test_an_empty_cell_has_likelihood_one(likelihood):
    mixed = np.where(np.arange(100)[:, None] < 50, X, 0)
    model = fitted(mixed, likelihood=likelihood)
    cells = model._check(mixed, A)
    with torch.no_grad():
        z = torch.from_numpy(model.transform(mixed)[:, : model.n_latent_])
        p_x = model.module_.intervene(z, cells)
        log_prob = p_x.log_prob(cells.x).numpy()
    np.testing.assert_allclose(log_prob[50:], 0, atol=1e-6)
    assert (log_prob[:50] < -10).all()
    assert np.isfinite(model.score(mixed, A))
    assert model.predict_intervention("P0", mixed[50:]).max() < 1e-6


def test_real_values_may_be_negative_with_a_normal_likelihood():
    values = np.log1p(X) - 1
    model = fitted(values, likelihood="normal")
    assert_finite(model, values, A)
    assert model.predict_intervention("P0").min() < 0


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
def test_no_design_at_all_is_an_error():
    X, A = np.ones((8, 3)), ["control", "JAK2"] * 4
    model = VAE(n_latent=2, n_hidden=4, max_epochs=1, random_state=0).fit(X, A)
    with pytest.raises(ValueError, match="A holds no design"):
        model.predict_intervention([])
    with pytest.raises(ValueError, match="A holds no design"):
        model.sample_intervention([], 2)
