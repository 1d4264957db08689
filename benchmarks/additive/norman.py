"""Combinations of perturbations, unseen or seen in few cells: the two Norman tasks of the paper.

Of the screen of Norman et al. 2019 those combinations are kept whose parts are also seen alone,
so that every method has seen the parts. A model is fitted to the train cells of
``norman_split(task=..., fraction=..., seed=...)``, with the seed of the split, and scored on its
test cells, which all have combinations: by IWELBO(100), and by its effects, compared with those
measured in the test cells against all controls, as published, so that what chance made of the
controls is common to effects measured in training and in test cells. In "top 20" the most changed
genes of each combination count. "sum of parts" adds the effects measured in training cells with
one perturbation each, "mean of parts" averages them, to which only R2 is sensitive, and "mean
effect" is that of all conditions in training for each combination. A model that takes a
combination as an intervention of its own knows nothing of unseen ones: "-".
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skpert.datasets import load_screen, norman_split
from skpert.inspection import average_treatment_effect
from skpert.metrics import ate_pearson, ate_r2, differential_expression
from skpert.preprocessing import perturbation_labels

from ..command import seeds_of
from ..runner import run_jobs
from .shared import (
    COST,
    DEFAULTS,
    add_options,
    fitted,
    make_job,
    print_orderings,
    print_table,
)

TASKS = ("ood", "data_efficiency")
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
BASELINES = {  # effect of a combination from those measured in training, (n_conditions, n_genes)
    "sum of parts": lambda effects, parts: effects.loc[parts].sum(),
    "mean of parts": lambda effects, parts: effects.loc[parts].mean(),
    "mean effect": lambda effects, parts: effects.mean(),
}
COLUMNS = {
    "iwelbo": ("IWELBO", 2),
    "relative": ("relative", 2),
    "pearson": ("ATE-Pearson", 3),
    "pearson_top20": ("top 20", 3),
    "r2": ("R2 of ATE", 3),
    "r2_top20": ("top 20", 3),
    "seconds_fit": ("fit, s", 1),
}
REFERENCE = "SAMSVAE"  # with no combination in training: relative IWELBO is the gain over it
ORDERINGS = [
    *[("iwelbo", "SAMSVAE", worse) for worse in ("CPAVAE", "ConditionalVAE", "SVAEPlus")],
    ("iwelbo", "CPAVAE", "ConditionalVAE"),
    *[
        ("pearson", method, "sum of parts")
        for method in ("SAMSVAE", "CPAVAE", "ConditionalVAE", "SVAEPlus")
    ],
    ("pearson", "SAMSVAE", "ConditionalVAE"),
    ("pearson", "SAMSVAE", "SVAEPlus"),
]


def score(job, screen):
    """Row of the CSV file; ``screen`` is that of :func:`read_screen`."""
    row = {"task": job.data["task"], "fraction": job.data["fraction"]}
    row |= dict.fromkeys(name for name in [*COLUMNS, *COST] if name != "relative")
    split = norman_split(screen.spelled, task=row["task"], fraction=row["fraction"], seed=job.seed)
    train, test = (np.flatnonzero(split == part) for part in ("train", "test"))
    X, A = screen.X, screen.A
    against = np.flatnonzero((split == "test") | (A == "control"))
    measured = differential_expression(X[against], A[against])
    if job.method in BASELINES:
        effects = differential_expression(X[train], A[train])
        return row | _agreement(measured, predicted(job.method, effects, measured.index))
    model, cost = fitted(job, X[train], A[train])
    row |= cost
    unseen = set(A[test]) - set(A[train])
    if unseen and job.method.startswith("SVAEPlus"):
        return row
    effect = average_treatment_effect(model, measured.index)
    return row | _agreement(measured, effect) | {"iwelbo": model.score(X[test], A[test])}


def predicted(baseline, effects, combinations):
    """Effects of combinations by a baseline.

    Parameters
    ----------
    baseline : str
        One of ``BASELINES``.
    effects : DataFrame of shape (n_conditions, n_genes)
        Measured effects, by label.
    combinations : iterable of str
        Labels "A+B" of parts that have effects.

    Returns
    -------
    effect : DataFrame of shape (n_combinations, n_genes)
        By label.
    """
    of_one = BASELINES[baseline]
    return pd.DataFrame({name: of_one(effects, name.split("+")) for name in combinations}).T


def _agreement(measured, effect):
    return {
        "pearson": ate_pearson(measured, effect),
        "pearson_top20": ate_pearson(measured, effect, top=20),
        "r2": ate_r2(measured, effect),
        "r2_top20": ate_r2(measured, effect, top=20),
    }


def read_screen(path, dataset):
    """Cells of the data set, without combinations of parts that are not seen alone.

    Returns
    -------
    screen : Bunch
        ``X``, genes that are seen at all; ``A``, canonical labels; ``spelled``, those of the
        file; ``name``, to distinguish this from other screens.
    """
    screen = load_screen(path)
    X, spelled = screen.X, screen.A
    kept = np.ones(len(spelled), dtype=bool)
    if "dataset" in screen.obs:
        kept = (screen.obs["dataset"] == dataset).to_numpy()
    if not kept.any():
        raise SystemExit(f"no cell of {path} has {dataset!r} in its column 'dataset'")
    kept[kept] = has_parts_alone(perturbation_labels(spelled[kept]))
    X, spelled = X[kept], spelled[kept]
    X = X[:, np.asarray(X.sum(0)).ravel() > 0]
    A = perturbation_labels(spelled)
    name = f"{Path(path).name}: {X.shape[0]} cells, {X.shape[1]} genes, {X.sum():.0f} counts"
    return Bunch(X=X, A=A, spelled=spelled, name=name)


def has_parts_alone(A):
    """Whether each cell's perturbations are all seen alone, too; canonical labels."""
    names, codes = np.unique(A.astype(str), return_inverse=True)
    alone = set(names)
    return np.array([set(name.split("+")) <= alone for name in names])[codes]


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("path", type=Path, help="the screen, counts and labels A+B, .h5ad")
    parser.add_argument("--dataset", default="norman19", help="cells, by obs['dataset'] if any")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS))
    add_options(parser, range(5), 20, DEFAULTS)


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    screen = read_screen(args.path, args.dataset)
    print(screen.name)
    jobs = [
        make_job(
            method,
            seed,
            {"screen": screen.name, "task": task, "fraction": fraction},
            n_latent=args.latent,
            max_epochs=args.epochs,
        )
        for seed in seeds_of(args)
        for task in args.tasks
        for fraction in args.fractions
        for method in [*args.methods, *BASELINES]
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, screen)
    if len(results):
        _print(with_relative(results))
    return n_failed


def with_relative(results):
    """The gain in IWELBO over the reference without combinations, of the same task and seed."""
    cases = ["task", "seed"]
    chosen = (results["method"] == REFERENCE) & (results["fraction"] == 0)
    start = results[chosen].set_index(cases)["iwelbo"].rename("start")
    joined = results.join(start, on=cases)
    return joined.assign(relative=joined["iwelbo"] - joined["start"]).drop(columns="start")


def _print(results):
    for (task, fraction), rows in results.groupby(["task", "fraction"], sort=False):
        print(f"\n{task}, fraction {fraction}; mean ± standard deviation over splits")
        print_table(rows, COLUMNS)
        print_orderings(rows, COLUMNS, ORDERINGS)
