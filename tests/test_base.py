"""The contract of every estimator: parameters, conduct, scikit-learn's tools, history."""

import ast
import inspect
import random
import re

import numpy as np
import pandas as pd
import pytest
import torch
from numpydoc.docscrape import NumpyDocString
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skpert import (
    CPAVAE,
    IVAE,
    NFIVAE,
    SAMSVAE,
    SCCVAE,
    SVAE,
    VAE,
    BetaVAE,
    ConditionalVAE,
    InVAE,
    SVAEPlus,
)
from skpert.exceptions import TrainingWarning
from skpert.model_selection import PerturbationKFold
from skpert.preprocessing import HighlyVariableGenes

ESTIMATORS = [VAE, BetaVAE, IVAE, SVAE, SVAEPlus, ConditionalVAE, CPAVAE, SAMSVAE, SCCVAE]
WITH_EFFECTS = ESTIMATORS
ESTIMATORS = [*WITH_EFFECTS, InVAE, NFIVAE]
# the others set what has a closed form after their last epoch
ENDED_BY_AN_EPOCH = [cls for cls in ESTIMATORS if cls not in (SVAE, SVAEPlus, SCCVAE)]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:X looks like raw counts"),  # for models of real values
]
DATA = ["control", "sep", "perturbation", "environment", "layer"]
NETWORK = ["n_hidden", "n_layers", "dropout", "batch_norm", "likelihood"]
TRAINING = [
    *["max_epochs", "batch_size", "learning_rate", "schedule", "weight_decay"],
    *["adam_epsilon", "max_gradient_norm"],
    *["n_epochs_kl_warmup", "validation_fraction", "patience", "n_init", "n_particles"],
    *["device", "memory", "checkpoint", "warm_start", "random_state", "verbose"],
]
FAST = {"n_latent": 3, "n_hidden": 16, "n_layers": 1, "max_epochs": 2, "batch_size": 32}
FAST |= {"n_particles": 5, "device": "cpu", "random_state": 0}
A = np.repeat(["control", "P0", "P1", "P2", "P3"], 20)
X = np.random.default_rng(0).poisson(3.0, (100, 20)).astype(np.float32)
X[A == "P0", :5] *= 3


def outputs(model, A=A, X=X):
    """All that a user can ask of a fitted model."""
    return [
        model.transform(X),
        model.score_cells(X, A),
        model.predict_intervention(A[19:22]),
        model.predict_intervention(A[20:21], X[:5]),
        model.sample_intervention(A[19:22], 4, random_state=0),
        model.history_.drop(columns="phase").to_numpy(),
    ]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# Parameters and their documentation


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_parameters_come_in_the_same_blocks_and_order(cls):
    names = list(inspect.signature(cls).parameters)
    common = NETWORK + DATA + TRAINING
    assert names[-len(common) :] == common
    assert names[0] == "n_latent"
    assert len(names) - len(common) <= 13


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_parameter_is_documented_with_its_default(cls):
    doc = NumpyDocString(inspect.cleandoc(cls.__doc__))
    parameters = inspect.signature(cls).parameters
    assert [parameter.name for parameter in doc["Parameters"]] == list(parameters)
    for entry in doc["Parameters"]:
        assert entry.desc
        stated = entry.type.rpartition("default=")[2]
        assert ast.literal_eval(stated) == parameters[entry.name].default
    for section in ("Summary", "Attributes", "See Also", "References", "Examples"):
        assert doc[section]
    assert not re.search(r"\{\w|@", cls.__doc__)  # a placeholder left


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_documented_attributes_are_those_of_a_fitted_estimator(cls):
    doc = NumpyDocString(inspect.cleandoc(cls.__doc__))
    documented = {attribute.name for attribute in doc["Attributes"]}
    model = cls(**FAST).fit(pd.DataFrame(X).add_prefix("gene "), A)
    learned = {name for name, _ in inspect.getmembers(model) if name.endswith("_")}
    assert {name for name in learned if not name.startswith("_")} == documented


# Conduct


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_same_seed_same_result_and_other_seed_other(cls):
    model = cls(**FAST).fit(X, A)
    first = outputs(model)
    assert same(first, outputs(model))
    assert same(first, outputs(cls(**FAST).fit(X, A)))
    other = outputs(cls(**FAST).set_params(random_state=1).fit(X, A))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_random_state_instance_is_the_seed_it_was_made_from():
    state = np.random.RandomState(0)
    model = SVAEPlus(**FAST).set_params(random_state=state)
    first = outputs(model.fit(X, A))
    assert same(first, outputs(SVAEPlus(**FAST).fit(X, A)))
    assert model.random_state is state
    assert not same(first, outputs(model.fit(X, A)))  # the instance has moved on


def generators():
    numpys = check_random_state(None).get_state()
    return torch.get_rng_state().tolist(), numpys[1].tolist(), numpys[2:], random.getstate()


@pytest.mark.parametrize("cls", WITH_EFFECTS)
def test_generators_of_the_caller_stay_untouched(cls):
    before = generators()
    model = cls(**FAST).fit(X, A)
    outputs(model)
    model.posterior(X, A)
    model.adapt(X[:10], ["new"] * 10)
    model.refine(X, A)
    assert generators() == before
    torch.rand(1), random.random()
    assert same(outputs(model), outputs(cls(**FAST).fit(X, A)))  # and do not matter


def test_input_is_not_modified():
    design = pd.DataFrame({"perturbation": A, "batch": ["a", "b"] * 50})
    X_before, design_before = X.copy(), design.copy()
    model = SVAEPlus(environment=["batch"], **FAST).fit(X, design)
    outputs(model, design)
    model.adapt(X[:10], design[:10].assign(perturbation="new"))
    model.refine(X, design)
    np.testing.assert_array_equal(X, X_before)
    pd.testing.assert_frame_equal(design, design_before)


def test_input_that_cannot_be_written_to_is_fine():
    frozen = X.copy()
    frozen.flags.writeable = False
    assert same(outputs(VAE(**FAST).fit(frozen, A), X=frozen), outputs(VAE(**FAST).fit(X, A)))


def test_nothing_is_printed_or_written(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = SVAEPlus(**FAST).fit(X, A)
    outputs(quiet)
    quiet.adapt(X[:10], ["new"] * 10, sparse=True)
    assert capfd.readouterr() == ("", "")
    talking = SVAEPlus(**FAST).set_params(verbose=1).fit(X, A)
    out, err = capfd.readouterr()
    assert out == ""
    heading, last = err.splitlines()
    assert heading == "SVAEPlus: 100 cells, 20 genes, 4 perturbations, cpu"
    assert re.fullmatch(r"SVAEPlus: 2 epochs in \d+ s, ELBO -[\d.]+ nats per cell", last)
    assert same(outputs(quiet), outputs(talking))
    assert list(tmp_path.iterdir()) == []


# The tools of scikit-learn; pickle and joblib are in test_persistence


@pytest.mark.parametrize("cls", WITH_EFFECTS)
def test_a_clone_is_unfitted_and_learns_the_same(cls):
    model = cls(**FAST).set_params(environment=["batch"], sep=None)
    design = pd.DataFrame({"perturbation": A, "batch": ["a", "b"] * 50})
    model.fit(X, design)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        check_is_fitted(copy)
    assert same(outputs(copy.fit(X, design), design), outputs(model, design))


@pytest.mark.slow
def test_grid_search_in_processes_finds_what_it_finds_alone():
    folds = PerturbationKFold(2, random_state=0)
    settings = FAST | {"max_epochs": 5, "learning_rate": 0.1, "n_epochs_kl_warmup": 0}
    model = SVAEPlus(edges="learned", **settings)
    searches = [
        GridSearchCV(model, {"sparsity": [1, 300]}, cv=folds, n_jobs=n_jobs).fit(X, A)
        for n_jobs in (None, 2)
    ]
    alone, together = (search.cv_results_["mean_test_score"] for search in searches)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[0] != alone[1]
    assert searches[1].best_estimator_.sparsity == [1, 300][np.argmax(alone)]


def test_a_frozen_model_feeds_a_classifier():
    model = IVAE(**FAST).fit(X, A)
    steps = [("latents", FrozenEstimator(model)), ("label", LogisticRegression())]
    Z, pipeline = model.transform(X), Pipeline(steps).fit(X, A)
    np.testing.assert_array_equal(pipeline[:-1].transform(X), Z)
    np.testing.assert_array_equal(pipeline.predict(X), LogisticRegression().fit(Z, A).predict(Z))


@pytest.mark.parametrize("cls", WITH_EFFECTS)
def test_pandas_output_has_the_names_of_latents_and_the_index_of_cells(cls):
    frame = pd.DataFrame(X, index=[f"cell {i}" for i in range(100)]).add_prefix("gene ")
    model = cls(**FAST).fit(frame, A)
    Z = model.transform(frame)
    assert type(Z) is np.ndarray
    assert Z.dtype == np.float32
    latents = model.set_output(transform="pandas").transform(frame)
    assert latents.columns.tolist() == [f"{cls.__name__.lower()}{k}" for k in range(3)]
    assert latents.columns.tolist() == model.get_feature_names_out().tolist()
    assert latents.index.equals(frame.index)
    np.testing.assert_array_equal(latents, Z)


@pytest.mark.parametrize("routing", [True, False])
def test_weights_reach_the_score_through_a_pipeline(routing):
    weight = np.linspace(0, 2, 100)
    with config_context(enable_metadata_routing=routing):
        model = SVAEPlus(**FAST)
        if routing:
            model.set_score_request(sample_weight=True)
        pipeline = Pipeline([("genes", HighlyVariableGenes(10)), ("model", model)]).fit(X, A)
        score = pipeline.score(X, A, sample_weight=weight)
    cells = pipeline[-1].score_cells(pipeline[0].transform(X), A)
    assert score == pytest.approx(np.average(cells, weights=weight), rel=1e-12)
    assert score != pytest.approx(cells.mean(), rel=1e-6)


def test_the_score_is_the_mean_over_cells():
    model = SVAEPlus(**FAST).fit(X, A)
    cells = model.score_cells(X, A)
    assert model.score(X, A) == cells.mean()
    only = (A == "P2").astype(int)
    assert model.score(X, A, only) == pytest.approx(cells[A == "P2"].mean(), rel=1e-12)
    for weight in ([1.0] * 99, np.ones((100, 2))):
        with pytest.raises(ValueError, match="[sS]ample.?weight"):
            model.score(X, A, weight)


HOT = np.column_stack([A == f"P{j}" for j in range(4)]).astype(float)
FORMS = {
    "list": A.tolist(),
    "array": A,
    "series": pd.Series(A, index=np.arange(100)[::-1]),
    "categorical": pd.Categorical(A),
    "categories": pd.Series(A, dtype="category"),
    "dosages": HOT,
    "named dosages": pd.DataFrame(HOT, columns=["P0", "P1", "P2", "P3"]),
    "frame": pd.DataFrame({"perturbation": A, "batch": "one"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_cross_validation_takes_every_form_of_design(form):
    folds = PerturbationKFold(2, random_state=0)
    expected = cross_validate(IVAE(**FAST), X, A, cv=folds, error_score="raise")["test_score"]
    scores = cross_validate(IVAE(**FAST), X, FORMS[form], cv=folds, error_score="raise")
    np.testing.assert_array_equal(scores["test_score"], expected)


def test_a_search_takes_anndata():
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(X, obs=pd.DataFrame({"perturbation": A}, index=map(str, range(100))))
    settings = {"param_grid": {"sparsity": [2]}, "cv": PerturbationKFold(2, random_state=0)}
    search = GridSearchCV(SVAE(edges="learned", **FAST), error_score="raise", **settings).fit(
        data, data.obs
    )
    expected = GridSearchCV(SVAE(edges="learned", **FAST), error_score="raise", **settings).fit(
        X, A
    )
    assert search.best_score_ == expected.best_score_
    np.testing.assert_array_equal(search.transform(data), expected.transform(X))


# History, early stopping, callbacks


@pytest.mark.parametrize("cls", WITH_EFFECTS)
def test_history_has_a_row_per_epoch_and_a_column_per_term(cls):
    terms = {"reconstruction", "kl_z"}
    terms |= {"kl_embedding"} if "embedding_scale" in cls().get_params() else set()
    held_out = {f"validation_{term}" for term in terms} | {"validation_elbo"}
    terms |= {"response", "mmd"} if "mmd_weight" in cls().get_params() else set()
    phases = {"dense", "sparse"} if "init" in cls().get_params() else {"fit"}
    model = cls(**FAST).set_params(max_epochs=3).fit(X, A)
    assert set(model.history_) == {"phase"} | terms | held_out
    assert len(model.history_) == model.n_iter_ == 3
    assert set(model.history_.pop("phase")) == phases
    assert np.isfinite(model.history_).all(axis=None)
    unheld = cls(**FAST).set_params(validation_fraction=0).fit(X, A)
    assert set(unheld.history_) == {"phase"} | terms


def test_patience_stops_and_the_best_epoch_is_kept():
    settings = FAST | {"max_epochs": 60, "learning_rate": 0.1, "n_particles": 1}
    settings["n_epochs_kl_warmup"] = 0
    model = IVAE(patience=3, schedule="constant", validation_fraction=0.3, **settings).fit(X, A)
    best = model.history_["validation_elbo"].argmax()
    assert model.n_iter_ == len(model.history_) == best + 1 + 3
    stopped = IVAE(schedule="constant", validation_fraction=0.3, **settings)
    stopped.set_params(max_epochs=int(best) + 1).fit(X, A)
    np.testing.assert_array_equal(model.transform(X), stopped.transform(X))


def same_score(score):
    """Up to the last digit: edges that are judged after the last epoch, and found to be none,
    leave the density of a latent as it is, but not the order in which it is summed up.
    """
    return pytest.approx(score, rel=1e-12, abs=0)


class Listener:
    """Counts epochs, asks for a stop after some, and scores the model of each."""

    def __init__(self, stop_after=None):
        self.stop_after, self.scores, self.calls = stop_after, [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
        return len(self.scores) == self.stop_after


@pytest.mark.parametrize("cls", ENDED_BY_AN_EPOCH)
def test_a_callback_sees_every_epoch_and_changes_nothing(cls):
    pytest.importorskip("sklearn.callback")
    listener = Listener()
    model = cls(**FAST).set_params(max_epochs=3, validation_fraction=0)
    silent = outputs(model.fit(X, A))
    model.set_callbacks(listener).fit(X, A)
    epochs = ["begin epoch", "end epoch"] * 3
    assert listener.calls == ["setup", "begin fit", *epochs, "end fit", "teardown"]
    assert same(outputs(model), silent)
    assert listener.scores[-1] == same_score(model.score(X, A))
    assert len(set(listener.scores)) == 3


def test_a_callback_can_stop_training():
    pytest.importorskip("sklearn.callback")
    listener = Listener(stop_after=2)
    model = SVAEPlus(**FAST).set_params(max_epochs=9).set_callbacks(listener).fit(X, A)
    assert model.n_iter_ == len(model.history_) == len(listener.scores) == 2
    assert listener.calls[-2:] == ["end fit", "teardown"]


def test_a_callback_can_listen_to_a_refit_on_other_data():
    pytest.importorskip("sklearn.callback")
    listener = Listener()
    model = SVAEPlus(**FAST).fit(X, A).set_callbacks(listener).fit(X[:60, :9], A[:60])
    assert len(listener.scores) == 2
    assert model.transform(X[:, :9]).shape == (100, 3)


def test_callbacks_are_torn_down_when_fitting_fails():
    pytest.importorskip("sklearn.callback")
    listener = Listener()
    model = VAE(**FAST).set_params(learning_rate=1e38, batch_size=16).set_callbacks(listener)
    with pytest.raises(ValueError, match="epoch 0"):
        model.fit(X, A)
    assert listener.calls[-1] == "teardown"
    model.set_params(learning_rate=1e-3).fit(X, A)
    assert len(listener.scores) == 2


def test_scikit_learns_own_monitor_logs_each_epoch():
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring={"elbo": IVAE.score})
    model = IVAE(**FAST).set_params(validation_fraction=0).set_callbacks(monitor).fit(X, A)
    log = monitor.get_logs().data_as_pandas
    log = log[log["task_name"] == "epoch"]
    assert len(log) == 2
    assert log["elbo"].iloc[-1] == same_score(model.score(X, A))


# Several trainings, of which the best is kept


@pytest.mark.parametrize("cls", ENDED_BY_AN_EPOCH)
def test_of_several_trainings_the_best_is_kept(cls):
    pytest.importorskip("sklearn.callback")
    listener, settings = Listener(), FAST | {"max_epochs": 3, "validation_fraction": 0}
    model = cls(n_init=3, **settings).set_callbacks(listener).fit(X, A)
    ends = listener.scores[2::3]  # of each training, as scored after its last epoch
    assert len(ends) == len(set(ends)) == 3
    assert model.score(X, A) == same_score(max(ends))
    assert len(model.history_) == model.n_iter_ == 3
    best = [cls(n_init=n, **settings).fit(X, A).score(X, A) for n in (1, 2)]
    assert best == same_score([max(ends[:n]) for n in (1, 2)])


class Watched(VAE):
    """Keeps each module and the cells it is trained on, and breaks the weights of some."""

    def _make_module(self, cells):
        module = super()._make_module(cells)
        self.modules_.append(module)
        self.cells_.append(cells)
        if len(self.modules_) in self.broken_:
            torch.nn.init.constant_(next(module.parameters()), torch.nan)
        return module


def watched(broken=(), **settings):
    model = Watched(**FAST | settings)
    model.modules_, model.cells_, model.broken_ = [], [], broken
    return model


def test_trainings_differ_in_their_start_and_not_in_the_cells_held_out():
    model = watched(n_init=3, validation_fraction=0.2).fit(X, A)
    assert all(torch.equal(cells.x.index, model.cells_[0].x.index) for cells in model.cells_)
    assert model.cells_[0].n_cells == 80
    alone = watched(validation_fraction=0.2).fit(X, A).module_
    x = torch.from_numpy(X)
    Z = [module.encode(x) for module in (alone, *model.modules_)]
    assert torch.equal(Z[0], Z[1])
    assert not torch.equal(Z[1], Z[2])
    assert not torch.equal(Z[2], Z[3])


def test_several_trainings_repeat_and_leave_the_generators_alone():
    before = generators()
    first, second = (outputs(SVAEPlus(n_init=2, **FAST).fit(X, A)) for _ in range(2))
    assert same(first, second)
    assert generators() == before


@pytest.mark.parametrize("broken", [[1], [2], [1, 3]])
def test_a_training_that_breaks_down_does_not_lose_the_others(broken):
    model = watched(broken, n_init=3)
    with pytest.warns(TrainingWarning, match=f"restart {broken} of 3 .* became nan in epoch"):
        model.fit(X, A)
    assert model.module_ in [model.modules_[i - 1] for i in {1, 2, 3} - set(broken)]
    assert np.isfinite(model.score(X, A))


@pytest.mark.filterwarnings("ignore::skpert.exceptions.TrainingWarning")
def test_it_is_an_error_if_every_training_breaks_down():
    with pytest.raises(ValueError, match="became nan in epoch 0"):
        watched((1, 2), n_init=2).fit(X, A)


class Interrupter(Listener):
    """Presses Ctrl-C at the end of an epoch."""

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        super().on_fit_task_end(estimator, context, X=X, y=y, fitted_estimator=fitted_estimator)
        if context.task_name == "epoch" and len(self.scores) == self.stop_after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("epoch", [2, 4, 5])
def test_ctrl_c_ends_all_trainings_and_keeps_the_best(epoch):
    pytest.importorskip("sklearn.callback")
    interrupter = Interrupter(stop_after=epoch)
    model = watched(n_init=4, max_epochs=3).set_callbacks(interrupter)
    with pytest.warns(TrainingWarning, match="interrupted"):
        model.fit(X, A)
    assert len(interrupter.scores) == epoch
    assert len(model.modules_) == (epoch + 2) // 3
    assert model.module_ in model.modules_


def test_ctrl_c_in_the_first_epoch_of_a_later_training_keeps_the_earlier():
    class Stubborn(Watched):
        def _optimise(self, *arguments, **settings):
            if len(self.modules_) == 2:
                raise KeyboardInterrupt
            return super()._optimise(*arguments, **settings)

    model = Stubborn(**FAST | {"n_init": 3})
    model.modules_, model.cells_, model.broken_ = [], [], ()
    with pytest.warns(TrainingWarning, match="restart 2 of 3 was interrupted"):
        model.fit(X, A)
    assert len(model.modules_) == 2
    assert model.module_ is model.modules_[0]


def test_a_callback_that_stops_one_training_stops_all():
    pytest.importorskip("sklearn.callback")
    listener = Listener(stop_after=2)
    model = watched(n_init=3, max_epochs=9).set_callbacks(listener).fit(X, A)
    assert len(model.modules_) == 1
    assert model.n_iter_ == len(listener.scores) == 2
    assert listener.calls[-2:] == ["end fit", "teardown"]


def test_patience_ends_a_training_and_the_next_begins(capfd):
    settings = FAST | {"max_epochs": 40, "learning_rate": 0.1, "n_particles": 1, "verbose": 1}
    model = watched(n_init=2, patience=2, schedule="constant", **settings).fit(X, A)
    assert len(model.modules_) == 2
    n_done = int(re.search(r"(\d+) epochs", capfd.readouterr().err)[1])
    assert len(model.history_) < n_done < 80
