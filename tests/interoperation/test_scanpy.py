"""scanpy's functions run on what is written to, and made into, AnnData."""

import numpy as np
import pandas as pd
import pytest

from skpert import SAMSVAE, SVAEPlus, annotate, as_anndata
from skpert.datasets import make_sparse_shift

anndata = pytest.importorskip("anndata")
sc = pytest.importorskip("scanpy")

pytestmark = pytest.mark.filterwarnings("ignore:::scanpy", "ignore:::umap", "ignore:::numba")
DESIGNS = ["P0", "P1", "control"]


@pytest.fixture(scope="module")
def screen():
    data = make_sparse_shift(
        4,
        n_cells_per_perturbation=50,
        n_control_cells=100,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        library_size=5000,
        random_state=0,
    )
    obs = pd.DataFrame({"perturbation": data.A}, index=[f"cell{i}" for i in range(len(data.A))])
    adata = anndata.AnnData(data.X, obs=obs)
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    model = SVAEPlus(n_latent=3, max_epochs=80, learning_rate=0.01, random_state=0)
    return annotate(adata, model.fit(adata, adata.obs), adata.obs), model, data


def test_neighbours_are_those_of_latent_states(screen):
    adata, model, _ = screen
    adata = adata.copy()
    sc.pp.neighbors(adata, n_neighbors=10, use_rep="X_skpert", random_state=0)
    assert adata.uns["neighbors"]["params"]["use_rep"] == "X_skpert"
    Z = model.transform(adata)
    distance = np.linalg.norm(Z - Z[0], axis=1)
    found = adata.obsp["distances"][[0]].nonzero()[1]
    assert set(found) <= set(np.argsort(distance)[:10])


def test_umap_and_plots_take_what_was_written(screen):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    adata = screen[0].copy()
    sc.pp.neighbors(adata, use_rep="X_skpert", random_state=0)
    sc.tl.umap(adata, maxiter=10, random_state=0)
    assert np.isfinite(adata.obsm["X_umap"]).all()
    axes = sc.pl.umap(adata, color=["perturbation", "skpert_responded"], show=False)
    assert len(axes) == 2
    embedding = sc.pl.embedding(adata, "skpert", color="perturbation", show=False)
    assert embedding.get_xlabel() == "skpert1"
    plt.close("all")


def test_predicted_cells_are_tested_as_measured_ones(screen):
    adata, model, data = screen
    drawn = as_anndata(model.sample_intervention(DESIGNS, 200, random_state=0), DESIGNS, model)
    assert drawn.var_names.tolist() == adata.var_names.tolist()
    sc.pp.normalize_total(drawn, target_sum=1e4)
    sc.pp.log1p(drawn)
    sc.tl.rank_genes_groups(drawn, "perturbation", groups=["P0", "P1"], reference="control")
    for name in ("P0", "P1"):
        table = sc.get.rank_genes_groups_df(drawn, name).set_index("names")
        row = data.perturbations.tolist().index(name)
        truth = np.log2(data.expected_expression[row] / data.control_expression)
        found = table.loc[adata.var_names, "logfoldchanges"]
        assert np.corrcoef(found, truth)[0, 1] > 0.8


def test_predictions_of_additive_models_keep_their_design(screen):
    adata = screen[0]
    model = SAMSVAE(n_latent=3, max_epochs=2, random_state=0).fit(adata, adata.obs)
    designs = ["P0+P1", "P2"]
    drawn = as_anndata(model.sample_intervention(designs, 30, random_state=0), designs, model)
    sc.pp.log1p(drawn)
    sc.tl.rank_genes_groups(drawn, "perturbation", groups=["P0+P1"], reference="P2")
    assert len(sc.get.rank_genes_groups_df(drawn, "P0+P1")) == adata.n_vars


def test_tests_of_measured_cells_agree_with_effects(page):
    found = page("scanpy")
    measured, predicted = found["measured"], found["predicted"]
    assert found["adata"].obsm["X_umap"].shape == (560, 2)
    sure = measured[(measured["pvals_adj"] < 0.001)]
    assert len(sure) >= 5
    same = np.sign(sure["logfoldchanges"]) == np.sign(predicted[sure.index])
    assert same.mean() > 0.9
    assert np.corrcoef(measured["logfoldchanges"], predicted[measured.index])[0, 1] > 0.8
