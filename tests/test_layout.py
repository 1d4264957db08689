"""The page "How the code is laid out" says what the code and import-linter's contract say."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest

from doc import graphs, layers

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


def test_picture_is_up_to_date():
    assert layers.picture() == layers.PICTURE.read_text(), "run: python doc/layers.py"


def test_page_shows_the_picture():
    assert f"   :file: _static/{layers.PICTURE.name}" in PAGE


def test_page_names_files_that_exist():
    named = files(r"([\w/]+\.py)\b") | files(r"``(\w+)/``")
    assert len(named) > 15
    places = PACKAGE, ROOT
    assert [name for name in named if not any((p / name).exists() for p in places)] == []


def test_page_shows_the_calls_from_fit_to_the_loss():
    """``test_structure`` counts the frames."""
    shown = re.findall(r"^ {3,}(\w+)\(.*?\) +([\w/*]+\.py) ", PAGE, re.MULTILINE)
    assert shown == [
        ("fit", "base.py"),
        ("optimise", "_phases.py"),
        ("train", "_training.py"),
        ("step", "_training.py"),
        ("loss_terms", "models/*.py"),
    ]


@pytest.mark.parametrize(("name", "drawn"), graphs.pictures().items())
def test_graphs_are_up_to_date_and_shown(name, drawn):
    path = layers.PICTURE.parent / name
    assert path.read_text(encoding="utf-8") == drawn, "run: python doc/graphs.py"
    pages = (ROOT / "doc").rglob("*.rst")
    assert any(f":file: _static/{name}" in p.read_text().replace("../", "") for p in pages)
