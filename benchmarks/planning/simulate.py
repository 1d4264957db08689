"""Whether a screen drawn from a fitted model is like the real one.

Half of the cells of each perturbation fit the model; as many are drawn, and compared with the
other half: Kolmogorov-Smirnov distances of library sizes, of means, variances and shares of zeros
(over genes), and of log fold changes of perturbations, beside those of the two real halves;
and the area under the ROC curve of a classifier that tells
real from drawn cells, on logarithms of counts at equal depth and on counts, on cells that it was
not trained on. The area of the two real halves is 0.5 up to chance.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpert import SVAEPlus
from skpert.datasets import load_screen
from skpert.planning import simulate_screen

from .. import runner
from ..command import add_csv

LEAST_COUNTS = 0.05  # of a gene per cell, to have a fold change


def halves(A, seed):
    """Rows of each of two halves of the cells, the same share of every label."""
    rows = np.arange(len(A))
    return train_test_split(rows, test_size=0.5, stratify=A, random_state=seed)


def drawn_like(model, X, A, seed):
    """A screen with as many cells of each label as there are real ones."""
    counts = pd.Series(A).value_counts()
    most = int(counts.drop("control").max())
    n_controls = int(counts["control"])
    drawn = simulate_screen(model, most, X=X, A=A, n_control_cells=n_controls, random_state=seed)
    place = pd.Series(drawn.A).groupby(drawn.A).cumcount().to_numpy()
    kept = place < counts.reindex(drawn.A).to_numpy()
    return drawn.X[kept], drawn.A[kept]


def distances(first, second):
    """Kolmogorov-Smirnov distances of two screens, each (counts, labels)."""
    (X, A), (Y, B) = first, second
    found = {"library": ks_2samp(np.log1p(X.sum(1)), np.log1p(Y.sum(1))).statistic}
    for name, function in [
        ("mean", lambda counts: np.log1p(counts.mean(0))),
        ("variance", lambda counts: np.log1p(counts.var(0))),
        ("zeros", lambda counts: (counts == 0).mean(0)),
    ]:
        found[name] = ks_2samp(function(X), function(Y)).statistic
    one, other = folds(X, A), folds(Y, B)
    used = (X.mean(0) > LEAST_COUNTS) & (Y.mean(0) > LEAST_COUNTS)
    one, other = one[:, used], other[:, used]
    found["effects"] = ks_2samp(one.ravel(), other.ravel()).statistic
    found["effects_correlation"] = np.corrcoef(one.ravel(), other.ravel())[0, 1]
    return found


def folds(X, A):
    """Log fold changes of each perturbation, (n_perturbations, n_genes)."""
    totals = pd.DataFrame(X / X.sum(1, keepdims=True).clip(min=1)).groupby(A).mean()
    logs = np.log2(1e4 * totals + 1)
    return (logs - logs.loc["control"]).drop("control").to_numpy()


def area(X, Y, seed):
    """Areas by which two classifiers tell the cells of X from those of Y."""
    cells = np.vstack([X, Y])
    label = np.repeat([0, 1], [len(X), len(Y)])
    scaled = np.log1p(1e3 * cells / cells.sum(1, keepdims=True).clip(min=1))
    found = {}
    for name, values, classifier in [
        ("area_logs", scaled, make_pipeline(StandardScaler(), LogisticRegression(C=0.01))),
        ("area_counts", cells, HistGradientBoostingClassifier(max_iter=60, random_state=seed)),
    ]:
        parts = train_test_split(values, label, stratify=label, random_state=seed)
        classifier.fit(parts[0], parts[2])
        found[name] = roc_auc_score(parts[3], classifier.predict_proba(parts[1])[:, 1])
    return found


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="the screen: counts and labels")
    add("--seeds", type=int, nargs="+", default=[0], help="which, not how many")
    add_csv(parser)


def run(args):
    """Fit and compare, one seed after another."""
    screen, parts = load_screen(args.path), []
    for seed in args.seeds:
        own, other = halves(screen.A, seed)
        X, A = screen.X.toarray(), screen.A
        model = SVAEPlus(random_state=seed).fit(screen.X[own], A[own])
        drawn = drawn_like(model, screen.X[own], A[own], seed)
        for name, pair in [("simulated", drawn), ("split half", (X[own], A[own]))]:
            row = {"screen": args.path.stem, "seed": seed, "compared": name}
            row |= distances(pair, (X[other], A[other])) | area(pair[0], X[other], seed)
            parts.append(row)
            print(pd.Series(row).to_string(), "\n", flush=True)
            runner.replace(parts, args.csv, "screen")
