"""How the pages are built; the API pages are written here from the lists ``__all__``."""

import inspect
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from shutil import rmtree

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
    "sphinx.ext.mathjax",
    "numpydoc",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "literal"
suppress_warnings = []

autodoc_typehints = "none"  # numpydoc states the types
autosummary_generate = True
numpydoc_show_class_members = False  # the template lists them
numpydoc_validation_checks = set(PYPROJECT["tool"]["numpydoc_validation"]["checks"])

html_theme = "pydata_sphinx_theme"
html_title = "skpert"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_static_path = ["_static"]
html_css_files = ["skpert.css"]
html_sidebars = {
    "command": [],
    "getting_started": [],
    "index": [],
    "scaling": [],
    "what_goes_in": [],
}

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


def setup(app):
    """Connect the above to autodoc."""
    app.connect("autodoc-skip-member", skip_foreign)
