"""How well ridge regression on gene sets predicts knock-outs that were never seen.

::

    python -m benchmarks.unseen gene_set_ridge screen.h5ad --gmt folder_of_gene_sets
    python -m benchmarks.unseen gene_set_ridge screen.h5ad --gmt GO.gmt.gz --target-sum 1e4

Each single perturbation is left out in turn, and its mean expression predicted from the cells of
all others. Counts are log-normalised over the genes of the file, to ``--target-sum`` counts a
cell; the error is the mean over genes of the squared difference of means, times 10,000. Methods,
at the defaults of ``BilinearRidge`` unless said otherwise:

* ``control``, no effect, and ``mean effect``, that of the other perturbations;
* ``own embedding``, as published: targets are described by the 10 components that embed genes;
* ``labels``, the same with 50 principal components of genes over control cells for the targets;
* ``gene components``, these without an embedding of genes;
* ``gene sets``, ``GeneSetFeatures(sets, weight="idf")``, fitted to the training targets, so that
  sets without any do not count;
* ``all targets``, the same fitted to the names of all, that of the one left out among them;
* ``all genes``, the same fitted to every gene of the sets: weights are those of rare sets.

Targets in no set get the mean effect. Methods that describe targets by expression see and predict
targets that are measured genes only. All others use all targets; the last line is their mean over
the measured ones, to compare.
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch

from skpert import BilinearRidge, ControlMean, PerturbedMean
from skpert.exceptions import DataWarning
from skpert.preprocessing import GeneSetFeatures

from .shared import PUBLISHED, frozen_gene_sets, merged, read

BY_EXPRESSION = {
    "own embedding": BilinearRidge(**PUBLISHED),
    "labels": BilinearRidge("genes", **PUBLISHED),
    "gene components": BilinearRidge("genes"),
}
SCALE = 1e4


def methods(targets, sets):
    """Estimators by name, for all targets."""
    features = GeneSetFeatures(sets, weight="idf")
    return {
        "control": ControlMean(),
        "mean effect": PerturbedMean(),
        "gene sets": BilinearRidge(features),
        "all targets": BilinearRidge(FrozenEstimator(clone(features).fit(targets))),
        "all genes": BilinearRidge(frozen_gene_sets(sets)),
    }


def leave_one_out(estimator, screen, targets, left_out=None):
    """Error of each target when the others and the controls are trained on.

    Parameters
    ----------
    estimator : estimator
        A baseline that predicts unseen perturbations.
    screen : Bunch
        ``X``, log-normalised expression, sparse; ``A``, labels; ``genes``, names.
    targets : list of str
        Perturbations that take part.
    left_out : list of str or None, default=None
        Those to leave out in turn; None is all.

    Returns
    -------
    error : Series of float
        Mean squared error over genes, by target.
    """
    errors = {}
    for target in targets if left_out is None else left_out:
        others = np.isin(screen.A, [*targets, "control"]) & (screen.A != target)
        # as an AnnData, of which no more than this is read
        X = Bunch(X=screen.X[others], layers={}, var_names=screen.genes)
        model = clone(estimator).fit(X, screen.A[others])
        observed = np.asarray(screen.X[screen.A == target].mean(0, dtype=np.float64)).ravel()
        errors[target] = np.mean((model.predict_intervention(target)[0] - observed) ** 2)
    return pd.Series(errors)


def table(screen, sets):
    """Errors, times 10,000, by target and method; NaN where a method has no features."""
    targets = sorted(set(screen.A) - {"control"})
    measured = [target for target in targets if target in set(screen.genes)]
    columns = {
        name: leave_one_out(estimator, screen, targets)
        for name, estimator in methods(targets, sets).items()
    }
    columns |= {
        name: leave_one_out(estimator, screen, measured)
        for name, estimator in BY_EXPRESSION.items()
    }
    errors = SCALE * pd.DataFrame(columns, index=targets)
    means = [errors.mean().where(errors.notna().all()), errors.loc[measured].mean()]
    return pd.concat([errors, pd.DataFrame(means, index=["mean", "mean of measured"])])


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="what skpert.datasets.load_screen reads, counts")
    add("--gmt", type=Path, nargs="+", required=True, help="files of gene sets, or folders")
    add("--target-sum", type=float, default=500, help="counts a cell is scaled to")
    add("--control", default="control", help="label of untreated cells")


def run(args):
    """Print the table."""
    warnings.simplefilter("ignore", DataWarning)  # of targets in no set
    screen = read(args.path, args.target_sum, args.control)
    print(table(screen, merged(args.gmt)).round(1).to_string(na_rep="-"))
