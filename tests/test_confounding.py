"""Every estimator says at fit, and only there, which effects are confounded."""

import warnings

import numpy as np
import pandas as pd
import pytest

from skpert import (
    CPAVAE,
    IVAE,
    NFIVAE,
    SAMSVAE,
    SCCVAE,
    SVAE,
    VAE,
    AdditiveEffects,
    BetaVAE,
    BilinearRidge,
    ConditionalVAE,
    ControlMean,
    InteractionRidge,
    InVAE,
    PerturbedMean,
    SVAEPlus,
    load,
    save,
)

MODELS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus, ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
BASELINES = [ControlMean, PerturbedMean, AdditiveEffects, BilinearRidge, InteractionRidge]
FAST = {"n_latent": 2, "n_hidden": 8, "n_layers": 1, "max_epochs": 2, "n_particles": 3}
FAST |= {"device": "cpu", "random_state": 0}

A = pd.DataFrame({"perturbation": np.repeat(["control", "P0", "P1", "P2"], 15)})
A["batch"] = np.where(A["perturbation"] == "P1", "b2", "b1")
X = np.random.default_rng(0).poisson(3.0, (60, 8)).astype(np.float32)


def said(call, *arguments):
    """Result of a call, and its warnings about what is confounded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(*arguments)
    starts = ("Effects in A", "Invariant covariates")
    return result, [w for w in caught if str(w.message).startswith(starts)]


@pytest.mark.parametrize(
    ("cls", "environment"),
    [(cls, None) for cls in MODELS + BASELINES] + [(cls, ["batch"]) for cls in MODELS],
)
def test_every_estimator_names_perturbations_nested_in_a_batch(cls, environment, tmp_path):
    model = cls() if cls in BASELINES else cls(**FAST, environment=environment)
    model, [warning] = said(model.fit, X, A)
    assert warning.filename == __file__
    assert "'P1' only where 'batch' is 'b2'" in str(warning.message)
    assert ("look confounded" in str(warning.message)) == (environment is None)
    table = model.design_.confounded_
    assert table[["perturbation", "column", "levels"]].to_numpy().tolist() == [
        ["P1", "batch", "b2"]
    ]
    assert model.design_.nested_.tolist() == [False, True, False]
    calls = [lambda: model.predict_intervention("P1")]
    calls += [lambda: model.score(X, A)] * (cls in MODELS)
    for call in calls:
        assert said(call)[1] == []
    save(model, tmp_path / "model")
    pd.testing.assert_frame_equal(load(tmp_path / "model").design_.confounded_, table)


@pytest.mark.parametrize("cls", MODELS + BASELINES)
def test_no_estimator_warns_of_batches_that_perturbations_share(cls):
    balanced = A.assign(batch=np.arange(len(A)) % 3, phase=np.tile(["G1", "S", "G2M", "G1"], 15))
    model = cls() if cls in BASELINES else cls(**FAST)
    assert said(model.fit, X, balanced)[1] == []


@pytest.mark.parametrize("cls", [InVAE, NFIVAE])
def test_models_of_covariates_name_invariant_ones_nested_in_an_environment(cls):
    frame = A.rename(columns={"perturbation": "condition"})
    model = cls(**FAST, invariant=["condition"], environment=["batch"])
    model, [warning] = said(model.fit, X, frame)
    assert "'P1' of 'condition' only where 'batch' is 'b2'" in str(warning.message)
    assert said(model.score, X, frame)[1] == []
