"""Benchmarks of perturbations that were never seen: the peer, the features, and what is scored."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.utils import Bunch

from benchmarks.peers.sccvae import PlainSCCVAE, discrepancy, optimiser, step
from benchmarks.runner import TableJob
from benchmarks.unseen import authors, intervals, papalexi, shared, simulated, speed, tables
from skpert import SCCVAE, BilinearRidge
from skpert.datasets import make_causal_shift
from skpert.exceptions import DataWarning
from skpert.metrics import maximum_mean_discrepancy
from skpert.objectives import block_mmd
from skpert.preprocessing import TargetFeatures

OPTIONS = {"n_latent": 3, "max_epochs": 1, "n_hidden": 8}
DATA = {"n_perturbations": 8, "n_cells_per_perturbation": 40, "n_control_cells": 64}
DATA |= {"n_latent": 3, "n_genes": 60}
GENES = np.array([*(f"P{i}" for i in range(4)), *(f"G{i}" for i in range(56))], dtype=object)
SETS = {"a": ["P0", "P1", "P2", "P6"], "b": ["P3", "P4", "P5", "P7"], "c": ["P0", "P3", "P6"]}


@pytest.fixture(scope="module")
def screen():
    return make_causal_shift(**DATA, sharpness=5.0, penetrance=4.0, random_state=0)


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return PlainSCCVAE(n_genes=6, n_features=2, n_perturbations=3, n_latent=4, n_hidden=5)


def block(random=0):
    """Control cells, treated cells, features, dosage and noise of a step."""
    generator = torch.Generator().manual_seed(random)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    dosage = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    return draw(7, 6), draw(7, 6), draw(2), dosage, draw(7, 4)


def states_one_by_one(plain, own):
    """u_j = sum of B_ij u_i over i < j, and what the module has of its own."""
    u = torch.zeros_like(own)
    for j in range(own.shape[1]):
        u[:, j] = own[:, j] + u[:, :j] @ plain.weight[:j, j]
    return u


@torch.no_grad()
def test_the_loss_of_the_peer_is_that_of_the_paper(plain):
    plain.penetrance[1] = 2.5
    x, y, features, dosage, noise = block()
    terms = plain.terms(x, y, features, dosage, noise)
    mean, variance = plain.posterior(x)
    z = mean + variance.sqrt() * noise
    shift = 2.5 * torch.softmax(plain.shift(features), 0)
    x_hat = plain.decoder(states_one_by_one(plain, z))
    y_hat = plain.decoder(states_one_by_one(plain, z + shift))
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, variance.sqrt()), torch.distributions.Normal(0.0, 1.0)
    )
    expected = {
        "reconstruction": 0.25 * ((x_hat - x) ** 2).mean(),
        "response": ((y_hat - y) ** 2).mean(),
        "kl": kl.sum() / (7 * 4),
        "mmd": 10
        * maximum_mean_discrepancy(
            y_hat.numpy(), y.numpy(), bandwidths="training", unbiased=False
        ),
    }
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-10
    )


def test_discrepancy_of_the_peer_is_the_one_that_we_train_with():
    x, y, *_ = block()
    assert discrepancy(x, y).item() == pytest.approx(block_mmd(x[None], y[None]).item(), rel=1e-9)


def test_a_step_of_the_peer_clips_each_tensor_by_itself(plain):
    x, y, features, dosage, _ = block()
    step(plain, optimiser(plain), x, 1000 * y, features, dosage)
    norms = torch.stack([p.grad.norm() for p in plain.parameters()])
    assert norms.max() <= 1 + 1e-6
    assert (norms > 0.999).sum() > 3
    assert plain.penetrance.grad.count_nonzero() == 1


def test_linear_models_of_measured_targets_are_trained_on_these_alone(screen):
    X = pd.DataFrame(screen.X, columns=GENES)
    model = shared.OfMeasuredTargets("genes", **shared.PUBLISHED).fit(X, screen.A)
    kept = np.isin(screen.A, ["control", "P0", "P1", "P2", "P3"])
    alone = BilinearRidge("genes", **shared.PUBLISHED).fit(X[kept], screen.A[kept])
    assert list(model.perturbations_) == ["P0", "P1", "P2", "P3"]
    np.testing.assert_array_equal(model.effect_, alone.effect_)
    with pytest.raises(ValueError, match="no measured genes"):
        model.predict_intervention("P7")


def test_module_graph_has_a_node_per_module_and_no_cycle(screen):
    graph = shared.module_graph(screen.X[screen.A == "control"], 4)
    assert graph.shape == (4, 4)
    assert not np.linalg.matrix_power(graph, 4).any()


def test_differences_are_paired_after_seeds_are_averaged(capsys):
    rows = [
        (seed, name, 0, target, value + seed)
        for seed in (0, 2)
        for name, offset in (("a", 0.0), ("b", 1.0))
        for target, value in (("P0", 3.0 + offset), ("P1", 5.0 + 2 * offset))
    ]
    results = pd.DataFrame(
        rows, columns=["seed", "estimator", "split", "perturbation", "response_mse"]
    )
    table = shared.over_seeds(results, ["response_mse"])
    assert table["response_mse"].tolist() == [4.0, 6.0, 5.0, 8.0]
    shared.print_paired(table, "a", ["b"], ["response_mse"])
    assert "-1.5 (" in (out := capsys.readouterr().out)
    assert "better in 100% of 2" in out


@pytest.fixture(scope="module")
def prepared(screen):
    return papalexi.prepared(screen.X, screen.A, GENES, SETS, n_latent=3, min_cells=20)


def test_baselines_of_a_screen_have_a_row_for_each_left_out_target(prepared):
    job = TableJob("x", 0, papalexi.BASELINES)
    with pytest.warns(DataWarning, match="cannot predict 4 perturbations"):
        table = papalexi.score(job, prepared, OPTIONS)
    names = [*papalexi.baselines(prepared.features), *table["estimator"].unique()[-2:]]
    assert table["estimator"].unique().tolist() == names
    assert (table.groupby("estimator")["perturbation"].nunique() == 8).all()
    errors = table.set_index(["estimator", "perturbation"])["response_mse"]
    X, A = prepared.X.astype(np.float64), prepared.A
    control = X[A == "control"].mean(0)
    expected = np.mean((X[A == "P5"].mean(0) - control) ** 2)
    assert errors["ControlMean", "P5"] == pytest.approx(expected, rel=1e-5)
    own = errors["linear, own embedding"]
    assert own.index[own.notna()].tolist() == [name for name in own.index if name in GENES]


def test_the_given_graph_is_a_row_of_its_own(prepared):
    name = "SCCVAE, given graph"
    table = papalexi.score(TableJob("x", 0, name), papalexi.filtered(prepared), OPTIONS)
    assert table["estimator"].unique().tolist() == [name]
    assert sorted(table["perturbation"]) == sorted(prepared.detectable)
    assert np.isfinite(table[list(papalexi.METRICS)]).all(axis=None)


@pytest.fixture(scope="module")
def split(screen):
    held_out = np.array(["P6", "P7"])
    test = np.flatnonzero(np.isin(screen.A, held_out))
    rest = np.setdiff1d(np.arange(len(screen.A)), test)
    return {
        "train": rest[20:],
        "val": rest[:20],
        "test": test,
        "held_out": held_out,
        "sub_target": np.array(["P4", "P5", "P6", "P7"]),
        "sub_gene": np.array(["G0", "G3", "G5", "G7"]),
    }


def test_a_target_that_is_not_measured_has_the_features_of_its_substitute(screen, split):
    data = authors.prepared(screen.X, screen.A, GENES, split)
    controls = screen.X[split["train"][screen.A[split["train"]] == "control"]]
    features = TargetFeatures("genes").fit(["P0"], controls, GENES)
    expected = features.transform(["P0", "G0", "G7"])
    np.testing.assert_allclose(data.features.loc[["P0", "P4", "P7"]], expected)


def test_the_oracle_is_best_on_the_grid_and_penetrance_one_is_one(screen, split):
    data = authors.prepared(screen.X, screen.A, GENES, split)
    model = SCCVAE(features=data.features, random_state=0, **OPTIONS)
    model.fit(data.X.iloc[data.both], data.A[data.both])
    rows = authors.of_model("m", model, data).set_index(["penetrance", "perturbation"])
    learned = model.penetrance_
    for target, truth in data.means.iterrows():

        def error(value, target=target, truth=truth):
            one = model.with_penetrance({target: value}).predict_intervention(target)[0]
            return np.mean((one - truth.to_numpy()) ** 2)

        chosen = rows.loc[("ORACLE", target)]
        assert learned.min() <= chosen["value"] <= learned.max()
        assert chosen["response_mse"] == pytest.approx(error(chosen["value"]))
        ends = [learned.min(), learned.max(), np.mean([learned.min(), learned.max()])]
        assert all(chosen["response_mse"] <= error(value) + 1e-12 for value in ends)
        assert rows.loc[("1", target), "response_mse"] == pytest.approx(error(1.0))


def test_true_penetrances_are_recovered_up_to_scale(screen):
    model = SCCVAE(features=screen.features, random_state=0, penetrance="sum", **OPTIONS)
    model.fit(screen.X[screen.train], screen.A[screen.train])
    strengths = np.linspace(1, 3, len(screen.perturbations))
    truth = Bunch(**{**screen, "penetrance": strengths})
    known = dict(zip(screen.perturbations[screen.seen], 7 * strengths[screen.seen], strict=True))
    found = simulated.penetrance_recovery(model.with_penetrance(known), truth)
    assert found["penetrance_pearson"] == pytest.approx(1)
    assert found["penetrance_error"] == pytest.approx(0, abs=1e-6)
    lengths = strengths * np.linalg.norm(screen.shift, axis=1)
    told = dict(zip(screen.perturbations[screen.seen], lengths[screen.seen], strict=True))
    model = model.set_params(penetrance="length").with_penetrance(told)
    truth.effect = strengths[:, None] * screen.shift
    found = simulated.penetrance_recovery(model, truth)
    assert found["length_pearson"] == pytest.approx(1)
    assert found["length_error"] == pytest.approx(0, abs=1e-5)


def test_simulated_screens_are_scored_against_their_expectation():
    job = TableJob("x", 0, simulated.BASELINES)
    table = simulated.score(job, DATA, {}).set_index(["estimator", "perturbation"])
    screen = make_causal_shift(**DATA, random_state=0)
    control = screen.X[screen.A == "control"].mean(0, dtype=np.float64)
    expected = np.mean((control - screen.expected(np.array(["P6"]))[0]) ** 2)
    assert table.loc[("ControlMean", "P6"), "true_mse"] == pytest.approx(expected, rel=1e-5)
    job = job._replace(name="SCCVAE, given graph")
    table = simulated.score(job, DATA, {"max_epochs": 1})
    assert table["penetrance_pearson"].between(-1, 1).all()


def test_published_metrics_of_a_perfect_and_of_an_opposite_prediction():
    measured = np.random.default_rng(0).normal(1.0, 1.0, size=(64, 5))
    perfect = tables.compared(measured, measured, np.zeros(5), seed=0)
    assert {k: perfect[k] for k in ("MSE", "Pearson", "MMD", "same", "changed")} == pytest.approx(
        {"MSE": 0, "Pearson": 1, "MMD": 0, "same": 1, "changed": 0}, abs=1e-12
    )
    opposite = tables.compared(-measured[:10], measured[:10], np.zeros(5), seed=0)
    assert (opposite["same"], opposite["changed"]) == (0, 1)
    assert np.isnan([opposite["MMD"], opposite["energy"]]).all()


def test_tables_leave_each_target_out_once_and_test_a_fifth_of_the_cells(screen):
    data = tables.prepared(
        csr_matrix(screen.X), screen.A, GENES, sets=SETS, n_latent=3, min_cells=20
    )
    left_out = [np.unique(data.A[test]) for _, test in data.splits["ood"]]
    assert sorted(np.concatenate(left_out)) == sorted(set(data.A) - {"control"})
    ((train, test),) = data.splits["iid"]
    assert np.intersect1d(train, test).size == 0
    assert (pd.Series(data.A[test]).value_counts() == 8).all()
    rows = tables.score(TableJob("x", 0, "iid, 0, Given"), data, OPTIONS)
    assert rows["genes"].unique().tolist() == ["all", "top 50"]
    assert rows["MSE"].gt(0).all()


def test_both_programs_are_timed_on_cells_a_second():
    pytest.importorskip("sklearn.callback")
    widths = {"n_latent": 4, "n_hidden": 8}
    rows = pd.DataFrame(speed.measured({12: (64, 1024, 2)}, 2, widths))
    assert rows["program"].tolist() == ["plain", "skpert", "skpert", "plain"]
    assert (rows["cells_per_s"] > 0).all()
    _, A, features = speed.screen(12, 1024)
    assert (pd.Series(A).value_counts() == 64).all()
    assert set(features.index) == set(A) - {"control"}


def test_intervals_and_discrimination_of_a_small_screen(capsys):
    random = np.random.default_rng(0)
    names = [f"P{i}" for i in range(15)]
    table = pd.DataFrame(random.normal(size=(15, 2)), names)
    A = np.repeat(["control", *names], 2)
    X = pd.DataFrame(random.normal(size=(32, 5)).astype(np.float32), columns=list("abcde"))
    screens = {"norman": Bunch(X=X, A=A, features=table)}
    jobs = [TableJob("", 0, f"norman, {method}") for method in ("PerturbedMean", intervals.RIDGE)]
    rows = [intervals.score(job, screens).assign(seed=job.seed) for job in jobs]
    assert all(sorted(table["perturbation"]) == sorted(names) for table in rows)
    assert rows[1]["coverage"].between(0, 1).all()
    assert rows[0]["reliability"].isna().all()
    intervals.report(pd.concat(rows, ignore_index=True))
    assert "response_mse of the surest" in capsys.readouterr().out
