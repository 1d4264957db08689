"""Estimators, screens and tables of the benchmarks of perturbations that were never seen."""

import numpy as np
import pandas as pd
from sklearn.cluster import FeatureAgglomeration
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from skpert import SCCVAE, BilinearRidge
from skpert.datasets import load_screen
from skpert.model_selection import evaluate_perturbations, paired_differences
from skpert.preprocessing import (
    GeneSetFeatures,
    LogNormalize,
    causal_graph,
    perturbation_labels,
    read_gmt,
)

from ..command import add_job_options, add_model_options

PUBLISHED = {"n_gene_components": 10, "normalize_features": False, "center": "conditions"}
MODEL = "SCCVAE"
GRAPHS = {  # rows of SCCVAE; the given graph is filled in where it is made
    MODEL: "learned",
    f"{MODEL}, no graph": None,
    f"{MODEL}, random graph": "random",
    f"{MODEL}, given graph": "given",
}
PAIRED = ("response_mse", "energy_distance", "maximum_mean_discrepancy")
DISCRIMINATION = "perturbation_discrimination"


class OfMeasuredTargets(BilinearRidge):
    """Trained on cells whose targets are among the genes, and on controls; NaN for others."""

    def fit(self, X, y):
        """Leave out the cells of other targets; X is a DataFrame."""
        labels = np.asarray(y)
        kept = np.isin(labels, [*X.columns, self.control])
        return super().fit(X.loc[kept], labels[kept])


def read(path, target_sum, control="control"):
    """Log-normalised cells of controls and of single perturbations.

    Returns
    -------
    screen : Bunch
        ``X``, csr_matrix of shape (n_cells, n_genes), float32; ``A``, labels, where the control
        is "control"; ``genes``, names.
    """
    screen = load_screen(path)
    labelled = pd.notna(screen.A)
    labels = perturbation_labels(screen.A[labelled], control=control)
    labels[labels == control] = "control"
    single = np.array(["+" not in label for label in labels])
    X = LogNormalize(target_sum).fit_transform(screen.X[labelled][single])
    return Bunch(X=X, A=labels[single], genes=screen.feature_names)


def merged(paths):
    """Gene sets of .gmt files, or of folders of them, by file and name."""
    files = [
        file
        for path in paths
        for file in (sorted(path.glob("*.gmt*")) if path.is_dir() else [path])
    ]
    return {f"{file.name}: {name}": s for file in files for name, s in read_gmt(file).items()}


def frozen_gene_sets(sets):
    """Gene sets weighted by how few of all genes they hold, whatever the screen."""
    genes = sorted(set().union(*sets.values()))
    return FrozenEstimator(GeneSetFeatures(sets, weight="idf").fit(genes))


def module_graph(X, n_modules):
    """Causal graph of modules of genes, as correlated in these control cells.

    Parameters
    ----------
    X : ndarray of shape (n_cells, n_genes)
        Log-normalised expression of control cells.
    n_modules : int
        As many as the model has latents. They are not the same things: which latent a module
        stands for is arbitrary.

    Returns
    -------
    graph : ndarray of shape (n_modules, n_modules), int
        Acyclic, in the order that ``causal_graph`` found.
    """
    varying = np.ptp(X, axis=0) > 0
    standardised = StandardScaler().fit_transform(X[:, varying].astype(np.float64))
    means = FeatureAgglomeration(n_modules).fit_transform(standardised)
    return causal_graph(means, n_init=1, random_state=0).astype(int)


def sccvaes(features, graph, seed, options):
    """SCCVAE with each kind of graph, by row; without a given graph that row is missing."""
    graphs = {name: graph if kind == "given" else kind for name, kind in GRAPHS.items()}
    if graph is None:
        del graphs[f"{MODEL}, given graph"]
    return {
        name: SCCVAE(features=features, graph=kind, random_state=seed, **options)
        for name, kind in graphs.items()
    }


def evaluated(estimators, screen, cv, *, references):
    """Table per split and perturbation; ``references``: with mean baseline and replicate."""
    X = pd.DataFrame(screen.X, columns=screen.genes)
    options = {"cv": cv, "space": "lognorm", "random_state": 0}
    table = evaluate_perturbations(estimators, X, screen.A, **options).per_perturbation
    return table if references else table[table["estimator"].isin(estimators)]


def add_options(parser, seeds, latent=64):
    """Options of all parts that fit SCCVAE."""
    add = parser.add_argument
    add("--objective", choices=("matched", "published"), default="matched")
    add("--shift-encoder", choices=("kernel", "network"), default="kernel")
    add_model_options(parser, latent)
    add_job_options(parser, seeds)


def options_of(args):
    """Parameters of SCCVAE that the command line sets."""
    return {
        "n_latent": args.latent,
        "max_epochs": args.epochs,
        "objective": args.objective,
        "shift_encoder": args.shift_encoder,
    }


def described(options):
    """Options that are not the defaults of the estimator, as text."""
    defaults = SCCVAE().get_params()
    return ", ".join(f"{k}={v}" for k, v in options.items() if defaults[k] != v)


def over_seeds(results, metrics):
    """Metrics of each estimator, split and perturbation, averaged over seeds."""
    keys = ["estimator", "split", "perturbation"]
    return results.groupby(keys, sort=False)[list(metrics)].mean().reset_index()


def print_means(table, metrics, title):
    """Means over perturbations; of the discrimination with its standard error."""
    groups = table.groupby("estimator", sort=False)
    means = groups[list(metrics)].mean()
    if DISCRIMINATION in means:
        error = groups[DISCRIMINATION].sem()
        means = means.rename(columns={DISCRIMINATION: "discrimination"})
        means["± standard error"] = error
    print(f"\n{title}\n{means.to_string(float_format='{:.4g}'.format, na_rep='-')}")


def print_paired(table, first, others, metrics=PAIRED):
    """First less each of the others, over the perturbations of both, with 95 % intervals."""
    for metric in metrics:
        print(f"\n{metric}, {first} less the other")
        for other in others:
            if other in set(table["estimator"]):
                row = paired_differences(table, metric, other).loc[first]
                print(
                    f"  {other:36} {row['mean']:+.3g} ({row['lower']:+.3g} to "
                    f"{row['upper']:+.3g}), better in {row['share_better']:.0%} "
                    f"of {row['n_perturbations']:.0f}"
                )
