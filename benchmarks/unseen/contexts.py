"""Contexts of which only control cells were seen: cell lines, donors, cell types, simulated ones.

::

    python -m benchmarks.unseen contexts FOLDER      # with the two .h5ad files below

All perturbed cells of a context are left out and its control cells are trained on. Questions:

* ``cell lines``: norman2019_mcfaline2023_perturbench.h5ad, the nine perturbations that two or
  more of four lines share, a line at a time;
* ``donors`` and ``cell types``: kang2018_pbmc_muscat_2donors.h5ad, interferon beta. A context is
  a cell type of a donor; all five of a donor are left out together, or both of a cell type;
* ``latent``, ``logit``, ``family`` and ``none``: ``make_context_shift`` with that rule, two of
  five contexts left out together, another screen for each seed; ``many`` has the rule "latent",
  as many cells, and twelve contexts.

Rows: the floor, which is the mean effect of the perturbation over all other contexts;
``ContextEffects`` with each kind of effect, unscaled and with the learned scale; no effect; one
effect for all cells of training (``AdditiveEffects``); two halves of the truth; and the models,
which read counts and predict from the control cells of the context. Without "environment" the
latent state alone carries the context; ``InVAE`` has the perturbation and the cell type, line or
simulated context as invariant covariates, the factorized prior and no spurious latents; "without
types" it has the perturbation alone. "environment" gives models the column
that is left out (``InVAE``: as spurious covariate, with two latents). "difference" adds to the
measured controls what a model predicts with, less what it predicts without the perturbation. All
else is at its default but for the number of epochs (``--epochs``).

Errors are mean squared errors of mean log-normalised expression, times 10,000. Differences from
the floor are paired: over perturbations in contexts, averaged over seeds, and over seeds where
each is another screen.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from skpert import (
    SAMSVAE,
    AdditiveEffects,
    ConditionalVAE,
    ContextEffects,
    ControlMean,
    InVAE,
    SVAEPlus,
)
from skpert.datasets import load_screen, make_context_shift
from skpert.metrics import delta_pearson, response_mse
from skpert.model_selection import LeaveContextsOut, evaluate_perturbations
from skpert.preprocessing import LogNormalize

from ..command import add_job_options, seeds_of
from ..runner import TableJob, run_jobs

BASELINES = "baselines"
FLOOR = "floor (other contexts)"
METRICS = ["response_mse", "delta_pearson"]
FILES = {
    "cell lines": "norman2019_mcfaline2023_perturbench.h5ad",
    "donors": "kang2018_pbmc_muscat_2donors.h5ad",
    "cell types": "kang2018_pbmc_muscat_2donors.h5ad",
}
CONTEXTS = {  # columns that name a context, the one that is left out, and the one of biology
    "cell lines": (["cell_type"], "cell_type", "cell_type"),
    "donors": (["donor", "cell_type"], "donor", "cell_type"),
    "cell types": (["donor", "cell_type"], "cell_type", "cell_type"),
}
SIMULATED = {rule: {"rule": rule} for rule in ("latent", "logit", "family", "none")}
SIMULATED["many"] = {"n_contexts": 12, "n_cells_per_perturbation": 20, "n_control_cells": 40}
N_LEFT_OUT = 2  # contexts of simulated screens
ALONE = " without types"
MODELS = ("SVAEPlus", "SAMSVAE", "ConditionalVAE", "InVAE", "InVAE" + ALONE)
EPOCHS = {"cell lines": 30, "donors": 100, "cell types": 100} | dict.fromkeys(SIMULATED, 60)
N_DRAWN = 1000  # cells from which the mean of a prediction is taken


def baselines(context):
    """Estimators without a network, by row."""
    rows = {"no effect": ControlMean(), "one effect for all": AdditiveEffects()}
    for effect in ("mean", "nearest", "similar"):
        rows[f"{effect}"] = ContextEffects(context, effect=effect, scale=1.0)
        rows[f"{effect}, scaled"] = ContextEffects(context, effect=effect)
    return {name: make_pipeline(LogNormalize(), model) for name, model in rows.items()}


def model_of(name, biology, environment, seed, n_epochs):
    """A model that is not fitted; ``biology`` is a column, ``environment`` another, or None."""
    options = {"max_epochs": n_epochs, "random_state": seed}
    if name.startswith("InVAE"):
        invariant = [
            "perturbation",
            *([] if environment == biology or ALONE in name else [biology]),
        ]
        spurious = {"spurious": environment, "n_spurious": 2 if environment else 0}
        return InVAE(invariant=invariant, prior="factorized", **spurious, **options)
    models = {"SVAEPlus": SVAEPlus, "SAMSVAE": SAMSVAE, "ConditionalVAE": ConditionalVAE}
    return models[name](environment=environment, **options)


def screen_of(question, seed, folder):
    """Counts, design frame, columns of contexts, and splits.

    Parameters
    ----------
    question : str
        Of ``CONTEXTS`` or ``SIMULATED``.
    seed : int
        Of a simulated screen.
    folder : Path or None
        Where the real screens are.

    Returns
    -------
    screen : Bunch
        ``X``, ``A``, ``splits``; columns ``context``, ``left_out`` and ``biology``.
    """
    if question in SIMULATED:
        data = make_context_shift(**SIMULATED[question], random_state=seed)
        inside = data.A["context"].isin(data.contexts[:N_LEFT_OUT])
        inside &= data.A["perturbation"] != "control"
        splits = [(np.flatnonzero(~inside), np.flatnonzero(inside))]
        names = {"context": ["context"], "left_out": "context", "biology": "context"}
        return Bunch(X=data.X, A=data.A, splits=splits, **names)
    context, left_out, biology = CONTEXTS[question]
    screen = load_screen(folder / FILES[question])
    A = screen.obs.astype(str)[list(dict.fromkeys(["perturbation", *context]))]
    shared = A.groupby("perturbation")[left_out].transform("nunique") > 1
    X, A = screen.X[shared.to_numpy()], A[shared].reset_index(drop=True)
    splits = list(LeaveContextsOut(left_out).split(X, A))
    names = {"context": context, "left_out": left_out, "biology": biology}
    return Bunch(X=X, A=A, splits=splits, **names)


def score(job, folder, n_epochs):
    """Rows of the CSV file."""
    question, name, split = job.name.split("; ")
    screen = screen_of(question, job.seed, folder)
    if name == BASELINES:
        table = evaluated(baselines(screen.context), screen, screen.splits)
        return table.assign(question=question)
    kind, _, environment = name.partition(", ")
    train, test = screen.splits[int(split)]
    environment = screen.left_out if environment else None
    n_epochs = n_epochs or EPOCHS[question]
    model = model_of(kind, screen.biology, environment, job.seed, n_epochs)
    model.fit(screen.X[train], screen.A.iloc[train])
    table = evaluated({name: FrozenEstimator(model)}, screen, [(train, test)])
    table = table[table["estimator"] == name]
    difference = of_difference(model, screen, train, test)
    tables = [table, difference.assign(estimator=f"{name}, difference")]
    return pd.concat(tables).assign(question=question, split=int(split))


def evaluated(estimators, screen, splits):
    """Table of ``evaluate_perturbations``."""
    return evaluate_perturbations(
        estimators,
        screen.X,
        screen.A,
        cv=splits,
        space="counts",
        metrics=METRICS,
        n_samples=N_DRAWN,
        context=screen.context,
        random_state=0,
    ).per_perturbation


def of_difference(model, screen, train, test):
    """Scores where a model's change is added to what control cells of the context express."""
    normalize = LogNormalize(target_sum=None).fit(screen.X[train])
    A, rows = screen.A, []
    context = A[screen.context].agg(", ".join, axis=1).to_numpy()
    perturbation = A["perturbation"].to_numpy()

    def mean(counts):
        return np.asarray(normalize.transform(counts).mean(0, dtype=np.float64)).ravel()

    for where, what in sorted(set(zip(context[test], perturbation[test], strict=True))):
        cells = test[(context[test] == where) & (perturbation[test] == what)]
        controls = train[(context[train] == where) & (perturbation[train] == "control")]
        design = A.iloc[[controls[0], cells[0]]]
        drawn = [
            model.sample_intervention(row, N_DRAWN, X=screen.X[controls], random_state=0)[0]
            for row in (design.iloc[[0]], design.iloc[[1]])
        ]
        reference, measured = mean(screen.X[controls]), mean(screen.X[cells])
        predicted = reference + mean(drawn[1]) - mean(drawn[0])
        pair = measured[None], predicted[None]
        rows.append(
            {
                "perturbation": what,
                "context": where,
                "n_cells": len(cells),
                "response_mse": response_mse(*pair)[0],
                "delta_pearson": delta_pearson(*pair, reference=reference)[0],
            }
        )
    return pd.DataFrame(rows)


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="of the real screens; without it simulated ones")
    add("--questions", nargs="+", choices=[*CONTEXTS, *SIMULATED])
    add("--models", nargs="*", choices=MODELS, default=list(MODELS))
    add("--environment", choices=("no", "yes", "both"), default="both", help="as the left out")
    add("--epochs", type=int, help=f"of each training; default {EPOCHS}")
    add_job_options(parser, range(5))


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    questions = args.questions or [*(CONTEXTS if args.folder else ()), *SIMULATED]
    if args.folder is None and not set(questions) <= set(SIMULATED):
        raise SystemExit(f"of {questions}, those of real screens need the folder of the screens")
    jobs = []
    for question in questions:
        for seed in seeds_of(args):
            if question in SIMULATED or seed == args.seeds[0]:
                jobs.append(TableJob("-", seed, f"{question}; {BASELINES}; all"))
            n_splits = len(screen_of(question, seed, args.folder).splits)
            names = [name for name in names_of(args) if seed == args.seeds[0] or "," not in name]
            setting = f"{args.epochs or EPOCHS[question]} epochs"
            jobs += [
                TableJob(setting, seed, f"{question}; {name}; {split}")
                for name in names
                for split in range(n_splits)
            ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, args.folder, args.epochs)
    if len(results):
        report(results)
    return n_failed


def names_of(args):
    """Rows of models; those with the environment are run for the first seed only."""
    plain = list(args.models) if args.environment != "yes" else []
    return plain + [f"{m}, environment" for m in args.models if args.environment != "no"]


def report(results):
    """Print a table for each question, with differences from the floor."""
    for question, rows in results.groupby("question", sort=False):
        table = summary(rows, paired_over="seed" if question in SIMULATED else "context")
        print(f"\n{question}: {len(rows.groupby(['context', 'perturbation', 'split']))} units")
        print(table.to_string(float_format="{:.3g}".format, na_rep="-"))


def summary(rows, paired_over):
    """Means by estimator, and the paired difference of the error from the floor's.

    Parameters
    ----------
    rows : DataFrame
        Of one question.
    paired_over : {"seed", "context"}
        What is averaged first, and then compared: perturbations in contexts over seeds, or all
        of a seed.

    Returns
    -------
    table : DataFrame
        ``error`` (times 10,000), ``pearson``, ``n_seeds``, and ``difference`` of the error from
        that of the floor, its 95 % t interval ``lower`` and ``upper``, and over how many units.
    """
    unit = ["seed"] if paired_over == "seed" else ["split", "context", "perturbation"]
    error = rows.pivot_table(index=unit, columns="estimator", values="response_mse", sort=False)
    error = 1e4 * error
    pearson = rows.pivot_table(index=unit, columns="estimator", values="delta_pearson")
    difference = error.sub(error[FLOOR], axis=0)
    n, mean = difference.count(), difference.mean()
    width = difference.sem() * student.ppf(0.975, (n - 1).where(n > 1))
    seeds = rows.groupby("estimator")["seed"].nunique()
    columns = {
        "error": error.mean(),
        "pearson": pearson.mean(),
        "n_seeds": seeds,
        "difference": mean,
        "lower": mean - width,
        "upper": mean + width,
        "n_units": n,
    }
    return pd.DataFrame(columns).loc[error.columns]
