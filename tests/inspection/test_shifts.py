"""Shifts of latent states, and distances to control beside those of measured cells."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from skpert import CPAVAE, SCCVAE, VAE, SVAEPlus
from skpert.datasets import make_additive_shift, make_causal_shift
from skpert.inspection import latent_distances, latent_shifts
from skpert.metrics import maximum_mean_discrepancy
from skpert.preprocessing import LogNormalize

FAST = {"n_hidden": 16, "n_layers": 1, "device": "cpu", "random_state": 0}


@pytest.fixture(scope="module")
def screen():
    return make_causal_shift(
        8,
        n_cells_per_perturbation=40,
        n_control_cells=100,
        n_latent=4,
        n_genes=50,
        penetrance=(0.5, 6.0),
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    model = SCCVAE(n_latent=4, features=screen.features, max_epochs=20, **FAST)
    return model.fit(screen.X[screen.train], screen.A[screen.train])


@pytest.fixture(scope="module")
def counts():
    return make_additive_shift(
        4, n_cells_per_perturbation=25, n_control_cells=40, n_latent=3, n_genes=50, random_state=0
    )


# Shifts


def test_shifts_pass_through_the_graph(model):
    shifts = latent_shifts(model, model.perturbations_)
    effects = model.penetrance_[:, None] * model.shift_
    expected = effects @ np.linalg.inv(np.eye(4) - model.graph_)
    np.testing.assert_allclose(shifts, expected, rtol=0, atol=1e-4)
    assert shifts.columns.tolist() == model.get_feature_names_out().tolist()


def test_shifts_of_the_unseen_scale_with_their_penetrance(model):
    once = latent_shifts(model.with_penetrance({"P6": 1.0}), "P6")
    twice = latent_shifts(model.with_penetrance({"P6": -2.0}), "P6")
    np.testing.assert_allclose(twice, -2 * once, rtol=0, atol=1e-4)
    assert not latent_shifts(model, "control").to_numpy().any()


def test_shifts_of_models_with_targets_are_these(counts):
    sparse = SVAEPlus(n_latent=3, max_epochs=2, **FAST).fit(counts.X, counts.A)
    shifts = latent_shifts(sparse, sparse.perturbations_)
    acting = sparse.module_.masks.most_probable().numpy()
    expected = np.zeros(shifts.shape)
    expected[:, : sparse.n_latent_] = acting * sparse.embedding_[:, : sparse.n_latent_]
    np.testing.assert_allclose(shifts, expected, rtol=0, atol=1e-5)
    additive = CPAVAE(n_latent=3, max_epochs=2, **FAST).fit(counts.X, counts.A)
    names = additive.perturbations_
    both = latent_shifts(additive, [[1, 2, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]).to_numpy()
    np.testing.assert_allclose(both[0], both[1] + 2 * both[2], rtol=0, atol=1e-4)
    pair = latent_shifts(additive, [f"{names[0]}+{names[1]}"])
    np.testing.assert_allclose(pair.iloc[0], both[1] + both[2], rtol=0, atol=1e-4)


def test_names_of_genes_and_layers_of_training_do_not_matter(screen):
    X = pd.DataFrame(screen.X, columns=[f"gene {g}" for g in range(50)])
    model = SCCVAE(n_latent=2, features=screen.features, max_epochs=1, **FAST).fit(X, screen.A)
    plain = latent_shifts(model, ["P0"])
    model.layer = "lognorm"
    pd.testing.assert_frame_equal(latent_shifts(model, ["P0"]), plain)
    assert model.layer == "lognorm"


# Distances


def test_distances_are_lengths_of_shifts_and_discrepancies_of_cells(screen, model):
    distances = latent_distances(model, screen.X, screen.A)
    assert distances.index.tolist() == screen.perturbations.tolist()  # the unseen, too
    assert (distances["n_cells"] == 40).all()
    shifts = latent_shifts(model, screen.perturbations)
    np.testing.assert_allclose(distances["latent"], np.linalg.norm(shifts, axis=1), rtol=1e-5)
    base = 2 * screen.X.var(0, ddof=1, dtype=np.float64).sum()
    widths = base / 4 * 2.0 ** np.arange(5)
    cells, controls = screen.X[screen.A == "P3"], screen.X[screen.A == "control"]
    expected = maximum_mean_discrepancy(cells, controls, bandwidths=widths)
    np.testing.assert_allclose(distances.loc["P3", "expression"], expected, rtol=1e-6)


def test_what_moves_far_is_far(screen, model):
    seen = latent_distances(model, screen.X[screen.train], screen.A[screen.train])
    assert seen[["latent", "expression"]].corr("spearman").iloc[0, 1] > 0.7


def test_forms_of_input_and_order_of_cells_do_not_matter(screen, model):
    distances = latent_distances(model, screen.X, screen.A)
    order = np.random.default_rng(0).permutation(len(screen.A))
    shuffled = latent_distances(model, csr_array(screen.X[order]), screen.A[order])
    pd.testing.assert_frame_equal(shuffled, distances, rtol=1e-5)
    frame = pd.DataFrame({"perturbation": screen.A})
    pd.testing.assert_frame_equal(latent_distances(model, screen.X, frame), distances)


def test_environments_are_read_from_the_design(screen):
    frame = pd.DataFrame({"perturbation": screen.A, "lane": np.arange(len(screen.A)) % 2})
    model = SCCVAE(
        n_latent=2, features=screen.features, environment=["lane"], max_epochs=1, **FAST
    ).fit(screen.X, frame)
    distances = latent_distances(model, screen.X, frame)
    shifts = latent_shifts(model, frame.iloc[[0]])
    np.testing.assert_allclose(
        distances.loc[shifts.index[0], "latent"], np.linalg.norm(shifts), rtol=1e-5
    )


def test_counts_are_log_normalised(counts):
    model = VAE(n_latent=2, max_epochs=1, **FAST).fit(counts.X, counts.A)
    distances = latent_distances(model, counts.X, counts.A)
    assert not distances["latent"].any()  # the model knows no perturbation
    values = LogNormalize(target_sum=None).fit_transform(counts.X)
    widths = values.var(0, ddof=1, dtype=np.float64).sum() / 2 * 2.0 ** np.arange(5)
    name = distances.index[1]
    expected = maximum_mean_discrepancy(
        values[counts.A == name], values[counts.A == "control"], bandwidths=widths
    )
    np.testing.assert_allclose(distances.loc[name, "expression"], expected, rtol=1e-5)


def test_many_cells_are_drawn_from(screen, model):
    few = latent_distances(model, screen.X, screen.A, max_cells=20)
    again = latent_distances(model, screen.X, screen.A, max_cells=20)
    pd.testing.assert_frame_equal(few, again)
    other = latent_distances(model, screen.X, screen.A, max_cells=20, random_state=1)
    assert (few["expression"] != other["expression"]).all()
    assert (few["n_cells"] == 40).all()


def test_one_cell_has_no_discrepancy(screen, model):
    rows = np.r_[np.flatnonzero(screen.A == "control"), np.flatnonzero(screen.A == "P1")[0]]
    distances = latent_distances(model, screen.X[rows], screen.A[rows])
    assert np.isnan(distances.loc["P1", "expression"])
    assert distances.loc["P1", "latent"] > 0


def test_what_cannot_be_compared_is_refused(screen, model):
    treated = screen.A != "control"
    with pytest.raises(ValueError, match="0 cells of the control 'control' and 8 perturbations"):
        latent_distances(model, screen.X[treated], screen.A[treated])
    with pytest.raises(ValueError, match="and 0 perturbations"):
        latent_distances(model, screen.X[~treated], screen.A[~treated])
    with pytest.raises(ValueError, match="max_cells must be at least 2, got 1"):
        latent_distances(model, screen.X, screen.A, max_cells=1)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        latent_distances(model, screen.X, screen.A[1:])
    with pytest.raises(ValueError, match="unknown perturbations: 'P9'"):
        latent_shifts(model, ["P9"])
