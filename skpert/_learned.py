"""What the state of an estimator has to be for its methods to work, checked where it is loaded.

Which attributes a class may have is read off its own code, and what its network must be off the
network that it builds; the rules here are those of numpy and text beside it.
"""

import dis
import inspect
from functools import cache
from importlib.util import find_spec
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import validate_parameter_constraints

from ._data import Cells
from ._input.values import as_list
from ._pseudobulk import unpacked
from .base import PerturbationVAE
from .models.baselines import (
    Baseline,
    BilinearRidge,
    InteractionRidge,
    PerturbedMean,
    SumOfParts,
)
from .preprocessing import CovariateEncoder, GeneSetFeatures, PerturbationEncoder, TargetFeatures
from .preprocessing._confounding import no_confounding

OF_SKLEARN = {"n_features_in_", "feature_names_in_", "_sklearn_output_config"}  # set by its code
OF_ALL = ("control", "sep", "perturbation", "layer")  # parameters that mean the same everywhere
LARGEST = {"n_layers": 1000, "n_particles": 10**6}  # what else would take time without end
MOST_LATENTS = 10_000  # columns of which most are empty
LONGEST_TUPLE = 1000  # of a parameter, such as one of widths of layers


def check_parameters(cls, state):
    """Raise ValueError unless the state has the constructor's parameters, of the right kinds."""
    names = cls._get_param_names()
    own = getattr(cls, "_parameter_constraints", {})
    shared = {name: PerturbationVAE._parameter_constraints[name] for name in OF_ALL}
    parameters = {name: state[name] for name in names}
    validate_parameter_constraints(shared | own, parameters, caller_name=cls.__name__)
    for name, value in parameters.items():
        size = len(value) if isinstance(value, tuple) else 0
        good = size <= LONGEST_TUPLE and (name not in LARGEST or value <= LARGEST[name])
        _demand(good, f"{name} of {cls.__name__} is too large")


def check_learned(estimator):
    """Raise ValueError, or what else comes up, unless all that was learned is as methods need it.

    An estimator that was not fitted has learned nothing.
    """
    cls, state = type(estimator), vars(estimator)
    parameters = set(cls._get_param_names())
    for name in set(state) - parameters:
        known = name in OF_SKLEARN | _assigned(cls) and not hasattr(cls, name)
        _demand(known, f"{cls.__name__} has no attribute {name!r}")
    _check_output(state.get("_sklearn_output_config", {}))
    learned = {k: v for k, v in state.items() if k not in parameters | {"_sklearn_output_config"}}
    if not learned:
        return
    for name, value in learned.items():
        _check_values(value, f"{cls.__name__}.{name}")
    for kind, check in _CHECKS.items():
        if isinstance(estimator, kind):
            check(estimator)


@cache
def _assigned(cls):
    """Names of the attributes that methods of a class set."""
    methods = [
        inspect.unwrap(method)
        for base in cls.__mro__
        if base.__module__.startswith(__package__)
        for method in vars(base).values()
        if inspect.isfunction(method)
    ]
    steps = (step for method in methods for step in dis.get_instructions(method))
    return {step.argval for step in steps if step.opname == "STORE_ATTR"}


def _demand(condition, message):
    if not condition:
        raise ValueError(message)


def _check_output(config):
    known = {"transform": ("default", "pandas", "polars", None)}
    for key, value in config.items():
        good = value in known.get(key, ()) and (value != "polars" or find_spec("polars"))
        _demand(good, f"outputs are set to {key}={value!r:.80}")


def _check_values(value, name):
    """Arrays hold finite numbers or text; a history may have gaps, and a module has own checks."""
    if isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check_values(part, name)
    elif isinstance(value, np.ndarray | csr_array):
        data = value.data if issparse(value) else value
        if data.dtype == object:
            good = data.ndim == 1 and all(isinstance(item, str) for item in data)
        else:
            good = data.dtype.kind in "biuf" and data.dtype.isnative and np.isfinite(data).all()
        _demand(good, f"{name} holds what is neither text nor a finite number")
    elif isinstance(value, float):
        _demand(np.isfinite(value), f"{name} is not finite")


def _has_shape(array, *shape, kinds="f"):
    """Whether it is an array of numbers of this shape, in which None stands for any size."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype.kind in kinds
        and array.ndim == len(shape)
        and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
    )


def _check_shapes(estimator, shapes, kinds="f"):
    for name, shape in shapes.items():
        value = getattr(estimator, name)
        good = _has_shape(value, *shape, kinds=kinds)
        _demand(good, f"{name} is not an array of shape {shape}: {np.shape(value)}")


def _check_names(names, n_names=None, *, what):
    """Raise ValueError unless these are different texts, as many as that."""
    good = isinstance(names, np.ndarray) and names.dtype == object and names.ndim == 1
    good = good and len(set(names)) == len(names) and n_names in (None, len(names))
    _demand(good, f"{what} are not different names: {names!r:.200}")


def _check_whole(value, least, *, what):
    good = isinstance(value, int | np.integer) and not isinstance(value, bool)
    _demand(good and least <= value < 2**63, f"{what} is {value!r:.80}")


def _check_genes(estimator):
    _check_whole(estimator.n_features_in_, 1, what="n_features_in_")
    if hasattr(estimator, "feature_names_in_"):
        names = estimator.feature_names_in_
        good = isinstance(names, np.ndarray) and names.dtype == object
        good = good and names.shape == (estimator.n_features_in_,)
        _demand(good, "feature_names_in_ has not a name for each gene")


def _check_design_of(estimator, kind):
    design = estimator.design_
    _demand(type(design) is kind, f"design_ is a {type(design).__name__}")
    _check_names(estimator.perturbations_, what="perturbations_")
    same = np.array_equal(design.perturbations_, estimator.perturbations_)
    _demand(same, "perturbations_ and those of design_ differ")


def _check_model(model):
    _check_genes(model)
    _check_design_of(model, type(model._make_design()))
    same = as_list(model.environment) == as_list(model.design_.environment)
    _demand(same, "environment is not that of design_")
    _demand(isinstance(model.module_, torch.nn.Module), "module_ is not what it should be")
    _check_whole(model.n_latent_, 1, what="n_latent_")
    n_found = model.module_.encoder.n_latent
    _demand(n_found == model.n_latent_, "n_latent_ is not that of its network")
    reduced = getattr(model, "init", None) == "rotation"  # and the others are empty
    shape = model._n_most or n_found
    fits = n_found <= shape <= MOST_LATENTS if reduced else n_found == shape
    fits = fits and model._n_asked == model._n_most
    _demand(fits, f"its network has shape {n_found} for n_latent={model.n_latent!r}")
    _check_whole(model._n_training_cells, 1, what="_n_training_cells")
    _check_whole(model._seed, 0, what="_seed")
    _check_whole(model.n_iter_, 0, what="n_iter_")
    history = model.history_
    _demand(isinstance(history, pd.DataFrame) and "phase" in history, "history_ is no history")
    _check_population(model._population, model.design_.n_environments_)
    if hasattr(model, "features_"):
        n_known, n_features = model._features_of_targets.shape
        fits = isinstance(model.features_, TargetFeatures)
        fits = fits and 1 <= n_known <= len(model.perturbations_)
        fits = fits and n_features == model.features_.n_features_out_
        _demand(fits, "features of targets are not those of the perturbations")
    if getattr(model, "interactions", False):
        _check_combinations(model._combinations, len(model.perturbations_))
    _rehearse(model)


def _check_combinations(combinations, n_perturbations):
    """Raise ValueError unless each row has several perturbations in ascending order, then -1."""
    good = _has_shape(combinations, None, None, kinds="i") and combinations.dtype == np.int64
    _demand(good, "_combinations are not a matrix of indices")
    given = combinations >= 0
    rising = (np.diff(combinations, axis=1) > 0) | ~given[:, 1:]
    good = (combinations < n_perturbations).all() and rising.all() and (given.sum(1) > 1).all()
    good = good and (given[:, :-1] | ~given[:, 1:]).all()
    good = good and len(np.unique(combinations, axis=0)) == len(combinations)
    _demand(good, "_combinations are not different combinations of perturbations")


def _check_population(population, n_environments):
    _demand(set(population) == {"median", "library", "environment"}, "_population is incomplete")
    good = isinstance(population["median"], float)
    good = good and _has_shape(population["library"], None, 1)
    good = good and _has_shape(population["environment"], None, n_environments)
    good = good and len(population["library"]) and len(population["environment"])
    _demand(good, "_population is not made of cells")


def _rehearse(model):
    """Have the module do once, for a cell of two perturbations, all that estimators ask of it."""
    module, n_genes, last = model.module_, model.n_features_in_, len(model.perturbations_) - 1
    x, part = torch.ones(1, n_genes), torch.tensor([[0, last]])
    environment = torch.zeros(1, model.design_.n_environments_)
    cell = Cells(x, x.sum(1, keepdim=True), part, torch.ones(1, 2), environment)
    with model._inference():
        shared = module.draw(1)
        p_x = module.intervene(module.basal_states(1), cell._replace(x=x[:, :0]), sampled=True)
        moved = module.intervene(module.encode(x), cell)
        found = [module.log_joint(cell, module.guide(cell).mean[None], shared)]
        found += [module.log_weights(cell, 1), p_x.mean, p_x.sample(), moved.mean]
        found += module.posterior(cell).values()
        for name, rows in module.learned().items():
            n_rows = model.n_latent if name == "graph" else last + 1
            _demand(len(rows) == n_rows, f"{name} has {len(rows)} rows, not {n_rows}")
    module.eval()  # forgets what it may have kept of this cell
    finite = all(bool(values.isfinite().all()) for values in found)
    _demand(finite, "its network gives values that are not finite")


def _check_baseline(baseline):
    _check_genes(baseline)
    _check_design_of(baseline, PerturbationEncoder)
    n_genes, n_perturbations = baseline.n_features_in_, len(baseline.perturbations_)
    _check_shapes(baseline, {"control_mean_": (n_genes,), "_centre": (n_genes,)})
    width = n_genes if np.shape(baseline._responses)[-1:] == (n_genes,) else 1
    _check_shapes(baseline, {"_responses": (n_perturbations, width)})
    _check_cells(baseline._cells, n_genes)
    if isinstance(baseline, PerturbedMean):
        n_cells = _check_cells(baseline._treated_cells, n_genes)
        _check_shapes(baseline, {"_n_treated_cells": (None,)}, kinds="iu")
        counts = baseline._n_treated_cells.astype(object)  # of any size, without overflow
        _demand(min(counts) > 0 and sum(counts) == n_cells, "_n_treated_cells does not add up")
    if isinstance(baseline, InteractionRidge):
        _check_shapes(baseline, dict.fromkeys(["_sums", "_weights"], (None, n_genes)))
        _demand(len(baseline._sums) == len(baseline._weights), "its combinations do not fit")
        good = isinstance(baseline.gamma_, float) and baseline.gamma_ > 0
        _demand(good, "gamma_ is no positive number")
    if isinstance(baseline, SumOfParts):
        _demand(isinstance(baseline.scale_, float), "scale_ is no number")
    if isinstance(baseline, BilinearRidge):
        _check_shapes(baseline, {"center_": (n_genes,)})
        if hasattr(baseline, "gene_embedding_"):
            _check_shapes(baseline, {"gene_embedding_": (n_genes, None)})
        of_targets = isinstance(baseline.target_features_, TargetFeatures)
        _demand(of_targets, "target_features_ are none")
        response = baseline._unseen(baseline.perturbations_[:1])
        _demand(response.shape == (1, n_genes), "predictions of the unseen have another shape")


def _check_cells(packed, n_genes):
    """Number of cells; ValueError unless they are cells of that many genes."""
    if isinstance(packed, tuple):
        data, indices, indptr, width = packed
        good = _has_shape(data, None) and width == n_genes
        good = good and all(_has_shape(array, None, kinds="i") for array in (indices, indptr))
        _demand(good, "cells are not a sparse matrix")
        unpacked(packed).check_format(full_check=True)
        n_cells = len(indptr) - 1
    else:
        _demand(_has_shape(packed, None, n_genes), "cells are not a matrix")
        n_cells = len(packed)
    _demand(n_cells > 0, "there are no cells")
    return n_cells


def _check_encoder(encoder):
    _check_names(encoder.perturbations_, what="perturbations_")
    _check_names(encoder.columns_, what="columns_")
    _demand(len(encoder.perturbations_) > 0, "there are no perturbations")
    _check_shapes(encoder, {"n_cells_": (len(encoder.perturbations_),)}, kinds="iu")
    categories, scales = encoder.environment_categories_, encoder.environment_scales_
    columns = as_list(encoder.environment)
    _check_covariates(columns, categories, scales)
    names = [[f"{c}={k}" for k in categories[c]] if c in categories else [c] for c in columns]
    _demand(
        encoder.environment_names_.tolist() == [str(name) for part in names for name in part]
        and encoder.n_environments_ == len(encoder.environment_names_),
        "environments do not follow from their categories and scales",
    )


def _check_covariates(columns, categories, scales):
    """Raise ValueError unless each column has categories, or mean and standard deviation."""
    together = [*categories, *scales]
    same = sorted(map(str, together)) == sorted(map(str, columns))
    _demand(same and set(together) == set(columns), "covariates are not those of the columns")
    for found in categories.values():
        good = isinstance(found, list | tuple) and len(found) > 0
        good = good and all(isinstance(text, str) for text in found)
        _demand(good and len(set(found)) == len(found), "categories are not different texts")
    for mean, deviation in scales.values():
        good = all(isinstance(number, float) for number in (mean, deviation))
        _demand(good and deviation > 0, "a scale is not mean and standard deviation")


def _check_design(design):
    _check_whole(design.n_control_cells_, 0, what="n_control_cells_")
    _demand(isinstance(design.additive, bool), "additive is neither True nor False")
    _demand(design.sep != "", "sep is empty")
    known = sorted(design.columns_) == sorted(design.perturbations_)
    _demand(known or not design.additive, "columns_ and perturbations_ differ")
    table, names = design.confounded_, design.perturbations_
    good = isinstance(table, pd.DataFrame) and table.dtypes.equals(no_confounding().dtypes)
    good = good and all(isinstance(text, str) for text in table.iloc[:, :3].to_numpy().ravel())
    good = good and np.isfinite(table.iloc[:, 3:5].to_numpy()).all()
    _demand(good and set(table["perturbation"]) <= set(names), "confounded_ is no table of them")


def _check_covariate_encoder(encoder):
    _check_names(encoder.names_, what="names_")
    _check_covariates(encoder.names_, encoder.categories_, encoder.scales_)
    columns = [
        [f"{name}={text}" for text in encoder.categories_[name]]
        if name in encoder.categories_
        else [name, f"{name} (known)"]
        for name in encoder.names_
    ]
    widths = [len(part) for part in columns]
    same = encoder.columns_.tolist() == [name for part in columns for name in part]
    same = same and np.array_equal(encoder.columns_, encoder.perturbations_)
    same = same and np.array_equal(encoder.covariate_, np.repeat(np.arange(len(widths)), widths))
    _demand(same, "columns_ do not follow from categories and scales")
    _check_shapes(encoder, {"covariate_": (sum(widths),)}, kinds="i")
    ends = {0, *accumulate(widths)}
    _demand(encoder.n_invariant_columns_ in ends, "n_invariant_columns_ is within a covariate")


def _check_target_features(features):
    _check_whole(features.n_features_out_, 1, what="n_features_out_")
    if features.kind_ == "transformer":
        _demand(isinstance(features.transformer_, BaseEstimator), "transformer_ is none")
        width = features.transformer_.transform(np.array([], dtype=object)).shape[1]
        _demand(width == features.n_features_out_, "transformer_ gives other features")
        return
    _demand(features.kind_ in ("genes", "one_hot", "table"), f"kind_ is {features.kind_!r}")
    _check_names(features.names_, what="names_")
    shape = len(features.names_), features.n_features_out_
    if issparse(features.table_):
        _demand(features.table_.shape == shape, "table_ has another shape")
    else:
        _check_shapes(features, {"table_": shape})


def _check_gene_sets(features):
    _check_names(features.set_names_, what="set_names_")
    _check_names(features.genes_, what="genes_")
    shape = len(features.genes_), len(features.set_names_)
    member = features.membership_
    _demand(issparse(member) and member.shape == shape, "membership_ has another shape")


_CHECKS = {
    PerturbationVAE: _check_model,
    Baseline: _check_baseline,
    PerturbationEncoder | CovariateEncoder: _check_encoder,
    PerturbationEncoder: _check_design,
    CovariateEncoder: _check_covariate_encoder,
    TargetFeatures: _check_target_features,
    GeneSetFeatures: _check_gene_sets,
}
