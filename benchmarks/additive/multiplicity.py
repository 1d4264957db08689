"""Many perturbations in each cell: edges, and how time grows with the number of cells.

A screen at a multiplicity of infection of 8: 500 perturbations, of which each cell has a Poisson
number (``make_additive_shift``, 15 latents, 100 genes, shifts of one standard deviation, which
add up). Printed are the edges against the truth, and the exponent of the CPU seconds of an epoch
and of the whole fit in the number of cells; with "auto" a fit of more cells has fewer epochs.
"""

import numpy as np

from skpert.datasets import make_additive_shift
from skpert.metrics import graph_scores, match_latents

from ..command import seeds_of
from ..runner import run_jobs
from .shared import COST, add_options, fitted, make_job, print_table

DATA = {"n_perturbations": 500, "multiplicity": 8, "effect_size": 1.0, "effect_scale": 0.1}
COLUMNS = {
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "f1": ("F1", 3),
    "n_latent": ("latents", 0),
    "n_iter": ("epochs", 0),
    "cpu_seconds_fit": ("CPU seconds", 1),
}


def score(job):
    """Row of the CSV file."""
    screen = make_additive_shift(**job.data, random_state=job.seed)
    model, cost = fitted(job, screen.X, screen.dosage)
    match = match_latents(screen.Z, model.transform(screen.X))
    found = graph_scores(screen.mask, model.mask_, match=match)
    row = dict.fromkeys([*COLUMNS, *COST]) | {"n_cells": len(screen.X)} | cost
    return row | {"n_latent": model.mask_.shape[1]} | {k: found[k] for k in COLUMNS if k in found}


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 20_000, 40_000])
    add_options(parser, range(20, 25), "auto", ["SAMSVAE"])


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    jobs = [
        make_job(
            method,
            seed,
            DATA | {"n_cells_per_perturbation": n_cells // DATA["n_perturbations"]},
            n_latent=args.latent,
            max_epochs=args.epochs,
        )
        for seed in seeds_of(args)
        for n_cells in args.cells
        for method in args.methods
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs)
    for method, rows in results.groupby("method", sort=False):
        print(f"\n{method}; mean ± standard deviation over seeds")
        print_table(rows, COLUMNS, "n_cells")
        print(f"exponent of CPU seconds in cells: {_exponents(rows)}")
    return n_failed


def _exponents(rows):
    """Slopes of log seconds on log cells, by epoch and in all."""
    if rows["n_cells"].nunique() < 2:
        return "needs two numbers of cells"
    cells, seconds = np.log(rows["n_cells"]), rows["cpu_seconds_fit"]
    by_epoch = np.polyfit(cells, np.log(seconds / rows["n_iter"]), 1)[0]
    in_all = np.polyfit(cells, np.log(seconds), 1)[0]
    return f"{by_epoch:.2f} of an epoch, {in_all:.2f} of the fit"
