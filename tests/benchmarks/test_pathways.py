"""Pathways from masks: the simulated truth, labels of perturbations, and accuracies."""

import argparse
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.utils import Bunch

from benchmarks.additive import pathways
from benchmarks.additive.pathways import (
    EXTRA,
    FEATURES,
    GUESS,
    MEASURED,
    METHODS,
    MISSING,
    N_PROGRAM,
    N_SPLITS,
    RANDOM,
    SIMULATION,
    TRUTH,
    accuracies,
    described,
    large_pathways,
    make_job,
    pathway_effects,
    pathway_of,
    pathway_screen,
    read_labelled,
    score,
)
from skpert import CPAVAE, SAMSVAE

SMALL = {"n_pathways": 3, "n_members": 8, "n_latent": 8, "n_genes": 60, "n_cells": 12}
FEW_TREES = RandomForestClassifier(10, random_state=0)


@pytest.fixture(scope="module")
def screen():
    return pathway_screen(**SMALL, random_state=0)


def arguments(**options):
    defaults = {"latent": 4, "control": "control", "epochs": 1, "cells": 12, "pathways": 3}
    return argparse.Namespace(**defaults | {"device": "cpu", "simulated": True} | options)


def test_members_of_a_pathway_move_its_latents_in_its_direction():
    pathway = np.repeat(np.arange(8), 100)
    effect = pathway_effects(pathway, 20, np.random.default_rng(0))
    programs, missing, extra = set(), [], []
    for members in np.split(effect, 8):
        program = np.argsort((members != 0).mean(axis=0))[-N_PROGRAM:]
        programs.add(tuple(sorted(program)))
        missing.append((members[:, program] == 0).mean())
        extra.append((np.delete(members, program, axis=1) != 0).mean())
        signs = np.sign(members[:, program])  # apart from rare sizes below zero
        agreement = np.abs(signs.sum(axis=0)) / np.abs(signs).sum(axis=0)
        assert (agreement > 0.99).all()
    assert len(programs) == 8
    assert abs(np.mean(missing) - MISSING) < 4 * np.sqrt(MISSING * (1 - MISSING) / 2400)
    assert abs(np.mean(extra) - EXTRA) < 4 * np.sqrt(EXTRA / (800 * 17))


def test_every_perturbation_of_the_simulation_has_one_pathway(screen):
    assert list(screen.pathways.index) == list(screen.perturbations)
    assert screen.pathways.value_counts().tolist() == [8, 8, 8]
    again = pathway_screen(**SMALL, random_state=0)
    assert np.array_equal(again.X, screen.X)
    assert not np.array_equal(pathway_screen(**SMALL, random_state=1).mask, screen.mask)


def test_pathway_is_that_of_the_gene_before_the_underscore():
    sets = {"40S": ["RPS3", "RPS5", "X"], "60S": ["RPL4", "X"]}
    names = ["RPS3_plus_1.23-P1|RPS3_-_1.24-P1", "RPS5", "RPL4_a", "X", "JAK2", "RPS3+RPL4", "RPS"]
    found = pathway_of(names, sets)
    assert found.to_dict() == {names[0]: "40S", "RPS5": "40S", "RPL4_a": "60S"}


def test_small_pathways_are_left_out_and_named():
    pathways = pd.Series(list("aabbbc"), index=list("uvwxyz"))
    kept, small = large_pathways(pathways, 2)
    assert kept.index.tolist() == list("uvwxy")
    assert small.to_dict() == {"c": 1}
    kept, small = large_pathways(pathways, 1)
    assert kept.equals(pathways)
    assert small.empty


def test_features_that_name_the_pathway_are_always_right_and_constant_ones_never_know():
    labels = np.repeat(["a", "b", "c"], 30)
    right = accuracies(np.repeat(np.eye(3), 30, axis=0), labels)
    assert right.tolist() == [1.0] * N_SPLITS
    assert accuracies(np.zeros((90, 3)), labels, classifier=FEW_TREES).mean() < 0.5


def test_accuracy_does_not_depend_on_names_of_pathways_or_scale_of_features():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 4)), np.repeat([0, 1, 2], 20)
    expected = accuracies(features, labels, classifier=FEW_TREES)
    assert expected.std() > 0
    again = accuracies(8 * features, labels + 5, classifier=FEW_TREES)
    np.testing.assert_array_equal(again, expected)


@pytest.fixture
def few_trees(monkeypatch):
    """Forests of twenty trees in place of a hundred."""
    monkeypatch.setattr(
        pathways, "RandomForestClassifier", lambda **options: RandomForestClassifier(20, **options)
    )


@pytest.mark.usefixtures("few_trees")
def test_true_masks_tell_pathways_and_random_ones_do_not(screen):
    rows = {}
    for method in (TRUTH, RANDOM, GUESS, MEASURED):
        rows[method] = score(make_job(method, 0, screen=None, args=arguments()), screen)
        assert rows[method].keys() == rows[TRUTH].keys()
    assert rows[TRUTH]["mask"] > 0.8
    assert rows[RANDOM]["mask"] < 0.6
    assert rows[GUESS]["mask"] < 0.5
    assert rows[MEASURED]["mask"] is None
    assert rows[MEASURED]["effects"] > rows[RANDOM]["mask"]


@pytest.mark.usefixtures("few_trees")
def test_labels_are_matched_by_name_whatever_their_order(screen):
    job = make_job(TRUTH, 0, None, arguments())
    labels = screen.pathways
    rng = np.random.default_rng(0)  # labels of other perturbations are of no use
    others = pd.Series(rng.permutation(labels), index=labels.index)
    moved = score(job, Bunch(**screen | {"pathways": others}))
    mixed = score(job, Bunch(**screen | {"pathways": labels.sample(23, random_state=0)}))
    assert mixed["n_labelled"] == 23
    assert moved["mask"] < 0.6 < 0.8 < mixed["mask"]


@pytest.mark.parametrize("prior", [None, 0.5])
def test_features_of_a_model_with_masks(screen, prior):
    edges = "called" if prior is None else "learned"
    model = SAMSVAE(n_latent=4, edges=edges, mask_prior=prior, max_epochs=1, random_state=0)
    kinds = described(model.fit(screen.X, screen.A))
    assert tuple(kinds) == FEATURES
    assert np.array_equal(kinds["mask"], kinds["probability"] > 0.5)
    assert np.array_equal(kinds["effects"].mask(kinds["mask"] == 1, 0), np.zeros((24, 4)))
    assert all(list(kind.index) == list(screen.perturbations) for kind in kinds.values())


def test_dense_embeddings_are_features_as_they_are(screen):
    model = CPAVAE(n_latent=4, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    kinds = described(model)
    assert list(kinds) == ["effects"]
    assert np.array_equal(kinds["effects"], model.embedding_)


def test_settings_name_all_but_the_device():
    jobs = [make_job(method, 0, None, arguments()) for method in METHODS]
    assert len({job.key for job in jobs}) == len(METHODS)
    assert jobs[0].key == make_job(METHODS[0], 0, None, arguments(device="cuda")).key
    settings = json.loads(make_job("SAMSVAE, prior 0.001", 3, None, arguments()).settings)
    assert settings["model"]["mask_prior"] == 0.001
    assert settings["data"] == {**SIMULATION, "n_cells": 12, "n_pathways": 3}


def test_a_screen_is_read_with_the_pathways_of_its_genes(tmp_path, capsys):
    names = ["RPS3_a", "RPS3_b", "RPS5", "RPL4", "RPL5", "MED1", "JAK2", "control"]
    counts = np.random.default_rng(0).poisson(3.0, size=(16, 2))
    table = pd.DataFrame(counts, columns=["g", "h"], index=[f"c{i}" for i in range(16)])
    table.insert(0, "perturbation", 2 * names)
    table.to_csv(tmp_path / "screen.csv")
    (tmp_path / "sets.gmt").write_text("40S\t\tRPS3\tRPS5\n60S\t\tRPL4\tRPL5\nMED\t\tMED1\n")
    args = arguments(
        simulated=False,
        screen=str(tmp_path / "screen.csv"),
        gmt=tmp_path / "sets.gmt",
        min_members=2,
        n_hvg=None,
        perturbation="perturbation",
        layer=None,
    )
    screen = read_labelled(args)
    assert screen.X.shape == (16, 2)
    assert screen.pathways.to_dict() == dict(
        zip(sorted(names[:5]), ["60S", "60S", "40S", "40S", "40S"], strict=True)
    )
    said = capsys.readouterr().out
    assert "5 of 7 perturbations have one of 2 pathways" in said
    assert "fewer than 2 perturbations: MED (1)" in said
    args.min_members = 3
    with pytest.raises(SystemExit, match="no two gene sets have 3 perturbations"):
        read_labelled(args)
