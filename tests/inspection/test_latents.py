"""What a fitted model says about its latents."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone

from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.exceptions import DataWarning
from skpert.inspection import identifiability, latent_summary
from skpert.metrics import match_latents


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        12,
        n_cells_per_perturbation=100,
        n_control_cells=100,
        n_latent=3,
        n_genes=50,
        n_covered=2,
        n_targets=1,
        effect_size=3.0,
        library_size=5000,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return SVAEPlus(n_latent=3, max_epochs=60, random_state=0).fit(screen.X, screen.A)


def test_latents_that_nothing_targets_are_told(screen, model):
    summary = latent_summary(model)
    assert summary["targeted"].tolist() == [True, True, False]
    match = match_latents(screen.Z, model.transform(screen.X))
    names = model.get_feature_names_out()[match[:2]]
    assert set(summary.index[summary["targeted"]]) == set(names)
    assert summary.loc[names, "n_perturbations"].tolist() == screen.mask[:, :2].sum(0).tolist()


def test_the_strongest_is_the_largest_effect(model):
    summary, targets = latent_summary(model), model.targets(fdr=0.05)
    for latent, row in summary[summary["targeted"]].iterrows():
        assert row["strongest"] == targets[latent].abs().idxmax()
        assert abs(row["effect"]) == targets[latent].abs().max()
    untargeted = summary[~summary["targeted"]]
    assert untargeted["strongest"].isna().all()
    assert not untargeted["effect"].any()
    np.testing.assert_allclose(summary["expected"].sum(), model.mask_probability_.sum(), rtol=1e-5)


def test_a_model_without_masks_has_no_targets(screen):
    model = VAE(n_latent=2, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    with pytest.raises(ValueError, match="VAE calls no edges: give SVAEPlus or SAMSVAE"):
        latent_summary(model)


# What the graph identifies


class Graph(BaseEstimator):
    """Stands for a fitted model with these edges."""

    def __init__(self, edges):
        self.edges = np.array(edges, dtype=float)
        self.perturbations_ = np.array([f"P{i}" for i in range(len(edges))], dtype=object)

    def fit(self, X, A):
        return self

    def targets(self, *, fdr):
        return pd.DataFrame(self.edges)

    @property
    def mask_probability_(self):
        return self.edges

    def get_feature_names_out(self):
        return np.array([f"z{i}" for i in range(self.edges.shape[1])], dtype=object)

    def __sklearn_is_fitted__(self):
        return True


@pytest.mark.parametrize(
    ("edges", "identified", "groups"),
    [
        ([[1, 0], [0, 1]], [True, True], ["z0", "z1"]),
        ([[1, 1], [1, 1]], [False, False], ["z0 z1", "z0 z1"]),
        ([[1, 1], [1, 0]], [True, False], ["z0", "z0 z1"]),
        ([[1, 1, 0], [0, 1, 1], [1, 0, 1]], [True] * 3, ["z0", "z1", "z2"]),
        ([[1, 0, 0]], [True, False, False], ["z0", "z1 z2", "z1 z2"]),
        ([[0, 0]], [False, False], ["z0 z1", "z0 z1"]),
        ([[1, 0]], [True, False], ["z0", "z1"]),
    ],
)
def test_a_latent_is_identified_if_its_target_sets_have_it_alone_in_common(
    edges, identified, groups
):
    table = identifiability(Graph(edges)).table
    assert table["identified"].tolist() == identified
    assert [" ".join(group) for group in table["group"]] == groups


def test_few_perturbations_cover_a_latent():
    edges = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    table = identifiability(Graph(edges)).table
    assert table.loc["z0", "covered_by"] == ("P4",)
    assert table.loc["z3", "group"] == ("z0", "z1", "z2", "z3")
    assert table.loc["z3", "covered_by"] == ()
    without = identifiability(Graph(edges[:3])).table
    assert set(without.loc["z0", "covered_by"]) == {"P1", "P2"}


def test_rotations_that_keep_the_graph_are_what_is_not_identified():
    """A mixture of two latents that share all target sets changes no zero of the shifts."""
    edges = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1]])
    table = identifiability(Graph(edges)).table
    c, s = np.cos(0.4), np.sin(0.4)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    shifts = edges * np.random.default_rng(0).normal(size=edges.shape)
    assert ((shifts @ rotation != 0) == edges).all()
    assert table["identified"].tolist() == [False, False, True]


def test_what_labels_explain_is_the_gain_over_a_vae(screen, model):
    floor = VAE(n_latent=3, max_epochs=40, random_state=0).fit(screen.X, screen.A)
    report = identifiability(model, floor=floor, X=screen.X, A=screen.A)
    expected = model.score(screen.X, screen.A) - floor.score(screen.X, screen.A)
    assert report.gain == pytest.approx(expected, abs=1e-4)
    assert report.gain > 5 * report.gain_error > 0
    assert f"explain {report.gain:.2f} nats" in report.summary
    nothing = identifiability(model, floor=model, X=screen.X, A=screen.A)
    assert nothing.gain == nothing.gain_error == 0
    with pytest.raises(ValueError, match="at least 2 cells"):
        identifiability(model, floor=floor, X=screen.X[:1], A=screen.A[:1])
    with pytest.raises(ValueError, match="VAE calls no edges"):
        identifiability(floor)
    with pytest.raises(ValueError, match="give all, or none"):
        identifiability(model, X=screen.X, A=screen.A)


def test_edges_that_may_be_those_of_a_batch_are_counted(screen, model):
    A = pd.DataFrame({"perturbation": screen.A, "batch": "b1"})
    first = model.perturbations_[0]
    A.loc[A["perturbation"] == first, "batch"] = "b2"
    with pytest.warns(DataWarning, match=f"'{first}' only where 'batch' is 'b2'"):
        report = identifiability(clone(model).fit(screen.X, A))
    assert report.confounded["perturbation"].tolist() == [first]
    edges = model.targets().loc[first] != 0
    np.testing.assert_array_equal(report.table["n_confounded"], edges)
    n = len(model.perturbations_)
    assert report.summary.endswith(
        f"Edges of 1 of {n} perturbations may be those of 'batch': they are confounded."
    )
    plain = identifiability(model)
    assert not len(plain.confounded)
    assert not plain.table["n_confounded"].any()
    assert "confounded" not in plain.summary
