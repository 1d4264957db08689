"""The simulations of the sVAE+ paper: its Table 1 and what it varies around it.

::

    python -m benchmarks.svae table1                       # Table 1: five methods, five seeds
    python -m benchmarks.svae table1 --quick               # the first seed only
    python -m benchmarks.svae table1 --latent 5 10 15 20   # Table 4
    python -m benchmarks.svae table1 --scenario sparsity   # Table 5; also effect (6),
                                                           # ood-sparsity (7), ood-effect (8),
                                                           # coverage (10), alpha (Figure 4)

Each method is trained from random weights at its published setting on the simulation as released
(``PUBLISHED`` and ``DATA`` in ``paper.py``), of which every seed draws another. Latent states are
scored on the training cells, graphs over the training labels, the interventional NLL on the last
20 labels: shifts of the new labels are learned with all else frozen, as the paper says. The
released code first trains again with fixed masks; ``--refine`` does so too, for half as much time
again. The first line under the methods is what the true model scores on the same cells.
"""

import time
from dataclasses import dataclass

import numpy as np

from skpert.datasets import make_sparse_shift
from skpert.metrics import graph_scores, latent_r2, match_latents, mean_correlation_coefficient
from skpert.model_selection import interventional_nll

from .. import runner
from ..command import add_job_options, seeds_of, spread
from .oracle import supervised_encoder, true_model_nll
from .paper import DATA, METHODS, PUBLISHED, SCENARIOS, cases

MIN_CELLS = 10  # a held-out label needs more cells than this
TRUTH, ENCODER = "true model", "supervised encoder"

COLUMNS = {  # of the CSV file: title, digits
    "pearson_mcc": ("Pearson MCC", 2),
    "spearman_mcc": ("Spearman MCC", 2),
    "r2": ("R2", 2),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "f1": ("F1", 2),
    "interventional_nll": ("I-NLL", 2),
    "held_out_mcc": ("MCC held out", 2),
    "minutes": ("minutes", 1),
}
SCORES = tuple(COLUMNS)[:-1]
CLAIMS = {  # what the paper concludes from Table 1: best first, and whether higher is better
    "pearson_mcc": (("SVAEPlus", "SVAE", "IVAE"), True),
    "spearman_mcc": (("SVAEPlus", "SVAE", "IVAE"), True),
    "f1": (("SVAEPlus", "SVAE", "IVAE"), True),
    "precision": (("SVAEPlus", "SVAE", "IVAE"), True),
    "interventional_nll": ((TRUTH, "SVAEPlus", "SVAE", "IVAE", "VAE", "BetaVAE"), False),
}


@dataclass(frozen=True)
class Job(runner.Job):
    """One method on one simulated screen."""

    data: dict
    model: dict
    n_particles: int
    refine: bool = False
    device: str = "auto"


def make_job(case, method, seed, args):
    """The job of a case's method, at the settings of the command line."""
    data = {**case.data, "n_cells_per_perturbation": args.cells}
    if method not in METHODS:
        return Job(method, seed, data, {}, args.particles)
    _, special = METHODS[method]
    model = {**PUBLISHED, **special, **case.model, "n_latent": data["n_latent"]}
    model["max_epochs"] = args.epochs
    return Job(method, seed, data, model, args.particles, args.refine, args.device)


def score(job):
    """Row of the CSV file."""
    row = {
        "n_latent": job.data["n_latent"],
        "max_epochs": job.model.get("max_epochs"),
        "n_particles": job.n_particles,
    }
    row |= dict.fromkeys([*SCORES, "n_iter", "seconds_fit"])
    return row | _scores(job, make_sparse_shift(**job.data, random_state=job.seed))


def _scores(job, screen):
    training = ~np.isin(screen.A, screen.held_out)
    if job.method == TRUTH:
        result = true_model_nll(screen, n_particles=job.n_particles, min_cells=MIN_CELLS)
        return {"interventional_nll": result.nll}
    if job.method == ENCODER:
        return supervised_encoder(screen.X[training], screen.Z[training], random_state=job.seed)
    start = time.perf_counter()
    estimator = METHODS[job.method][0](**job.model, device=job.device, random_state=job.seed)
    estimator.fit(screen.X[training], screen.A[training])
    cost = {"n_iter": estimator.n_iter_, "seconds_fit": round(time.perf_counter() - start, 1)}
    scores = recovery(estimator, screen, training) | cost
    again = (screen.X[training], screen.A[training]) if job.refine else ()
    scores["interventional_nll"] = interventional_nll(
        estimator,
        screen.X[~training],
        screen.A[~training],
        *again,
        n_particles=job.n_particles,
        min_cells=MIN_CELLS,
    ).nll
    return scores


def recovery(estimator, screen, training):
    """Scores of latent states and graph against the truth, by column of the CSV file."""
    Z_true, Z = screen.Z[training], estimator.transform(screen.X[training])
    Z_held_out = estimator.transform(screen.X[~training])
    scores = {
        "pearson_mcc": mean_correlation_coefficient(Z_true, Z),
        "spearman_mcc": mean_correlation_coefficient(Z_true, Z, method="spearman"),
        "r2": latent_r2(Z_true, Z),
        "held_out_mcc": mean_correlation_coefficient(screen.Z[~training], Z_held_out),
    }
    if hasattr(estimator, "mask_"):
        known = np.isin(screen.perturbations, estimator.perturbations_)  # in the same order
        match = match_latents(Z_true, Z)
        scores |= graph_scores(screen.mask[known], estimator.mask_, match=match)
    return scores


def print_table(case, rows):
    """Means and standard deviations over seeds, the paper's figures below ours."""
    print(f"\n{case.title}; {rows['seed'].nunique()} seeds, mean ± standard deviation")
    print(f"{'':26}" + "".join(f"{title:>15}" for title, _ in COLUMNS.values()))
    for method, group in rows.groupby("method", sort=False):
        ours = [spread(group[name], digits) for name, (_, digits) in COLUMNS.items()]
        print(f"{method:20}{'ours':6}" + "".join(f"{text:>15}" for text in ours))
        if method in case.paper:
            figures = [case.paper[method].get(name, "") for name in COLUMNS]
            figures = [figure.replace("±", " ± ") for figure in figures]
            print(f"{'':20}{'paper':6}" + "".join(f"{text:>15}" for text in figures))


def print_claims(rows):
    """Whether each ordering that the paper concludes is found here too."""
    table = rows.pivot_table(index="seed", columns="method", values=list(CLAIMS))
    for name, (methods, higher) in CLAIMS.items():
        found = [method for method in methods if (name, method) in table]
        for better, worse in zip(found, found[1:], strict=False):
            pairs = table[name][[better, worse]].dropna()
            margin = (pairs[better] - pairs[worse]) * (1 if higher else -1)
            verdict = "holds" if margin.mean() > 0 else "does not hold"
            print(
                f"{COLUMNS[name][0]}: {better} {'above' if higher else 'below'} {worse}: "
                f"{verdict}, {pairs[better].mean():.3f} and {pairs[worse].mean():.3f}, "
                f"in {(margin > 0).sum()} of {len(margin)} seeds"
            )


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--latent", type=int, nargs="+", default=[DATA["n_latent"]], help="numbers of latents")
    add("--scenario", choices=SCENARIOS, help="what to vary instead of repeating Table 1")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add("--epochs", type=int, default=PUBLISHED["max_epochs"], help="at most, in each phase")
    add("--cells", type=int, default=DATA["n_cells_per_perturbation"], help="of each label")
    add("--particles", type=int, default=1000, help="of the I-NLL; 1000 as released")
    add("--refine", action="store_true", help="with the released step 2 before the I-NLL")
    add("--bounds", action="store_true", help="also train an encoder on the true latents")
    add("--device", default="auto", help="where to train")
    add_job_options(parser, range(5))


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    tables, seeds = cases(args.scenario, args.latent), seeds_of(args)
    jobs = {  # by seed first, so that early results make whole tables
        (i, seed, method): make_job(case, method, seed, args)
        for seed in seeds
        for i, case in enumerate(tables)
        for method in _methods(case, args)
    }
    results, n_failed = runner.run_jobs(score, list(jobs.values()), args.csv, args.jobs)
    for i, case in enumerate(tables):
        ours = [jobs[i, seed, m] for m in _methods(case, args) for seed in seeds]
        rows = runner.rows_of(results, ours)
        if len(rows):
            print_table(case, rows.assign(minutes=rows["seconds"] / 60))
            print_claims(rows)
    return n_failed


def _methods(case, args):
    chosen = [method for method in case.methods if method in args.methods]
    return [*chosen, TRUTH, *[ENCODER] * args.bounds]
