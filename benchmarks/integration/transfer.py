"""Labels of an environment that a linear classifier trained on the others gets right.

Each environment, such as a donor, is left out in turn. InVAE and its relatives are fitted to all
cells, of the left-out ones without their labels: these are hidden, while expression and
environment are known. PCA, VAE and scVI are fitted to all cells and are given no labels. A
logistic regression on standardised latents, which are read from expression alone, is trained on
the labelled cells and tested on the left-out ones. ``all genes`` is the same on log-normalised
expression. Only classes with ``--min-cells`` on either side count. The layout is that of the inVAE
paper's Table 1: accuracy, and its least, median and largest value over classes.
"""

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert.preprocessing import LogNormalize

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from . import shared

GENES = "all genes"
METRICS = ("overall", "min", "median", "max")


def hidden(cells, test):
    """The cells, without the invariant covariates of those where ``test``."""
    obs = cells.obs.copy()
    obs.loc[test, cells.invariant] = None
    return cells._replace(obs=obs)


def score(job, cells, options, min_cells):
    """Rows of one method, for each left-out environment and kind of label."""
    environment, rows = cells.environment(), []
    for name in np.unique(environment):
        test = environment == name
        for estimator, Z in features(job, hidden(cells, test), options).items():
            row = {"estimator": estimator, "left_out": name}
            for kind, labels in cells.labels().items():
                rows.append(row | {"labels": kind} | accuracy(Z, labels, test, min_cells))
    return pd.DataFrame(rows)


def features(job, cells, options):
    """What the classifier reads, by row of the table."""
    if job.name == GENES:
        return {GENES: LogNormalize().fit_transform(cells.X).toarray()}
    return shared.embeddings(job.name, cells, cells, job.seed, options)[0]


def accuracy(Z, labels, test, min_cells):
    """Accuracy in the test cells of classes that either side has, and its spread over classes.

    Raises
    ------
    ValueError
        If fewer than two classes have enough cells on both sides.
    """
    sides = [pd.Series(labels[side]).value_counts() for side in (test, ~test)]
    common = [k for k in sides[0].index if min(n.get(k, 0) for n in sides) >= min_cells]
    if len(common) < 2:
        raise ValueError(
            f"{len(common)} classes have {min_cells} cells in and outside the environment left "
            "out, two are needed: lower --min-cells"
        )
    kept = np.isin(labels, common)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(Z[kept & ~test], labels[kept & ~test])
    correct = classifier.predict(Z[kept & test]) == labels[kept & test]
    by_class = pd.Series(correct).groupby(labels[kept & test]).mean()
    spread = {name: getattr(by_class, name)() for name in METRICS[1:]}
    return {"n_classes": len(common), "overall": correct.mean(), **spread}


def add_arguments(parser):
    """Options of the command line."""
    shared.add_file(parser)
    methods = [method for method in shared.METHODS if method != shared.RAW]  # scales do not count
    shared.add_options(parser, (GENES, *methods))
    add = parser.add_argument
    add("--min-cells", type=int, default=5, help="of a class that counts; default %(default)s")


def run(args):
    """Run what is missing and print; return the number of jobs that failed."""
    cells = shared.read(args.file, args.invariant, args.spurious)
    options = shared.options_of(args)
    setting = f"{cells.described()}, {options}, min_cells={args.min_cells}"
    methods = shared.available(args.methods)
    jobs = [TableJob(setting, seed, method) for seed in seeds_of(args) for method in methods]
    data = (cells, options, args.min_cells)
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, *data)
    for i, labels in enumerate(cells.labels() if len(results) else ()):
        table = results[results["labels"] == labels]
        print(f"\nAccuracy of {labels}{' (primary)' * (i == 0)} in the environment left out")
        for name, rows in table.groupby("left_out"):
            n_classes = rows["n_classes"].iloc[0]
            text = shared.mean_and_deviation(rows, METRICS).to_string()
            print(f"\n{name}, {n_classes} classes\n{text}")
        shared.print_differences(table, ("overall", "median"), ("PCA", "scVI"))
    return n_failed
