"""Trainings that are killed go on where they stood; warm starts go on from their end."""

import logging
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skpert import IVAE, SAMSVAE, SCCVAE, VAE, InVAE, SVAEPlus, _progress
from skpert._monitor import Monitor
from skpert.exceptions import TrainingWarning
from skpert.model_selection import PerturbationKFold
from tests.test_base import ESTIMATORS, FAST, A, X, outputs, same

pytestmark = [
    pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning"),
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
]
LONG = {"max_epochs": 8, "n_init": 2}


class Killed(BaseException):
    """No part of the package catches it."""


def kill_while_writing(monkeypatch, number):
    """Have the process end within the writing of this checkpoint, from 1."""
    calls = iter(range(1, 10**6))

    def fsync(descriptor):
        if next(calls) == number:
            raise Killed

    monkeypatch.setattr(_progress, "EVERY", 0.0)
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture(scope="module")
def undisturbed():
    """Outputs of each estimator without a checkpoint, made once."""
    made = {}

    def of(cls):
        if cls not in made:
            made[cls] = outputs(cls(**FAST | LONG).fit(X, A))
        return made[cls]

    return of


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_killed_training_ends_as_if_nothing_had_happened(
    cls, tmp_path, monkeypatch, undisturbed
):
    model = cls(**FAST | LONG, checkpoint=tmp_path)
    n_kills = 0
    for number in (2, 3, 6):  # in both trainings, and in each phase
        kill_while_writing(monkeypatch, number)
        try:
            model.fit(X, A)
        except Killed:
            n_kills += 1
            assert list(tmp_path.glob("*.checkpoint"))
    monkeypatch.undo()
    if n_kills == 3:
        model.fit(X, A)
    assert n_kills >= 2
    assert same(outputs(model), undisturbed(cls))
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_needs_a_seed(tmp_path):
    model = VAE(**FAST | {"random_state": None, "checkpoint": tmp_path / "new"})
    with pytest.raises(ValueError, match="needs a random_state.*Give an int"):
        model.fit(X, A)
    assert not list(tmp_path.iterdir())


def test_fits_of_other_seeds_have_other_files(tmp_path, monkeypatch):
    settings = FAST | {"max_epochs": 4, "checkpoint": tmp_path}
    random = np.random.RandomState(0)  # from which every fit draws another seed
    for _ in range(2):
        kill_while_writing(monkeypatch, 2)
        with pytest.raises(Killed):
            VAE(**settings | {"random_state": random}).fit(X, A)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.checkpoint"))) == 2
    VAE(**settings | {"random_state": np.random.RandomState(0)}).fit(X, A)
    assert len(list(tmp_path.glob("*.checkpoint"))) == 1


def test_fits_of_other_cells_and_parameters_do_not_meet(tmp_path, monkeypatch):
    settings = FAST | {"checkpoint": tmp_path, "max_epochs": 4}
    changed = X.copy()
    changed[1] = changed[1, ::-1]  # a single cell, with the same total
    others = [({}, X), ({"n_hidden": 5}, X), ({"random_state": 5}, X), ({}, X[:, ::-1])]
    others.append(({}, changed))
    for options, values in others:
        kill_while_writing(monkeypatch, 2)
        with pytest.raises(Killed):
            SVAEPlus(**settings | options).fit(values, A)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("*.checkpoint"))) == len(others)
    model = SVAEPlus(**settings).fit(X, A)
    assert same(outputs(model), outputs(clone(model).set_params(checkpoint=None).fit(X, A)))
    assert len(list(tmp_path.glob("*.checkpoint"))) == len(others) - 1


def test_the_same_fit_elsewhere_may_end_while_this_one_writes(tmp_path, monkeypatch):
    model = VAE(**FAST, checkpoint=tmp_path)
    elsewhere = clone(model)
    calls = iter(range(10**6))
    monkeypatch.setattr(_progress, "EVERY", 0.0)
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: elsewhere.fit(X, A) if next(calls) == 0 else None
    )
    assert same(outputs(model.fit(X, A)), outputs(elsewhere))
    assert not list(tmp_path.iterdir())


def test_a_training_that_was_interrupted_can_go_on(tmp_path, monkeypatch):
    settings = FAST | {"max_epochs": 8, "checkpoint": tmp_path}
    told = Monitor.__call__

    def interrupted_in_epoch_4(self, row):
        stop = told(self, row)
        if row and self.epoch == 4:
            raise KeyboardInterrupt
        return stop

    with monkeypatch.context() as patch:
        patch.setattr(_progress, "EVERY", 0.0)
        patch.setattr(Monitor, "__call__", interrupted_in_epoch_4)
        with pytest.warns(TrainingWarning, match="interrupted"):
            model = VAE(**settings).fit(X, A)
        assert len(model.history_) == 4
    model = VAE(**settings).fit(X, A)
    assert same(outputs(model), outputs(clone(model).set_params(checkpoint=None).fit(X, A)))
    assert not list(tmp_path.iterdir())


def test_a_training_that_a_callback_stopped_has_ended(tmp_path, monkeypatch):
    told = Monitor.__call__

    def stopped_in_epoch_4(self, row):
        self.stopped = told(self, row) or self.epoch == 4
        return self.stopped

    monkeypatch.setattr(_progress, "EVERY", 0.0)
    monkeypatch.setattr(Monitor, "__call__", stopped_in_epoch_4)
    model = VAE(**FAST | {"max_epochs": 8, "checkpoint": tmp_path}).fit(X, A)
    assert len(model.history_) == 4
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_said_and_training_begins_anew(tmp_path, monkeypatch):
    settings = FAST | {"max_epochs": 4, "checkpoint": tmp_path}
    kill_while_writing(monkeypatch, 3)
    with pytest.raises(Killed):
        VAE(**settings).fit(X, A)
    monkeypatch.undo()
    (path,) = tmp_path.glob("*.checkpoint")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(TrainingWarning, match="cannot be read .* begins anew"):
        model = VAE(**settings).fit(X, A)
    assert same(outputs(model), outputs(clone(model).set_params(checkpoint=None).fit(X, A)))


def test_a_checkpoint_that_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for path in ("file", "file/folder"):
        with pytest.raises(ValueError, match="is no folder that can be written to"):
            VAE(**FAST, checkpoint=tmp_path / path).fit(X, A)


def test_a_search_shares_a_folder(tmp_path):
    grid = {"n_hidden": [4, 8]}
    model = SVAEPlus(**FAST | {"checkpoint": str(tmp_path / "new")})
    search = GridSearchCV(model, grid, cv=PerturbationKFold(2, random_state=0), refit=False).fit(
        X, A
    )
    alone = clone(search).set_params(estimator__checkpoint=None).fit(X, A)
    scores = [found.cv_results_["mean_test_score"] for found in (search, alone)]
    np.testing.assert_array_equal(*scores)
    assert not list((tmp_path / "new").iterdir())


def test_sigkill_at_any_moment(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys, threading
        from skpert import SVAEPlus, _progress
        from skpert.datasets import make_sparse_shift
        _progress.EVERY = 0.0
        screen = make_sparse_shift(5, n_cells_per_perturbation=60, n_control_cells=60,
                                   n_latent=3, n_genes=50, random_state=0)
        model = SVAEPlus(n_latent=3, max_epochs=20, random_state=0, checkpoint=sys.argv[1])
        threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
        model.fit(screen.X, screen.A)
        print(model.transform(screen.X).tobytes().hex()[:4000], flush=True)
        os._exit(0)
    """)

    def run(folder, delay):
        command = [sys.executable, "-W", "ignore", "-c", script, str(folder), str(delay)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.stdout.strip()

    expected = run(tmp_path / "undisturbed", 1000)
    random = np.random.default_rng()
    results = [run(tmp_path / "killed", random.uniform(0.02, 0.6)) for _ in range(3)]
    while not results[-1]:
        results.append(run(tmp_path / "killed", 1000))
    assert results[-1] == expected


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_warm_start_goes_on_from_the_end(cls):
    model = cls(**FAST | {"max_epochs": 6, "warm_start": True})
    first = model.fit(X, A).module_
    n_before, weights = len(model.history_), {k: v.clone() for k, v in first.state_dict().items()}
    model.fit(X, A)
    assert len(model.history_) == model.n_iter_ > n_before
    assert all(torch.equal(weights[k], v) for k, v in first.state_dict().items())
    fresh = clone(model).set_params(warm_start=False).fit(X, A)
    assert len(fresh.history_) == n_before


def test_a_warm_start_gets_better():
    model = VAE(**FAST | {"max_epochs": 3, "warm_start": True}).fit(X, A)
    scores = [model.score(X, A)]
    for _ in range(3):
        scores.append(model.fit(X, A).score(X, A))
    assert scores[-1] > scores[0]


@pytest.mark.parametrize("cls", [IVAE, SAMSVAE, SCCVAE, InVAE])
def test_a_warm_start_on_something_else_is_an_error(cls):
    model = cls(**FAST | {"warm_start": True}).fit(X, A)
    before = outputs(model)
    with pytest.raises(ValueError, match="warm_start=True goes on from .* whose genes"):
        model.fit(X[:, :-1], A)
    model.set_params(n_hidden=model.n_hidden + 1)
    with pytest.raises(ValueError, match="networks had other sizes"):
        model.fit(X, A)
    model.set_params(n_hidden=model.n_hidden - 1)
    assert same(outputs(model), before)


@pytest.mark.filterwarnings("always::skpert.exceptions.TrainingWarning")
def test_a_training_goes_on_where_no_checkpoint_can_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_progress, "EVERY", 0.0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(TrainingWarning, match="cannot be written .*No space left.* goes on"):
        model = VAE(**FAST | {"checkpoint": tmp_path}).fit(X, A)
    assert same(outputs(model), outputs(clone(model).set_params(checkpoint=None).fit(X, A)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", [None, [1], {"number": 0}])
def test_a_file_of_something_else_is_said_and_training_begins_anew(state, tmp_path, monkeypatch):
    settings = FAST | {"max_epochs": 4, "checkpoint": tmp_path}
    kill_while_writing(monkeypatch, 3)
    with pytest.raises(Killed):
        VAE(**settings).fit(X, A)
    monkeypatch.undo()
    (path,) = tmp_path.glob("*.checkpoint")
    torch.save(state, path)
    with pytest.warns(TrainingWarning, match="cannot be read .* begins anew"):
        model = VAE(**settings).fit(X, A)
    assert same(outputs(model), outputs(clone(model).set_params(checkpoint=None).fit(X, A)))


def test_the_log_says_where_a_training_goes_on(tmp_path, monkeypatch, caplog):
    settings = FAST | {"max_epochs": 4, "checkpoint": tmp_path}
    with caplog.at_level(logging.INFO, "skpert"):
        kill_while_writing(monkeypatch, 3)
        with pytest.raises(Killed):
            VAE(**settings).fit(X, A)
        monkeypatch.undo()
        assert not caplog.messages
        VAE(**settings).fit(X, A)
    assert "written after 2 epochs of training 1" in caplog.messages[0]


@pytest.mark.parametrize(
    ("cls", "other"),
    [(VAE, {"n_latent": 5}), (VAE, {"n_latent": 2}), (SVAEPlus, {"escape": True})],
)
def test_a_warm_start_of_another_model_is_an_error(cls, other):
    cells = np.tile(X, (2, 1)), np.tile(A, 2)
    model = cls(**FAST | {"n_latent": 3, "warm_start": True}).fit(*cells)
    with pytest.raises(ValueError, match="networks had other sizes"):
        model.set_params(**other).fit(*cells)
