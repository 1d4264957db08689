"""decoupler's activities from genes of latents, and its tables of gene sets."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(page):
    return page("decoupler")


def test_activities_follow_latent_states(found):
    Z, activity = found["adata"].obsm["X_skpert"], found["activity"]
    latents = found["model"].get_feature_names_out()
    targeted = found["model"].targets().any(axis=0).to_numpy()
    assert targeted.sum() >= 2
    for k in np.flatnonzero(targeted):
        states = Z[:, k]
        assert np.corrcoef(states, activity[:, latents[k]].X.ravel())[0, 1] > 0.5


def test_networks_are_gene_sets(found):
    enriched = found["enriched"]
    assert set(enriched["set"]) == {"first ten"}
    assert (enriched["n_genes"] == 10).all()
