"""What latents do to genes: closed forms, invariances, every estimator."""

from inspect import getmembers, isclass

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import spearmanr

import skpert
from skpert import IVAE, NFIVAE, SCCVAE, VAE, InVAE, SVAEPlus, inspection
from skpert.base import PerturbationVAE
from skpert.inspection import latent_genes
from skpert.inspection._gradients import encoder_gradients

ESTIMATORS = [cls for _, cls in getmembers(skpert, isclass) if issubclass(cls, PerturbationVAE)]
FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 2, "n_particles": 3}
FAST |= {"device": "cpu", "random_state": 0}
A = np.repeat(["control", "P0", "P1", "P2", "P3"], 20)
RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(3.0, (100, 20)).astype(np.float32)
REALS = RANDOM.normal(size=(100, 20)).astype(np.float32)
pytestmark = pytest.mark.filterwarnings(
    "ignore:X looks like", "ignore::skpert.exceptions.TrainingWarning"
)


def fitted(cls=VAE, X=COUNTS, **settings):
    if cls is SCCVAE:
        settings = {
            "features": pd.DataFrame(np.eye(4), index=[f"P{i}" for i in range(4)])
        } | settings
    if cls in (InVAE, NFIVAE):
        settings = {"invariant": ["perturbation"]} | settings
        return cls(**FAST | settings).fit(X, pd.DataFrame({"perturbation": A}))
    return cls(**FAST | settings).fit(X, A)


def linear(likelihood, X):
    """A model whose encoder and decoder are linear where cells are; slopes of both."""
    model = fitted(X=X, likelihood=likelihood, batch_norm=False)
    module = model.module_
    decoder, encoder = module.decoder, module.encoder
    head = decoder.head.logits if decoder.head.counts else decoder.head.mean
    torch.manual_seed(0)
    with torch.no_grad():
        for network, last in ((decoder.hidden, head), (encoder.hidden, encoder.moments)):
            network.linears[0].weight.normal_()
            network.linears[0].bias.fill_(1e4)  # no unit is ever at zero
            last.weight.normal_().mul_(0.1)
            last.bias.copy_(-last.weight.sum(1) * 1e4)
    slope = (head.weight @ decoder.hidden.linears[0].weight).detach().numpy().T
    n = module.encoder.n_latent
    reading = encoder.moments.weight[:n] @ encoder.hidden.linears[0].weight
    return model, slope, reading.detach().numpy()


def wide(table, column="log2_fold_change"):
    return table[column].to_numpy().reshape(table["latent"].nunique(), -1)


# Closed forms


def test_linear_networks_of_real_values_have_their_slopes():
    model, slope, reading = linear("normal", REALS)
    for X in (None, REALS):
        table = latent_genes(model, X=X, gradients=True, step=0.5)
        np.testing.assert_allclose(wide(table), slope, rtol=0, atol=0.02)
        np.testing.assert_allclose(wide(table, "decoder_gradient"), slope, rtol=0, atol=0.02)
        np.testing.assert_allclose(wide(table, "encoder_gradient"), reading, rtol=0, atol=0.02)
        expected = [spearmanr(a, b).statistic for a, b in zip(slope, reading, strict=True)]
        found = table.groupby("latent", sort=False)["agreement"].first()
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("likelihood", ["negative_binomial", "poisson"])
def test_linear_logits_have_the_fold_changes_of_their_slopes(likelihood):
    """Up to what all genes have in common, as shares of a library sum to one."""
    model, slope, reading = linear(likelihood, COUNTS)
    table = latent_genes(model, gradients=True, pseudocount=0)
    expected = (slope - slope[:, :1]) / np.log(2)
    for column in ("log2_fold_change", "decoder_gradient"):
        found = wide(table, column)
        np.testing.assert_allclose(found - found[:, :1], expected, rtol=0, atol=0.03)
    np.testing.assert_allclose(wide(table, "encoder_gradient"), reading, rtol=0, atol=0.02)


def test_slopes_are_those_of_predicted_counts():
    model = fitted(IVAE)
    tables = []
    with torch.no_grad():
        for shift in (0.005, -0.005):
            model.module_.embedding.rows.zero_()
            model.module_.embedding.rows[0, 1] = shift
            tables.append(model.predict_intervention("P0", COUNTS))
    expected = np.log2(tables[0] / tables[1]).mean(0) / 0.01
    found = wide(latent_genes(model, X=COUNTS, pseudocount=0, step=0.01))[1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_a_pseudocount_makes_changes_of_rare_genes_small():
    model = fitted()
    model.module_.decoder.head.logits.bias.data[0] = -9.0
    plain, usual, large = (
        np.abs(wide(latent_genes(model, pseudocount=p))) for p in (0, 0.01, 1e3)
    )
    assert large.max() < 0.01
    rare, common = (usual / plain)[:, 0], (usual / plain)[:, 1:]
    assert (rare < common.min(1)).all()


@pytest.mark.parametrize("n_rows", [1, 40])
def test_gradients_of_the_encoder_are_those_of_captum(n_rows):
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    encode = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    x = torch.randn(n_rows, 6)
    found = encoder_gradients(encode, x, [0, 2])
    away = x - x.mean(0)
    for row, latent in zip(found, (0, 2), strict=True):
        attributions = attr.IntegratedGradients(encode).attribute(
            x, x.mean(0, keepdim=True).expand_as(x), target=latent, n_steps=100
        )
        expected = (attributions * away).sum(0) / away.square().sum(0).clamp(min=1e-12)
        np.testing.assert_allclose(row.detach(), expected.detach(), rtol=1e-3, atol=1e-5)


# Invariances


def test_signs_and_order_of_latents_do_not_matter():
    model = fitted()
    before = latent_genes(model, X=COUNTS, gradients=True)
    rotation, centre = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, -1]]), torch.zeros(3)
    model.module_.encoder.project(rotation, centre)
    model.module_.decoder.project(rotation.T, centre)
    after = latent_genes(model, X=COUNTS, gradients=True)
    for column in ("log2_fold_change", "decoder_gradient", "encoder_gradient"):
        expected = wide(before, column)[[1, 0, 2]] * [[1], [-1], [-1]]
        np.testing.assert_allclose(wide(after, column), expected, rtol=1e-3, atol=1e-4)
    expected = wide(before, "agreement")[[1, 0, 2]]
    np.testing.assert_allclose(wide(after, "agreement"), expected, rtol=0, atol=0.01)


def test_the_same_cells_are_moved_along_every_latent_and_nothing_is_drawn_outside():
    model = fitted()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    table = latent_genes(model)
    assert torch.equal(torch.get_rng_state(), state)
    pd.testing.assert_frame_equal(table, latent_genes(model))
    one = latent_genes(model, [2])
    pd.testing.assert_frame_equal(one, table[table["latent"] == "vae2"].reset_index(drop=True))
    pd.testing.assert_frame_equal(one, latent_genes(model, "vae2"))
    with torch.no_grad():
        model.module_.decoder.hidden.linears[0].weight[:, 1] = 0
    still = latent_genes(model, gradients=True).groupby("latent")
    assert (still["log2_fold_change"].agg(np.ptp) > 0).tolist() == [True, False, True]
    assert not still.get_group("vae1")["decoder_gradient"].any()
    assert still["agreement"].first().isna().tolist() == [False, True, False]


def test_forms_of_cells_and_names_of_genes():
    names = [f"gene {g}" for g in range(20)]
    model = fitted(X=pd.DataFrame(COUNTS, columns=names))
    frame = pd.DataFrame(COUNTS[:, ::-1], columns=names[::-1])
    table = latent_genes(model, X=frame)
    assert table["gene"].tolist() == names * 3
    plain = fitted()
    assert latent_genes(plain)["gene"].tolist() == [*range(20)] * 3
    named = latent_genes(plain, X=csr_array(COUNTS), genes=names)
    pd.testing.assert_frame_equal(named, table, check_exact=False, rtol=1e-4, atol=1e-5)


def test_latents_of_invae_are_those_that_transform_shows():
    model = fitted(InVAE, n_spurious=1, spurious=None, whiten=False)
    before = wide(latent_genes(model, X=COUNTS, step=0.5))
    model.module_.whitening.copy_(2 * torch.eye(3))
    after = wide(latent_genes(model, X=COUNTS, step=1.0))  # as far as before
    np.testing.assert_allclose(after, before / 2, rtol=1e-4, atol=1e-5)
    assert len(before) == len(model.get_feature_names_out()) == 2


# All estimators


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_estimator_with_latents(cls, real):
    likelihood = "normal" if real else "negative_binomial"
    model = fitted(cls, REALS if real else COUNTS, likelihood=likelihood)
    table = latent_genes(model, gradients=True, n_cells=30)
    assert table["latent"].unique().tolist() == model.get_feature_names_out().tolist()
    assert len(table) == 20 * len(model.get_feature_names_out())
    effects = ["log2_fold_change", "decoder_gradient", "encoder_gradient"]
    assert np.isfinite(table[effects]).all(axis=None)
    found = table["latent"].isin(model.get_feature_names_out()[: model.n_latent_])
    assert (table.loc[found, effects] != 0).any(axis=None)
    for _, of in table.groupby("latent"):
        assert sorted(of["rank"]) == [*range(1, 21)]
        assert of.sort_values("rank")["log2_fold_change"].abs().is_monotonic_decreasing
    given = latent_genes(model, X=(REALS if real else COUNTS)[:10])
    assert given["log2_fold_change"].any()


def test_latents_that_were_not_found_have_zeros():
    factor = RANDOM.normal(size=(300, 1))
    X = RANDOM.poisson(20 * np.exp(factor @ RANDOM.normal(size=(1, 20)))).astype(np.float32)
    labels = np.repeat(["control", "P0", "P1"], 100)
    model = SVAEPlus(**FAST | {"n_latent": 9, "max_epochs": 20}).fit(X, labels)
    assert model.n_latent_ < 9
    table = latent_genes(model, gradients=True)
    empty = table["latent"].isin([f"svaeplus{i}" for i in range(model.n_latent_, 9)])
    effects = ["log2_fold_change", "decoder_gradient", "encoder_gradient"]
    assert not table.loc[empty, effects].any(axis=None)
    assert not table.loc[empty, "targeted"].any()
    assert table.loc[~empty, "log2_fold_change"].all()
    alone = latent_genes(model, "svaeplus8", gradients=True)
    pd.testing.assert_frame_equal(alone, table[-20:].reset_index(drop=True))
    targets = (model.targets_ != 0).any()
    assert table.groupby("latent", sort=False)["targeted"].first().tolist() == targets.tolist()


def test_environments_are_those_of_training():
    frame = pd.DataFrame({"perturbation": A, "lane": np.arange(100) % 3})
    model = VAE(environment="lane", **FAST).fit(COUNTS, frame)
    assert np.isfinite(latent_genes(model, gradients=True)["encoder_gradient"]).all()
    assert latent_genes(model, X=COUNTS)["log2_fold_change"].all()


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latents": ["vae7"]}, "vae7"),
        ({"latents": [3]}, "positions below 3"),
        ({"latents": []}, "none"),
        ({"latents": True}, "got 'True'"),
        ({"latents": np.array([True, False, True])}, "got 'True', 'False', 'True'"),
        ({"latents": [1.0]}, "got '1.0'"),
        ({"genes": ["one"]}, "20 genes"),
        ({"step": 0}, "step"),
        ({"pseudocount": -1}, "pseudocount"),
        ({"n_cells": 1}, "n_cells"),
        ({"X": COUNTS[:, :3]}, "3 features"),
    ],
)
def test_bad_input_is_a_clear_error(settings, message):
    model = fitted()
    with pytest.raises(ValueError, match=message):
        latent_genes(model, **settings)


@pytest.mark.parametrize(
    "function",
    [
        latent_genes,
        lambda model: inspection.dose_response(model, COUNTS, np.eye(len(COUNTS))),
        lambda model: inspection.responders(model, COUNTS, A),
        lambda model: inspection.direct_effects(model, COUNTS, A),
        lambda model: inspection.guide_efficacy(model, COUNTS, A, {"A": "GENE"}),
        lambda model: inspection.latent_shifts(model, A),
        lambda model: skpert.annotate(anndata.AnnData(COUNTS), model, A),
    ],
)
def test_baselines_have_no_latents(function):
    with pytest.raises(ValueError, match="ControlMean has no latents"):
        function(skpert.ControlMean().fit(np.log1p(COUNTS), A))
