"""The table of effects, their intervals and probabilities."""

import numpy as np
import pytest
from scipy.stats import norm

from skpert import CPAVAE, SAMSVAE, VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import effects
from skpert.metrics import match_latents
from skpert.sparsity.edges import null_width


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        20,
        n_cells_per_perturbation=100,
        n_control_cells=400,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=2.0,
        library_size=5000,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return SVAEPlus(n_latent=3, max_epochs=30, random_state=0).fit(screen.X, screen.A)


def matrix(model, table, column):
    """A column of the table as a matrix in the order of the model."""
    wide = table.pivot(index="perturbation", columns="latent", values=column)
    return wide.loc[model.perturbations_, model.get_feature_names_out()].to_numpy()


def test_the_table_says_what_the_attributes_say(model):
    table = effects(model, fdr=0.1)
    assert len(table) == 60
    np.testing.assert_array_equal(matrix(model, table, "effect"), model.embedding_)
    np.testing.assert_array_equal(matrix(model, table, "probability"), model.mask_probability_)
    np.testing.assert_array_equal(matrix(model, table, "standard_error"), model.standard_error_)
    called = matrix(model, table, "called")
    np.testing.assert_array_equal(called, (model.targets(fdr=0.1) != 0).to_numpy())
    assert called.dtype == bool


def test_rows_are_sorted_by_perturbation_and_probability(model):
    table = effects(model)
    assert table["perturbation"].tolist() == np.repeat(model.perturbations_, 3).tolist()
    assert (table.groupby("perturbation")["probability"].diff().fillna(0) <= 0).all()
    assert table.index.tolist() == list(range(60))


def test_intervals_are_normal_and_wider_than_the_sampling_error(model):
    table, wide = effects(model, level=0.5), effects(model, level=0.99)
    half = table["upper"] - table["effect"]
    np.testing.assert_allclose(half, table["effect"] - table["lower"], rtol=1e-3, atol=1e-5)
    ratio = (wide["upper"] - wide["lower"]) / (table["upper"] - table["lower"])
    np.testing.assert_allclose(ratio, norm.ppf(0.995) / norm.ppf(0.75), rtol=1e-3)
    assert (half / norm.ppf(0.75) > table["standard_error"]).all()


def test_intervals_hold_the_true_effects(model, screen):
    table = effects(model)
    match = match_latents(screen.Z, model.transform(screen.X))
    effect, lower, upper = (
        matrix(model, table, column)[:, match] for column in ("effect", "lower", "upper")
    )
    true = screen.mask * screen.embedding
    true = true * (effect * true).sum(0) / (true**2).sum(0)  # scale and sign of each latent
    held = (lower <= true) & (true <= upper)
    assert held[screen.mask.astype(bool)].mean() >= 0.85


def test_the_standard_error_is_that_of_the_mean_state(model, screen):
    treated, control = (
        model.transform(screen.X[A]) for A in (screen.A == "P03", screen.A == "control")
    )
    error = np.sqrt(treated.var(0, ddof=1) / 100 + control.var(0, ddof=1) / 400)
    np.testing.assert_allclose(model.standard_error_[3], error, rtol=0.3)


def test_learned_masks_have_the_scale_of_the_posterior_or_no_interval(screen):
    options = {"n_latent": 3, "n_hidden": 8, "max_epochs": 3, "random_state": 0}
    additive = SAMSVAE(edges="learned", **options).fit(screen.X, screen.A)
    scale = additive.module_.embeddings.log_scale().exp().detach().numpy()
    n_latent = additive.n_latent_
    np.testing.assert_allclose(additive.standard_error_[:, :n_latent], scale, rtol=2e-3)
    found = matrix(additive, effects(additive), "upper")
    assert np.isfinite(found[:, :n_latent]).all()
    assert np.isnan(found[:, n_latent:]).all()  # of latents that were asked for and not found
    point = SVAEPlus(edges="learned", **options).fit(screen.X, screen.A)
    assert not hasattr(point, "standard_error_")
    table = effects(point)
    assert table[["standard_error", "lower", "upper"]].isna().all(axis=None)
    np.testing.assert_array_equal(matrix(point, table, "effect"), point.embedding_)


def test_the_null_is_as_wide_as_the_entries_without_effect():
    random = np.random.default_rng(0)
    M = random.normal(0, 0.3, (200, 4))
    M[:, 0] /= 5  # a latent with less cross-talk than the others
    M[np.arange(60), np.arange(60) % 4] = 5.0
    width = null_width(M, np.full(M.shape, 0.01))
    assert width.shape == M.shape
    assert np.median(width[60:, 1:]) == pytest.approx(0.3, rel=0.2)
    assert np.median(width[60:, 0]) < 0.15
    nothing = null_width(np.zeros((5, 2)), np.full((5, 2), 0.1))
    np.testing.assert_allclose(nothing, 0.02)  # what differs by less is the same


def test_bad_input_is_refused(model, screen):
    for level in (0, 1, -0.5, np.nan):
        with pytest.raises(ValueError, match="level"):
            effects(model, level=level)
    with pytest.raises(ValueError, match="fdr must be in"):
        effects(model, fdr=-1)
    for cls in (VAE, CPAVAE):
        dense = cls(n_latent=2, n_hidden=4, max_epochs=1, random_state=0)
        with pytest.raises(ValueError, match="not fitted"):
            effects(dense)
        with pytest.raises(ValueError, match=f"{cls.__name__} calls no edges"):
            effects(dense.fit(screen.X, screen.A))
