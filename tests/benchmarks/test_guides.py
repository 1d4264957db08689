"""Figures of the guides benchmark, from small tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from benchmarks.svae.guides import folds, of_effects, of_efficacy

DEAD, LIVING, NULL = "x_CCNE2_-_95907017.23", "x_CPQ_+_1.23", "x_non-targeting_00001"
IS_NULL = {DEAD: False, LIVING: False, NULL: True}


def test_calls_are_counted_by_kind_of_guide():
    table = pd.DataFrame(
        {
            "perturbation": np.repeat([DEAD, LIVING, NULL], 2),
            "gene": ["CCNE2", "CPQ"] * 3,
            "target": [True, False, False, True, False, False],
            "called": [False, True, False, True, True, True],
            "p": [0.5, 0.01, 0.4, 0.0, 0.01, 0.02],
        }
    )
    row = of_effects(table, IS_NULL)
    assert (row["own_called"], row["n_living"], row["dead_called"]) == (1, 1, 1)
    assert (row["nulls_called"], row["n_nulls"]) == (1, 1)
    assert row["null_calls"] == "00001 CCNE2; 00001 CPQ"


def test_verdicts_are_counted_and_compared_with_folds():
    table = pd.DataFrame(
        {
            "guide": [DEAD, LIVING, NULL],
            "verdict": ["dead", "works", "weak"],
            "efficacy": [0.1, 0.8, np.nan],
        }
    )
    row = of_efficacy(table, IS_NULL, pd.Series({DEAD: 0.9, LIVING: 0.1}))
    assert (row["dead_found"], row["living_dead"], row["living_work"]) == (1, 0, 1)
    assert (row["nulls_work"], row["nulls_weak"]) == (0, 1)
    assert row["spearman"] == pytest.approx(1)


def test_folds_are_ratios_of_mean_shares():
    guides = np.repeat([LIVING, NULL], 60)
    X = csr_matrix(np.repeat([[1.0, 9.0], [4.0, 6.0]], 60, axis=0))
    table = pd.Series({LIVING: "CPQ", NULL: "control"})
    found = folds(X, guides, table, ["CPQ", "MYC"], np.arange(120))
    assert found.to_dict() == {LIVING: pytest.approx(0.25)}
