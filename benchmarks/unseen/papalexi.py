"""Knock-outs of a whole screen, left out fold by fold, beside the baselines.

Expression is log-normalised to 500 counts a cell. The folds over targets are the same for all
seeds, and so are the cells that are compared. Rows:

* ControlMean and PerturbedMean, which have no parameter;
* "linear, own embedding" and "linear, PCA labels", ridge regression as published, with features
  of targets that are measured genes: it is trained on these alone and says nothing of the others,
  so that its means are over fewer targets; paired differences compare like with like;
* "linear, gene sets", BilinearRidge at its defaults, and SCCVAE, both described by gene sets,
  whose weights are of all their genes, whatever the screen;
* SCCVAE with a learned graph, none (the conditional model), a random one, and a given one. A
  causal graph of genes is no graph of latents: given is that of as many modules of genes, which
  are clusters of their correlation in control cells. Which latent a module stands for is
  arbitrary, and so is what this row says of causes;
* mean baseline (the floor) and split-half replicate (the ceiling) of ``evaluate_perturbations``.

Targets whose cells can be distinguished from control cells at all are found before anything is
predicted (``detectable_perturbations``, at least 200 cells and an accuracy of 0.6).
``--filtered`` leaves all others out of the screen, ``--leave-one-out`` makes as many folds as
targets, for baselines.
"""

from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skpert import BilinearRidge, ControlMean, PerturbedMean
from skpert.model_selection import LeavePerturbationsOut
from skpert.preprocessing import detectable_perturbations

from ..command import seeds_of
from ..runner import TableJob, fingerprint, run_jobs
from .shared import (
    DISCRIMINATION,
    GRAPHS,
    MODEL,
    PAIRED,
    PUBLISHED,
    OfMeasuredTargets,
    add_options,
    described,
    evaluated,
    frozen_gene_sets,
    merged,
    module_graph,
    options_of,
    over_seeds,
    print_means,
    print_paired,
    read,
    sccvaes,
)

N_FOLDS = 5
BASELINES = "baselines"  # the job of all of them, floor and ceiling
METRICS = (
    "response_mse",
    "delta_pearson",
    "delta_pearson_perturbed",
    "energy_distance",
    "maximum_mean_discrepancy",
    DISCRIMINATION,
)


def baselines(features):
    """Estimators without a network, by row."""
    return {
        "ControlMean": ControlMean(),
        "PerturbedMean": PerturbedMean(),
        "linear, own embedding": OfMeasuredTargets(**PUBLISHED),
        "linear, PCA labels": OfMeasuredTargets("genes", **PUBLISHED),
        "linear, gene sets": BilinearRidge(features),
    }


def score(job, screen, options):
    """Rows of the CSV file; ``screen`` is that of :func:`prepared`."""
    cv = LeavePerturbationsOut(screen.n_folds, random_state=0)
    if job.name == BASELINES:
        return evaluated(baselines(screen.features), screen, cv, references=True)
    models = sccvaes(screen.features, screen.graph, job.seed, options)
    return evaluated({job.name: models[job.name]}, screen, cv, references=False)


def prepared(X, A, genes, sets, n_latent, min_cells=200):
    """Screen with features of its targets, which of them are detectable, and a given graph.

    Parameters
    ----------
    X : ndarray of shape (n_cells, n_genes)
        Log-normalised expression.
    A : ndarray of shape (n_cells,)
        Labels; the control is "control".
    genes : ndarray of shape (n_genes,)
        Names.
    sets : dict of str to list of str
        Gene sets.
    n_latent : int or None
        Number of nodes of the graph; None makes none.
    min_cells : int, default=200
        That a target needs to be called detectable.

    Returns
    -------
    screen : Bunch
        ``X``, ``A``, ``genes``, ``features``, ``detectable``, ``graph`` and ``n_folds``.
    """
    table = detectable_perturbations(X, A, min_cells=min_cells, min_accuracy=0.6, random_state=0)
    return Bunch(
        X=X,
        A=A,
        genes=genes,
        features=frozen_gene_sets(sets),
        detectable=table.index[table["kept"]].tolist(),
        graph=None if n_latent is None else module_graph(X[A == "control"], n_latent),
        n_folds=min(N_FOLDS, len(set(A) - {"control"})),
    )


def filtered(screen):
    """The screen with its detectable perturbations only."""
    if len(screen.detectable) < 2:
        raise SystemExit(f"detectable are {screen.detectable}: two are needed to leave one out")
    kept = np.isin(screen.A, [*screen.detectable, "control"])
    n_folds = min(N_FOLDS, len(screen.detectable))
    return Bunch(**{**screen, "X": screen.X[kept], "A": screen.A[kept], "n_folds": n_folds})


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="what skpert.datasets.load_screen reads, counts")
    add("--gmt", type=Path, nargs="+", required=True, help="files of gene sets, or folders")
    add("--target-sum", type=float, default=500.0, help="counts a cell is scaled to")
    add("--filtered", action="store_true", help="only targets whose effect is detectable")
    add("--leave-one-out", action="store_true", help="each target by itself; baselines only")
    add_options(parser, range(5))


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    options, cheap = options_of(args), args.leave_one_out
    cells = read(args.path, args.target_sum)
    sets = merged(args.gmt)
    n_latent = None if cheap else args.latent
    screen = prepared(cells.X.toarray(), cells.A, cells.genes, sets, n_latent)
    print(f"detectable: {', '.join(screen.detectable)}")
    if args.filtered:
        screen = filtered(screen)
    if cheap:
        screen.n_folds = len(set(screen.A)) - 1
    total = screen.X.sum(0, dtype=np.float64).round(3)
    data = fingerprint(total, screen.A, np.array(list(sets)))
    of_data = f"{args.path.name} {data}, {args.target_sum:g} counts, {screen.n_folds} folds"
    of_model = f"{of_data}, {described(options) or 'defaults'}"
    jobs = [TableJob(of_data, 0, BASELINES)]
    seeds = [] if cheap else seeds_of(args)
    jobs += [TableJob(of_model, seed, name) for seed in seeds for name in GRAPHS]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, screen, options)
    if len(results):
        report(results, screen.detectable)
    return n_failed


def report(results, detectable):
    """Print means over all and over detectable targets, and paired differences."""
    table = over_seeds(results, METRICS)
    print_means(table, METRICS, "All targets; seeds averaged")
    of_detectable = table[table["perturbation"].isin(detectable)]
    if 0 < len(of_detectable) < len(table):
        print_means(of_detectable, METRICS, "Targets whose effect is detectable")
    names = set(table["estimator"])
    if MODEL not in names:
        return
    others = [name for name in baselines(None) if name in names]
    of_graphs = [name for name in GRAPHS if name != MODEL]
    for title, rows in {"All targets": table, "Detectable targets": of_detectable}.items():
        print(f"\n{title}")
        print_paired(rows, MODEL, [*others, *of_graphs], PAIRED)
