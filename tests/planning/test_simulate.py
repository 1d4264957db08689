import numpy as np
import pandas as pd
import pytest

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.planning import power, simulate_screen, subsample


@pytest.fixture(scope="module")
def screen():
    return make_sparse_shift(
        6,
        n_cells_per_perturbation=80,
        n_control_cells=160,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=2.0,
        library_size=2000,
        random_state=0,
    )


@pytest.fixture(scope="module")
def model(screen):
    return SVAEPlus(n_latent=3, max_epochs=40, random_state=0).fit(screen.X, screen.A)


def test_a_simulated_screen_is_what_simulators_return(model, screen):
    drawn = simulate_screen(model, 10, random_state=0)
    assert set(drawn) >= set(screen)
    assert drawn.X.shape == (100, 50)
    assert drawn.Z.shape == (100, 3)
    assert drawn.expected_expression.shape == (6, 50)
    assert pd.Series(drawn.A).value_counts()["control"] == 40
    assert drawn.log_likelihood(drawn.X, drawn.Z).shape == (100,)
    own, other = (drawn.log_likelihood(drawn.X, Z).mean() for Z in (drawn.Z, -drawn.Z))
    assert own > other
    assert np.array_equal(drawn.X, simulate_screen(model, 10, random_state=0).X)


def test_means_of_a_simulated_screen_are_those_of_the_real_one(model, screen):
    drawn = simulate_screen(model, 400, X=screen.X, A=screen.A, random_state=0)
    for name in screen.perturbations:
        real, simulated = (d.X[d.A == name].mean(0) for d in (screen, drawn))
        assert np.corrcoef(np.log1p(real), np.log1p(simulated))[0, 1] > 0.97
    np.testing.assert_allclose(drawn.X.sum(1).mean(), screen.X.sum(1).mean(), rtol=0.05)


def test_depth_scales_libraries(model):
    shallow, deep = (simulate_screen(model, 20, depth=d, random_state=0) for d in (0.5, 2.0))
    np.testing.assert_allclose(deep.X.sum(), 4 * shallow.X.sum(), rtol=0.02)


def test_escape_efficacy_and_batches_are_as_asked_for(model):
    drawn = simulate_screen(
        model, 200, efficacy=[1.0, 0.0], response=0.5, n_batches=3, shuffle=False, random_state=0
    )
    treated = drawn.obs["perturbation"] != "control"
    assert 0.42 < drawn.obs.loc[treated, "responded"].mean() < 0.58
    assert not drawn.obs.loc[~treated, "responded"].any()
    assert drawn.obs["batch"].nunique() == 3
    assert drawn.obs.loc[treated, "guide"].nunique() == 12
    plain = simulate_screen(model, 5, random_state=0)
    np.testing.assert_allclose(drawn.embedding, plain.embedding / 2)


def test_perturbations_can_be_added(model):
    new = pd.DataFrame([[3.0, 0.0, 0.0]], index=["new"])
    drawn = simulate_screen(model, 300, perturbations=["P0"], effects=new, random_state=0)
    assert drawn.perturbations.tolist() == ["P0", "new"]
    moved = drawn.Z[drawn.A == "new"].mean(0) - drawn.Z[drawn.A == "control"].mean(0)
    np.testing.assert_allclose(moved, [3, 0, 0], atol=0.3)
    assert drawn.mask[1].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": 0}, "n_cells must be an integer of at least 1"),
        ({"depth": -1.0}, "depth"),
        ({"response": 2.0}, "response"),
        ({"efficacy": [2.0]}, "efficacy"),
        ({"efficacy": [1.0, -0.1]}, "efficacy must be in"),
        ({"perturbations": []}, "perturbations is empty"),
        ({"effects": pd.DataFrame([[np.nan, 0, 0]], index=["new"])}, "effects must be finite"),
        ({"effects": pd.DataFrame([[1, 0, 0]], index=["P1"])}, "must differ .*'P1'"),
        ({"effects": pd.DataFrame([["a", 0, 0]], index=["new"])}, "effects must be numbers"),
        ({"perturbations": ["X"]}, "perturbations has 'X'"),
        ({"perturbations": ["P0", "P0"]}, "must differ from each other"),
        ({"effects": pd.DataFrame([[1.0]], index=["new"])}, "DataFrame of 3 columns"),
        ({"X": np.ones((2, 50))}, "give both, or none"),
    ],
)
def test_bad_screens_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        simulate_screen(model, **options)


def test_subsamples_are_nested_and_counted(model, screen):
    rng = np.random.default_rng(0)
    guides = screen.A + np.char.add("_", rng.integers(1, 4, len(screen.A)).astype(str))
    batches = rng.integers(2, size=len(screen.A))
    table = subsample(
        model,
        screen.X,
        screen.A,
        n_cells=[5, 40],
        guides=guides,
        n_guides=[1],
        replicates=batches,
        refit=False,
        random_state=0,
    )
    assert table["kind"].tolist() == ["cells", "cells", "guides", "replicates"]
    assert table["n_cells"].tolist()[:2] == [30 + 10, 240 + 80]
    assert table["n_control_cells"].tolist()[:3] == [10, 80, 160]
    assert table["recovered"].between(0, 1).all()
    assert table.loc[1, "recovered"] > 0.8


def test_edges_to_be_found_again_can_be_those_of_other_cells(model, screen):
    options = {"n_cells": [40], "refit": False, "n_draws": 2, "random_state": 0}
    plain = subsample(model, screen.X, screen.A, **options)
    own = model.targets() != 0
    pd.testing.assert_frame_equal(
        subsample(model, screen.X, screen.A, edges=own, **options), plain
    )
    some = subsample(model, screen.X, screen.A, edges=own.iloc[:2, ::-1], **options)
    assert some["n_edges"].eq(int(own.iloc[:2].to_numpy().sum())).all()
    none = subsample(model, screen.X, screen.A, edges=own & False, **options)
    assert none["recovered"].isna().all()
    assert none["n_called"].equals(plain["n_called"])


def test_refits_are_compared_on_latents_that_are_the_same(model, screen):
    table = subsample(model, screen.X, screen.A, n_cells=[60], test_fraction=0.1, random_state=0)
    assert table.loc[0, "recovered"] > 0.5
    assert np.isfinite(table.loc[0, "score"])


def test_cells_of_an_anndata_give_the_same(model, screen):
    anndata = pytest.importorskip("anndata")
    names = [f"g{i}" for i in range(50)]
    obs = pd.DataFrame({"perturbation": screen.A}, index=[f"c{i}" for i in range(640)])
    adata = anndata.AnnData(0 * screen.X, obs, pd.DataFrame(index=names))
    adata.layers["counts"] = screen.X
    options = {"n_latent": 3, "max_epochs": 5, "random_state": 0}
    named = SVAEPlus(layer="counts", **options).fit(adata, adata.obs)
    plain = SVAEPlus(**options).fit(screen.X, screen.A)
    both = [(named, adata, adata.obs), (plain, screen.X, screen.A)]
    drawn = [simulate_screen(m, 5, X=X, A=A, random_state=0) for m, X, A in both]
    np.testing.assert_array_equal(drawn[0].X, drawn[1].X)
    assert drawn[0].feature_names.tolist() == names
    tables = [subsample(m, X, A, n_cells=9, random_state=0) for m, X, A in both]
    pd.testing.assert_frame_equal(*tables)
    plans = [power(m, X, A, n_cells=9, n_draws=2, random_state=0) for m, X, A in both]
    pd.testing.assert_frame_equal(plans[0].screen, plans[1].screen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_cells": [0]}, "n_cells must be integers of at least 1, got 0"),
        ({"n_draws": 0}, "n_draws"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"fdr": 2.0}, "fdr"),
        ({"guides": ["a"]}, "guides"),
        ({"edges": [[True]]}, "edges must be a DataFrame of bool, got list"),
        ({"edges": pd.DataFrame({"x": [True]}, ["P0"])}, "edges must have a column per latent"),
        ({"edges": pd.DataFrame({"svaeplus0": [2.0]}, ["P0"])}, "edges must be True or False"),
        ({"edges": pd.DataFrame({"svaeplus0": [True, True]}, ["P0", "P0"])}, "several rows"),
    ],
)
def test_bad_subsamples_are_refused(model, screen, options, message):
    with pytest.raises(ValueError, match=message):
        subsample(model, screen.X, screen.A, refit=False, **options)
