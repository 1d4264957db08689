"""The page "How the code is laid out" says what the code and import-linter's contract say."""

import re
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import skpert
from doc import layers
from skpert.datasets import make_sparse_shift
from skpert.models.svae import ShiftModule

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skpert"
PAGE = (ROOT / "doc" / "layout.rst").read_text()


def contract():
    """Modules of the layers, top first."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return re.findall(r"\w+", config["importlinter:contract:layers"]["layers"])


def files(pattern):
    """Names of modules and packages that the page writes with ``.py`` or ``/``."""
    return set(re.findall(pattern, PAGE))


def test_picture_has_the_layers_of_the_contract_in_order():
    drawn = re.findall(r'class="name"[^>]*>(\w+)<', layers.PICTURE.read_text())
    assert drawn == contract()


def test_every_module_stands_in_a_layer():
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(contract())


def test_picture_is_up_to_date():
    assert layers.picture() == layers.PICTURE.read_text(), "run: python doc/layers.py"


def test_page_shows_the_picture():
    assert f"   :file: _static/{layers.PICTURE.name}" in PAGE


def test_page_names_files_that_exist():
    named = files(r"([\w/]+\.py)\b") | files(r"``(\w+)/``")
    assert len(named) > 15
    places = PACKAGE, ROOT
    assert [name for name in named if not any((p / name).exists() for p in places)] == []


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
def test_calls_from_fit_to_the_loss_are_those_of_the_page(monkeypatch):
    """Decorators of ``fit`` aside, which stand above it."""
    calls, loss_terms = [], ShiftModule.loss_terms

    def recorded(*arguments):
        frame = sys._getframe(1)
        names = ["loss_terms"]
        while names[-1] != "fit":
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        calls.append(names[::-1])
        return loss_terms(*arguments)

    monkeypatch.setattr(ShiftModule, "loss_terms", recorded)
    screen = make_sparse_shift(3, n_cells_per_perturbation=10, n_latent=2, random_state=0)
    skpert.VAE(2, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    shown = re.findall(r"^ {3,}(\w+)\(.*?\) +[\w/*]+\.py ", PAGE, re.MULTILINE)
    assert calls[0] == shown == ["fit", "_optimise", "train", "loss_terms"]
