"""Pairs of a whole screen from single effects and other pairs: ten folds over pairs.

``PATH`` is a table of effects, a row per perturbation, in which a pair is named "A_B" and has rows
"A" and "B" too, such as the pseudobulk effects of the Norman screen. Single effects and nine
tenths of the pairs are known; printed is the squared error of the others over their squared
effects, as mean and standard deviation over partitions, and the paired difference to the sum times
one scale with an interval of 95 % by resampling pairs.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from skpert import AdditiveEffects, InteractionRidge, PerturbedMean

from ..command import add_csv

METHODS = {
    "mean": PerturbedMean(sep="_"),
    "sum of parts": AdditiveEffects(sep="_"),
    "scaled sum": AdditiveEffects(scale="learned", sep="_"),
    "InteractionRidge": InteractionRidge(sep="_"),
}
MEASURED = "measured parts, "  # sums of the measured effects, which no other pair changes
N_RESAMPLED = 2000


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="CSV file of effects, names in the first column")
    add("--seeds", type=int, nargs="+", default=list(range(5)), help="of the partitions")
    add("--folds", type=int, default=10)
    add_csv(parser)


def run(args):
    """Predict all pairs in each partition, and print the table."""
    effects = pd.read_csv(args.path, index_col=0)
    pairs = np.array([n for n in effects.index if _parts(n, effects)], dtype=object)
    measured = effects.loc[pairs].to_numpy()
    sums = sum(effects.loc[[_parts(n, effects)[i] for n in pairs]].to_numpy() for i in (0, 1))
    errors = {}  # (n_partitions, n_pairs) of each method
    for seed in args.seeds:
        folds = np.array_split(np.random.default_rng(seed).permutation(len(pairs)), args.folds)
        for name, predicted in _predicted(effects, pairs, measured, sums, folds).items():
            errors.setdefault(name, []).append(np.square(predicted - measured).sum(1))
    table = _table({k: np.array(v) for k, v in errors.items()}, np.square(measured).sum())
    table.to_csv(args.csv)
    print(f"{len(pairs)} pairs, {len(args.seeds)} partitions\n{table.round(3).to_string()}")
    return 0


def _parts(name, effects):
    """Both parts of a pair, or nothing."""
    parts = name.split("_")
    return parts if len(parts) == 2 and set(parts) <= set(effects.index) else []


def _predicted(effects, pairs, measured, sums, folds):
    """Effects of all pairs by each method, each from the folds without it."""
    singles = [n for n in effects.index if n not in set(pairs)]
    names = [*METHODS, f"{MEASURED}sum", f"{MEASURED}scaled sum"]
    found = {name: np.empty_like(measured) for name in names}
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(pairs)), fold)
        X = np.vstack([np.zeros((1, measured.shape[1])), effects.loc[singles], measured[rest]])
        labels = np.array(["control", *singles, *pairs[rest]], dtype=object)
        for name, method in METHODS.items():
            found[name][fold] = method.fit(X, labels).predict_intervention(pairs[fold])
        scale = (sums[rest] * measured[rest]).sum() / np.square(sums[rest]).sum()
        found[f"{MEASURED}sum"][fold] = sums[fold]
        found[f"{MEASURED}scaled sum"][fold] = scale * sums[fold]
    return found


def _table(errors, total):
    """Error of each method over the squared effects, and how it differs from the scaled sum."""
    random = np.random.default_rng(0)
    reference = errors[f"{MEASURED}scaled sum"].mean(0)
    drawn = random.integers(len(reference), size=(N_RESAMPLED, len(reference)))
    rows = {}
    for name, values in errors.items():
        share = values.sum(1) / total
        differences = (values.mean(0) - reference)[drawn].sum(1) / total
        lower, upper = np.quantile(differences, [0.025, 0.975])
        rows[name] = {"error": share.mean(), "sd": share.std(ddof=min(1, len(share) - 1))}
        rows[name] |= {"to scaled sum": share.mean() - reference.sum() / total}
        rows[name] |= {"lower": lower, "upper": upper}
    return pd.DataFrame(rows).T
