"""Rules that choose a sparsity prior, on a grid made by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.svae.sparsity import RULES, held_out_f1, stability

ROWS = pd.DataFrame(
    {
        "score": [json.dumps([s, s]) for s in (-100.0, -100.2, -101.0, -105.0, -110.0)],
        "n_edges": [json.dumps([n, n]) for n in (60, 40, 30, 10, 0)],
        "edge_f1": [json.dumps([f, f]) for f in (0.5, 0.9, 0.8, 0.3, 0.0)],
        "stability": [0.5, 0.7, 0.8, 0.9, 0.0],
        "n_pairs": 100,
        "n_cells": 1000,
        "settings": json.dumps({"data": {"n_latent": 5}}),
    }
)


class Reader:
    """Latent states are the expression, and edges are given."""

    control = "control"

    def __init__(self, mask):
        self.mask_ = np.array(mask, dtype=bool)
        self.perturbations_ = np.array(["A", "B"], dtype=object)

    def transform(self, X):
        return X


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        *(("IWELBO", 0), ("less edges", 0), ("1 SE", 0), ("sparsest", 2), ("half", 3)),
        *(("stability", 3), ("held-out", 1)),
    ],
)
def test_rules_choose_what_they_say(rule, chosen):
    assert RULES[rule](ROWS) == chosen


def test_edges_cost_what_their_number_says():
    cheap = ROWS.assign(score=[json.dumps([s, s]) for s in (-100, -100.01, -101, -105, -110)])
    assert RULES["less edges"](cheap) == 1  # twenty edges gain ten nats, and cost more


def test_folds_that_agree_up_to_the_order_of_latents_are_stable():
    X = np.random.default_rng(0).normal(size=(50, 2))
    first, swapped = Reader([[1, 0], [0, 1]]), Reader([[0, 1], [1, 0]])
    swapped.transform = lambda X: X[:, ::-1]
    assert stability([first, swapped], X) == 1
    assert stability([first, Reader([[0, 1], [1, 0]])], X) == 0


def test_edges_seen_in_held_out_cells_count():
    A = np.repeat(np.array(["control", "A", "B"], dtype=object), 200)
    shift = {"control": [0, 0], "A": [4, 0], "B": [0, 4]}
    X = np.random.default_rng(0).normal(size=(600, 2)) + np.array([shift[a] for a in A])
    right, dense = (
        held_out_f1(Reader(mask), X, A) for mask in ([[1, 0], [0, 1]], np.ones((2, 2)))
    )
    assert right > 0.95
    assert dense < 0.75
