"""Figures of the planning benchmark, from small tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks.planning.next import STRATEGIES, curve, fingerprints, pairs_of_table
from benchmarks.planning.simulate import area, distances, halves


def test_features_of_pairs_are_sums_of_parts(tmp_path):
    table = pd.DataFrame(np.eye(4), index=["A", "B", "A_B", "A_C"])
    table.to_csv(tmp_path / "effects.csv")
    features, effects = pairs_of_table(tmp_path / "effects.csv")
    assert features.index.tolist() == ["A_B"]
    assert features.to_numpy().tolist() == [[1, 1, 0, 0]]
    assert effects.to_numpy().tolist() == [[0, 0, 1, 0]]


def test_like_molecules_have_like_fingerprints():
    rows = fingerprints(pd.Series(["CCOCC", "CCOCCC", "NNNNN"])).to_numpy()
    assert rows[0] @ rows[1] > 0.8
    assert rows[0] @ rows[2] < 0.3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_errors_fall_where_features_tell_effects(strategy):
    rng = np.random.default_rng(0)
    features = pd.DataFrame(rng.normal(size=(60, 2)), index=[f"P{i}" for i in range(60)])
    effects = features @ rng.normal(size=(2, 5))
    args = SimpleNamespace(start=4, batch=8)
    errors = curve(features, effects, strategy, args, seed=0)
    assert len(errors) == 6
    assert errors[-1] < 0.5 * errors[0]


def test_a_screen_is_like_its_other_half():
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.gamma(2.0, 1.0, (600, 20))).astype(float)
    A = np.repeat(["control", "P"], 300)
    one, other = halves(A, 0)
    found = distances((X[one], A[one]), (X[other], A[other]))
    assert found["library"] < 0.15
    near, far = (area(X[one], Y, 0)["area_logs"] for Y in (X[other], X[other] ** 2))
    assert near < 0.65 < far
