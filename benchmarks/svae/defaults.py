"""Why the defaults are what they are: each is varied alone, from small screens to large.

::

    python -m benchmarks.svae defaults                       # all of them, two seeds
    python -m benchmarks.svae defaults --screens small few   # some screens
    python -m benchmarks.svae defaults --quick               # one seed

Every variation changes one thing of ``SVAEPlus(n_latent, random_state=seed)``. Recovery of latents
(MCC) and edges (F1) and the ELBO on fresh cells are printed as differences to the defaults on the
same screen and seed, with the ratio of fitting times. Seeds here are 0 and 1, those that the
defaults were chosen with.
"""

import time
from dataclasses import dataclass

import numpy as np

from skpert import SVAEPlus
from skpert._optimizer import budget
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, match_latents, mean_correlation_coefficient
from skpert.sparsity import effects

from .. import runner
from ..command import add_job_options, seeds_of
from .paper import DATA
from .recovery import SETTINGS

SCREENS = {name: DATA | SETTINGS[name][0] for name in ("p15", "p20", "weak1", "few")} | {
    "small": {  # 1,500 cells x 300 genes, weak effects, shallow counts, control cells
        "n_perturbations": 14,
        "n_cells_per_perturbation": 100,
        "n_control_cells": 100,
        "n_latent": 5,
        "n_genes": 300,
        "n_targets": (1, 2),
        "effect_size": 2.0,
        "library_size": 2000,
    },
    "large": {  # 100,000 cells x 2,000 genes
        "n_perturbations": 200,
        "n_cells_per_perturbation": 475,
        "n_control_cells": 5000,
        "n_latent": 20,
        "n_genes": 2000,
        "effect_size": 3.0,
        "library_size": 5000,
    },
}
DENSE_SHARE = effects.DENSE_SHARE  # no parameter
VARIATIONS = {
    "defaults": {},
    "learning_rate 3e-3": {"learning_rate": 3e-3},
    "learning_rate 3e-2": {"learning_rate": 3e-2},
    "half the epochs": {"epochs": 0.5},
    "twice the epochs": {"epochs": 2.0},
    "half the batch": {"batch": 0.5},
    "twice the batch": {"batch": 2.0},
    "dropout 0.1": {"dropout": 0.1},
    "warm-up of 10 %": {"warmup": 0.1},
    "constant rate": {"schedule": "constant", "learning_rate": 3e-3},
    "dense for a half": {"DENSE_SHARE": 0.5},
    "dense for a sixth": {"DENSE_SHARE": 1 / 6},
    "learned, alpha K": {"sparsity": "K"},
    "random weights": {"init": "random"},
}


@dataclass(frozen=True)
class Job(runner.Job):
    """One variation, the method, on one simulated screen."""

    screen: str
    data: dict
    change: dict


def score(job):
    """Row of the CSV file."""
    screen = make_sparse_shift(**job.data, random_state=job.seed)
    seen = ~np.isin(screen.A, getattr(screen, "held_out", []))
    fresh = seen & (np.random.default_rng(job.seed).random(len(seen)) < 0.05)
    train = seen & ~fresh
    change = dict(job.change)
    effects.DENSE_SHARE = change.pop("DENSE_SHARE", DENSE_SHARE)
    model = _model(job, change, train.sum(), len(set(screen.A[train])))
    start = time.perf_counter()
    model.fit(screen.X[train], screen.A[train])
    seconds = time.perf_counter() - start
    Z = model.transform(screen.X[train])
    match = match_latents(screen.Z[train], Z)
    true = screen.mask[np.isin(screen.perturbations, model.perturbations_)]
    return {
        "screen": job.screen,
        "mcc": mean_correlation_coefficient(screen.Z[train], Z),
        "f1": graph_scores(true, model.mask_, match=match).f1,
        "score": model.set_params(n_particles=20).score(screen.X[fresh], screen.A[fresh]),
        "seconds_fit": round(seconds, 1),
    }


def _model(job, change, n_cells, n_labels):
    """Estimator with the change, what is relative made absolute."""
    model = SVAEPlus(job.data["n_latent"], random_state=job.seed)
    n_training = n_cells - int(model.validation_fraction * n_cells)
    n_epochs, batch_size, _ = budget(n_training, "auto", "auto")
    if "epochs" in change:
        change["max_epochs"] = max(round(n_epochs * change.pop("epochs")), 1)
    if "batch" in change:  # for as many epochs
        change |= {"batch_size": round(batch_size * change.pop("batch")), "max_epochs": n_epochs}
    if "warmup" in change:
        change["n_epochs_kl_warmup"] = round(change.pop("warmup") * n_epochs)
    if change.get("sparsity") == "K":
        change["sparsity"] = float(n_labels)
    edges = "learned" if {"sparsity", "init"} & set(change) else "called"
    return model.set_params(edges=edges, **change)


def print_table(results, screens):
    """Differences to the defaults, means over seeds."""
    for screen in screens:
        rows = results[results["screen"] == screen].set_index(["method", "seed"])
        if "defaults" not in rows.index:
            continue
        base = rows.loc["defaults"]
        print(f"\n{screen}: MCC {base['mcc'].mean():.4f}, F1 {base['f1'].mean():.3f}, ", end="")
        print(f"IWELBO {base['score'].mean():.2f}, {base['seconds_fit'].median():.0f} s")
        for method in VARIATIONS:
            if method == "defaults" or method not in rows.index:
                continue
            other = rows.loc[method]
            difference = (other[["mcc", "f1", "score"]] - base[["mcc", "f1", "score"]]).mean()
            ratio = (other["seconds_fit"] / base["seconds_fit"]).median()
            print(
                f"  {method:20} MCC {difference['mcc']:+.4f}, F1 {difference['f1']:+.3f}, "
                f"IWELBO {difference['score']:+7.2f}, time x {ratio:.2f}"
            )


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--screens", nargs="+", choices=list(SCREENS), default=list(SCREENS))
    add("--variations", nargs="+", choices=list(VARIATIONS), default=list(VARIATIONS))
    add_job_options(parser, [0, 1])


def run(args):
    """Run what is missing, print the table; return the number of jobs that failed."""
    jobs = [
        Job(method, seed, screen, SCREENS[screen], VARIATIONS[method])
        for seed in seeds_of(args)
        for screen in args.screens
        for method in dict.fromkeys(["defaults", *args.variations])
    ]
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs)
    if len(results):
        print_table(results, args.screens)
    return n_failed
