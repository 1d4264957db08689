"""Benchmarks of models whose effects add up: the peer, the baselines and what is printed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils import Bunch

from benchmarks.additive import norman, pairs, papalexi, predictive, simulated
from benchmarks.additive.shared import Job, make_job, print_orderings
from benchmarks.additive.speed import SIZE, dosages, time_ours, time_plain
from benchmarks.peers.sams import PlainConditionalVAE, PlainSAMSVAE
from benchmarks.runner import run_jobs
from benchmarks.timing import screen
from skpert import SAMSVAE, ConditionalVAE
from skpert.datasets import make_additive_shift

N_LATENT, N_HIDDEN, N_FREE, WIDTHS, MASK_PRIOR = 3, 14, 8, (5, 5), 0.1
DATA = {"n_perturbations": 4, "n_combinations": 4, "n_latent": 2, "n_genes": 40}
DATA |= {"n_cells_per_perturbation": 30, "n_control_cells": 30, "likelihood": "negative_binomial"}
FIT = {
    "n_layers": 1,
    "n_hidden": N_HIDDEN,
    "objective": "monte_carlo",
    "n_train_particles": 4,
    "input_transform": "log_standardize",
    "validation_fraction": 0,
    "max_epochs": 1,
    "random_state": 0,
}


@pytest.fixture(scope="module")
def cells():
    return make_additive_shift(
        5, n_cells_per_perturbation=20, n_control_cells=20, n_genes=40, n_latent=3, random_state=0
    )


def twin_of_sams(cells):
    """A fitted SAMS-VAE without what the plain one lacks, the plain one, and the cells of both."""
    estimator = SAMSVAE(
        N_LATENT,
        edges="learned",
        mask_prior=MASK_PRIOR,
        correlated_embedding=WIDTHS,
        init="random",
        **FIT,
    ).fit(cells.X, cells.A)
    ours, (x, dosage) = estimator.module_.eval(), tensors(cells)
    plain = PlainSAMSVAE(
        torch.log1p(x),
        dosage.sum(0),
        N_LATENT,
        n_hidden=N_HIDDEN,
        widths=WIDTHS,
        mask_prior=MASK_PRIOR,
        slope=0.0,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        without_batch_norm(ours)
        ours.embeddings.loc.rows.zero_()
        ours.embeddings.log_scale.rows.zero_()
        network = ours.embeddings.network
        for weights in (network.moments.weight, network.moments.bias, ours.masks.logit.rows):
            weights.normal_(std=0.3)
        read = ours.columns.weight.normal_(std=0.3)
        copy_networks(plain, ours, read, n_latent=N_LATENT)
        pass_shift_on(ours)
        plain.mask_logit.copy_(ours.masks.logit.rows)
        plain.embedding.first.weight.copy_(
            torch.cat([network.of_mask.weight, network.of_perturbation.rows.T], 1)
        )
        plain.embedding.first.bias.copy_(network.of_mask.bias)
        plain.embedding.blocks[0].load_state_dict(network.hidden[0].state_dict())
        copy_moments(plain.embedding.head, network.moments, factor=2)  # of log-scales: variances
    return estimator, plain, x, dosage


def without_batch_norm(ours):
    """Running statistics with which it changes nothing."""
    for stack in (ours.encoder.hidden, ours.decoder.hidden):
        for norm in stack.norms:
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            norm.weight.fill_(1)
            norm.bias.zero_()


def copy_networks(plain, ours, read, n_latent, decoded=None):
    """Encoder, decoder and dispersions; the hidden units from N_FREE on take no part."""
    first = ours.encoder.hidden.linears[0]
    plain.encoder.first.weight.copy_(torch.cat([first.weight, read], 1))
    plain.encoder.first.bias.copy_(first.bias)
    ours.encoder.moments.weight[:, N_FREE:] = 0
    plain.encoder.head.load_state_dict(ours.encoder.moments.state_dict())
    first = ours.decoder.hidden.linears[0]
    weight = first.weight if decoded is None else torch.cat([first.weight, decoded], 1)
    plain.decoder.first.weight.copy_(weight)
    plain.decoder.first.bias.copy_(first.bias)
    plain.decoder.head.load_state_dict(ours.decoder.head.logits.state_dict())
    plain.log_theta.copy_(ours.decoder.head.log_dispersion)


def copy_moments(head, moments, factor):
    half = len(moments.bias) // 2
    scale = torch.ones(2 * half)
    scale[half:] = factor
    head.weight.copy_(moments.weight * scale[:, None])
    head.bias.copy_(moments.bias * scale)


def pass_shift_on(ours):
    """Let the free hidden units carry the shift: ours infers the state, the plain the basal one.

    relu(s) - relu(-s) is s.
    """
    first, identity = ours.encoder.hidden.linears[0], torch.eye(N_LATENT)
    first.weight[N_FREE:], first.bias[N_FREE:] = 0, 0
    ours.columns.weight[N_FREE:] = torch.cat([identity, -identity])
    ours.encoder.moments.weight[:N_LATENT, N_FREE:] = torch.cat([identity, -identity], 1)


def twin_of_conditional(cells):
    estimator = ConditionalVAE(N_LATENT, **FIT).fit(cells.X, cells.A)
    ours, (x, dosage) = estimator.module_.eval(), tensors(cells)
    plain = PlainConditionalVAE(
        torch.log1p(x), dosage.sum(0), N_LATENT, n_hidden=N_HIDDEN, slope=0.0
    )
    with torch.no_grad():
        without_batch_norm(ours)
        tables = ours.encoder_columns.rows.T, ours.decoder_columns.rows.T
        copy_networks(plain, ours, tables[0], N_LATENT, decoded=tables[1])
    return estimator, plain, x, dosage


def tensors(cells):
    return torch.from_numpy(cells.X), dosages(cells.A)


@pytest.mark.parametrize("twins", [twin_of_sams, twin_of_conditional])
def test_plain_objective_is_ours_with_the_same_weights_and_noise(cells, twins):
    estimator, plain, x, dosage = twins(cells)
    torch.manual_seed(1)
    ours = sum(estimator.module_.loss_terms(estimator._check(cells.X, cells.A)).values())
    torch.manual_seed(1)
    torch.testing.assert_close(plain.loss(x, dosage, 4), ours, rtol=0, atol=0.005)


@pytest.mark.parametrize("twins", [twin_of_sams, twin_of_conditional])
def test_plain_score_is_ours_with_the_same_weights(cells, twins):
    estimator, plain, x, dosage = twins(cells)
    torch.manual_seed(2)
    theirs = plain.score(x, dosage, 2000).numpy()
    ours = estimator.score_cells(cells.X, cells.A, n_particles=2000)
    assert abs(np.mean(ours - theirs)) < 0.2  # noise of 2,000 particles
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99


@pytest.mark.parametrize("model", ["SAMSVAE", "ConditionalVAE"])
def test_both_programs_are_timed_at_the_same_size(model):
    pytest.importorskip("sklearn.callback")
    size = replace(SIZE, n_cells=64, batch_size=32, n_genes=20, n_latent=2)
    data = screen(size)
    for timed in (time_ours, time_plain):
        assert all(value > 0 for value in timed(model, *data, size).values())


def job(method, **data):
    return make_job(method, 0, DATA | data, n_latent=2, max_epochs=2)


def test_sum_of_parts_predicts_what_adds_up():
    data = simulated.make_additive_shift(**DATA | {"n_cells_per_perturbation": 2}, random_state=0)
    names = np.array(["control", *data.perturbations])
    means, pair = data.expected(names), data.combinations[0]
    effects = simulated.sum_of_parts(data, means, names, [pair])
    scale = data.library_size.mean() / means.sum(1, keepdims=True)
    logs = dict(zip(names, np.log1p(means * scale), strict=True))
    first, second = pair.split("+")
    expected = logs[first] + logs[second] - 2 * logs["control"]
    np.testing.assert_allclose(effects[1], expected[None], atol=1e-10)


def test_encoder_of_normal_expression_reads_the_expression():
    x = np.random.default_rng(0).normal(size=1000, scale=2).astype(np.float32)
    np.testing.assert_allclose(np.log1p(np.expm1(x)), x, atol=1e-3)


def test_a_model_without_combinations_is_scored_on_all_but_them():
    row = simulated.score(job("SVAEPlus"))
    assert np.isfinite([row["mcc"], row["mcc_given"], row["f1"]]).all()
    assert row["effect"] is None
    assert row["iwelbo"] is None
    others = [simulated.score(job(method)) for method in (simulated.SUM, "SAMSVAE")]
    assert all(set(other) == set(row) for other in others)  # one header fits all rows


def test_a_finished_job_is_not_run_again(tmp_path, capsys):
    path, jobs = tmp_path / "results.csv", [job(simulated.SUM)]
    run_jobs(simulated.score, jobs, path, 1)
    before = path.read_text()
    jobs.append(job(simulated.SUM, n_cells_per_perturbation=20))
    results, n_failed = run_jobs(simulated.score, jobs, path, 1)
    assert path.read_text().startswith(before)
    assert n_failed == 0
    assert list(results["key"]) == [one.key for one in jobs]
    assert "1 of 2 jobs to run" in capsys.readouterr().out


def test_parameters_of_a_method_are_part_of_its_key():
    default, published = job("SVAEPlus"), job("SVAEPlus, Beta(1, 2)")
    assert json.loads(published.settings)["model"]["sparsity"] == 2
    assert default.key != Job(default.method, 0, default.data, published.model).key


def test_orderings_are_counted_by_seed(capsys):
    results = pd.DataFrame(
        {
            "method": ["A"] * 3 + ["B"] * 3 + ["C"],
            "seed": [0, 1, 2, 0, 1, 2, 0],
            "score": [3.0, 3.0, 1.0, 1.0, 2.0, 1.5, np.nan],
        }
    )
    orderings = [
        ("score", "A", "B"),
        ("score", "B", "A"),
        ("score", "A", "C"),
        ("score", "D", "A"),
    ]
    print_orderings(results, {"score": ("score", 2)}, orderings)
    assert capsys.readouterr().out.splitlines() == [
        "score: A above B: holds, by 0.83 ± 1.26, in 2 of 3 seeds",
        "score: B above A: does not hold, by -0.83 ± 1.26, in 1 of 3 seeds",
    ]


def test_baselines_of_combinations():
    effects = pd.DataFrame([[1.0, 2.0], [3.0, -2.0], [5.0, 6.0]], index=["A", "B", "A+C"])
    found = {name: norman.predicted(name, effects, ["A+B"]) for name in norman.BASELINES}
    assert found["sum of parts"].loc["A+B"].tolist() == [4, 0]
    assert found["mean of parts"].loc["A+B"].tolist() == [2, 0]
    assert found["mean effect"].loc["A+B"].tolist() == [3, 2]


def test_combinations_without_their_parts_are_left_out():
    A = np.array(["control", "A", "B", "A+B", "A+C", "C+D", "A+B"], dtype=object)
    assert norman.has_parts_alone(A).tolist() == [True] * 4 + [False] * 2 + [True]


def test_checks_are_of_held_out_singles_and_of_pairs_never_seen():
    data = make_additive_shift(
        4,
        n_cells_per_perturbation=30,
        n_combinations=4,
        n_control_cells=30,
        n_latent=2,
        n_genes=40,
        random_state=0,
    )
    screen = Bunch(X=data.X, A=data.A, spelled=data.A)
    train, held_out = predictive.cells_of(screen, 0)
    assert sorted([*train, *held_out]) == list(range(len(data.A)))
    assert not any("+" in label for label in data.A[train])
    job = make_job("CPAVAE", 0, {"replicates": 4}, n_latent=2, max_epochs=2)
    row = predictive.score(job, screen)
    assert row["n_cells"] == len(held_out)
    for columns in [*predictive.COLUMNS.values(), predictive.FOUND]:
        assert all(np.isfinite(row[name]) for name in columns)


def test_relative_likelihood_starts_from_no_combinations():
    results = pd.DataFrame(
        {
            "method": ["SAMSVAE", "SAMSVAE", "CPAVAE", "SAMSVAE"],
            "task": ["ood", "ood", "ood", "data_efficiency"],
            "seed": [0, 0, 0, 0],
            "fraction": [0.0, 1.0, 1.0, 1.0],
            "iwelbo": [-5.0, -3.0, -4.0, -1.0],
        }
    )
    np.testing.assert_array_equal(norman.with_relative(results)["relative"], [0, 2, 1, np.nan])


def test_measured_effects_agree_with_themselves():
    random = np.random.default_rng(0)
    A = np.repeat(np.array(["control", "A", "B"], dtype=object), 40)
    X = random.poisson(5.0, size=(120, 30)).astype(np.float32)
    X[A == "A", :5] *= 3
    split = dict(zip(("train", "val", "test"), papalexi._split(120), strict=True))
    truth = papalexi.differential_expression(X[split["train"]], A[split["train"]])
    data = Bunch(X=X, A=A, split=split, measured={"all": truth, "test": -truth}, name="toy")
    row = papalexi.score(make_job("data, train", 0, {"screen": "toy"}), data)
    assert row["perturbseq_all_pooled"] == pytest.approx(1)
    assert row["perturbseq_test_each"] == pytest.approx(-1)
    assert row["iwelbo"] is None


def test_interactions_of_a_table_of_effects_stand_out():
    random = np.random.default_rng(0)
    singles = pd.DataFrame(
        random.choice([0.0, 3.0, -3.0], (8, 4), p=[0.6, 0.2, 0.2])
        + random.normal(size=(8, 4)) / 10,
        index=list("ABCDEFGH"),
    )
    names = [f"{a}_{b}" for a in "ABCDEFGH" for b in "ABCDEFGH" if a < b]
    measured = np.stack([0.8 * singles.loc[name.split("_")].sum() for name in names])
    measured += random.normal(size=measured.shape) / 20
    measured[3] *= 0.1
    effects = pd.concat([singles, pd.DataFrame(measured, index=names)])
    scores = pairs.interaction_scores(effects, np.array(names, dtype=object), measured)
    assert scores.index.tolist() == names
    assert scores["relative size"].idxmax() == scores["shortfall"].idxmax() == names[3]
    np.testing.assert_allclose(scores["shortfall"].median(), -1, atol=0.02)
    known = pd.DataFrame([[0.0, 2.0], [2.0, 0.0]], index=["A", "B"], columns=["A", "B"])
    found = pairs._known(known, ["A_B", "A_C"])
    assert found[0] == 2
    assert np.isnan(found[1])
