"""What is said in several places about the package is the same in all of them."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import skpert

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = (ROOT / "recipe" / "meta.yaml").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
MODULES = [skpert, *filter(inspect.ismodule, (getattr(skpert, name) for name in skpert.__all__))]
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in MODULES
    for name in getattr(module, "__all__", ())
    if callable(getattr(module, name))
}
GUIDE = [
    path
    for folder in ("doc", "doc/models", "doc/tutorials", "examples")
    for path in (ROOT / folder).iterdir()
    if path.suffix in {".rst", ".py"} and path.name not in {"conf.py", "layers.py", "graphs.py"}
]


def test_versions_agree():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]
    packed = re.search(r'set version = "(.*)"', RECIPE)[1]
    assert cited == packed == skpert.__version__
    assert f"## [{skpert.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_recipe_has_the_dependencies_of_the_package():
    needed = {re.sub(r"^torch\b", "pytorch", name) for name in PROJECT["dependencies"]}
    run = RECIPE.partition("  run:\n")[2].partition("\ntest:")[0]
    listed = {line.strip("- ").replace(" ", "") for line in run.splitlines() if line.strip()}
    assert listed == needed | {f"python{PROJECT['requires-python']}"}


def test_the_workflow_runs_what_continuous_integration_runs():
    assert re.findall(r"- run: (.*)", WORKFLOW) == [".ci/run"]


def test_classifiers_name_the_versions_that_the_workflow_tries():
    tried = re.findall(r'"(3\.\d+)"', re.search(r"python: (\[.*\])", WORKFLOW)[1])
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named == tried
    assert all(f"{version}" in (ROOT / "doc" / "install.rst").read_text() for version in tried)


def test_types_are_shipped():
    assert (ROOT / "skpert" / "py.typed").is_file()
    assert "py.typed" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_typed(name):
    """Results, or at least numbers and names among parameters, have types."""
    found = PUBLIC[name]
    if inspect.isclass(found):
        if found.__module__ == "skpert.exceptions" or "__init__" not in vars(found):
            return  # its base has them
        found = found.__init__
    assert inspect.unwrap(found).__annotations__


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names_are_in_the_user_guide_or_an_example(name):
    word = re.compile(rf"\b{name.rpartition('.')[2]}\b")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in GUIDE)


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE"])
def test_pages_that_others_look_for_are_there(page):
    assert (ROOT / page).stat().st_size > 500
