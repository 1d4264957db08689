"""How time and memory grow with a screen, as exponents, for every estimator.

::

    python -m benchmarks.scale growth                                  # some twenty minutes
    python -m benchmarks.scale growth --only SCCVAE --sizes perturbations

The size of a screen is quadrupled, twice, in one number at a time: cells; genes;
perturbations of 20 cells each, so that cells grow with them; latents; combinations of two of 50
perturbations, of 20 cells each. What is measured: an epoch, what a training does between epochs
(``narrow``, ``find_axes``, ``call_edges``, ``finalise``), the rest of ``fit``, ``transform``,
``score`` of every sixteenth cell, ``predict_intervention`` of every fourth
perturbation, and, once, for
``AdditiveEffects``, ``evaluate_perturbations`` in one split, which is mostly its metrics.

Trainings this short find another number of latents in every screen, on which all that follows
depends: here they keep as many as are asked for. Each estimator is measured at each size in a
process of its own. Seconds are those of the CPU, and the least of ``--repeats``, since noise only
adds. Memory is what the peak of the resident set adds to that of the data and the libraries
(Linux). An exponent is the slope of logarithms, to which the last two sizes contribute most; 1 is
growth in proportion. Those above 1.05 are marked, if the largest size takes long enough for that
to mean something, with the size per unit below them: a step up to one size, and not to the next,
is a cache that tables outgrow, and a slope of its own is not.
"""

import multiprocessing
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import skpert
from skpert import _phases
from skpert.model_selection import evaluate_perturbations
from skpert.models import sams, sccvae, svae
from skpert.sparsity import dimension

from .. import runner
from ..command import add_csv
from ..timing import peak_memory

SIZES = {
    "cells": (1200, 4800, 19_200),
    "genes": (250, 1000, 4000),
    "perturbations": (100, 400, 1600),
    "latents": (4, 16, 64),
    "combinations": (60, 240, 960),
}
N_EACH = 20  # cells of a perturbation where these grow
N_SCORED, N_PREDICTED = 16, 4  # one of so many cells is scored, and designs is predicted
N_SINGLES = 50  # perturbations of which combinations are made
LIMIT = 1.05
LEAST_SECONDS, LEAST_MEGABYTES = 0.05, 16.0  # at the largest size, to be marked
BETWEEN = {
    svae.ShiftModule: ("narrow", "find_axes", "call_edges"),
    sams.AdditiveModule: ("narrow", "find_axes", "call_edges"),
    sams.SampledModule: ("narrow",),
    sccvae.CausalModule: ("finalise",),
}
SHORT = {"max_epochs": 3, "validation_fraction": 0, "n_particles": 4, "random_state": 0}
SHORT |= {"batch_size": 512, "device": "cpu"}


def estimators(n_latent):
    """What is measured, functions that make it by name."""
    short = SHORT | {"n_latent": n_latent}
    labels = {"invariant": "perturbation", "spurious": "batch"}
    return {
        "SVAEPlus": lambda: skpert.SVAEPlus(**short),
        "SVAE(escape)": lambda: skpert.SVAE(**short, escape=True),
        "SAMSVAE": lambda: skpert.SAMSVAE(**short),
        "CPAVAE": lambda: skpert.CPAVAE(**short),
        "ConditionalVAE": lambda: skpert.ConditionalVAE(**short),
        "InVAE": lambda: skpert.InVAE(**short, **labels),
        "NFIVAE": lambda: skpert.NFIVAE(**short, invariant=list(labels.values())),
        "SCCVAE": lambda: skpert.SCCVAE(**short | {"max_epochs": 1}, features="one_hot"),
        "ControlMean": skpert.ControlMean,
        "PerturbedMean": skpert.PerturbedMean,
        "AdditiveEffects": skpert.AdditiveEffects,
        "InteractionRidge": skpert.InteractionRidge,
        "BilinearRidge": lambda: skpert.BilinearRidge("one_hot"),
    }


def screen(of, size):
    """Counts and labels."""
    random = np.random.default_rng(0)
    n_genes = size if of == "genes" else 100
    if of == "combinations":
        i, j = np.triu_indices(N_SINGLES, 1)
        pairs = random.permutation(len(i))[:size]
        names = [f"P{k}" for k in range(N_SINGLES)]
        names += [f"P{i[k]}+P{j[k]}" for k in pairs]
    else:
        names = [f"P{k}" for k in range(size if of == "perturbations" else 20)]
    n_cells = {"cells": size, "genes": 1000}.get(of, N_EACH * len(names))
    n_cells = 4000 if of == "latents" else n_cells
    labels = np.array(["control", *names])[np.arange(n_cells) % (len(names) + 1)]
    moved = random.normal(0, 0.5, (len(names) + 1, n_genes))[np.arange(n_cells) % (len(names) + 1)]
    X = random.poisson(random.gamma(2.0, 1.0, n_genes) * np.exp(moved)).astype(np.float32)
    batch = np.array(["a", "b"])[random.integers(2, size=n_cells)]
    return X, pd.DataFrame({"perturbation": labels, "batch": batch})


class Meter:
    """CPU seconds and megabytes of parts of a program."""

    def __init__(self):
        self.rows = {}

    @contextmanager
    def part(self, name):
        """Measure what is done here, the memory as far as it adds to that of before."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before, start = peak_memory(), time.process_time()
        yield
        seconds = time.process_time() - start
        self.rows[name] = {"seconds": seconds, "megabytes": (peak_memory() - before) / 2**20}

    @contextmanager
    def inside(self, owner, name):
        """Measure the seconds of all calls of ``owner.name``, a function."""
        function, row = getattr(owner, name), {"seconds": 0.0}

        def timed(*args, **kwargs):
            start = time.process_time()
            result = function(*args, **kwargs)
            row["seconds"] += time.process_time() - start
            self.rows[name] = row
            return result

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, function)


def measure(make, X, frame):
    """Rows of all parts for one estimator, by name."""
    meter, estimator = Meter(), make()
    of_covariates = isinstance(estimator, skpert.InVAE | skpert.NFIVAE)
    is_baseline = not hasattr(estimator, "max_epochs")
    values = np.log1p(X) if is_baseline or isinstance(estimator, skpert.SCCVAE) else X
    A = frame if of_covariates else frame["perturbation"].to_numpy()
    designs = frame.drop_duplicates("perturbation") if of_covariates else np.unique(A)
    with ExitStack() as stack:
        stack.enter_context(meter.inside(_phases, "train"))
        for owner, names in BETWEEN.items():
            for name in names:
                stack.enter_context(meter.inside(owner, name))
        with meter.part("fit"):
            estimator.fit(values, A)
    if not is_baseline:
        inside = sum(row["seconds"] for name, row in meter.rows.items() if name != "fit")
        meter.rows["rest"] = {"seconds": meter.rows["fit"]["seconds"] - inside}
        meter.rows["epoch"] = {"seconds": meter.rows.pop("train")["seconds"] / estimator.n_iter_}
        with meter.part("transform"):
            estimator.transform(values)
    with meter.part("score"):
        estimator.score(values[::N_SCORED], A[::N_SCORED])
    if not of_covariates:
        with meter.part("predict"):
            estimator.predict_intervention(designs[::N_PREDICTED])
    if isinstance(estimator, skpert.AdditiveEffects):
        halves = np.arange(len(A)) // 2 % 2 == 0
        with meter.part("evaluate"):
            evaluate_perturbations(
                {"it": make()},
                values,
                A,
                cv=[(halves, ~halves)],
                space="lognorm",
                random_state=0,
            )
    return meter.rows


def serve(connection, name, of, size):
    """Send what was measured, in a process of its own, after a small one that warms it up."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    n_latent = size if of == "latents" else 8
    make = estimators(n_latent)[name]
    dimension._unpredicted = lambda states, variance: list(range(n_latent))
    X, frame = screen("cells", 400)
    measure(make, X[:, :60], frame)
    connection.send(measure(make, *screen(of, size)))


def measured(name, of, size):
    """Rows of one estimator at one size."""
    context = multiprocessing.get_context("fork")  # the libraries are imported only once
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, name, of, size))
    process.start()
    theirs.close()
    rows = ours.recv()  # EOFError if the process ended
    process.join()
    return rows


def exponent(sizes, values):
    """Slope of logarithms, the last two points weighing most."""
    weights = 4.0 ** np.arange(len(sizes))
    x, y = np.log(sizes), np.log(np.maximum(values, 1e-6))
    return np.polyfit(x, y, 1, w=np.sqrt(weights))[0]


def report(table, of):
    """Print a line for each part and quantity."""
    sizes, quantities = SIZES[of], {"seconds": LEAST_SECONDS, "megabytes": LEAST_MEGABYTES}
    for part, rows in table.groupby("part", sort=False):
        for quantity, least in quantities.items():
            values = rows.groupby("size")[quantity].min().reindex(sizes).to_numpy()
            if not np.isfinite(values).all() or values[-1] < least:
                continue
            slope = exponent(sizes, values)
            shown = "".join(f"{value:10.3f}" for value in values)
            mark = "  <- above" if slope > LIMIT else ""
            print(f"{part:>12} {quantity:>9} {shown} {slope:7.2f}{mark}", flush=True)
            if slope > LIMIT:
                each = "".join(
                    f"{1e6 * value / n:10.2f}" for value, n in zip(values, sizes, strict=True)
                )
                print(f"{'':>12} {'per 1e6':>9} {each}", flush=True)


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    names = list(estimators(1))
    add("--only", nargs="+", choices=names, default=names, help="estimators")
    add("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="what grows")
    add("--repeats", type=int, default=1, help="of each measurement; default 1")
    add_csv(parser)


def run(args):
    """Measure and print."""
    rows = []
    for of in args.sizes:
        for name in args.only:
            print(f"\n{name}, {of} " + " ".join(map(str, SIZES[of])), flush=True)
            for size in SIZES[of]:
                for repeat in range(args.repeats):
                    key = {"estimator": name, "grows": of, "size": size, "repeat": repeat}
                    found = measured(name, of, size)
                    rows += [key | {"part": part} | row for part, row in found.items()]
            runner.write(rows, args.csv)
            mine = [row for row in rows if (row["estimator"], row["grows"]) == (name, of)]
            report(pd.DataFrame(mine), of)
