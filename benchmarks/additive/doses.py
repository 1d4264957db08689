"""Dose-response curves of simulated compounds: coverage of intervals, shapes, and what to fit.

::

    python -m benchmarks.additive doses           # latents of a model, five screens
    python -m benchmarks.additive doses --states  # true latents, a hundred screens

Screens have 20 compounds at eight doses (four decades), 50 cells each, and 500 control cells; each
compound moves one of 5 latents, 16 of them along a Hill curve with an EC50 within the middle two
decades and an exponent of .7 to 2, 4 in proportion to the dose. Cells have counts of 100 genes.
``SAMSVAE``, defaults, is fitted to nine tenths of the cells with dosages as they are, on a linear,
a logarithmic and a Hill scale (``preprocessing.DosageTransform``, which learns curves from latent
states of the model with logarithms), and ``SVAEPlus`` to labels, a perturbation for each dose.

Printed are, of ``inspection.dose_response`` on each: how many of the true pairs are called and how
many others; 95 % intervals that hold the true EC50 and exponent, and the median error of log10
EC50; how often the shape is right, for saturating and for linear compounds; and the score of the
held-out cells, nats per cell.

"Must hold": EC50 in the interval about 95 % of the time.
"""

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch

from skpert import SAMSVAE, SVAEPlus
from skpert.datasets import make_additive_shift
from skpert.inspection import dose_response
from skpert.metrics import match_latents
from skpert.preprocessing import DosageTransform

from .. import runner
from ..command import add_job_options, seeds_of
from .shared import print_table

N_HILL, N_LINEAR, N_CELLS, N_CONTROLS, N_LATENT = 16, 4, 50, 500, 5
DOSES = np.geomspace(0.01, 100, 8)
METHODS = ["linear", "log", "hill", "labels"]
COLUMNS = {
    "called": ("called of 20", 1),
    "others": ("others called", 1),
    "covered": ("EC50 covered", 3),
    "covered_hill": ("exponent covered", 3),
    "error": ("error log10 EC50", 3),
    "open": ("open intervals", 3),
    "hill_right": ("Hill found", 3),
    "linear_right": ("linear found", 3),
    "score": ("nats per cell", 2),
}


@dataclass(frozen=True)
class Job(runner.Job):
    """A model on one screen, or the true latents."""

    size: float  # of the largest effect, standard deviations of a latent


class States(BaseEstimator):
    """The true latent states in the place of a model."""

    control = "control"

    def fit(self):
        """Nothing is learned."""
        self.perturbations_ = np.array([])
        return self

    def transform(self, X):
        """X, which is the states."""
        return X

    def get_feature_names_out(self):
        """Names of the latents."""
        return np.array([f"z{k}" for k in range(N_LATENT)], dtype=object)


def screen_of(job):
    """Dosages, true states, counts, and the truth of each compound."""
    random = np.random.default_rng(job.seed)
    n = N_HILL + N_LINEAR
    names = [f"C{j:02d}" for j in range(n)]
    truth = pd.DataFrame({"ec50": 10 ** random.uniform(-1, 1, n)}, index=names)
    truth["hill"], truth["latent"] = random.uniform(0.7, 2, n), np.arange(n) % N_LATENT
    truth["shape"] = np.where(np.arange(n) < N_HILL, "hill", "linear")
    treated = np.repeat(np.arange(n), len(DOSES) * N_CELLS)
    dose = np.tile(np.repeat(DOSES, N_CELLS), n)
    own = truth.iloc[treated]
    curve = dose ** own["hill"] / (dose ** own["hill"] + own["ec50"] ** own["hill"])
    response = np.where(own["shape"] == "hill", curve, dose / DOSES[-1])
    A = np.zeros((N_CONTROLS + len(dose), n))
    Z = random.normal(size=(len(A), N_LATENT))
    rows = N_CONTROLS + np.arange(len(dose))
    A[rows, treated] = dose
    Z[rows, own["latent"]] += job.size * random.choice([-1, 1], n)[treated] * response
    source = make_additive_shift(
        1, n_cells_per_perturbation=1, n_latent=N_LATENT, random_state=job.seed
    )
    X = random.poisson(source.rate(Z)).astype(np.float32)
    A = pd.DataFrame(A, columns=names)
    return Bunch(X=X, A=A, Z=Z, truth=truth, test=random.random(len(A)) < 0.1)


def score(job):
    """Row of the CSV file."""
    data = screen_of(job)
    if job.method == "states":
        return figures(States().fit(), data.Z, data)
    start = time.process_time()
    model, A = fitted(job, data)
    row = {"cpu_seconds": round(time.process_time() - start, 1), "n_latent": model.n_latent_}
    row["score"] = model.score(data.X[data.test], A[data.test])
    return row | figures(model, data.X, data)


def fitted(job, data):
    """The model of a job, and its design of all cells."""
    X, train = data.X, ~data.test
    if job.method == "labels":
        dose, name = data.A.max(axis=1), data.A.idxmax(axis=1)
        A = (name + dose.map(" {:g}".format)).where(dose > 0, "control").to_numpy()
        return SVAEPlus(random_state=job.seed).fit(X[train], A[train]), A
    kind = "linear" if job.method == "linear" else "log"
    A = DosageTransform(kind).fit_transform(data.A)
    model = SAMSVAE(random_state=job.seed).fit(X[train], A[train])
    if job.method == "hill":
        scale = DosageTransform("hill").fit(data.A[train], model.transform(X[train]))
        A = scale.transform(data.A)
        model = SAMSVAE(random_state=job.seed).fit(X[train], A[train])
    return model, A


def figures(model, X, data):
    """How the curves of a model compare with the truth."""
    table = dose_response(model, X, data.A).curves
    latents = model.get_feature_names_out()
    matched = match_latents(data.Z, model.transform(X))
    latent = [latents[matched[k]] if matched[k] >= 0 else "" for k in data.truth["latent"]]
    pairs = list(zip(data.truth.index, latent, strict=True))
    keys = table.set_index(["perturbation", "latent"])
    own = keys.reindex(pairs).reset_index(drop=True)
    truth = data.truth.reset_index(drop=True)
    called = own["shape"].fillna("none") != "none"
    curved, linear = called & (truth["shape"] == "hill"), called & (truth["shape"] == "linear")
    inside = {
        name: (own[f"{name}_lower"] <= truth[name]) & (truth[name] <= own[f"{name}_upper"])
        for name in ("ec50", "hill")
    }
    is_open = (own["ec50_lower"] == 0) | np.isinf(own["ec50_upper"])
    return {
        "called": called.sum(),
        "others": (keys["shape"] != "none").sum() - called.sum(),
        "covered": inside["ec50"][curved].mean(),
        "covered_hill": inside["hill"][curved].mean(),
        "error": np.log10(own["ec50"] / truth["ec50"])[curved].abs().median(),
        "open": is_open[curved].mean(),
        "hill_right": (own["shape"] == "hill")[curved].mean(),
        "linear_right": (own["shape"] == "linear")[linear].mean(),
    }


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--states", action="store_true", help="curves of true latents, no model; 100 seeds")
    add("--methods", nargs="+", choices=METHODS, default=METHODS)
    add("--size", type=float, default=5.0, help="of the largest effect; default %(default)g")
    add_job_options(parser, range(900, 905))


def run(args):
    """Run what is missing, print the table; return the number of jobs that failed."""
    seeds, methods = seeds_of(args), args.methods
    if args.states:
        seeds, methods = range(900, 1000), ["states"]
    jobs = [Job(method, seed, args.size) for seed in seeds for method in methods]
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs)
    if len(results):
        columns = {key: title for key, title in COLUMNS.items() if key in results}
        print_table(results, columns)
    return n_failed
