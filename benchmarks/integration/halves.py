"""Biology kept and environments lost in half of the cells, by models of the other half.

``bmmc`` and ``kang`` are the same but for the file of their results; any file will do that has the
columns. Halves are random, stratified by labels and environment as far as that is possible, and
take turns. A model is fitted to one half with its labels and gives latents of the other from
expression alone, so that no label that is scored was seen by the model. Scores are those of the
inVAE paper's Figure 4, in its layout, for labels that join all invariant columns (the primary
ones: all of these are to be kept) and for the first column alone.
"""

import pandas as pd

from skpert.metrics import integration_scores

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from . import shared

HEADINGS = {
    "isolated_labels": "isolated",
    "kmeans_nmi": "NMI",
    "kmeans_ari": "ARI",
    "silhouette_label": "sil. label",
    "silhouette_batch": "sil. batch",
    "kbet": "kBET",
    "graph_connectivity": "graph",
    "batch_correction": "batch",
    "bio_conservation": "bio",
    "total": "total",
}


def score(job, cells, options):
    """Rows of one method, for each half and kind of label."""
    half, rows = shared.halves(cells, job.seed), []
    for fold in (0, 1):
        train, test = cells.take(half != fold), cells.take(half == fold)
        latents, seconds = shared.embeddings(job.name, train, test, job.seed, options)
        for name, Z in latents.items():
            row = {"estimator": name, "fold": fold, "seconds": seconds}
            rows += [row | scores for scores in scored(Z, test)]
    return pd.DataFrame(rows)


def scored(Z, cells):
    """Scores of an embedding for each kind of label."""
    return [
        {"labels": name, **integration_scores(Z, labels, cells.environment(), random_state=0)}
        for name, labels in cells.labels().items()
    ]


def add_arguments(parser):
    """Options of the command line."""
    shared.add_file(parser)
    shared.add_options(parser)


def run(args):
    """Run what is missing and print; return the number of jobs that failed."""
    cells = shared.read(args.file, args.invariant, args.spurious)
    options = shared.options_of(args)
    setting = f"{cells.described()}, {options}"
    methods = shared.available(args.methods)
    jobs = [TableJob(setting, seed, method) for seed in seeds_of(args) for method in methods]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, cells, options)
    for i, labels in enumerate(cells.labels() if len(results) else ()):
        report(results[results["labels"] == labels], f"{labels}{' (primary)' * (i == 0)}")
    return n_failed


def report(table, title):
    """Print the table and the paired differences."""
    text = shared.mean_and_deviation(table, HEADINGS).rename(columns=HEADINGS)
    text["fit, s"] = table.groupby("estimator", sort=False)["seconds"].mean().map("{:.0f}".format)
    n_seeds = table["seed"].nunique()
    print(f"\nLabels: {title}. Mean ± standard deviation over {n_seeds} seeds")
    print(text.to_string())
    shared.print_differences(table, ("total", "bio_conservation"), ("PCA", "scVI"))
