"""What the code is like to read: frames, classes, sizes."""

import ast
import inspect
import pkgutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import skpert
from skpert import CPAVAE, SAMSVAE, SVAE, VAE, ConditionalVAE, SVAEPlus
from skpert.module import PerturbationModule

ROOT = Path(skpert.__file__).parent
MODULES = [
    import_module(found.name) for found in pkgutil.walk_packages(skpert.__path__, "skpert.")
]
CLASSES = {
    cls
    for module in MODULES
    for cls in vars(module).values()
    if inspect.isclass(cls) and cls.__module__.startswith("skpert.")
}
PATHS = sorted(ROOT.rglob("*.py"))
A = np.repeat(["control", "P0", "P1"], 20)
X = np.random.default_rng(0).poisson(3.0, (60, 8)).astype(np.float32)


def code_lines(node, text):
    """Numbers of lines that are neither blank, comment nor docstring."""
    documented = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            part
        ):
            first = part.body[0]
            documented |= set(range(first.lineno, first.end_lineno + 1))
    first, last = getattr(node, "lineno", 1), getattr(node, "end_lineno", len(text))
    lines = range(first, last + 1)
    return [i for i in lines if i not in documented and text[i - 1].split("#")[0].strip(" \t\n")]


@pytest.mark.parametrize("cls", [VAE, SVAEPlus, SVAE, CPAVAE, SAMSVAE, ConditionalVAE])
def test_there_are_few_frames_between_fit_and_the_loss(cls, monkeypatch):
    model, depths = cls(n_latent=2, n_hidden=4, max_epochs=3, random_state=0), []
    make_module = model._make_module

    def watched(cells):
        module = make_module(cells)
        loss_terms = module.loss_terms

        def counted(cells, kl_weight=1.0):
            frame, names = sys._getframe(1), ["loss_terms"]
            while names[-1] != "fit":
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            depths.append(names)
            return loss_terms(cells, kl_weight)

        monkeypatch.setattr(module, "loss_terms", counted)
        return module

    monkeypatch.setattr(model, "_make_module", watched)
    model.fit(X, A)
    training = [names for names in depths if names[1] == "__call__"]
    assert training
    frames = ("loss_terms", "__call__", "train", "optimise", "fit")
    assert {tuple(names) for names in training} == {frames}


@pytest.mark.parametrize("cls", sorted(CLASSES, key=str), ids=str)
def test_classes_are_abstract_or_final(cls):
    derived = [other.__name__ for other in CLASSES if cls in other.__bases__]
    assert not derived or inspect.isabstract(cls)


def test_modules_replace_documented_defaults_and_nothing_else():
    defaults = {
        *("learned", "shift", "features", "draw", "basal_states", "phases", "later_phases"),
        *("minibatches", "extended", "refined", "restarted", "encode", "decode", "posterior"),
        *("log_weights", "preference", "doubt", "encode_untreated", "continued"),
    }
    own = {name for name, value in vars(PerturbationModule).items() if inspect.isfunction(value)}
    abstract = PerturbationModule.__abstractmethods__
    for cls in CLASSES:
        if issubclass(cls, PerturbationModule) and cls is not PerturbationModule:
            assert own & set(vars(cls)) <= defaults | abstract | {"__init__"}, cls


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_are_short(path):
    text = path.read_text(encoding="utf-8").splitlines()
    tree = ast.parse("\n".join(text))
    long = [
        part.name
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef) and len(code_lines(part, text)) > 45
    ]
    # A constructor names all parameters, which scikit-learn reads off it.
    assert not [name for name in long if name != "__init__"]
    assert len(text) <= (915 if path.parent.name == "models" else 560)


def test_the_contract_is_a_page_of_code():
    text = (ROOT / "module.py").read_text(encoding="utf-8").splitlines()
    assert len(code_lines(ast.parse("\n".join(text)), text)) <= 130
