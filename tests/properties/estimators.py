"""Generated calls of estimators, and what each ends in."""

from inspect import getmembers, isclass
from typing import NamedTuple

import joblib
import numpy as np
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline

import skpert
from skpert.nn import LIKELIHOODS

from . import faults, forms
from .oracle import Wrong, agree, check_clear, check_finite, named, well_behaved
from .screens import COUNTS, NAMES, REALS, Screen

ESTIMATORS = {
    name: cls
    for name, cls in getmembers(skpert, isclass)
    if issubclass(cls, BaseEstimator) and not issubclass(cls, Pipeline)
}
BASELINES = [
    "AdditiveEffects",
    "BilinearRidge",
    "ContextEffects",
    "ControlMean",
    "EffectRegression",
    "InteractionRidge",
    "PerturbedMean",
]
MODELS = sorted(set(ESTIMATORS) - set(BASELINES))
INVARIANT = ["InVAE", "NFIVAE"]  # whose design holds covariates
OF_COMBINATIONS = ["VAE", "BetaVAE", "IVAE", "SVAE", "SVAEPlus"]  # not additive
CHEAP = {
    "n_latent": 2,
    "n_hidden": 8,
    "n_layers": 1,
    "max_epochs": 1,
    "batch_size": 64,
    "n_epochs_kl_warmup": 0,
    "n_particles": 2,
    "device": "cpu",
    "random_state": 0,
}


def cheap_of(name):
    """Those of the parameters above that an estimator has."""
    return {k: v for k, v in CHEAP.items() if k in ESTIMATORS[name]._get_param_names()}


COMMON = {
    "n_latent": [1, 3, 9],
    "n_hidden": [1, 3],
    "n_layers": [2],
    "dropout": [0.5, 0.99],
    "likelihood": sorted(LIKELIHOODS),
    "sep": [None, "|"],
    "environment": [["lane"], ["lane", "age"]],
    "max_epochs": [2, 3],
    "batch_size": [2, 3, "auto"],
    "learning_rate": [1e-30, 1e-8, 1.0, 1e3],
    "schedule": ["constant"],
    "weight_decay": [0, 1.0, 1e6],
    "n_epochs_kl_warmup": [1, 9, "auto"],
    "validation_fraction": [0.0, 0.5, 0.99],
    "patience": [1],
    "n_init": [2],
    "n_particles": [1, 17],
    "random_state": [7, 2**32 - 1],
}
ADDITIVE = {
    "objective": ["elbo", "monte_carlo", "iwelbo"],
    "n_train_particles": [2],
    "input_transform": ["log", "standardize", "log_standardize", None],
}
CPA = ADDITIVE | {"embedding_scale": [1e-6, 1e3], "correlated_basal": [False]}
INIT = {"init": ["random"]}
COVARIATES = ["environment", "invariant", "spurious"]  # columns of a design frame
INVARIANT_OWN = {
    "invariant": ["perturbation", ["perturbation", "age"]],
    "hide": [0.0, 0.99],
    "thinning": [0.0, 0.99],
    "score_regularization": [1.0],
    "whiten": [False],
}
OWN = {
    "BetaVAE": {"beta": [0, 1e3]},
    "SVAE": INIT | {"sparsity": [0, 1e3]},
    "SVAEPlus": INIT
    | {"sparsity": [1, 1e6], "bound": ["exact"], "pseudo_sample_size": [1e-3, 1e6]},
    "ConditionalVAE": ADDITIVE,
    "CPAVAE": CPA,
    "SAMSVAE": CPA
    | INIT
    | {"mask_prior": [1e-6, 0.999], "mask_posterior": ["beta"], "correlated_embedding": [True]},
    "InVAE": INVARIANT_OWN
    | {
        "prior": ["factorized"],
        "n_spurious": [0, 2, 5],
        "spurious": ["lane"],
        "total_correlation": [0.0, 10.0],
        "conditioning": ["none"],
        "latent": ["spurious", "all"],
    },
    "NFIVAE": INVARIANT_OWN,
    "SCCVAE": {
        "graph": ["random", None],
        "cyclic": [True],
        "edge_density": [0, 1],
        "shift_encoder": ["network"],
        "n_components": [1, 500],
        "objective": ["published"],
        "mmd_weight": [0, 1e3],
        "features": ["one_hot"],
    },
    "BilinearRidge": {
        "features": ["one_hot"],
        "alpha_genes": [0, 1e9],
        "alpha_targets": [0, 1e9],
        "normalize_features": [False],
        "center": ["conditions", None],
    },
}
BAD_PARAMETERS = {
    "n_latent": [0, -1, 1.5, "2", None, np.nan],
    "n_hidden": [0, 2.5, None],
    "n_layers": [0, "two"],
    "dropout": [-0.1, 1.0, np.nan, "0.1"],
    "likelihood": ["gaussian", None, 1],
    "max_epochs": [0, 1.5, "many", np.inf],
    "batch_size": [1, 0, -3, 2.5, None],
    "learning_rate": [0, -1, np.nan, np.inf, "fast"],
    "schedule": ["cosine", None],
    "weight_decay": [-1e-9, np.nan, None],
    "n_epochs_kl_warmup": [-1, 0.5, "no"],
    "validation_fraction": [1, -0.1, np.nan, "0.1"],
    "patience": [0, 1.5],
    "n_init": [0, None],
    "n_particles": [0, 2.5, "many"],
    "device": ["tpu9", 3, ""],
    "random_state": [-1, "seed", 1.5, 2**40],
    "environment": ["lane", 3],
}
BAD_SIZES = [0, -1, np.nan, np.inf, "many", [100.0, 200.0], 1e40]
BAD_ARGUMENTS = {
    "score": {"sample_weight": [-1.0, np.nan, np.inf, "heavy", 0.0]},  # of every cell
    "score_cells": {"n_particles": [0, 2.5, "many", -1]},
    "predict_intervention": {"library_size": BAD_SIZES},
    "sample_intervention": {"library_size": BAD_SIZES, "random_state": ["seed", -1]},
}
BAD_DATA_PARAMETERS = {"sep": ["", 3], "perturbation": [None, 3], "layer": ["spliced", 3]}
METHODS = [
    "fit",
    "transform",
    "score",
    "score_cells",
    "posterior",
    "predict_intervention",
    "sample_intervention",
    "adapt",
    "refine",
]


class Use(NamedTuple):
    """A fit on a screen, and a method after it, with expression and design in some form."""

    estimator: str
    screen: Screen
    parameters: dict
    method: str = "fit"
    x_form: str = "array"
    a_form: str = "labels"
    plainly: bool = False  # whether the fit before the method had plain input
    fault: tuple = ()  # of "X", "A", "pair", "parameter" or "argument", and which


def _parameters(name):
    """Strategy of at most three parameters that are not what the cheap fit takes."""
    known = {"sep": [None]} if name in BASELINES else COMMON
    known = known | OWN.get(name, {})
    chosen = st.sampled_from(sorted(known)).flatmap(
        lambda key: st.tuples(st.just(key), st.sampled_from(known[key]))
    )
    return st.lists(chosen, max_size=3).map(dict)


def of_counts(name, parameters):
    """Whether the estimator takes counts."""
    default = "normal" if name in [*BASELINES, "SCCVAE"] else "counts"
    return "normal" not in parameters.get("likelihood", default)


def _faults(name, method, counts):
    """All that can be wrong with what the method gets, by argument."""
    bad = BAD_ARGUMENTS.get(method, {})
    of_arguments = [("argument", (key, value)) for key in bad for value in bad[key]]
    of_x = faults.EXPRESSION | faults.NAMED | (faults.NEGATIVE if counts else {})
    of_x = [("X", which) for which in of_x]
    optional = method == "posterior"  # whose design may be unknown
    of_a = [("A", which) for which in faults.DESIGNS if not (optional and which == "none")]
    of_a += [("pair", which) for which in faults.PAIRS]
    if method.endswith("intervention"):
        return [[fault for fault in of_x if fault[1] != "none"], of_arguments]
    if method == "transform":
        return [of_x]
    if method != "fit":
        return [of_x, of_a, *([of_arguments] if bad else [])]
    of_a += [("A", which) for which in faults.ONE_CONDITION]
    bad = BAD_DATA_PARAMETERS | ({} if name in BASELINES else BAD_PARAMETERS)
    return [of_x, of_a, [("parameter", (key, value)) for key in bad for value in bad[key]]]


def _methods(name):
    have = [method for method in METHODS if hasattr(ESTIMATORS[name], method)]
    return have if name not in INVARIANT else [m for m in have if m != "adapt"]


def _a_forms(use):
    """Forms of the design that mean the same to the estimator."""
    forms_of_a = _meant_alike(use)
    if use.x_form in forms.HAS_CELLS:
        return [form for form in forms_of_a if form != "series backwards index"]
    return forms_of_a


def _meant_alike(use):
    if not use.parameters.keys().isdisjoint(COVARIATES):
        return ["design frame", "design frame with cells"]
    if use.estimator in INVARIANT:
        return list(forms.LABELS)  # any other has its columns in another order, or other names
    if "sep" in use.parameters or use.method == "adapt":
        return [*forms.LABELS, *forms.FRAMES]
    if not any("+" in label for label in use.screen.treatments()):
        return list(forms.DESIGNS)
    dosages = [] if use.estimator in OF_COMBINATIONS else forms.DOSAGES
    return [*forms.LABELS, *forms.FRAMES, *dosages]


@st.composite
def uses(draw):
    """One use of an estimator, right or wrong."""
    name = draw(st.sampled_from(sorted(ESTIMATORS)))
    parameters = draw(_parameters(name))
    counts = of_counts(name, parameters)
    screen = Screen(
        cells=draw(st.sampled_from([12, 3, 5, 30])),
        genes=draw(st.sampled_from([4, 1, 2, 8])),
        values=draw(st.sampled_from(sorted(COUNTS if counts else REALS))),
        names=draw(st.sampled_from(sorted(NAMES))),
        control=draw(st.sampled_from([True, True, True, False])),
        seed=draw(st.integers(0, 999)),
    )
    method = draw(st.sampled_from(_methods(name)))
    use = Use(name, screen, parameters, method, plainly=draw(st.booleans()))
    if draw(st.integers(0, 3)) == 0:
        screen = screen._replace(cells=12, genes=4, values="counts", control=True)
        fault = draw(st.sampled_from(_faults(name, method, counts)).flatmap(st.sampled_from))
        return use._replace(screen=screen, parameters={}, fault=fault)
    use = use._replace(x_form=draw(st.sampled_from(sorted(forms.EXPRESSION))))
    return use._replace(a_form=draw(st.sampled_from(_a_forms(use))))


def estimator_of(use, more=None):
    """The unfitted estimator."""
    cheap = cheap_of(use.estimator)
    return clone(ESTIMATORS[use.estimator](**cheap | use.parameters | (more or {})))


def renamed(labels):
    """Labels of which all but the control are new."""
    parts = ["+".join(f"new {part}" for part in label.split("+")) for label in labels]
    return np.array([p if p != "new control" else "control" for p in parts], dtype=object)


def answers(model, method, X, A):
    """What the fitted model says when the method is called."""
    if method == "fit":
        answers = [model.predict_intervention(A), model.score(X, A)]
        return answers + [model.transform(X)] if hasattr(model, "transform") else answers
    if method == "transform":
        return model.transform(X)
    if method == "predict_intervention":
        return model.predict_intervention(A, X)
    if method == "sample_intervention":
        return model.sample_intervention(A, 2, X=X, random_state=0)
    result = getattr(model, method)(X, A)
    return result.predict_intervention(A) if method in ("adapt", "refine") else result


def attempt(model, training, method, X, A):
    """Answers, or a clear error; else Wrong."""
    with well_behaved(*training, X, A):
        try:
            result = answers(model.fit(*training), method, X, A)
        except Exception as error:
            check_clear(error)
            return error
    check_finite(result)
    return result


def outcome(use):
    """Name of what the use ends in: "right" or the type of a clear error; else Wrong."""
    X, A = forms.held(use.screen.expression(), use.x_form), use.screen.labels()
    if use.fault:
        return _outcome_of_fault(use, X, A)
    new = renamed(A) if use.method == "adapt" else A
    framed = not use.parameters.keys().isdisjoint(COVARIATES)
    plain_form = "design frame" if framed else "labels"
    plain_a, plain_new = (forms.design(labels, plain_form)[0] for labels in (A, new))
    plain = attempt(estimator_of(use), (X, plain_a), use.method, X, plain_new)
    given_x, of_x = forms.expression(X, use.x_form)
    given_a, of_a = forms.design(A, use.a_form)
    given_new, _ = forms.design(new, use.a_form)
    plainly = use.plainly and use.method != "fit" and not of_x | of_a
    training = (X, plain_a) if plainly else (given_x, given_a)
    given = attempt(estimator_of(use, of_x | of_a), training, use.method, given_x, given_new)
    exact = (X == np.rint(X)).all()  # else totals depend on the order of summation
    what = f"{use.method} with {use.x_form!r} and {use.a_form!r}"
    agree(given, plain, what, rtol=1e-5 if exact else 1e-3)
    return named(given)


def _faulty(use, X, A):
    """Expression and design with the fault of the use, if it is one of theirs."""
    kind, which = use.fault
    A = renamed(A) if use.method == "adapt" else A
    if kind == "pair":
        return faults.PAIRS[which](X, A)
    if kind == "X":
        return (faults.EXPRESSION | faults.NAMED | faults.NEGATIVE)[which](X), A
    return X, (faults.DESIGNS | faults.ONE_CONDITION)[which](A) if kind == "A" else A


def _argued(model, method, X, A, argument, value):
    """Call the method with one more argument."""
    if argument == "sample_weight":
        return model.score(X, A, sample_weight=[value] * len(X))
    first = (X, A) if method == "score_cells" else (A,)
    more = {"n_samples": 2} if method == "sample_intervention" else {}
    return getattr(model, method)(*first, **more, **{argument: value})


def _call(model, use, X, A):
    """Call the method with what is wrong."""
    kind, which = use.fault
    if kind == "argument":
        return _argued(model, use.method, X, A, *which)
    return model.fit(X, A) if use.method == "fit" else answers(model, use.method, X, A)


def _outcome_of_fault(use, X, A):
    model, bad, result = estimator_of(use), _faulty(use, X, A), None
    if use.fault[0] == "parameter":
        model.set_params(**dict([use.fault[1]]))
    if use.method != "fit":
        with well_behaved(X, A):
            model.fit(X, A)
    state = joblib.hash(model)
    with well_behaved(*bad):
        try:
            _call(model, use, *bad)
        except Exception as error:
            check_clear(error)
            result = error
    hidden = use.estimator in INVARIANT and use.fault[0] == "A"  # what is not known is hidden
    if result is None and not hidden:
        raise Wrong(f"{use.method} accepts a fault of {use.fault}")
    if result is not None and joblib.hash(model) != state:
        raise Wrong(f"{use.method} failed and left the estimator changed: {use.fault}")
    return named(result)
