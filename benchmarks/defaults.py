"""Why the defaults are what they are: each is varied alone, from small screens to large.

::

    python -m benchmarks.defaults                       # all screens, all variations, two seeds
    python -m benchmarks.defaults --screens small few   # some screens
    python -m benchmarks.defaults --quick               # one seed

Every variation changes one thing of ``SVAEPlus(n_latent, random_state=seed)``. Recovery of latents
(MCC) and edges (F1) and the ELBO on fresh cells are printed as differences to the defaults on the
same screen and seed, with the ratio of fitting times. Seeds here are 0 and 1, those that the
defaults were chosen with.
"""

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, match_latents, mean_correlation_coefficient
from skpert.models import svae

from .recovery import SETTINGS
from .table1 import DATA, run_all

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
CONSTANTS = ("DENSE_SHARE", "FAST_RATE")  # of the module, not parameters
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
    "dense for a half": {"DENSE_SHARE": 2},
    "dense for a sixth": {"DENSE_SHARE": 6},
    "learned, alpha K": {"sparsity": "K"},
    "random weights": {"init": "random"},
}


@dataclass(frozen=True)
class Job:
    """One variation on one simulated screen."""

    method: str  # the variation
    screen: str
    seed: int

    @property
    def settings(self):
        """All that determines the result, as text."""
        data = {"data": SCREENS[self.screen], "change": VARIATIONS[self.method]}
        return json.dumps(vars(self) | data, sort_keys=True)

    @property
    def key(self):
        """Short name of the settings."""
        return hashlib.sha256(self.settings.encode()).hexdigest()[:16]


def score(job):
    """Row of the CSV file."""
    screen = make_sparse_shift(**SCREENS[job.screen], random_state=job.seed)
    seen = ~np.isin(screen.A, getattr(screen, "held_out", []))
    fresh = seen & (np.random.default_rng(job.seed).random(len(seen)) < 0.05)
    train = seen & ~fresh
    change = dict(VARIATIONS[job.method])
    for name in CONSTANTS:
        setattr(svae, name, change.pop(name, DEFAULTS[name]))
    model = _model(job, change, train.sum(), len(set(screen.A[train])))
    start = time.perf_counter()
    model.fit(screen.X[train], screen.A[train])
    seconds = time.perf_counter() - start
    Z = model.transform(screen.X[train])
    match = match_latents(screen.Z[train], Z)
    true = screen.mask[np.isin(screen.perturbations, model.perturbations_)]
    return {
        "method": job.method,
        "screen": job.screen,
        "seed": job.seed,
        "mcc": mean_correlation_coefficient(screen.Z[train], Z),
        "f1": graph_scores(true, model.mask_, match=match).f1,
        "score": model.set_params(n_particles=20).score(screen.X[fresh], screen.A[fresh]),
        "seconds_fit": round(seconds, 1),
    }


DEFAULTS = {name: getattr(svae, name) for name in CONSTANTS}


def _model(job, change, n_cells, n_labels):
    """Estimator with the change, what is relative made absolute."""
    model = SVAEPlus(SCREENS[job.screen]["n_latent"], random_state=job.seed)
    n_training = n_cells - int(model.validation_fraction * n_cells)
    n_epochs, batch_size, _ = model._budget(n_training)
    if "epochs" in change:
        change["max_epochs"] = max(round(n_epochs * change.pop("epochs")), 1)
    if "batch" in change:  # for as many epochs
        change |= {"batch_size": round(batch_size * change.pop("batch")), "max_epochs": n_epochs}
    if "warmup" in change:
        change["n_epochs_kl_warmup"] = round(change.pop("warmup") * n_epochs)
    if change.get("sparsity") == "K":
        change["sparsity"] = float(n_labels)
    return model.set_params(**change)


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


def main():
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--screens", nargs="+", choices=list(SCREENS), default=list(SCREENS))
    add("--variations", nargs="+", choices=list(VARIATIONS), default=list(VARIATIONS))
    add("--seeds", type=int, nargs="+", default=[0, 1], help="which, not how many")
    add("--quick", action="store_true", help="the first seed only")
    add("--jobs", type=int, default=1, help="processes, of one thread each")
    default = Path(__file__).parent / "results" / "defaults.csv"
    add("--csv", type=Path, default=default, help="where results are kept; default %(default)s")
    args = parser.parse_args()
    seeds = args.seeds[:1] if args.quick else args.seeds
    methods = dict.fromkeys(["defaults", *args.variations])
    jobs = [Job(m, s, seed) for seed in seeds for s in args.screens for m in methods]
    results, failed = run_all(score, jobs, args.csv, args.jobs)
    results = results.loc[[job.key for job in jobs if job.key in results.index]]
    print_table(results, args.screens)
    if failed:
        raise SystemExit(f"{len(failed)} jobs failed, see above; a rerun tries them again")


if __name__ == "__main__":
    main()
