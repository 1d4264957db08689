"""Predictions and samples under interventions, and what environments do to them."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from skpert import IVAE, SVAE, VAE, BetaVAE, SVAEPlus
from skpert.nn import LIKELIHOODS

ESTIMATORS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus]
FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 3, "batch_size": 32}
FAST |= {"n_particles": 5, "device": "cpu", "random_state": 0, "learning_rate": 0.02}

A = np.repeat(["control", "P0", "P1", "P2", "P3"], 20)
pytestmark = pytest.mark.filterwarnings("ignore:X looks like raw counts")
X = np.random.default_rng(0).poisson(3.0, (100, 20)).astype(np.float32)
X[A == "P0", :5] *= 3
TOTAL = X.sum(1)
DESIGNS = ["P2", "control", "P0", "P3"]

models = {
    (cls, likelihood): cls(likelihood=likelihood, **FAST)
    for cls in ESTIMATORS
    for likelihood in LIKELIHOODS
}


def fitted(cls, likelihood="negative_binomial"):
    """One fit per test process; no test changes the model."""
    model = models[cls, likelihood]
    return model if hasattr(model, "module_") else model.fit(X, A)


every_estimator = pytest.mark.parametrize("cls", ESTIMATORS)
conserving = pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson"])
COUNTS = sorted(name for name, head in LIKELIHOODS.items() if head.counts)
counts = pytest.mark.parametrize("likelihood", COUNTS)


# Populations


@conserving
@every_estimator
def test_predictions_are_at_the_library_size(cls, likelihood):
    model = fitted(cls, likelihood)
    total = model.predict_intervention(DESIGNS, library_size=500).sum(1)
    np.testing.assert_allclose(total, 500, rtol=1e-3)
    assert model.predict_intervention(DESIGNS).min() >= 0


def test_zero_inflation_takes_its_share_of_the_library():
    model = fitted(IVAE, "zero_inflated_negative_binomial")
    total = model.predict_intervention(DESIGNS, library_size=500).sum(1)
    assert (total > 0).all()
    assert (total < 500).all()


@counts
def test_predictions_are_linear_in_the_library_size_and_its_default_is_the_median(likelihood):
    model = fitted(IVAE, likelihood)
    one, five = (model.predict_intervention(DESIGNS, library_size=n) for n in (100, 500))
    np.testing.assert_allclose(five, 5 * one, rtol=1e-4)
    median = model.predict_intervention(DESIGNS, library_size=np.median(TOTAL))
    np.testing.assert_array_equal(model.predict_intervention(DESIGNS), median)


@every_estimator
def test_a_prediction_depends_on_its_own_design_only(cls):
    model = fitted(cls)
    together = model.predict_intervention(DESIGNS)
    assert together.shape == (4, 20)
    np.testing.assert_array_equal(together, model.predict_intervention(np.array(DESIGNS)))
    alone = np.vstack([model.predict_intervention(design) for design in DESIGNS])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(alone[:1], model.predict_intervention([DESIGNS[0]]))
    hot = [[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    for form in (np.array(hot), pd.DataFrame(hot, columns=["P0", "P1", "P2", "P3"])):
        np.testing.assert_array_equal(together, model.predict_intervention(form))


@pytest.mark.parametrize("cls", [IVAE, SVAE, SVAEPlus])
def test_a_perturbation_without_shift_is_the_control(cls):
    model = cls(**FAST)
    if "init" in model.get_params():
        model.set_params(
            edges="learned", init="random"
        )  # whose edges are all there after so short a training
    model.fit(X, A)
    moved, control = model.predict_intervention(["P1", "control"])
    assert np.abs(moved - control).max() > 1e-3
    with torch.no_grad():
        model.module_.embedding.rows[1] = 0
    still, same = model.predict_intervention(["P1", "control"])
    np.testing.assert_array_equal(still, control)
    np.testing.assert_array_equal(same, control)


@pytest.mark.parametrize("cls", [VAE, BetaVAE])
def test_without_effects_every_design_is_the_control(cls):
    predictions = fitted(cls).predict_intervention(DESIGNS)
    np.testing.assert_array_equal(predictions, np.repeat(predictions[1:2], 4, 0))
    cells = fitted(cls).predict_intervention(DESIGNS, X[:4])
    np.testing.assert_array_equal(cells, fitted(cls).predict_intervention("control", X[:4]))


# The very same cells


@conserving
@every_estimator
def test_a_counterfactual_keeps_each_cells_library(cls, likelihood):
    model = fitted(cls, likelihood)
    cells = model.predict_intervention("P0", X[:7])
    assert cells.shape == (7, 20)
    np.testing.assert_allclose(cells.sum(1), TOTAL[:7], rtol=1e-3)
    fixed = model.predict_intervention("P0", X[:7], library_size=500)
    np.testing.assert_allclose(fixed.sum(1), 500, rtol=1e-3)
    np.testing.assert_allclose(fixed, cells * (500 / TOTAL[:7, None]), rtol=1e-4)


@every_estimator
def test_counterfactuals_of_one_design_and_of_one_per_cell_agree(cls):
    model = fitted(cls)
    one = model.predict_intervention("P0", X[:6])
    np.testing.assert_array_equal(one, model.predict_intervention(["P0"] * 6, X[:6]))
    np.testing.assert_array_equal(one, model.predict_intervention("P0", sparse.csr_array(X[:6])))
    other = model.predict_intervention("P2", X[:6])
    mixed = model.predict_intervention(["P0", "P2"] * 3, X[:6])
    np.testing.assert_array_equal(mixed, np.where(np.arange(6)[:, None] % 2, other, one))
    with pytest.raises(ValueError, match="2 designs for 6 cells"):
        model.predict_intervention(["P0", "P2"], X[:6])


# Samples


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@every_estimator
def test_samples_have_their_shape_and_repeat(cls, likelihood):
    model = fitted(cls, likelihood)
    samples = model.sample_intervention(DESIGNS, 7, random_state=3)
    assert samples.shape == (4, 7, 20)
    assert samples.dtype == np.float32
    if likelihood not in COUNTS:
        assert (samples % 1 != 0).any()
    else:
        assert (samples % 1 == 0).all()
        assert samples.min() >= 0
    for state in (3, np.random.RandomState(3)):
        again = model.sample_intervention(DESIGNS, 7, random_state=state)
        np.testing.assert_array_equal(again, samples)
    assert (model.sample_intervention(DESIGNS, 7, random_state=4) != samples).any()
    assert len(np.unique(samples.reshape(28, 20), axis=0)) == 28  # no cell drawn twice
    assert model.sample_intervention("P0", 1).shape == (1, 1, 20)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_mean_of_samples_is_the_prediction(likelihood):
    model = fitted(IVAE, likelihood)
    size = 200 if likelihood in COUNTS else None
    n_samples = 4000
    samples = model.sample_intervention(DESIGNS, n_samples, library_size=size, random_state=0)
    expected = model.predict_intervention(DESIGNS, library_size=size)
    error = samples.std(1) * np.sqrt(1 / n_samples + 1 / 1000)  # a prediction has 1,000 states
    assert (np.abs(samples.mean(1) - expected) < 5 * error).all()
    assert (samples.std(1) > 0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_mean_of_samples_from_a_cell_is_its_counterfactual(likelihood):
    model, cell = fitted(IVAE, likelihood), X[:1]
    samples = model.sample_intervention("P0", 4000, X=cell, random_state=0)[0]
    expected = model.predict_intervention("P0", cell)[0]
    assert (np.abs(samples.mean(0) - expected) < 5 * samples.std(0) / np.sqrt(4000)).all()


def test_library_sizes_are_drawn_from_training_controls_or_the_given_cells():
    size = np.where(A == "control", np.where(np.arange(100) % 4, 50, 5000), 500)
    counts = np.random.default_rng(0).multinomial(size, np.full(20, 0.05)).astype(float)
    model = VAE(likelihood="poisson", **FAST).fit(counts, A)

    def totals(**arguments):
        return model.sample_intervention("P0", 400, random_state=0, **arguments).sum(-1)[0]

    drawn = totals()
    small, large = np.abs(drawn - 50) < 6 * np.sqrt(50), np.abs(drawn - 5000) < 6 * np.sqrt(5000)
    assert (small | large).all()
    assert large.mean() == pytest.approx(0.25, abs=0.11)  # 5 standard errors
    assert (np.abs(totals(X=counts[20:]) - 500) < 6 * np.sqrt(500)).all()
    assert (np.abs(totals(library_size=1000) - 1000) < 6 * np.sqrt(1000)).all()


# Environments

BATCH = np.where(np.arange(100) % 5 < 2, "b1", "b0")
BATCHED = np.where((BATCH == "b1")[:, None] & (np.arange(20) > 14), 5 * X, X)
FRAME = pd.DataFrame({"perturbation": A, "batch": BATCH})


def at(batch, labels=("P0", "control", "P2"), **more):
    return pd.DataFrame({"perturbation": labels, "batch": batch, **more})


@pytest.fixture(scope="module", params=[VAE, SVAEPlus])
def batched(request):
    model = request.param(environment=["batch"], **FAST)
    return model.set_params(max_epochs=15, random_state=1).fit(BATCHED, FRAME)


def test_a_frame_that_names_the_environment_is_answered_in_it(batched):
    one, other = (batched.predict_intervention(at(batch)) for batch in ("b0", "b1"))
    assert (other[:, 15:].sum(1) > 1.2 * one[:, 15:].sum(1)).all()
    mixed = batched.predict_intervention(at(["b1", "b0", "b1"]))
    np.testing.assert_array_equal(mixed, np.stack([other[0], one[1], other[2]]))


def test_predictions_average_over_training_environments(batched):
    b0, b1 = (batched.predict_intervention(at(batch)) for batch in ("b0", "b1"))
    average = batched.predict_intervention(["P0", "control", "P2"])
    unnamed = batched.predict_intervention(FRAME[["perturbation"]].iloc[[20, 0, 60]])
    np.testing.assert_array_equal(unnamed, average)
    affected = np.s_[:, 15:]
    share = (average - b0)[affected].sum(1) / (b1 - b0)[affected].sum(1)
    np.testing.assert_allclose(share, 0.4, atol=0.1)  # of the training cells


def test_a_counterfactual_is_in_the_environment_that_is_named(batched):
    one, other = (
        batched.predict_intervention(at(batch, ["P0"]), BATCHED[:9]) for batch in ("b0", "b1")
    )
    assert (other[:, 15:].sum(1) > 1.2 * one[:, 15:].sum(1)).all()
    with pytest.raises(ValueError, match="give A as a frame with 'batch'"):
        batched.predict_intervention("P0", BATCHED[:9])


def test_one_environment_may_be_named_by_itself(batched):
    settings = batched.get_params() | {"environment": "batch", "max_epochs": 2}
    one = type(batched)(**settings).fit(BATCHED, FRAME)
    listed = type(batched)(**settings | {"environment": ["batch"]}).fit(BATCHED, FRAME)
    for model in (one, listed):
        with pytest.raises(ValueError, match="give A as a frame with 'batch'"):
            model.predict_intervention("P0", BATCHED[:9])
    predicted = (model.predict_intervention(at("b0")) for model in (one, listed))
    np.testing.assert_array_equal(*predicted)


def test_the_encoder_does_not_read_the_environment(batched):
    swapped = FRAME.assign(batch=np.where(BATCH == "b0", "b1", "b0"))
    Z = batched.transform(BATCHED)
    for frame in (FRAME, swapped):
        np.testing.assert_array_equal(batched.posterior(BATCHED, frame).z, Z)
    assert batched.score(BATCHED, swapped) < batched.score(BATCHED, FRAME) - 0.5


def test_samples_are_drawn_in_the_named_environment(batched):
    one, other = (
        batched.sample_intervention(at(batch), 500, random_state=0).mean(1)
        for batch in ("b0", "b1")
    )
    assert (other[:, 15:].sum(1) > 1.1 * one[:, 15:].sum(1)).all()


def test_unknown_and_incomplete_environments_are_refused(batched):
    with pytest.raises(ValueError, match="'batch' has unknown categories: 'b7'.*'b0', 'b1'"):
        batched.predict_intervention(at("b7"))
    for wrong, message in [(A, "need the design frame"), (FRAME[["perturbation"]], "'batch'")]:
        with pytest.raises(ValueError, match=message):
            batched.score(BATCHED, wrong)
    both = FRAME.assign(age=np.linspace(20, 60, 100))
    model = VAE(environment=["batch", "age"], **FAST).fit(BATCHED, both)
    with pytest.raises(ValueError, match="A has no column 'age'"):
        model.predict_intervention(at("b0"))
    young, old = (model.predict_intervention(at("b0", age=age)) for age in (20.0, 60.0))
    assert np.abs(young - old).max() > 1e-3


def test_adapting_keeps_the_environments(batched):
    new = FRAME[:20].assign(perturbation="new")
    adapted = batched.adapt(BATCHED[:20], new)
    old, adapted_old = (model.predict_intervention(at("b1")) for model in (batched, adapted))
    np.testing.assert_array_equal(adapted_old, old)
    assert np.isfinite(adapted.score(BATCHED[:20], new))
