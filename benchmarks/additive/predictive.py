"""Posterior predictive checks of single perturbations and of pairs never seen together.

A model is fitted to the train cells of ``norman_split(task="ood", fraction=0, seed=...)``, four
fifths of those with one perturbation at most, and checked on all others: single perturbations and
pairs, beside the same held-out control cells. Replicates of these cells, with masks and embeddings
of their own, say what would be seen if the model were right:

* ATE-Pearson of the SAMS-VAE paper, over all perturbations and genes. A correlation below its
  expectation says that effects are wrong; on pairs, that they do not add up in latent space. The
  expectation is below one as few cells measure an effect with noise.
* distance of means and of shares of zeros from the model's, over perturbations and genes, in
  standard deviations of sampling; one if the model is right.

The p-value of a model that is right is uniform, and at least 1 / (replicates + 1). "pairs at 0.05"
is the share of pairs with a p-value of the mean of at most 0.05.
"""

from pathlib import Path

import numpy as np

from skpert.datasets import norman_split
from skpert.inspection import posterior_predictive_check

from ..command import seeds_of
from ..runner import run_jobs
from .norman import read_screen
from .shared import COST, add_options, fitted, make_job, print_table

METHODS = ("SAMSVAE", "CPAVAE", "ConditionalVAE")  # that predict unseen combinations
STATISTICS = ("ate", "mean", "zero_fraction")
POOLS = ("single", "double")
TITLES = {"observed": "data", "expected": "model", "p": "p"}
COLUMNS = {
    statistic: {
        f"{statistic}_{pool}_{value}": (f"{pool}, {title}", 3)
        for pool in POOLS
        for value, title in TITLES.items()
    }
    for statistic in STATISTICS
}
FOUND = {f"found_{pool}": (f"{pool} at 0.05", 3) for pool in POOLS}


def score(job, screen):
    """Row of the CSV file; ``screen`` is that of :func:`norman.read_screen`."""
    train, held_out = cells_of(screen, job.seed)
    model, cost = fitted(job, screen.X[train], screen.A[train])
    check = posterior_predictive_check(
        model,
        screen.X[held_out],
        screen.A[held_out],
        list(STATISTICS),
        n_replicates=job.data["replicates"],
        random_state=job.seed,
    )
    return summary(check) | {"n_cells": len(held_out)} | cost


def cells_of(screen, seed):
    """Cells to fit, with one perturbation at most, and to check: singles, pairs and controls."""
    train = norman_split(screen.spelled, task="ood", fraction=0.0, seed=seed) == "train"
    return np.flatnonzero(train), np.flatnonzero(~train)


def summary(check):
    """Values of both pools, from what ``posterior_predictive_check`` returns."""
    pooled = check.pooled.set_index(["statistic", "pool"])
    row = {
        f"{statistic}_{pool}_{value}": float(pooled.loc[(statistic, pool), value])
        for statistic in STATISTICS
        for pool in POOLS
        for value in TITLES
    }
    means = check.table[check.table["statistic"] == "mean"].set_index("perturbation")["p"]
    means = means.drop("control")
    pairs = means.index.str.contains("+", regex=False)
    for pool, of_pool in zip(POOLS, (~pairs, pairs), strict=True):
        row[f"found_{pool}"] = float((means[of_pool] <= 0.05).mean())
    return row


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("path", type=Path, help="the screen, counts and labels A+B, .h5ad")
    parser.add_argument("--dataset", default="norman19", help="cells, by obs['dataset'] if any")
    parser.add_argument("--replicates", type=int, default=200, help="default %(default)s")
    add_options(parser, range(5), 20, METHODS)


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    screen = read_screen(args.path, args.dataset)
    print(screen.name)
    data = {"screen": screen.name, "replicates": args.replicates}
    jobs = [
        make_job(method, seed, data, n_latent=args.latent, max_epochs=args.epochs)
        for seed in seeds_of(args)
        for method in args.methods
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, screen)
    if len(results):
        for statistic in STATISTICS:
            print(f"\n{statistic}; mean ± standard deviation over splits")
            print_table(results, COLUMNS[statistic])
        print("\nshare of perturbations with p of the mean at most 0.05")
        print_table(results, FOUND | {COST[1]: ("fit, s", 1)})
    return n_failed
