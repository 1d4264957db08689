"""Few cells of few counts: how far below PCA a start can end.

::

    python -m benchmarks.integration few neurips2021_bmmc_cite_starter.h5ad

As ``bmmc``, with labels of which every environment has ``--least`` cells, and ``--share`` of their
counts, taken at random: by default some 500 cells of 21 types with a median of 250 counts. Some
starts of InVAE ended far below PCA there. The last table has every start less PCA on the same
half, and the share of them that is more than 0.02 below.
"""

import numpy as np
import pandas as pd

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from . import halves, shared

METHODS = ("PCA", "InVAE", shared.FACTORIZED)
MARGIN = 0.02  # of the total, below PCA's


def of_few(cells, least, share):
    """Cells of labels that all environments have, with some of their counts."""
    labels = next(iter(cells.labels().values()))
    seen = pd.crosstab(labels, cells.environment()).min(axis=1)
    kept = np.isin(labels, seen.index[seen >= least])
    cells = cells.take(kept)
    X = cells.X.astype(np.int64)
    X.data = np.random.default_rng(0).binomial(X.data, share)
    X.eliminate_zeros()
    return cells._replace(X=X.astype(np.float32), obs=cells.obs.reset_index(drop=True))


def add_arguments(parser):
    """Options of the command line."""
    shared.add_file(parser)
    shared.add_options(parser, METHODS)
    add = parser.add_argument
    add("--least", type=int, default=2, help="cells of a label in every environment")
    add("--share", type=float, default=0.08, help="of counts that is kept; default %(default)s")


def run(args):
    """Run what is missing and print; return the number of jobs that failed."""
    cells = shared.read(args.file, args.invariant, args.spurious)
    cells, options = of_few(cells, args.least, args.share), shared.options_of(args)
    setting = f"{cells.described()}, {options}"
    jobs = [TableJob(setting, seed, method) for seed in seeds_of(args) for method in args.methods]
    results, n_failed = run_jobs(halves.score, jobs, args.csv, args.jobs, cells, options)
    if len(results):
        name = next(iter(cells.labels()))
        halves.report(results[results["labels"] == name], name)
        print(f"\ntotal less that of PCA, by start and half\n{margins(results).to_string()}")
    return n_failed


def margins(results):
    """Mean and least difference from PCA by estimator, and the share below the margin."""
    total = results.pivot_table(index=["seed", "fold"], columns="estimator", values="total")
    less = total.sub(total["PCA"], axis=0).drop(columns="PCA")
    columns = {"mean": less.mean(), "least": less.min(), "below": (less < -MARGIN).mean()}
    return pd.DataFrame(columns).round(3)
