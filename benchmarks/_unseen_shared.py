"""Estimators, jobs and tables of the benchmarks of perturbations that were never seen."""

import hashlib
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
import torch
from sklearn.cluster import FeatureAgglomeration
from sklearn.frozen import FrozenEstimator
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skpert import SCCVAE, BilinearRidge
from skpert.datasets import load_screen
from skpert.model_selection import evaluate_perturbations, paired_differences
from skpert.preprocessing import GeneSetFeatures, LogNormalize, causal_graph, perturbation_labels

RESULTS = Path(__file__).parent / "results"
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


class Job(NamedTuple):
    """What is fitted and scored at once, and gives some rows of a CSV file."""

    setting: str  # data, splits and options
    seed: int
    name: str


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
    X : csr_matrix of shape (n_cells, n_genes), float32
    A : ndarray of shape (n_cells,), object
    genes : ndarray of shape (n_genes,), object
    """
    screen = load_screen(path)
    labelled = pd.notna(screen.A)
    labels = perturbation_labels(screen.A[labelled], control=control)
    labels[labels == control] = "control"
    single = np.array(["+" not in label for label in labels])
    X = LogNormalize(target_sum).fit_transform(screen.X[labelled][single])
    return X, labels[single], screen.feature_names


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
    """Table per split and perturbation, with floor and ceiling or without."""
    X = pd.DataFrame(screen.X, columns=screen.genes)
    options = {"cv": cv, "space": "lognorm", "random_state": 0}
    table = evaluate_perturbations(estimators, X, screen.A, **options).per_perturbation
    return table if references else table[table["estimator"].isin(estimators)]


def add_options(parser, name, seeds, latent=64):
    """Options that all have."""
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=list(seeds), help="which, not how many")
    add("--latent", type=int, default=latent, help="number of latents; default %(default)s")
    add("--epochs", type=_epochs, default="auto", help="of each training; default %(default)s")
    add("--objective", choices=("matched", "published"), default="matched")
    add("--shift-encoder", choices=("kernel", "network"), default="kernel")
    add("--jobs", type=int, default=1, help="processes, of one thread each")
    default = RESULTS / f"unseen_{name}.csv"
    add("--csv", type=Path, default=default, help="where results are kept; default %(default)s")


def _epochs(text):
    return text if text == "auto" else int(text)


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


def fingerprint(*arrays):
    """Short name of data."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array.astype(str if array.dtype == object else array.dtype).tobytes())
    return digest.hexdigest()[:8]


def run_jobs(score, jobs, path, n_jobs, *data):
    """Run the jobs of which the CSV file has no rows; append theirs as soon as they are done.

    Parameters
    ----------
    score : callable
        ``score(job, *data)`` returns a DataFrame, with the same columns for every job.
    jobs : list of Job
        In the order in which they are run.
    path : Path
        The CSV file; to the columns of the tables ``setting``, ``seed`` and ``job`` are added.
    n_jobs : int
        Processes.
    *data : object
        What all jobs share.

    Returns
    -------
    results : DataFrame
        Rows of these jobs.
    n_failed : int
        How many jobs failed; their tracebacks were printed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = set(results_of(path).index)
    waiting = [job for job in jobs if tuple(job) not in known]
    print(f"{len(waiting)} of {len(jobs)} jobs to run, results in {path}", flush=True)
    n_failed, wanted = 0, {tuple(job) for job in jobs}
    parallel = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")
    for job, table in parallel(joblib.delayed(_measured)(score, job, *data) for job in waiting):
        n_failed += isinstance(table, str)
        if isinstance(table, str):
            print(f"{job}\n{table}", flush=True)
            continue
        for column, value in enumerate(job):
            table.insert(column, ("setting", "seed", "job")[column], value)
        table.to_csv(path, mode="a", header=not path.exists(), index=False)
        print(f"seed {job.seed}: {job.name}", flush=True)
    results = results_of(path)
    return results[[key in wanted for key in results.index]].reset_index(), n_failed


def _measured(score, job, *data):
    """The job and its table, or its traceback."""
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of targets in no set, or not measured
            return job, score(job, *data).copy()
    except Exception:  # the other jobs go on
        return job, traceback.format_exc()


def results_of(path):
    """The CSV file, by setting, seed and job."""
    keys = ["setting", "seed", "job"]
    if not path.exists():
        return pd.DataFrame(columns=keys).set_index(keys)
    return pd.read_csv(path).set_index(keys)


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
