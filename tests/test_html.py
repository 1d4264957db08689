"""What a notebook shows of estimators."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_html_repr

from skpert import VAE, SVAEPlus, load, save
from skpert._html import found_html
from tests.test_base import ESTIMATORS, FAST, A, X

pytestmark = [
    pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning"),
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
]
SETTINGS = FAST | {"n_particles": 2}


class Rows(HTMLParser):
    """Pairs of a name and a text."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.within = {"dt": [], "dd": []}, None
        self.feed(html)
        self.pairs = list(zip(self.texts["dt"], self.texts["dd"], strict=True))

    def handle_starttag(self, tag, attributes):
        self.within = tag
        if tag in self.texts:
            self.texts[tag].append("")

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within in self.texts:
            self.texts[self.within][-1] += data


def rows(estimator):
    return Rows(found_html(estimator)).pairs


@pytest.fixture(scope="module")
def fitted():
    return SVAEPlus(**SETTINGS).fit(X, A)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_every_model_shows_what_it_found(cls):
    model = cls(**SETTINGS).fit(X, A)
    assert model._repr_html_().count('<div class="skpert-found">') == 1
    assert found_html(model) in model._repr_mimebundle_()["text/html"]
    shown = dict(rows(model))
    of = "5 columns of covariates" if hasattr(model, "covariates_") else "4 perturbations"
    assert shown["data"] == f"{model._n_training_cells} cells to train on, 20 genes, {of}"
    assert shown["latents"] == f"{model.n_latent_} in use (n_latent=3)"
    assert re.match(
        r"2 epochs; best ELBO of held-out cells -[\d.]+ nats per cell", shown["training"]
    )
    assert ("targets" in shown) == hasattr(model, "mask_probability_")


def test_numbers_are_those_of_the_estimator(fitted):
    shown, edges = dict(rows(fitted)), fitted.targets(fdr=0.05) != 0
    assert shown["targets"].startswith(f"{edges.to_numpy().sum()} target")
    history = fitted.history_
    elbo = history["validation_elbo"][history["phase"] == history["phase"].iloc[-1]].max()
    assert f" {elbo:,.1f} nats" in shown["training"]


def test_without_held_out_cells_there_is_no_elbo():
    model = VAE(**SETTINGS, validation_fraction=0).fit(X, A)
    assert dict(rows(model))["training"] == "2 epochs"
    assert dict(rows(model))["data"] == "100 cells to train on, 20 genes, 4 perturbations"


def test_an_unfitted_estimator_looks_as_before(fitted):
    plain = re.sub(r"-\d+", "", estimator_html_repr(clone(fitted)))
    for html in (clone(fitted)._repr_html_(), clone(fitted)._repr_mimebundle_()["text/html"]):
        assert re.sub(r"-\d+", "", html) == plain


def test_the_diagram_of_scikit_learn_stays(fitted):
    shown = re.sub(r"-\d+", "", fitted._repr_html_())
    assert shown.startswith(re.sub(r"-\d+", "", estimator_html_repr(fitted)))


def test_text_stays_text(fitted):
    with config_context(display="text"):
        assert not hasattr(fitted, "_repr_html_")
        assert set(fitted._repr_mimebundle_(include=None)) == {"text/plain"}


def test_a_pipeline_shows_its_own_diagram(fitted):
    assert "skpert-found" not in make_pipeline(FunctionTransformer(), fitted)._repr_html_()


def test_few_cells_and_confounding_are_warned_of():
    labels = np.array(["control"] * 60 + ["<b>&"] * 20 + ["P1"] * 20)
    design = pd.DataFrame({"perturbation": labels, "batch": np.where(labels == "P1", "b", "a")})
    model = SVAEPlus(**SETTINGS).fit(X, design)
    told = [text for name, text in rows(model) if name == "warning"]
    assert told[0].startswith("'P1' cannot be separated from 'batch'")
    assert told[1].startswith("fewer than 50 cells of '<b>&', 'P1'")
    assert "<b>" not in found_html(model)


def test_nothing_is_warned_of_without_a_reason():
    labels = np.repeat(["control", "P0"], 50)
    model = VAE(**SETTINGS).fit(X, labels)
    assert [name for name, _ in rows(model)] == ["data", "training", "latents"]


def test_latents_that_were_not_allowed_are_warned_of(fitted):
    model = clone(fitted).fit(X, A)
    model.module_.n_found = 5
    assert any(text.startswith("cells vary along 2 more latents") for _, text in rows(model)) == (
        model.n_latent_ == 3
    )


def test_estimators_that_were_made_otherwise(fitted, tmp_path):
    adapted = fitted.adapt(X[:60], ["new"] * 60)
    shown = dict(rows(adapted))
    assert shown["data"].endswith("5 perturbations")
    assert "'new'" not in str(rows(adapted))
    save(fitted, tmp_path / "model.skpert")
    assert rows(load(tmp_path / "model.skpert")) == rows(fitted)
    assert rows(fitted.refine(X, A))[0] == rows(fitted)[0]
