"""pertpy's distances, Mixscape and enrichment, with embeddings, labels and genes of ours."""

import numpy as np
import pandas as pd
import pytest

from skpert.metrics import energy_distance


@pytest.fixture(scope="module")
def found(page):
    return page("pertpy")


def test_distances_are_ours_with_their_bias(found):
    adata, distances = found["adata"], found["distances"]
    Z, labels = adata.obsm["X_skpert"], adata.obs["perturbation"]
    for name in ("P0", "P3"):
        ours = energy_distance(Z[labels == name], Z[labels == "control"], unbiased=False)
        assert distances.loc[name, "control"] == pytest.approx(ours, rel=1e-4)


def test_perturbations_of_other_latents_are_farther_apart(found):
    """Than those that move the same one in the same direction."""
    shifts = pd.DataFrame(found["screen"].mask * found["screen"].embedding)
    near = np.corrcoef(shifts) > 0.99
    distances = found["distances"].loc[*[found["screen"].perturbations] * 2].to_numpy()
    assert distances[~near].mean() > 2 * distances[near & (distances > 0)].mean()


def test_mixscape_and_responders_agree(found):
    obs = found["adata"].obs.dropna(subset="skpert_responded")
    ours, theirs = obs["skpert_responded"] > 0.5, obs["mixscape_class_global"] == "KO"
    assert len(obs) > 200
    assert (ours == theirs).mean() > 0.8


def test_a_model_reads_classes_of_mixscape(found):
    classes = set(found["adata"].obs["mixscape_class"]) - {"control"}
    assert set(found["classes"].perturbations_) == classes
    targets = found["classes"].targets()
    assert targets.loc[[name for name in classes if name.endswith(" KO")]].any(axis=1).mean() > 0.5


def test_genes_of_a_target_are_those_that_change(found):
    targets = found["model"].targets()
    moved = targets.index[targets.any(axis=1)]
    assert len(moved) >= 5
    first = {name: found["enriched"][name].index[0] for name in moved}
    assert np.mean([targets.loc[name, latent] != 0 for name, latent in first.items()]) >= 0.75
