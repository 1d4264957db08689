"""What a model found, in the places of an AnnData where other programs look."""

import numpy as np
import pandas as pd
import pytest

from skpert import SAMSVAE, SCCVAE, VAE, InVAE, SVAEPlus, annotate, as_anndata
from skpert.datasets import make_sparse_shift

anndata = pytest.importorskip("anndata")

DATA = make_sparse_shift(
    5,
    n_cells_per_perturbation=40,
    n_control_cells=40,
    n_latent=3,
    n_genes=50,
    n_targets=1,
    library_size=3000,
    random_state=0,
)
FAST = {"n_latent": 3, "max_epochs": 4, "random_state": 0}


def screen():
    obs = pd.DataFrame({"perturbation": DATA.A, "batch": np.tile(["a", "b"], len(DATA.A) // 2)})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    return anndata.AnnData(
        DATA.X.copy(), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(50)])
    )


@pytest.mark.parametrize("cls", [VAE, SVAEPlus, SAMSVAE])
def test_what_is_written_is_what_the_model_says(cls, tmp_path):
    adata = screen()
    model = cls(**FAST).fit(adata, adata.obs)
    assert annotate(adata, model, adata.obs) is adata
    np.testing.assert_array_equal(adata.obsm["X_skpert"], model.transform(adata))
    latents = model.get_feature_names_out().tolist()
    assert adata.varm["skpert_genes"].columns.tolist() == latents
    assert adata.uns["skpert"]["model"] == cls.__name__
    if cls is not VAE:
        pd.testing.assert_frame_equal(adata.uns["skpert"]["targets"], model.targets())
    assert adata.obs["skpert_responded"].isna()[DATA.A == "control"].all()
    adata.write_h5ad(tmp_path / "screen.h5ad")
    again = anndata.read_h5ad(tmp_path / "screen.h5ad")
    np.testing.assert_array_equal(again.obsm["X_skpert"], adata.obsm["X_skpert"])
    assert again.uns["skpert"]["latents"].tolist() == latents
    assert again.uns["skpert"]["responders"].index.tolist() == model.perturbations_.tolist()


def test_genes_that_were_not_trained_on_are_unknown():
    adata = screen()
    model = SVAEPlus(**FAST).fit(adata[:, 5:], adata.obs)
    annotate(adata, model)
    genes = adata.varm["skpert_genes"]
    assert genes.index.tolist() == adata.var_names.tolist()
    assert genes.isna().all(axis=1).tolist() == [True] * 5 + [False] * 45
    assert "skpert_responded" not in adata.obs


def test_every_name_begins_with_the_key():
    adata = screen()
    before = {name: set(getattr(adata, name)) for name in ("obs", "obsm", "varm", "uns")}
    annotate(adata, SVAEPlus(**FAST).fit(adata, adata.obs), adata.obs, key="one")
    new = {n: set(getattr(adata, n)) - names for n, names in before.items()}
    assert new == {
        "obs": {"one_responded"},
        "obsm": {"X_one"},
        "varm": {"one_genes"},
        "uns": {"one"},
    }


@pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot")
def test_other_models_are_written_too():
    adata = screen()
    for model in (InVAE(invariant="perturbation", spurious="batch", **FAST),):
        annotate(adata, model.fit(adata, adata.obs))
        assert adata.obsm["X_skpert"].shape == model.transform(adata).shape
    logs = screen()
    logs.X = np.log1p(logs.X)
    model = SCCVAE(**FAST).fit(logs, logs.obs)
    assert annotate(logs, model, logs.obs).varm["skpert_genes"].shape == (50, 3)


def test_what_is_no_screen_of_the_model_is_an_error():
    adata = screen()
    model = SVAEPlus(**FAST).fit(adata, adata.obs)
    with pytest.raises(TypeError, match="adata must be an AnnData, got a ndarray"):
        annotate(adata.X, model)
    with pytest.raises(ValueError, match="adata and A have the same cells in another order"):
        annotate(adata, model, adata.obs.iloc[::-1])
    assert not set(adata.uns) | set(adata.obsm)


def test_a_design_that_is_not_that_of_the_cells_is_an_error():
    adata = screen()
    model = SVAEPlus(**FAST).fit(adata, adata.obs)
    for A in ("perturbation", DATA.A[:50]):
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            annotate(adata, model, A)
    with pytest.raises(ValueError, match="without '/'"):
        annotate(adata, model, key="a/b")


def test_nothing_stays_of_an_earlier_model():
    adata = screen()
    model = SVAEPlus(**FAST).fit(adata, adata.obs)
    annotate(adata, model, adata.obs)
    annotate(adata, model)
    assert "skpert_responded" not in adata.obs
    assert "responders" not in adata.uns["skpert"]


def test_designs_of_every_form_have_a_label():
    adata = screen()
    model = SVAEPlus(**FAST).fit(adata, adata.obs)
    values = model.predict_intervention(["P1", "control"])
    hot = pd.DataFrame({"P1": [1, 0], "P3": [0, 0]})
    dosages = as_anndata(values, hot.reindex(columns=model.perturbations_, fill_value=0), model)
    assert dosages.obs.columns.tolist() == ["perturbation"]
    assert dosages.obs["perturbation"].tolist() == ["P1", "control"]
    odd = pd.DataFrame({"perturbation": ["P1", "control"], 5: [0, 1], "sample": [1, 1]})
    assert as_anndata(values, odd, model).obs.columns.tolist() == ["perturbation", "5", "sample"]
    with pytest.raises(ValueError, match="A has a column 'sample'"):
        as_anndata(np.stack([values, values], 1), odd, model)


def test_covariates_keep_their_own_columns():
    adata = screen()
    model = InVAE(invariant="perturbation", spurious="batch", **FAST).fit(adata, adata.obs)
    made = as_anndata(model.predict_intervention(adata.obs[:3]), adata.obs[:3], model)
    assert made.obs["perturbation"].tolist() == adata.obs["perturbation"][:3].tolist()


def test_predictions_and_samples_have_their_designs():
    adata = screen()
    model = SVAEPlus(**FAST, environment="batch").fit(adata, adata.obs)
    designs = pd.DataFrame({"perturbation": ["P1", "control"], "batch": ["a", "b"]})
    one = as_anndata(model.predict_intervention(designs), designs, model)
    assert one.obs.columns.tolist() == ["perturbation", "batch"]
    assert one.obs["batch"].tolist() == ["a", "b"]
    assert one.var_names.tolist() == adata.var_names.tolist()
    values = model.sample_intervention(designs, 3, random_state=0)
    many = as_anndata(values, designs, model)
    assert many.obs["sample"].tolist() == [0, 1, 2, 0, 1, 2]
    assert many.obs["perturbation"].tolist() == ["P1"] * 3 + ["control"] * 3
    np.testing.assert_array_equal(many.X[4], values[1, 1])
    single = as_anndata(model.predict_intervention("P1"), "P1", model)
    assert single.obs["perturbation"].tolist() == ["P1"]
    with pytest.raises(ValueError, match=r"values have shape \(2, 50\): A has 1 designs"):
        as_anndata(one.X, "P1", model)
