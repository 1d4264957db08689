"""What a fitted model says about its latents."""

import numpy as np
import pytest

from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import latent_summary
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
    return SVAEPlus(n_latent=3, max_epochs=40, random_state=0).fit(screen.X, screen.A)


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
    np.testing.assert_allclose(summary["expected"].sum(), model.mask_probability_.sum())


def test_a_model_without_masks_has_no_targets(screen):
    model = VAE(n_latent=2, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    with pytest.raises(AttributeError, match="no attribute 'mask_probability_'"):
        latent_summary(model)
