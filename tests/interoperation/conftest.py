"""Code of the page "With other packages": tests run that of a section and look at the result."""

import re
import warnings
from contextlib import chdir
from pathlib import Path

import pytest

from skpert.exceptions import DataWarning, TrainingWarning

PAGE = Path(__file__).parents[2] / "doc" / "interoperation.rst"
MODULES = {
    "cell-eval2": "cell_eval2",
    "scikit-learn": "sklearn",
}  # others have the names of theirs


def sections():
    """Code of each section, by its title."""
    parts = re.split(r"^(\S.*)\n[=-]+\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    code = {}
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        blocks = re.findall(r"\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", text)
        code[title] = "\n".join(re.sub("^ {4}", "", block, flags=re.M) for block in blocks)
    return code


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    """Function that runs a section, after the first one, and returns all names of both."""
    code, begun = sections(), {}

    def run(title):
        with warnings.catch_warnings(), chdir(tmp_path_factory.mktemp("page")):
            warnings.simplefilter("ignore")  # other packages warn of each other
            for category in (DataWarning, TrainingWarning):
                warnings.simplefilter("error", category)
            for module in ("anndata", "scanpy", MODULES.get(title, title)):
                pytest.importorskip(module)
            if not begun:
                exec(compile(code["With other packages"], PAGE.name, "exec"), begun)
            found = begun | {"adata": begun["adata"].copy()}
            exec(compile(code[title], PAGE.name, "exec"), found)
            found["folder"] = Path.cwd()
        return found

    return run
