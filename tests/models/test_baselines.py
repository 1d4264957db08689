"""Baselines: exact cases, closed forms, invariances, forms of input, what is refused."""

import inspect

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import skpert
from skpert import AdditiveEffects, BilinearRidge, ControlMean, PerturbedMean

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
    return cls(TABLE, **parameters) if cls is BilinearRidge else cls(**parameters)


def mean_of(label, X=X, A=A):
    return X[A == label].mean(0, dtype=np.float64)


CONTROL = mean_of("control")
EFFECTS = np.array([mean_of(name) - CONTROL for name in NAMES])


def assert_close(found, expected, atol=1e-6):
    np.testing.assert_allclose(found, expected, atol=atol)


def test_all_baselines_are_found():
    assert set(BASELINES) == {AdditiveEffects, BilinearRidge, ControlMean, PerturbedMean}


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([cls() for cls in BASELINES])
def test_estimator(estimator, check):
    check(estimator)
