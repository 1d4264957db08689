"""Invariant latents against the truth on the simulations of the inVAE paper.

``sparse shift`` has three batches; the other two published simulations have a single one, so that
there is nothing to be invariant to and only the recovery of latents is measured. The last two are
ours: rates normalised within each cell, and also each condition mostly in batches of its own.

Half of the cells are for training, with covariates; all numbers are of the other half, read from
expression alone. MCC and R2 compare with the true invariant latents. ``environment`` is the
cross-validated accuracy with which a random forest predicts the batch from the latents, to be at
chance, ``biology`` that for cell type and condition. ``supervised`` is a network that is trained
on the true invariant latents of the same cells: no encoder can be expected to do better. ``truth``
are these latents themselves; where conditions are unbalanced they do predict the batch. ``warned``
is the share of fits that warned of environments that do not mix in the invariant latents.
"""

import warnings

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skpert._mixing import UNMIXED
from skpert.datasets import make_invariant
from skpert.metrics import latent_r2, mean_correlation_coefficient

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from . import shared

_SINGLE = {
    "n_cells_per_combination": 100,
    "cell_type_shift": (-20, 20),
    "batch_variance": 1,
    "shift_scale": 0,
    "correlated": True,
    "n_spurious": 2,
    "normalize": "cells",
}
SETTINGS = {
    "sparse shift": {"normalize": "cells"},
    "functions": _SINGLE | {"condition_shift": (0, 5, 5.2), "batch_mean": 0, "n_invariant": 3},
    "scripts": _SINGLE | {"condition_shift": (0, 5, 5), "batch_mean": 1, "n_invariant": 8},
    "within cells": {},
    "unbalanced": {"unbalanced": 0.8},
}
BOUND, TRUTH = "supervised", "truth"
METHODS = (BOUND, "VAE", "iVAE", "InVAE", "InVAE, factorized")
METRICS = ("mcc", "r2", "environment", "chance", "biology", "warned")


def score(job, settings, options):
    """Rows of one method in one simulation; the job's name holds both."""
    simulation, method = job.name.split(": ")
    data = make_invariant(**settings[simulation], random_state=job.seed)
    spurious = [name for name in data.spurious if data.obs[name].nunique() > 1]
    obs = data.obs.astype(str).astype(object)[[*data.invariant, "batch"]]
    train = np.random.default_rng(job.seed).permutation(len(obs)) % 2 == 0
    cells = shared.Covered(data.X, obs.reset_index(drop=True), data.invariant, spurious)
    Z, warned = data.Z[:, : data.n_invariant], False
    if method == BOUND:
        encoder = supervised(job.seed).fit(data.X[train], Z[train])
        latents = {BOUND: encoder.predict(data.X[~train]), TRUTH: Z[~train]}
    else:
        n_latent = Z.shape[1] + data.n_spurious
        mine = options | {"n_latent": n_latent} | n_spurious(method, data.n_spurious)
        halves = cells.take(train), cells.take(~train)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            latents, _ = shared.embeddings(method, *halves, job.seed, mine)
        warned = any(UNMIXED in str(warning.message) for warning in caught)
    rows = [
        {"simulation": simulation, "estimator": name, "warned": warned}
        | measured(found, Z[~train], obs[~train], spurious)
        for name, found in latents.items()
    ]
    return pd.DataFrame(rows)


def n_spurious(method, number):
    """Parameter of the methods that have it."""
    return {"n_spurious": number} if method in shared.BLOCKS else {}


def supervised(seed):
    """Network from log counts to latents, both standardised."""
    network = MLPRegressor(hidden_layer_sizes=(128, 128), early_stopping=True, random_state=seed)
    logs = FunctionTransformer(np.log1p)
    return TransformedTargetRegressor(
        make_pipeline(logs, StandardScaler(), network), transformer=StandardScaler()
    )


def measured(Z, truth, obs, spurious):
    """Recovery of the true latents, and what a random forest predicts from those found."""
    batch = shared.joint(obs[spurious]) if spurious else None
    share = np.nan if batch is None else pd.Series(batch).value_counts(normalize=True).max()
    return {
        "mcc": mean_correlation_coefficient(truth, Z),
        "r2": latent_r2(truth, Z),
        "environment": np.nan if batch is None else predicted(Z, batch),
        "chance": share,
        "biology": predicted(Z, shared.joint(obs[["cell_type", "condition"]])),
    }


def predicted(Z, labels):
    """Cross-validated accuracy of a random forest."""
    forest = RandomForestClassifier(100, random_state=0)
    return cross_val_score(forest, Z, labels, cv=5).mean()


def add_arguments(parser):
    """Options of the command line."""
    shared.add_options(parser, METHODS)
    add = parser.add_argument
    add("--simulations", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    add("--cells", type=int, help="of each combination; default: as published")


def settings_of(args):
    """Arguments of each simulation."""
    of_size = {} if args.cells is None else {"n_cells_per_combination": args.cells}
    return {name: SETTINGS[name] | of_size for name in args.simulations}


def run(args):
    """Run what is missing and print; return the number of jobs that failed."""
    settings, options = settings_of(args), shared.options_of(args)
    del options["n_latent"]  # as many as there are in truth
    setting = f"cells={args.cells}, {options}"
    jobs = [
        TableJob(setting, seed, f"{simulation}: {method}")
        for seed in seeds_of(args)
        for simulation in settings
        for method in args.methods
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, settings, options)
    for simulation in settings if len(results) else ():
        table = results[results["simulation"] == simulation]
        if len(table):
            table = table.assign(warned=table["warned"].astype(float))
            print(f"\n{simulation}\n{shared.mean_and_deviation(table, METRICS).to_string()}")
    return n_failed
