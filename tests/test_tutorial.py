"""The model of the tutorial "Add a model", from the very file that the page shows."""

import ast
import inspect
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import skpert
from doc.tutorials import additive_vae
from doc.tutorials.additive_vae import AdditiveModule, AdditiveVAE
from skpert._data import Cells
from skpert.datasets import make_additive_shift
from skpert.nn import GaussianEncoder, Table
from skpert.objectives import iwelbo
from skpert.persistence import load, save

MOST_LINES = 120  # of code that a model may take


def lines_of_code(path):
    """Number of lines that hold neither nothing, nor a comment, nor a docstring."""
    source = path.read_text()
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(map(str.strip, source.splitlines()), 1)
    return sum(i not in docstrings and not line.startswith("#") for i, line in lines if line)


@pytest.fixture(scope="module")
def screen():
    return make_additive_shift(
        8,
        n_cells_per_perturbation=150,
        n_combinations=8,
        n_cells_per_combination=100,
        n_control_cells=300,
        n_latent=4,
        n_genes=60,
        random_state=0,
    )


@pytest.fixture(scope="module")
def train(screen):
    """Cells without the combination P1+P4, and without P7, alone or in any combination."""
    assert "P1+P4" in screen.combinations
    return (screen.A != "P1+P4") & ["P7" not in label for label in screen.A]


@pytest.fixture(scope="module")
def model(screen, train):
    model = AdditiveVAE(n_latent=4, max_epochs=40, random_state=0)
    return model.fit(screen.X[train], screen.A[train])


def copy_of(model):
    """The same fitted model, of which parameters can be changed."""
    return pickle.loads(pickle.dumps(model))


def correlation_of_effects(model, screen, label):
    """Of predicted with true changes of log expression, over genes."""
    predicted, control = np.log(model.predict_intervention([label, "control"]))
    true = np.log(screen.expected(label)[0] / screen.control_expression)
    return np.corrcoef(predicted - control, true)[0, 1]


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([AdditiveVAE(n_latent=2, max_epochs=3, random_state=0)])
def test_estimator(estimator, check):
    check(estimator)


def test_a_model_fits_into_few_lines():
    assert lines_of_code(Path(additive_vae.__file__)) <= MOST_LINES


def test_constructor_has_all_shared_parameters():
    own, shared = (
        {name: p.default for name, p in inspect.signature(cls).parameters.items()}
        for cls in (AdditiveVAE, skpert.VAE)
    )
    assert own == shared | {"n_latent": 10}  # the model that the page adds has a given number


class LinearDecoder(nn.Module):
    """Decoder under which the evidence has a closed form."""

    def __init__(self, n_latent, n_genes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_genes, n_latent))

    def features(self, x):
        return x

    def forward(self, z, library, environment):
        return Independent(Normal(z @ self.weight.T, 1.0), 1)


def test_bounds_stay_below_the_exact_evidence_and_rise_towards_it():
    torch.manual_seed(0)
    encoder = GaussianEncoder(4, 2, n_hidden=8, n_layers=1, dropout=0.0)
    module = AdditiveModule(encoder, LinearDecoder(2, 4), Table(torch.randn(3, 2))).eval()
    cells = Cells(
        x=torch.randn(2000, 4),
        library=torch.ones(2000, 1),
        part=torch.randint(3, (2000, 2)),  # combinations of two
        dosage=torch.rand(2000, 2),
        environment=torch.zeros(2000, 0),
    )
    W = module.decoder.weight
    p_x = MultivariateNormal(cells.shift(module.embedding()) @ W.T, W @ W.T + torch.eye(4))
    with torch.no_grad():
        evidence = p_x.log_prob(cells.x).mean()
        elbo = -sum(module.loss_terms(cells).values())
        few, many = (iwelbo(module.log_weights(cells, k)).mean() for k in (10, 1000))
    assert elbo < few < many < evidence + 0.01
    assert evidence - many < 0.1 * (evidence - elbo)


def test_effects_are_recovered_up_to_a_rotation(screen, model):
    """A rotation of the latent space leaves inner products of effects as they are."""
    found, true = (E @ E.T for E in (model.embedding_, screen.effect[:-1]))
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.95


def test_unseen_combination_is_predicted(screen, model):
    assert correlation_of_effects(model, screen, "P1+P4") > 0.95


def test_score_is_best_under_what_was_done(screen, model):
    X, A = screen.X[screen.A == "P1+P4"], ["P1+P4", "P1", "control"]
    both, part, nothing = (model.score(X, [label] * len(X)) for label in A)
    assert both > part > nothing


def test_sampled_cells_have_the_predicted_mean(model):
    cells = model.sample_intervention("P1+P4", 4000, library_size=1e4, random_state=0)[0]
    predicted = model.predict_intervention("P1+P4", library_size=1e4)[0]
    np.testing.assert_allclose(cells.mean(0), predicted, rtol=0.3, atol=1)


def test_adapt_finds_the_exact_optimum_and_keeps_the_rest(screen, model):
    """With the encoder frozen the bound is quadratic in a shift: the mean state is its optimum."""
    X, A = screen.X[screen.A == "P7"], screen.A[screen.A == "P7"]
    longer = copy_of(model).set_params(max_epochs="auto")
    adapted = longer.adapt(X, A)
    np.testing.assert_allclose(adapted.embedding_[-1], model.transform(X).mean(0), atol=0.05)
    np.testing.assert_array_equal(adapted.embedding_[:-1], model.embedding_)
    np.testing.assert_array_equal(adapted.transform(X), model.transform(X))


def test_refine_trains_all_parameters_on(screen, train, model):
    refined = copy_of(model).set_params(max_epochs=2)
    refined = refined.refine(screen.X[train], screen.A[train])
    assert refined.history_["phase"].tolist() == ["refine"] * 2
    assert (refined.embedding_ != model.embedding_).all()


def test_is_pickled_and_cloned(screen, model, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (copy_of(model), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copied.transform(screen.X), model.transform(screen.X))
    assert clone(model).get_params() == model.get_params()


def test_is_saved_once_skpert_imports_it(screen, model, tmp_path, monkeypatch):
    path = tmp_path / "model.skpert"
    with pytest.raises(ValueError, match="pickle it"):
        save(model, path)
    monkeypatch.setattr(skpert, "AdditiveVAE", AdditiveVAE, raising=False)  # the line of import
    monkeypatch.setattr(skpert, "__all__", [*skpert.__all__, "AdditiveVAE"])
    save(model, path)
    loaded = load(path)
    predicted = (m.predict_intervention(["P1+P4", "P2"]) for m in (model, loaded))
    np.testing.assert_array_equal(*predicted)
