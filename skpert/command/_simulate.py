"""``skpert simulate``: a screen of which the truth is known."""

import inspect
import os
from pathlib import Path

import numpy as np
import pandas as pd

from .. import datasets
from .._input.values import listed
from . import _arguments as arguments
from ._screens import require, size, write

KINDS = {
    "sparse_shift": datasets.make_sparse_shift,
    "additive_shift": datasets.make_additive_shift,
    "causal_shift": datasets.make_causal_shift,
}
SIZES = {
    "n_perturbations": 20,
    "n_cells_per_perturbation": 150,
    "n_control_cells": 300,
    "n_latent": 5,
    "n_genes": 60,
}
LEAST = {"n_genes": "; of counts at least 40", "n_latent": "; of counts at most 40"}
TEXT = """Simulate a screen and write it as an h5ad file: counts, labels in the column
"perturbation" with untreated cells called "control", and the truth, latent states in obsm["Z"]
and effects in uns."""


def add_to(verbs):
    """Add the verb to a parser."""
    example = "skpert simulate screen.h5ad --n-perturbations 50 --set effect_size=3"
    parser = arguments.add_verb(verbs, "simulate", run, TEXT, example)
    parser.add_argument("output", help="file to write, .h5ad")
    parser.add_argument(
        "--simulator",
        choices=list(KINDS),
        default="sparse_shift",
        help="skpert.datasets.make_... (default: sparse_shift)",
    )
    for name, default in SIZES.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(
            flag,
            type=int,
            default=default,
            metavar="N",
            help=f"default: {default}{LEAST.get(name, '')}",
        )
    parser.add_argument("--random-state", type=int, default=0, metavar="SEED", help="default: 0")
    arguments.add_settings(parser, "any other argument of the simulator; may be repeated")
    arguments.add_overwrite(parser)


def run(options):
    """Simulate, and write the screen."""
    anndata = require("anndata", "data")
    path = _output(options.output, options.overwrite)
    given = {name: getattr(options, name) for name in (*SIZES, "random_state")}
    simulate, settings = KINDS[options.simulator], dict(options.set)
    known = list(inspect.signature(simulate).parameters)
    for name in settings:
        if name not in known:
            raise ValueError(
                f"{simulate.__name__} has no argument {name!r}: it has {listed(known, len(known))}"
            )
    data = simulate(**given | settings)
    genes = [f"gene{j}" for j in range(data.X.shape[1])]
    adata = anndata.AnnData(
        np.asarray(data.X, dtype=np.float32),
        obs=pd.DataFrame({"perturbation": data.A}, index=[f"cell{i}" for i in range(len(data.A))]),
        var=pd.DataFrame(index=genes),
        obsm={"Z": data.Z},
    )
    adata.uns["truth"] = _truth(data)
    write(adata, path)
    print(size(adata, adata.obs["perturbation"], "control"))
    print(f"written: {path}")


def _truth(data):
    """What is known of each perturbation, as tables with a row for each."""
    tables = {}
    for name in ("mask", "embedding", "effect", "shift"):
        if name in data and len(data[name]) == len(data.perturbations):
            values = np.asarray(data[name])
            columns = [f"z{k}" for k in range(values.shape[1])]
            tables[name] = pd.DataFrame(values, list(map(str, data.perturbations)), columns)
    return tables


def _output(path, overwrite):
    """Path of the file; ValueError if it cannot be written."""
    path = Path(os.path.expanduser(path))
    if path.suffix != ".h5ad":
        raise ValueError(f"output {str(path)!r} must end in .h5ad")
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder: name a file")
    if path.exists() and not overwrite:
        raise ValueError(f"output {str(path)!r} exists: replace it with --overwrite")
    if not path.parent.is_dir():
        folders = listed([str(path.parent)], 1)
        raise ValueError(f"there is no folder {folders} to write to: make it first")
    return path
