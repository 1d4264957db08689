"""Kept notebooks of the tutorials on real screens are those of their sources."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "doc" / "tutorials" / "screens"
SOURCES = sorted(FOLDER.glob("*.py"))
MOST_PICTURES = 300_000  # bytes of a page


def cells_of(source):
    """Kind and text of each cell of a file in percent format."""
    text = re.sub(r"\A# ---\n.*?# ---\n", "", source.read_text(encoding="utf-8"), flags=re.DOTALL)
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in head:
            yield "markdown", re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
        else:
            yield "code", body.strip()


def notebook_of(source):
    return json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))


def outputs_of(notebook):
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def test_each_notebook_has_a_source():
    assert {path.stem for path in SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")}
    assert len(SOURCES) >= 6


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_has_the_cells_of_its_source(source):
    kept = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook_of(source)["cells"]]
    assert kept == list(cells_of(source))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_outputs_are_whole_light_and_dated(source):
    outputs = outputs_of(notebook_of(source))
    assert all(output["output_type"] != "error" for output in outputs)
    pictures = [output["data"].get("image/png", "") for output in outputs if "data" in output]
    assert sum(map(len, pictures)) * 3 / 4 < MOST_PICTURES
    last = "".join(outputs[-1]["text"])
    assert re.search(r"\d+ s on 20\d\d-\d\d-\d\d, with Python .* skpert .* torch ", last)
    of_who_ran_it = r"site-packages|/home/|/Users/|/tmp/"
    assert not re.search(of_who_ran_it, json.dumps(outputs))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_page_is_listed_and_can_be_downloaded(source):
    index = (FOLDER.parent / "index.rst").read_text(encoding="utf-8")
    assert f"   screens/{source.stem}\n" in index
    assert f"<screens/{source.stem}.ipynb>" in index
