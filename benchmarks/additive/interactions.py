"""Interactions that were planted in simulated screens: how many are found, and how many are false.

Some of the pairs of each screen (``make_additive_shift``, 10 latents, 200 cells of each condition)
shift one latent beyond the sum of their parts. ``SAMSVAE(interactions=True)`` is fitted to all
cells but those of some more pairs, and interactions are called at a false discovery rate. Printed
are, over seeds, how many are called, how many of these are false, on how many pairs that do not
interact, and the share of the true ones that are found (power); of single perturbations precision
and recall; the scale of sums, in truth 1; and the correlation of effects of the held-out pairs
with the true ones (Pearson, in log counts or in units of normal expression). With ``--without``
the additive model stands beside it.

A false call is one on another pair or on another latent than that which goes with the true one by
the states of cells. "Must hold": the share of false ones is at most the level.
"""

import numpy as np

from skpert.datasets import make_additive_shift
from skpert.inspection import interactions
from skpert.metrics import ate_pearson, graph_scores, match_latents

from ..command import seeds_of
from ..runner import run_jobs
from .shared import COST, METHODS, Job, add_options, fitted, print_table

DATA = {
    "n_perturbations": 50,
    "n_combinations": 50,
    "n_interactions": 10,
    "n_latent": 10,
    "n_cells_per_perturbation": 200,
    "n_control_cells": 200,
}
N_HELD_OUT = 10  # pairs without an interaction
LIKELIHOODS = ("normal", "negative_binomial")
KINDS = {True: "with interactions", False: "without"}
COLUMNS = {
    "called": ("called", 1),
    "false": ("false", 1),
    "false_pairs": ("on false pairs", 1),
    "power": ("power", 2),
    "precision": ("edges: precision", 3),
    "recall": ("recall", 3),
    "scale": ("scale", 3),
    "unseen": ("unseen pairs", 3),
    "seconds_fit": ("fit, s", 1),
}


def score(job):
    """Row of the CSV file."""
    row = dict.fromkeys([*COLUMNS, "n_true", *COST])
    fdr, likelihood = job.data["fdr"], job.data["likelihood"]
    row |= {"likelihood": likelihood, "kind": KINDS[job.model["interactions"]]}
    screen = make_additive_shift(
        **{k: v for k, v in job.data.items() if k != "fdr"}, random_state=job.seed
    )
    plain = screen.combinations[~screen.interaction.any(1)][:N_HELD_OUT]
    training = ~np.isin(screen.A, plain)
    model, cost = fitted(job, screen.X[training], screen.A[training])
    match = match_latents(screen.Z, model.transform(screen.X))
    edges = graph_scores(screen.mask, model.mask_, match=match)
    row |= cost | {"precision": edges.precision, "recall": edges.recall}
    row["unseen"] = _of_unseen(model, screen, plain)
    if not job.model["interactions"]:
        return row
    table = interactions(model, fdr=fdr).pivot(index="combination", columns="latent")["called"]
    called = table[model.get_feature_names_out()].to_numpy(dtype=bool)
    truth = screen.interaction[np.searchsorted(screen.combinations, table.index)] != 0
    found = graph_scores(truth, called, match=match)
    n_called = int(called.sum())
    row |= {"called": n_called, "n_true": int(truth.sum()), "power": found.recall}
    row["false"] = round(n_called * (1 - found.precision)) if n_called else 0
    row["false_pairs"] = int(called[~truth.any(1)].sum())
    return row | {"scale": float(model.module_.interactions.scale[2])}


def _of_unseen(model, screen, pairs):
    """Correlation of the effects of pairs with the true ones."""
    names = np.array(["control", *pairs])
    truth, options = screen.expected(names), {}
    if "library_size" in screen:
        options["library_size"] = float(screen.library_size.mean())
    found = model.predict_intervention(names, **options)
    if options:
        truth, found = np.log1p(truth), np.log1p(found)
    return ate_pearson(truth[1:] - truth[0], found[1:] - found[0])


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--likelihood", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    add("--fdr", type=float, default=0.05, help="level; default %(default)s")
    add("--without", action="store_true", help="fit the additive model, too")
    add_options(parser, range(5), DATA["n_latent"], ["SAMSVAE"])


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    jobs = [
        Job(
            method,
            seed,
            DATA | {"likelihood": likelihood, "fdr": args.fdr},
            METHODS[method][1]
            | {"n_latent": args.latent, "likelihood": likelihood, "max_epochs": args.epochs}
            | {"interactions": interacting},
        )
        for seed in seeds_of(args)
        for likelihood in args.likelihood
        for method in args.methods
        for interacting in ((True, False) if args.without else (True,))
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs)
    if len(results):
        _print(results, args.fdr)
    return n_failed


def _print(results, fdr):
    for likelihood, rows in results.groupby("likelihood", sort=False):
        print(f"\n{likelihood}, {results['seed'].nunique()} seeds; mean ± standard deviation")
        print_table(rows, COLUMNS, "kind")
        total = rows[["called", "false", "false_pairs", "n_true"]].sum()
        share = total["false"] / max(total["called"], 1)
        of_pairs = total["false_pairs"] / max(total["called"], 1)
        found = (total["called"] - total["false"]) / max(total["n_true"], 1)
        print(
            f"of {total['called']:.0f} called in all seeds {share:.1%} are false, "
            f"{of_pairs:.1%} on pairs without any, at a level of {fdr:.0%}; of "
            f"{total['n_true']:.0f} planted {found:.0%} are found"
        )
