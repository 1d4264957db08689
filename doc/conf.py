"""How the pages are built; the API pages are written here from the lists ``__all__``."""

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from shutil import rmtree

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

import skpert

HERE = Path(__file__).parent
PYPROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
EXAMPLES = HERE.parent / "examples"

project = "skpert"
author = copyright = "the skpert developers"
version = release = skpert.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "myst_nb",  # of the tutorials on real screens, CHANGELOG.md and CONTRIBUTING.md
    "numpydoc",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/*.ipynb"]  # of a page there is an .rst
source_suffix = {".rst": "restructuredtext"}
default_role = "literal"
suppress_warnings = []
nb_execution_mode = "off"  # `make tutorials` runs them; their outputs are kept
nb_merge_streams = True

autodoc_typehints = "none"  # numpydoc states the types
autosummary_generate = True
numpydoc_show_class_members = False  # the template lists them
numpydoc_validation_checks = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"])

html_theme = "pydata_sphinx_theme"
html_title = "skpert"
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "show_nav_level": 2,
}
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["skpert.css"]
html_sidebars = {"index": [], "install": [], "results": []}

if any(EXAMPLES.glob("plot_*.py")):
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": str(EXAMPLES),
        "gallery_dirs": "auto_examples",
        "filename_pattern": "plot_",
        "download_all_examples": False,
        "remove_config_comments": True,
        "abort_on_example_error": True,
    }
else:
    suppress_warnings.append("toc.not_readable")  # the gallery, which index.rst names


def table(module, heading, names):
    """Rst of one autosummary table, or nothing where there is no name."""
    if not names:
        return ""
    lines = [heading, "-" * len(heading), "", f".. currentmodule:: {module}", ""]
    lines += [".. autosummary::", "   :toctree: generated", "   :nosignatures:", ""]
    lines += [f"   {name}" for name in names]
    return "\n".join(lines) + "\n\n"


def write_api():
    """Write one page per public module that has an ``__all__``; each name appears once.

    A name stands where it is first met: in ``skpert`` itself, then in its modules by alphabet.
    """
    folder = HERE / "api"
    rmtree(folder, ignore_errors=True)  # names that are gone must not stay
    folder.mkdir()
    modules = ["skpert"]
    found = (module.name for module in walk_packages(skpert.__path__, "skpert."))
    modules += [name for name in found if "._" not in name]
    seen = set()
    for name in modules:
        module = import_module(name)
        members = {key: getattr(module, key) for key in getattr(module, "__all__", ())}
        new = {k: v for k, v in members.items() if callable(v) and id(v) not in seen}
        seen |= {id(value) for value in new.values()}
        if new:
            classes = sorted(key for key, value in new.items() if inspect.isclass(value))
            others = sorted(new.keys() - set(classes))
            summary = (module.__doc__ or "").strip().split("\n\n")[0]
            page = f"{name}\n{'=' * len(name)}\n\n{summary}\n\n"
            page += table(name, "Classes", classes) + table(name, "Functions", others)
            (folder / f"{name}.rst").write_text(page)


write_api()


def skip_foreign(app, kind, name, member, skip, options):
    """Leave out what a class inherits from scikit-learn, torch or Python."""
    function = getattr(member, "fget", member)
    return skip or not (getattr(function, "__module__", None) or "").startswith("skpert")


def mathml(latex):
    """MathML of a formula, which browsers draw by themselves: no script, no network."""
    latex = re.sub(r"\\([td]?frac)(\d)(\w)", r"\\\1{\2}{\3}", latex)  # docutils wants the braces
    if r"\\" in latex:
        latex = rf"\begin{{aligned}}{latex}\end{{aligned}}"
    formula = tex2mathml(latex)
    formula = re.sub(r"<mo>&ApplyFunction;</mo>\s*(?!<mo)", '<mspace width="0.17em"/>', formula)
    formula = formula.replace("<mo>∼</mo>", '<mo form="infix">∼</mo>')  # spaced in a cell, too
    formula = re.sub(r"<mo>([{}])</mo>", r'<mo stretchy="false">\1</mo>', formula)
    return formula.replace('<mo accent="true">_</mo>', "<mo></mo>")  # the style draws the bar


def visit_math(translator, node):
    """Write a formula within a line."""
    translator.body.append(mathml(node.astext()))
    raise SkipNode


def visit_math_block(translator, node):
    """Write a formula of its own; a wide one scrolls."""
    for part in filter(str.strip, node.astext().split("\n\n")):
        formula = mathml(part).replace("<math ", '<math display="block" ', 1)
        translator.body.append(f'<div class="formula">{formula}</div>')
    raise SkipNode


def setup(app):
    """Connect the above to autodoc and to the writer of HTML."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-skip-member", skip_foreign)
