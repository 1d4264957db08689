"""The benchmark of contexts of which only controls were seen."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.runner import TableJob
from benchmarks.unseen import contexts


def rows_of(estimator, errors, seed=0):
    return pd.DataFrame(
        {
            "estimator": estimator,
            "seed": seed,
            "split": 0,
            "perturbation": [f"P{i}" for i in range(len(errors))],
            "context": "C0",
            "response_mse": np.array(errors) / 1e4,
            "delta_pearson": 0.5,
        }
    )


def test_differences_are_paired_over_perturbations_after_the_mean_over_seeds():
    floor = rows_of(contexts.FLOOR, [10.0, 20.0, 40.0])
    model = [rows_of("model", [8.0, 19.0, 34.0]), rows_of("model", [6.0, 17.0, 36.0], seed=1)]
    table = contexts.summary(pd.concat([floor, *model]), "context")
    row = table.loc["model"]
    assert row["error"] == pytest.approx(20)
    assert row["difference"] == pytest.approx(np.mean([-3, -2, -5]))
    half = 4.302652729749464 * np.std([-3, -2, -5], ddof=1) / np.sqrt(3)  # t of 2 degrees
    assert row["upper"] - row["difference"] == pytest.approx(half)
    assert (row["n_seeds"], row["n_units"]) == (2, 3)


def test_screens_that_differ_by_seed_are_paired_over_seeds():
    rows = [rows_of(contexts.FLOOR, [10.0, 20.0], seed) for seed in (0, 1)]
    rows += [rows_of("model", [8.0 - seed, 18.0], seed) for seed in (0, 1)]
    table = contexts.summary(pd.concat(rows), "seed")
    assert table.loc["model", "difference"] == pytest.approx(-2.25)
    assert table.loc["model", "n_units"] == 2


def test_two_contexts_are_left_out_but_for_their_controls():
    screen = contexts.screen_of("latent", 0, None)
    [(train, test)] = screen.splits
    assert set(screen.A["context"].iloc[test]) == {"C0", "C1"}
    left_out = screen.A.iloc[train]["context"].isin(["C0", "C1"])
    assert set(screen.A.iloc[train][left_out]["perturbation"]) == {"control"}


@pytest.mark.filterwarnings("ignore::skpert.exceptions.TrainingWarning")
@pytest.mark.parametrize("name", ["SVAEPlus, environment", "InVAE"])
def test_models_are_scored_by_both_readings(name):
    job = TableJob("x", 0, f"logit; {name}; 0")
    table = contexts.score(job, None, 1)
    assert table["estimator"].unique().tolist() == [name, f"{name}, difference"]
    assert (table.groupby("estimator").size() == 16).all()
    assert table[contexts.METRICS].notna().all(axis=None)


def test_real_screens_need_their_folder(capsys):
    parser_args = type("Args", (), {"questions": ["donors"], "folder": None})
    with pytest.raises(SystemExit, match="need the folder"):
        contexts.run(parser_args)
