"""What the README shows runs as printed, and is short."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_it_fits_a_screen_or_two():
    assert len(README.splitlines()) <= 90
    assert README.index("pip install") < README.index("## From counts to targets")


def test_files_that_it_names_are_there():
    root = Path(__file__).parents[1]
    for name in re.findall(r"`(doc/[\w/.]+|CITATION.cff)`|\]\((doc/[\w/.]+)\)", README):
        assert (root / (name[0] or name[1])).exists(), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
def test_the_first_lines_run_and_print_what_stands_there(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    assert (tmp_path / "screen.html").stat().st_size > 1e4
    assert found["response"].shape == (2, 60)
    assert found["Z"].shape == (len(found["X"]), 5)
    printed = capsys.readouterr().out.splitlines()
    shown = next(block for block in blocks("text") if "svaeplus0" in block).splitlines()
    assert [line.split()[:1] for line in printed] == [line.split()[:1] for line in shown]
