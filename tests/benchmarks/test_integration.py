"""Benchmarks of integration: the peer, what models are shown, and what is scored."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score

from benchmarks import command
from benchmarks.integration import few, halves, search, shared, simulated, speed, transfer
from benchmarks.peers.invae import (
    PlainInVAE,
    negative_binomial,
    normal,
    optimiser,
    step,
    total_correlation,
)
from benchmarks.runner import TableJob
from skpert import objectives
from skpert.datasets import make_invariant
from skpert.metrics import integration_scores

OPTIONS = {"n_latent": 3, "max_epochs": 1}


def covered(random_state=0, **options):
    """Cells of a tiny simulation."""
    data = make_invariant(12, n_invariant=2, n_genes=40, random_state=random_state, **options)
    obs = data.obs.astype(str).astype(object).reset_index(drop=True)
    return shared.Covered(data.X, obs, ["cell_type", "condition"], ["batch"])


@pytest.fixture(scope="module")
def cells():
    return covered()


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    model = PlainInVAE(n_genes=6, n_invariant_columns=3, n_columns=5, n_latent=4, n_hidden=5)
    return model.eval()


def minibatch(n_cells=7):
    """Counts, covariates and noise of a step."""
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((n_cells, 6), 3.0), generator=generator)
    covariates = torch.rand(n_cells, 5, generator=generator)
    return x, covariates, torch.randn(n_cells, 4, generator=generator)


def test_distributions_of_the_peer_are_those_of_torch():
    x, _, z = minibatch()
    mean, variance = z.flip(0), z.square() + 0.5
    expected = torch.distributions.Normal(mean, variance.sqrt()).log_prob(z)
    torch.testing.assert_close(normal(z, mean, variance), expected)
    theta, rate = torch.linspace(0.5, 3, 6), torch.linspace(0.2, 9, 6).expand(7, 6)
    counts = torch.distributions.NegativeBinomial(theta, logits=rate.log() - theta.log())
    torch.testing.assert_close(
        negative_binomial(x, rate, theta), counts.log_prob(x).sum(1), rtol=1e-5, atol=1e-4
    )


def test_total_correlation_of_the_peer_is_the_one_that_we_train_with():
    *_, z = minibatch()
    mean, variance = z.flip(0), z.square() + 0.5
    q = torch.distributions.Normal(mean, variance.sqrt())
    expected = objectives.total_correlation(z, q, 3, torch.tensor(100.0))
    torch.testing.assert_close(total_correlation(z, mean, variance, 3, 100), expected)


def test_score_matching_of_the_peer_on_a_normal_prior(plain):
    _, covariates, z = minibatch()
    of_invariant, z = covariates[:, :3], z[:, :3]
    linear, quadratic = plain.linear(of_invariant).chunk(2, -1)
    expected = (2 * quadratic + (linear + 2 * z * quadratic).square() / 2).sum(1).mean()
    weight, bias = plain.weights[-1].weight, plain.weights[-1].bias
    kept = weight.detach().clone(), bias.detach().clone()
    with torch.no_grad():
        weight.zero_()
        bias.zero_()
        found = torch.enable_grad()(plain.score_matching)(z, of_invariant)
        weight.copy_(kept[0])
        bias.copy_(kept[1])
    torch.testing.assert_close(found, expected)


def test_second_derivatives_of_the_peer_are_sums_of_rows_as_released(plain):
    model = PlainInVAE(n_genes=6, n_invariant_columns=3, n_columns=5, n_latent=4).eval()
    model.statistics = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh())
    _, covariates, z = minibatch(1)
    of_invariant, z = covariates[:, :3], z[:, :3]

    def log_p(z):
        return model.log_prior(z, of_invariant).sum()

    slope = torch.autograd.functional.jacobian(log_p, z)
    hessian = torch.autograd.functional.hessian(log_p, z).reshape(3, 3)
    expected = hessian.sum() + slope.square().sum() / 2
    assert not torch.allclose(hessian.sum(), hessian.trace())
    torch.testing.assert_close(model.score_matching(z, of_invariant), expected)


def test_terms_of_the_peer_train_the_networks_that_they_should(plain):
    terms = plain.terms(*minibatch(), n_cells=100)
    plain.zero_grad()
    terms["kl"].backward(retain_graph=True)
    assert plain.linear[0].weight.grad is None
    assert plain.statistics[0].weight.grad is None
    assert plain.spurious[0].weight.grad.abs().sum() > 0
    plain.zero_grad()
    terms["score_matching"].backward()
    assert plain.mean.weight.grad is None or not plain.mean.weight.grad.any()
    assert plain.linear[-1].weight.grad.abs().sum() > 0


def test_steps_of_the_peer_fit_the_counts():
    torch.manual_seed(0)
    model = PlainInVAE(n_genes=6, n_invariant_columns=3, n_columns=5, n_latent=4)
    x, covariates, _ = minibatch(40)
    optimizer = optimiser(model)
    losses = [step(model, optimizer, x, covariates, 40, tc_weight=0.0) for _ in range(60)]
    assert torch.stack(losses[-10:]).mean() < torch.stack(losses[:10]).mean() - 1


def test_halves_are_random_and_differ_by_a_cell_in_each_stratum(cells):
    cells = cells.take(np.arange(len(cells.obs)) % 5 > 0)
    first, again, other = (shared.halves(cells, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    counts = pd.crosstab(shared.joint(cells.obs), first)
    assert counts.diff(axis=1)[1].abs().max() <= 1
    assert abs(np.mean(first) - 0.5) <= 0.5 / len(first)


def test_labels_join_all_invariant_columns_first(cells):
    labels = cells.labels()
    assert list(labels) == ["cell_type x condition", "cell_type"]
    assert set(labels["cell_type x condition"]) == {"T0 C0", "T0 C1", "T1 C0", "T1 C1"}
    alone = cells._replace(invariant=["cell_type"])
    assert list(alone.labels()) == ["cell_type"]


@pytest.fixture
def path(cells, tmp_path):
    data = anndata.AnnData(cells.X, obs=cells.obs.set_index(cells.obs.index.astype(str)))
    data.obs["constant"] = "same"
    data.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_columns_that_say_nothing_are_left_out(path):
    cells = shared.read(path, ["cell_type", "constant", "absent"], ["batch"])
    assert (cells.invariant, cells.spurious) == (["cell_type"], ["batch"])
    assert list(cells.obs) == ["cell_type", "batch"]
    with pytest.raises(ValueError, match="these have them"):
        shared.read(path, ["cell_type"], ["constant"])


@pytest.mark.parametrize("method", ["PCA", "VAE", "iVAE", "NFIVAE", "InVAE"])
def test_labels_of_new_cells_are_not_read(cells, method):
    train, test = cells.take(slice(0, 100)), cells.take(slice(100, None))
    latents, _ = shared.embeddings(method, train, test, 0, OPTIONS)
    unlabelled = test._replace(obs=None)
    again, _ = shared.embeddings(method, train, unlabelled, 0, OPTIONS)
    assert list(latents) == [method] + [method + shared.WHOLE] * (method in shared.BLOCKS)
    for name, Z in latents.items():
        np.testing.assert_array_equal(Z, again[name])


def test_invariant_latents_are_the_first_of_all_latents(cells):
    latents, _ = shared.embeddings("InVAE, factorized", cells, cells, 0, OPTIONS)
    first, both = latents.values()
    np.testing.assert_array_equal(first, both[:, :2])
    assert both.shape[1] == 3


def test_each_half_is_scored_by_the_model_of_the_other(cells):
    table = halves.score(TableJob("x", 3, "PCA"), cells, OPTIONS)
    assert table[["fold", "labels"]].to_numpy().tolist() == [
        [fold, labels] for fold in (0, 1) for labels in cells.labels()
    ]
    half = shared.halves(cells, 3)
    train, test = cells.take(half == 0), cells.take(half == 1)
    Z = shared.embeddings("PCA", train, test, 3, OPTIONS)[0]["PCA"]
    expected = integration_scores(Z, test.obs["cell_type"], test.obs["batch"], random_state=0)
    found = table.iloc[3][expected.index].astype(float)
    pd.testing.assert_series_equal(found, expected, check_names=False)


def test_labels_of_the_environment_left_out_are_hidden_and_nothing_else(cells):
    test = cells.environment() == "B1"
    obs = transfer.hidden(cells, test).obs
    assert obs.loc[test, cells.invariant].isna().all(axis=None)
    pd.testing.assert_frame_equal(obs[~test], cells.obs[~test])
    assert obs["batch"].equals(cells.obs["batch"])
    assert cells.obs.notna().all(axis=None)


def test_transfer_does_not_depend_on_labels_of_the_environment_left_out(cells):
    test = cells.environment() == "B1"
    wrong = cells.obs.copy()
    wrong.loc[test, cells.invariant] = wrong.loc[test, cells.invariant].to_numpy()[::-1]
    changed = cells._replace(obs=wrong)
    job = TableJob("x", 0, "InVAE")
    first, second = (
        transfer.features(job, transfer.hidden(one, test), OPTIONS) for one in (cells, changed)
    )
    for name, Z in first.items():
        np.testing.assert_array_equal(Z, second[name])


def test_accuracy_counts_classes_that_both_sides_have():
    labels = np.repeat(["a", "b", "c", "d"], [40, 40, 20, 3]).astype(object)
    test = np.arange(len(labels)) % 2 == 1
    test[labels == "c"] = True  # not in training
    Z = np.random.default_rng(0).normal(size=(len(labels), 2)) * 0.1
    Z[labels == "b"] += 5
    wrong = np.flatnonzero(test & (labels == "b"))[:5]
    Z[wrong] -= 5
    found = transfer.accuracy(Z, labels, test, min_cells=5)
    assert found["n_classes"] == 2
    predicted = np.where(np.isin(np.arange(80), wrong), "a", labels[:80].astype(str))
    expected = accuracy_score(labels[:80][test[:80]].astype(str), predicted[test[:80]])
    assert found["overall"] == pytest.approx(expected)
    assert [found[name] for name in ("min", "median", "max")] == [0.75, 0.875, 1.0]
    with pytest.raises(ValueError, match="lower --min-cells"):
        transfer.accuracy(Z, labels, test, min_cells=30)


@pytest.fixture
def few_trees(monkeypatch):
    """Forests of ten trees in place of a hundred."""
    monkeypatch.setattr(
        simulated,
        "RandomForestClassifier",
        lambda n, **options: RandomForestClassifier(10, **options),
    )


@pytest.mark.usefixtures("few_trees")
def test_true_latents_are_recovered_entirely_and_the_bound_nearly():
    settings = {"s": {"n_invariant": 2, "n_genes": 40, "n_cells_per_combination": 40}}
    table = simulated.score(TableJob("x", 0, "s: supervised"), settings, {})
    table = table.set_index("estimator")
    assert table.loc["truth", ["mcc", "r2"]].tolist() == pytest.approx([1, 1])
    assert 0.7 < table.loc["supervised", "mcc"] < 1
    assert table.loc["truth", "environment"] < table.loc["truth", "chance"] + 0.1


@pytest.mark.usefixtures("few_trees")
def test_published_simulations_of_one_batch_have_no_environment():
    data = simulated.SETTINGS["functions"] | {"n_cells_per_combination": 20}
    options = {"max_epochs": 1}
    table = simulated.score(TableJob("x", 0, "f: InVAE"), {"f": data}, options)
    assert table["estimator"].tolist() == ["InVAE", "InVAE" + shared.WHOLE]
    assert table[["environment", "chance"]].isna().all(axis=None)
    assert table["mcc"].between(0, 1).all()


@pytest.mark.usefixtures("few_trees")
def test_an_environment_that_the_truth_tells_is_told():
    random = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": random.permutation(np.repeat(["a", "b"], 50))})
    obs["cell_type"], obs["condition"] = random.permutation(obs["batch"]), "x"
    Z = (obs["batch"] == "b").to_numpy(dtype=float)[:, None]
    found = simulated.measured(Z, Z, obs, ["batch"])
    assert (found["environment"], found["chance"], found["mcc"]) == (1, 0.5, pytest.approx(1))
    assert found["biology"] < 0.75


def test_both_programs_are_timed_in_turns():
    pytest.importorskip("sklearn.callback")
    table = speed.measured(2, n_genes=200, batch_size=32, n_steps=2)
    assert table["program"].tolist() == ["plain", "skpert", "skpert", "plain"]
    assert (table[["ms", "cpu_ms"]] > 0).all(axis=None)


def test_more_draws_begin_with_the_same_ones_and_are_in_the_published_ranges():
    draws = search.drawn(0, 60, "nonfactorized")
    assert draws[:5] == search.drawn(0, 5, "nonfactorized")
    table = pd.DataFrame(draws)
    assert table["learning_rate"].between(1e-5, 1e-2).all()
    assert table["n_hidden"].between(64, 1024).all()
    assert 0.2 < (table["score_regularization"] == 0).mean() < 0.8
    assert "score_regularization" not in search.drawn(0, 1, "factorized")[0]


def test_commands_write_rows_once_and_print_tables(path, tmp_path, capsys):
    columns = ["--invariant", "cell_type", "condition", "--spurious", "batch"]
    small = [*columns, "--epochs", "1", "--latent", "3", "--seeds", "0"]
    csv = tmp_path / "rows.csv"
    for _ in range(2):
        arguments = ["kang", str(path), *small, "--methods", "PCA", "VAE", "--csv", str(csv)]
        command.main("integration", arguments)
    out = capsys.readouterr().out
    assert "2 of 2 jobs" in out
    assert "0 of 2 jobs" in out
    assert "cell_type x condition (primary)" in out
    assert len(pd.read_csv(csv)) == 2 * 2 * 2
    command.main(
        "integration", ["search", str(path), *small, "--draws", "2", "--csv", str(tmp_path / "s")]
    )
    table = pd.read_csv(tmp_path / "s").set_index("job")
    assert table.index.tolist() == ["default", "draw 0", "draw 1"]
    assert table["elbo"].lt(0).all()
    expected = search.drawn(0, 2, "nonfactorized")[1]["total_correlation"]
    assert table.loc["draw 1", "total_correlation"] == expected


# Few cells


def test_few_cells_are_of_labels_that_all_environments_have():
    obs = pd.DataFrame({"type": list("aaaabbbcc"), "donor": list("xxyyxxyxx")}).astype(object)
    X = csr_array(np.full((9, 500), 40, dtype=np.float32))
    found = few.of_few(shared.Covered(X, obs, ["type"], ["donor"]), 1, 0.25)
    assert found.obs["type"].tolist() == list("aaaabbb")
    assert found.X.shape == (7, 500)
    assert found.X.mean() == pytest.approx(10, rel=0.02)
    both = few.of_few(shared.Covered(X, obs, ["type"], ["donor"]), 2, 0.25)
    assert both.obs["type"].tolist() == list("aaaa")


def test_margins_are_the_worst_of_starts_and_halves():
    names, totals = ["PCA", "InVAE"], [0.6, 0.61, 0.7, 0.67, 0.6, 0.585]
    rows = pd.DataFrame(
        {"seed": [0, 0, 0, 0, 1, 1], "fold": [0, 0, 1, 1, 0, 0], "estimator": names * 3}
    ).assign(total=totals)
    assert few.margins(rows).loc["InVAE"].tolist() == pytest.approx([-0.012, -0.03, 0.333])
