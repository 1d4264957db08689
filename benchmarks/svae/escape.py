"""Cells that escape their perturbation: shares of responders, which cells, undiluted effects.

::

    python -m benchmarks.svae escape                 # 10, 30 and 60 % of cells escape
    python -m benchmarks.svae escape --effect 2.5    # weaker effects

Screens have 25 perturbations with one to three targets each, 200 cells of each, 5 latents and 100
genes; some cells of every perturbation are control cells, which are as if they had escaped. A
model with ``escape=True`` is fitted beside one without, both with default parameters else.

Printed are: errors of the shares of responders, and how many intervals of 95 % cover them
(``inspection.responders``, of the model without); the area under the ROC curve of a cell's
probability, less that of the true latent state along the true shift; and the median ratio of found
and true effect over true edges, in units of the slope of found on true latents, of both models.

"Must hold": shares within .05; area within .02; effects within 5 % with ``escape``.
"""

import time
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score

from skpert import SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import responders
from skpert.metrics import match_latents

from .. import runner
from ..command import add_job_options, seeds_of

N_PERTURBATIONS, N_CELLS, N_CONTROLS = 25, 200, 1000
ESCAPING = [0.1, 0.3, 0.6]


@dataclass(frozen=True)
class Job(runner.Job):
    """Model with or without ``escape`` on one screen."""

    escaping: float  # share of the cells of each perturbation
    effect: float  # size of shifts, standard deviations


def screen_of(job):
    """Expression, labels, true states, and which cells responded."""
    n_escaped = round(job.escaping * N_CELLS)
    data = make_sparse_shift(
        N_PERTURBATIONS,
        n_cells_per_perturbation=N_CELLS,
        n_control_cells=N_CONTROLS + N_PERTURBATIONS * n_escaped,
        n_latent=5,
        n_genes=100,
        effect_size=job.effect,
        library_size=10_000,
        random_state=job.seed,
    )
    random = np.random.default_rng(job.seed)
    A, responded = data.A.copy(), data.A != "control"
    controls = random.permutation(np.flatnonzero(~responded)).tolist()
    kept = np.ones(len(A), dtype=bool)
    for name in data.perturbations:
        kept[random.permutation(np.flatnonzero(data.A == name))[:n_escaped]] = False
        for row in (controls.pop() for _ in range(n_escaped)):
            A[row] = name
    return data, kept, A[kept], responded[kept]


def score(job):
    """Row of the CSV file."""
    data, kept, A, responded = screen_of(job)
    X, Z = data.X[kept], data.Z[kept]
    start = time.process_time()
    model = SVAEPlus(escape=job.method == "escape", random_state=job.seed).fit(X, A)
    row = {"escaping": job.escaping, "effect": job.effect, "n_latent": model.n_latent_}
    row["cpu_seconds"] = round(time.process_time() - start, 1)
    states, shifts = model.transform(X), data.embedding * data.mask
    ratios = []
    for i, k in enumerate(match_latents(Z, states)):
        if k >= 0:
            slope = np.polyfit(Z[:, i], states[:, k], 1)[0]
            edges = data.mask[:, i]
            ratios += (model.embedding_[edges, k] / (slope * shifts[edges, i])).tolist()
    row["effect_ratio"] = np.median(ratios)
    if job.method == "escape":
        return row | {"share_error": np.abs(model.response_share_ - 1 + job.escaping).max()}
    found = responders(model, X, A)
    shares, cells = found.shares[found.shares["detected"]], found.cells
    error = (shares["share"] - 1 + job.escaping).abs()
    covers = (shares["lower"] <= 1 - job.escaping) & (shares["upper"] >= 1 - job.escaping)
    below = []
    for name in shares.index:
        rows, shift = name == A, shifts[data.perturbations.tolist().index(name)]
        oracle = roc_auc_score(responded[rows], Z[rows] @ shift)
        below.append(oracle - roc_auc_score(responded[rows], cells["probability"][rows]))
    return row | {
        "n_detected": len(shares),
        "share_error": error.max(),
        "share_error_mean": error.mean(),
        "n_covered": int(covers.sum()),
        "area_below_oracle": np.max(below),
        "area_below_oracle_mean": np.mean(below),
    }


def print_table(results):
    """A line for each share of escaping cells: means over seeds."""
    for (effect, escaping), rows in results.groupby(["effect", "escaping"]):
        with_it, without = (rows[rows["method"] == name] for name in ("escape", "diluted"))
        print(f"effect {effect:g}, {100 * escaping:.0f} % escape, {len(without)} seeds")
        print(
            f"  responders: error of shares {without['share_error_mean'].mean():.3f} (largest "
            f"{without['share_error'].max():.3f}), covered {without['n_covered'].sum()} of "
            f"{without['n_detected'].sum()}, area below the oracle's "
            f"{without['area_below_oracle_mean'].mean():.4f} (largest "
            f"{without['area_below_oracle'].max():.4f})"
        )
        print(
            f"  found over true effect: {with_it['effect_ratio'].mean():.3f} with escape (shares "
            f"within {with_it['share_error'].max():.3f}), {without['effect_ratio'].mean():.3f} "
            "without"
        )


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("--escaping", type=float, nargs="+", default=ESCAPING)
    parser.add_argument("--effect", type=float, default=5.0, help="default %(default)g")
    add_job_options(parser, range(800, 803))


def run(args):
    """Run what is missing, print the table; return the number of jobs that failed."""
    jobs = [
        Job(method, seed, escaping, args.effect)
        for seed in seeds_of(args)
        for escaping in args.escaping
        for method in ("escape", "diluted")
    ]
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs)
    if len(results):
        print_table(results)
    return n_failed
