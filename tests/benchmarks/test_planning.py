"""Figures of the planning benchmark, from small tables."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import runner
from benchmarks.planning import power
from benchmarks.planning.next import STRATEGIES, curve, fingerprints, pairs_of_table
from benchmarks.planning.power import pilot_cells
from benchmarks.planning.simulate import area, distances, halves
from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift


def test_features_of_pairs_are_sums_of_parts(tmp_path):
    table = pd.DataFrame(np.eye(4), index=["A", "B", "A_B", "A_C"])
    table.to_csv(tmp_path / "effects.csv")
    features, effects = pairs_of_table(tmp_path / "effects.csv")
    assert features.index.tolist() == ["A_B"]
    assert features.to_numpy().tolist() == [[1, 1, 0, 0]]
    assert effects.to_numpy().tolist() == [[0, 0, 1, 0]]


def test_rows_of_a_data_set_are_replaced_and_others_kept(tmp_path):
    path = tmp_path / "new" / "rows.csv"
    runner.replace([{"screen": "a", "x": 1}, {"screen": "b", "x": 2}], path, "screen")
    runner.replace([{"screen": "a", "x": 3}], path, "screen")
    found = pd.read_csv(path)
    assert found[["screen", "x"]].to_numpy().tolist() == [["b", 2], ["a", 3]]


def test_pilot_cells_are_as_many_of_each_perturbation():
    A = np.repeat(["control", "P", "Q"], [200, 100, 30])
    kept = pilot_cells(A, 20, 0)
    assert pd.Series(A[kept]).value_counts().to_dict() == {"P": 20, "Q": 20, "control": 62}
    assert len(np.unique(kept)) == len(kept)


@pytest.mark.parametrize("part", ["of_whole", "of_other_half"])
def test_predicted_and_realised_shares_are_those_of_strong_effects(part):
    screen = make_sparse_shift(
        8,
        n_cells_per_perturbation=40,
        n_control_cells=80,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=4.0,
        library_size=2000,
        random_state=0,
    )
    model = SVAEPlus(n_latent=3, max_epochs=15, random_state=0).fit(screen.X, screen.A)
    args = SimpleNamespace(cells=[4, 25], tables=2, draws=2, refits=0, divisions=1)
    found = getattr(power, part)(model, screen.X, screen.A, args, 0)
    assert found.index.tolist() == [4, 25]
    assert found[["predicted", "realised"]].stack().between(0, 1).all()
    assert found["n_edges"].gt(0).all()


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
