"""Methods, jobs and tables of the benchmarks of models whose effects add up in latent space."""

import time
from dataclasses import dataclass
from functools import partial

from skpert import CPAVAE, SAMSVAE, ConditionalVAE, SVAEPlus

from .. import runner
from ..command import add_job_options, add_model_options, spread

METHODS = {  # default parameters but for what the name says
    "SAMSVAE": (SAMSVAE, {}),
    "SAMSVAE, prior 0.01": (partial(SAMSVAE, edges="learned"), {"mask_prior": 0.01}),
    "SAMSVAE, mean field": (SAMSVAE, {"correlated_basal": False}),
    "SAMSVAE, q(e | m)": (SAMSVAE, {"correlated_embedding": True}),
    "CPAVAE": (CPAVAE, {}),
    "CPAVAE, mean field": (CPAVAE, {"correlated_basal": False}),
    "ConditionalVAE": (ConditionalVAE, {}),
    "SVAEPlus": (SVAEPlus, {}),
    "SVAEPlus, Beta(1, 2)": (  # the authors' setting
        partial(SVAEPlus, edges="learned"),
        {"sparsity": 2.0},
    ),
}
DEFAULTS = ("SAMSVAE", "CPAVAE", "ConditionalVAE", "SVAEPlus")
COST = ("n_iter", "seconds_fit", "cpu_seconds_fit")


@dataclass(frozen=True)
class Job(runner.Job):
    """One method, or baseline, on one data set."""

    data: dict  # what identifies the cells
    model: dict  # parameters; empty for a baseline


def make_job(method, seed, data, **model):
    """The job of a method with these parameters beside its own, or of a baseline."""
    parameters = METHODS[method][1] | model if method in METHODS else {}
    return Job(method, seed, data, parameters)


def fitted(job, X, A):
    """The job's estimator after ``fit``, and what that cost."""
    estimator = METHODS[job.method][0](**job.model, random_state=job.seed)
    start, cpu = time.perf_counter(), time.process_time()
    estimator.fit(X, A)
    cost = {
        "n_iter": estimator.n_iter_,
        "seconds_fit": round(time.perf_counter() - start, 2),
        "cpu_seconds_fit": round(time.process_time() - cpu, 2),
    }
    return estimator, cost


def add_options(parser, seeds, latent, methods):
    """Options that the benchmarks of fitted models share."""
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(methods))
    add_model_options(parser, latent)
    add_job_options(parser, seeds)


def print_table(results, columns, first="method"):
    """Mean and standard deviation of each column for each value of the first, in its order.

    Parameters
    ----------
    results : DataFrame
        A row per job.
    columns : dict of str to (str, int)
        Title and digits.
    first : str, default="method"
        Column that names the lines.
    """
    print_line("", [title for title, _ in columns.values()])
    for name, rows in results.groupby(first, sort=False):
        print_line(name, [spread(rows[key], digits) for key, (_, digits) in columns.items()])


def print_line(name, cells):
    """One line of a table."""
    print(f"{name!s:24}" + "".join(f"{cell:>18}" for cell in cells))


def print_orderings(results, columns, orderings):
    """Whether each ordering holds, on average and in how many seeds.

    Parameters
    ----------
    results : DataFrame
        A row for each method and seed.
    columns : dict of str to (str, int)
        Title and digits.
    orderings : iterable of (str, str, str)
        Column, the method that should be higher, and the one below.
    """
    for column, better, worse in orderings:
        table = results.pivot(index="seed", columns="method", values=column)
        if not {better, worse} <= set(table):
            continue
        pairs = table[[better, worse]].dropna()
        if len(pairs):
            margin = pairs[better] - pairs[worse]
            verdict = "holds" if margin.mean() > 0 else "does not hold"
            title, digits = columns[column]
            print(
                f"{title}: {better} above {worse}: {verdict}, by {spread(margin, digits)}, "
                f"in {(margin > 0).sum()} of {len(margin)} seeds"
            )
