import sys

import pandas as pd
import pytest

from skpert import plotting
from skpert.plotting._shared import clipped

ONE = pd.DataFrame([[1.0]], index=["A"])
SCORED = pd.DataFrame({"estimator": ["m"], "perturbation": ["A"], "response_mse": [1.0]})
DIRECT = pd.DataFrame(
    {
        "perturbation": ["A"],
        "gene": ["g"],
        "log2_fold_change": [1.0],
        "q": [0.01],
        "called": [True],
    }
)
CHECKED = pd.DataFrame(
    {
        "statistic": ["mean"],
        "perturbation": ["A"],
        "observed": [1.0],
        "expected": [1.0],
        "lower": [0.9],
        "upper": [1.1],
        "q": [0.5],
    }
)
CURVES = pd.DataFrame(
    {
        "perturbation": ["A"],
        "latent": ["l0"],
        "shape": ["none"],
        "q": [1.0],
        **dict.fromkeys(["maximum", "hill", "ec50", "ec50_lower", "ec50_upper"], [1.0]),
    }
)
SHIFTS = pd.DataFrame(
    {
        "perturbation": ["A"],
        "latent": ["l0"],
        **dict.fromkeys(["dose", "shift", "lower", "upper", "fitted"], [1.0]),
    }
)
ENRICHED = pd.DataFrame({"unit": ["l0"], "set": ["s"], "score": [1.0], "q": [0.01]})
INTERACTING = pd.DataFrame(
    {
        "combination": ["A+B"],
        "latent": ["l0"],
        "interaction": [1.0],
        "called": [True],
        "kind": ["synergy"],
    }
)
POWER = pd.DataFrame({"latent": ["l0"], "n_cells": [50], "effect": [1.0], "power": [0.7]})
DISPLAYS = {
    "CombinationTargetsDisplay": [ONE],
    "DirectEffectsDisplay": [DIRECT],
    "DoseResponseDisplay": [{"curves": CURVES, "doses": SHIFTS}],
    "EffectsDisplay": [ONE, ONE],
    "EmbeddingClustersDisplay": [ONE],
    "EvaluationDisplay": [SCORED],
    "HistoryDisplay": [ONE],
    "InteractionsDisplay": [INTERACTING],
    "LatentProgrammesDisplay": [ENRICHED],
    "PathwayTargetsDisplay": [ONE, ONE, {"NER": "A"}],
    "PosteriorPredictiveDisplay": [CHECKED],
    "PowerDisplay": [POWER],
    "TargetsDisplay": [ONE],
}


@pytest.mark.parametrize("name", plotting.__all__)
def test_without_matplotlib_the_error_names_the_extra(name, monkeypatch):
    display = getattr(plotting, name)(*DISPLAYS[name])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{name} needs matplotlib: .*'skpert\[plot\]'"):
        display.plot()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("JAK2+SMAD4", "JAK2+SMAD4"),
        (7, "7"),
        ("x" * 36, "x" * 36),
        ("a" * 30 + "b" * 30, "a" * 18 + "…" + "b" * 17),
        (
            "a" * 20 + "1+" + "b" * 20 + "2",
            "a" * 8 + "…" + "a" * 7 + "1+" + "b" * 8 + "…" + "b" * 7 + "2",
        ),
    ],
)
def test_long_names_keep_the_ends_of_their_parts(name, expected):
    assert clipped(name) == expected
    assert len(clipped(name)) <= 36
