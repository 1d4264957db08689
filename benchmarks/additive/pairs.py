"""Pairs of a whole screen from single effects and other pairs: ten folds over pairs.

``PATH`` is a table of effects, a row per perturbation, in which a pair is named "A_B" and has rows
"A" and "B" too, such as the pseudobulk effects of the Norman screen. Single effects and nine
tenths of the pairs are known; printed is the squared error of the others over their squared
effects, as mean and standard deviation over partitions, and the paired difference to the sum times
one scale with an interval of 95 % by resampling pairs.

With ``--map``, a table of genetic interactions of growth (Norman et al. 2019, perturbation by
perturbation), it is asked whether pairs whose effects interact are those whose growth does.
Printed are areas under the ROC curve, with an interval of 95 % by resampling perturbations, with
all pairs between those drawn, as pairs that share one are not independent. Pairs whose score in
the map is beyond ``--least`` are distinguished from the others by the size of what the scaled sum
leaves over that of the sum; by the largest probability of an interaction on axes on which single
effects are sparse; and, since relative errors of small sums are large, by small sums alone, and
by what is left beyond what the size of the sum explains. Among those pairs, positive and negative
scores are distinguished by how far the effect falls short along the sum.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from skpert import AdditiveEffects, InteractionRidge, PerturbedMean
from skpert.sparsity.edges import edges_at_fdr
from skpert.sparsity.interactions import interaction_probability, usual_scale
from skpert.sparsity.rotation import sparse_rotation

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
    add("--map", type=Path, help="CSV file of genetic interactions, names on both sides")
    add("--least", type=float, default=3.0, help="size of a score in the map that is one")
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
    if args.map is not None:
        known = pd.read_csv(args.map, index_col=0)
        scores = interaction_scores(effects, pairs, measured)
        _print_map(scores, _known(known, pairs), args.least)
    return 0


def interaction_scores(effects, pairs, measured):
    """What speaks for an interaction of each pair, a DataFrame with a row per pair.

    Parameters
    ----------
    effects : DataFrame of shape (n_perturbations, n_columns)
        Of singles and pairs.
    pairs : ndarray of shape (n_pairs,)
        Names "A_B" of those whose parts have rows.
    measured : ndarray of shape (n_pairs, n_columns)
        Their rows.

    Returns
    -------
    scores : DataFrame
        Of each pair, by column: the five scores above, and ``n_called``, the number of axes on
        which an interaction is called at a false discovery rate of 5 %.
    """
    R = sparse_rotation(effects.drop(index=pairs).to_numpy())
    sums = sum(effects.loc[[name.split("_")[i] for name in pairs]].to_numpy() for i in (0, 1)) @ R
    measured = measured @ R
    scaled = usual_scale(sums, measured) * sums
    rest = measured - scaled
    probability = interaction_probability(rest, scaled, np.zeros_like(rest))
    size, left = np.linalg.norm(scaled, axis=1), np.linalg.norm(rest, axis=1)
    slope = np.polyfit(np.log(size), np.log(left), 1)
    return pd.DataFrame(
        {
            "relative size": left / size,
            "probability": probability.max(1),
            "small sum": -size,
            "beyond size": np.log(left) - np.polyval(slope, np.log(size)),
            "shortfall": -(scaled * measured).sum(1) / size**2,
            "n_called": edges_at_fdr(probability).sum(1),
        },
        index=pairs,
    )


def _known(known, pairs):
    """Score of each pair in the map, NaN where it has none."""
    found = []
    for a, b in (name.split("_") for name in pairs):
        there = a in known.index and b in known.columns
        found.append(known.loc[a, b] if there else np.nan)
    return np.array(found, dtype=float)


def _print_map(scores, known, least):
    there = ~np.isnan(known)
    scores, known = scores[there], known[there]
    strong = np.abs(known) > least
    print(
        f"\n{len(known)} pairs in the map, {strong.sum()} beyond {least:g}, axes called: "
        f"{scores['n_called'].sum()}; area under the curve"
    )
    for column in scores.columns.drop(["n_called", "shortfall"]):
        _print_area(column, scores[column], strong)
    _print_area("sign, by shortfall", scores.loc[strong, "shortfall"], known[strong] > 0)


def _print_area(title, values, truth):
    """Area under the curve, and its interval."""
    parts = np.array([name.split("_") for name in values.index])
    names, codes = np.unique(parts, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    areas = []
    for count in np.random.default_rng(0).multinomial(len(names), share, N_RESAMPLED):
        weight = count[codes.reshape(parts.shape)].prod(1)
        if len(set(truth[weight > 0])) == 2:
            areas.append(roc_auc_score(truth, values, sample_weight=weight))
    lower, upper = np.quantile(areas, [0.025, 0.975])
    print(f"{title:20}{roc_auc_score(truth, values):.3f} [{lower:.3f}, {upper:.3f}]")


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
