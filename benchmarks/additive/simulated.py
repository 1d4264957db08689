"""Simulated screens whose truth is known: latent states, masks, and effects of combinations.

A hundred perturbations and forty pairs of them are simulated (``make_additive_shift``, 15
latents); all cells of twenty pairs are held out. Scored are, against the truth,

* latent states of the training cells, as ``transform`` infers them from expression alone and as
  ``posterior`` does given the perturbation (MCC); beside it an encoder that was shown them;
* masks of single perturbations, after matching latents;
* effects of the held-out pairs on expected expression (Pearson over pairs and genes), in counts at
  the mean library size and in log(1 + counts), or in the units of normal expression; beside it the
  sum of the parts' effects, measured in training cells scaled to the mean library size;
* held-out cells, by IWELBO(100).
"""

import numpy as np

from skpert.datasets import make_additive_shift
from skpert.metrics import ate_pearson, graph_scores, match_latents, mean_correlation_coefficient

from ..command import seeds_of
from ..runner import run_jobs
from ..svae.oracle import supervised_encoder
from .shared import (
    COST,
    DEFAULTS,
    add_options,
    fitted,
    make_job,
    print_orderings,
    print_table,
)

DATA = {"n_perturbations": 100, "n_combinations": 40, "n_latent": 15}
HELD_OUT = 0.5  # share of combinations
LIKELIHOODS = ("negative_binomial", "normal")
ENCODER, SUM = "supervised encoder", "sum of parts"
COLUMNS = {
    "mcc": ("MCC", 3),
    "mcc_given": ("MCC given a", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "f1": ("F1", 3),
    "effect": ("effects of pairs", 3),
    "effect_log": ("in log counts", 3),
    "iwelbo": ("IWELBO", 2),
    "seconds_fit": ("fit, s", 1),
}
ORDERINGS = [
    *[("mcc", "SAMSVAE", worse) for worse in ("SVAEPlus", "CPAVAE", "ConditionalVAE")],
    ("f1", "SAMSVAE", "SVAEPlus"),
    *[
        (column, better, worse)
        for column in ("effect", "effect_log")
        for better, worse in (
            ("SAMSVAE", "CPAVAE"),
            ("SAMSVAE", "ConditionalVAE"),
            ("SAMSVAE", SUM),
            ("CPAVAE", SUM),
        )
    ],
    ("iwelbo", "SAMSVAE", "CPAVAE"),
    ("iwelbo", "SAMSVAE", "ConditionalVAE"),
]


def score(job):
    """Row of the CSV file."""
    row = dict.fromkeys([*COLUMNS, *COST])
    row |= {name: job.data[name] for name in ("likelihood", "n_cells_per_perturbation")}
    screen = make_additive_shift(**job.data, random_state=job.seed)
    n_held_out = int(HELD_OUT * len(screen.combinations))
    held_out = screen.combinations[:n_held_out]
    training = ~np.isin(screen.A, held_out)
    X, A, Z = screen.X[training], screen.A[training], screen.Z[training]
    if job.method == ENCODER:
        # It reads log(1 + x), which of normal expression is to be the expression itself.
        X = np.expm1(X) if job.data["likelihood"] == "normal" else X
        return row | {"mcc": supervised_encoder(X, Z, random_state=job.seed)["pearson_mcc"]}
    if job.method == SUM:
        return row | _agreement(screen, held_out, sum_of_parts(screen, X, A, held_out))
    model, cost = fitted(job, X, A)
    row |= cost | _recovery(model, screen, X, A, Z)
    if job.method.startswith("SVAEPlus"):  # for which a new pair is a new perturbation
        return row
    options = {} if job.data["likelihood"] == "normal" else {"library_size": _library(screen)}
    expected = model.predict_intervention(np.array(["control", *held_out]), **options)
    row |= _agreement(screen, held_out, [change(expected) for change in _changes(screen)])
    return row | {"iwelbo": model.score(screen.X[~training], screen.A[~training])}


def _recovery(model, screen, X, A, Z):
    """Scores of latent states and masks against the truth."""
    inferred = model.transform(X)
    row = {
        "mcc": mean_correlation_coefficient(Z, inferred),
        "mcc_given": mean_correlation_coefficient(Z, model.posterior(X, A).z),
    }
    if not hasattr(model, "mask_"):
        return row
    single = np.isin(model.perturbations_, screen.perturbations)  # in the same order
    return row | graph_scores(screen.mask, model.mask_[single], match=match_latents(Z, inferred))


def _library(screen):
    return float(screen.library_size.mean())


def _changes(screen):
    """Functions of expected expression, control first, that give effects; one if not counts."""

    def change(expected):
        return expected[1:] - expected[0]

    in_logs = [lambda expected: change(np.log1p(expected))]
    return [change, *(in_logs if "library_size" in screen else [])]


def _agreement(screen, held_out, effects):
    """Pearson correlation of effects with the true ones, by column of the CSV file."""
    expected = screen.expected(np.array(["control", *held_out]))
    truths = [change(expected) for change in _changes(screen)]
    names = ("effect", "effect_log")
    return {
        name: ate_pearson(truth, effect)
        for name, truth, effect in zip(names, truths, effects, strict=False)
    }


def sum_of_parts(screen, X, A, combinations):
    """Effects of combinations that the mean expression of their parts' cells adds up to.

    Parameters
    ----------
    screen : Bunch
        Of ``make_additive_shift``.
    X : ndarray of shape (n_cells, n_genes)
        Expression of the training cells.
    A : ndarray of shape (n_cells,)
        Their labels, among them "control" and each part alone.
    combinations : iterable of str
        Labels "A+B".

    Returns
    -------
    effects : list of ndarray of shape (n_combinations, n_genes)
        In the units of X, at the mean library size, and for counts in log(1 + counts).
    """
    if "library_size" in screen:
        X = X / np.maximum(X.sum(1, keepdims=True), 1) * _library(screen)
    parts = [name.split("+") for name in combinations]
    names = sorted({name for pair in parts for name in pair})
    means = np.stack([X[A == name].mean(0) for name in ["control", *names]])
    effects = [dict(zip(names, change(means), strict=True)) for change in _changes(screen)]
    return [np.stack([sum(effect[name] for name in pair) for pair in parts]) for effect in effects]


def data_of(n_cells, likelihood):
    """Arguments of the simulator with this number of cells for each condition."""
    cells = {"n_cells_per_perturbation": n_cells, "n_control_cells": n_cells}
    return DATA | cells | {"likelihood": likelihood}


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--cells", type=int, nargs="+", default=[100, 500], help="of each condition")
    add("--likelihood", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    add_options(parser, range(20, 25), DATA["n_latent"], DEFAULTS)


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    jobs = [
        make_job(
            method,
            seed,
            data_of(n_cells, likelihood),
            n_latent=args.latent,
            likelihood=likelihood,
            max_epochs=args.epochs,
        )
        for seed in seeds_of(args)
        for n_cells in args.cells
        for likelihood in args.likelihood
        for method in [*args.methods, ENCODER, SUM]
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs)
    if len(results):
        _print(results)
    return n_failed


def _print(results):
    cases = ["n_cells_per_perturbation", "likelihood"]
    for (n_cells, likelihood), rows in results.groupby(cases, sort=False):
        print(f"\n{likelihood}, {n_cells} cells; mean ± standard deviation over seeds")
        print_table(rows, COLUMNS)
        print_orderings(rows, COLUMNS, ORDERINGS)
