"""Guides of cells from their counts, for designs of any multiplicity of infection."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from skpert import SAMSVAE
from skpert.preprocessing import assign_guides

GUIDES = [f"g{i}" for i in range(6)]
TARGETS = {"g0": "A", "g1": "A", "g2": "B", "g3": "B", "g4": "C", "g5": "NT"}


def counts_of(n_cells=300, seed=0):
    """Which guides cells have, and counts with ambient ones."""
    random = np.random.default_rng(seed)
    has = random.random((n_cells, len(GUIDES))) < 0.3
    return has, random.poisson(np.where(has, 20, 0.05))


def test_guides_that_cells_have_are_found():
    has, counts = counts_of()
    found = assign_guides(counts, guides=GUIDES, min_share=0)
    assert found.design.columns.tolist() == GUIDES
    assert (found.design.to_numpy() == has).mean() > 0.999
    np.testing.assert_array_equal(found.n_guides, found.design.sum(axis=1))
    np.testing.assert_array_equal(found.assigned, found.n_guides > 0)


@pytest.mark.parametrize("form", [csr_array, pd.DataFrame, lambda c: c.tolist()])
def test_every_form_gives_the_same(form):
    _, counts = counts_of()
    one = assign_guides(counts, guides=GUIDES)
    other = assign_guides(form(counts), guides=GUIDES)
    pd.testing.assert_frame_equal(one.design, other.design)


def test_guides_of_a_gene_are_one_perturbation_and_controls_none():
    has, counts = counts_of()
    found = assign_guides(counts, guides=GUIDES, targets=TARGETS, control="NT", min_share=0)
    assert found.design.columns.tolist() == ["A", "B", "C"]
    expected = np.column_stack([has[:, :2].any(1), has[:, 2:4].any(1), has[:, 4]])
    assert (found.design.to_numpy() == expected).mean() > 0.999
    only_control = has[:, 5] & ~has[:, :5].any(1)
    assert found.assigned[only_control].all()
    assert not found.design.to_numpy()[only_control].any()


def test_both_thresholds_hold():
    counts = [[2, 0], [3, 0], [3, 60], [3, 27]]
    found = assign_guides(counts, guides=["a", "b"])
    assert found.design.to_numpy().tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert assign_guides(counts, guides=["a", "b"], min_counts=2).n_guides.tolist() == [1, 1, 1, 2]


def test_names_of_cells_stay_and_models_take_the_design():
    _, counts = counts_of(200)
    frame = pd.DataFrame(counts, index=[f"c{i}" for i in range(200)], columns=GUIDES)
    found = assign_guides(frame, targets=pd.Series(TARGETS), control=["NT"])
    assert found.design.index.tolist() == frame.index.tolist()
    X = np.random.default_rng(0).poisson(3.0, (200, 20))
    rows = found.assigned
    model = SAMSVAE(n_latent=2, max_epochs=2, random_state=0)
    model.fit(X[rows], found.design[rows])
    assert model.perturbations_.tolist() == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guides": None}, "no names of guides"),
        ({"guides": GUIDES[:5]}, "counts have 6 columns and guides are 5"),
        ({"guides": ["g0"] * 6}, "repeated: 'g0'"),
        ({"targets": {"g0": "A"}}, "no gene for 5 guides: 'g1'"),
        ({"control": "nobody"}, "no guides are named 'nobody'"),
        ({"min_counts": 1000}, "no cell has a guide with min_counts=1000"),
        ({"min_share": 2.0}, "min_share"),
        ({"min_counts": 0}, "min_counts"),
    ],
)
def test_what_is_no_assignment_is_an_error(change, message):
    _, counts = counts_of()
    with pytest.raises(ValueError, match=message):
        assign_guides(counts, **{"guides": GUIDES} | change)


def test_counts_that_are_not_known_are_an_error():
    counts = csr_array([[np.nan, 3.0]])
    with pytest.raises(ValueError, match="NaN or infinite values: give 0"):
        assign_guides(counts, guides=["a", "b"])


def test_negative_counts_are_an_error():
    with pytest.raises(ValueError, match="negative: -1"):
        assign_guides([[-1, 3]], guides=["a", "b"])
