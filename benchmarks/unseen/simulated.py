"""Simulated screens of a causal model: unseen perturbations, graphs and penetrances with truth.

``make_causal_shift`` draws 40 perturbations of a graph of ten variables, expression that is a
nonlinear function of these and normal, and features from which shifts follow; ten perturbations
are unseen. SCCVAE is given the features and the true number of latents, and its graph is learned,
none, random, or the true one. The names of latents are free, so that the true graph fits as well
as any other of the same shape. ``true_mse`` is the squared error of predicted means against the
expected expression of the simulator, without the noise of test cells, which ``response_mse`` has.

Penetrances are of two kinds. The published one, the sum of a shift, is known up to one scale for
all at best: ``penetrance_pearson`` is its correlation with the truth over the trained
perturbations, ``penetrance_error`` the median relative error after the scale of least squares,
``penetrance_unseen`` the correlation over the unseen ones. The length of a shift is in standard
deviations and has a scale: ``length_pearson``, ``length_error`` and ``length_unseen`` are the same
for it, without a scale being fitted; ``length_error_scaled`` has it.
"""

import copy

import numpy as np
import pandas as pd
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Bunch

from skpert import BilinearRidge, ControlMean, PerturbedMean
from skpert.datasets import make_causal_shift

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from .shared import (
    DISCRIMINATION,
    GRAPHS,
    MODEL,
    PAIRED,
    add_options,
    described,
    evaluated,
    options_of,
    print_means,
    print_paired,
    sccvaes,
)

BASELINES = "baselines"
SUMS = ["penetrance_pearson", "penetrance_error", "penetrance_unseen"]
LENGTHS = ["length_pearson", "length_error", "length_error_scaled", "length_unseen"]
PENETRANCE = SUMS + LENGTHS
METRICS = ("true_mse", *PAIRED, "delta_pearson", DISCRIMINATION)


def baselines(features):
    """Estimators without a network, by row."""
    return {
        "ControlMean": ControlMean(),
        "PerturbedMean": PerturbedMean(),
        "linear, features": BilinearRidge(features),
    }


def score(job, data, options):
    """Rows of the CSV file; ``data`` are arguments of the simulator."""
    screen = make_causal_shift(**data, random_state=job.seed)
    if job.name == BASELINES:
        models = baselines(screen.features)
    else:
        options = {"n_latent": screen.graph.shape[0], **options}
        models = sccvaes(screen.features, screen.graph.astype(int), job.seed, options)
        models = {job.name: models[job.name]}
    return of_models(models, screen, references=job.name == BASELINES)


def of_models(models, screen, *, references):
    """Rows of these models, fitted once."""
    X, A = screen.X[screen.train], screen.A[screen.train]
    genes = [f"G{g}" for g in range(X.shape[1])]
    fitted = {name: model.fit(pd.DataFrame(X, columns=genes), A) for name, model in models.items()}
    frozen = {name: FrozenEstimator(model) for name, model in fitted.items()}
    cells = Bunch(X=screen.X, A=screen.A, genes=genes)
    table = evaluated(frozen, cells, [(screen.train, screen.test)], references=references)
    rows = {name: _against_truth(model, screen) for name, model in fitted.items()}
    columns = {"true_mse": np.nan} | dict.fromkeys(PENETRANCE, np.nan)
    table = table.assign(**columns).set_index("perturbation", drop=False)
    for name, (errors, recovered) in rows.items():
        of_model = table["estimator"] == name
        table.loc[of_model, "true_mse"] = errors[table.index[of_model]]
        table.loc[of_model, list(recovered)] = list(recovered.values())
    return table.reset_index(drop=True)


def _against_truth(model, screen):
    """Error of each unseen perturbation, and agreement of penetrances."""
    unseen = screen.perturbations[~screen.seen]
    error = (model.predict_intervention(unseen) - screen.expected(unseen)) ** 2
    errors = pd.Series(error.mean(1), index=unseen)
    if not hasattr(model, "penetrance_"):
        return errors, {}
    return errors, penetrance_recovery(model, screen)


def penetrance_recovery(model, screen):
    """Agreement of learned and true penetrances, as sums and as lengths.

    Parameters
    ----------
    model : SCCVAE
        Fitted on the training cells of the screen.
    screen : Bunch
        Of ``make_causal_shift``.

    Returns
    -------
    recovered : dict of str to float
        The columns ``PENETRANCE``.
    """
    lengths = np.linalg.norm(screen.effect, axis=1)
    pearson, _, error, unseen = _recovery(model, "sum", screen.penetrance, screen)
    recovered = dict(zip(SUMS, (pearson, error, unseen), strict=True))
    of_lengths = _recovery(model, "length", lengths, screen)
    return recovered | dict(zip(LENGTHS, of_lengths, strict=True))


def _recovery(model, kind, true, screen):
    """Correlation, median relative error without and with a scale, correlation of the unseen."""
    true = pd.Series(true, index=screen.perturbations)
    reached = copy.copy(model.reach(screen.perturbations)).set_params(penetrance=kind)
    learned = pd.Series(reached.penetrance_, index=reached.perturbations_)
    seen, unseen = screen.perturbations[screen.seen], screen.perturbations[~screen.seen]
    known, target = learned[seen], true[seen]
    ratio = known / target
    scale = (known @ target) / (known @ known)
    return (
        float(target.corr(known)),
        float((ratio - 1).abs().median()),
        float((scale * ratio - 1).abs().median()),
        float(true[unseen].corr(learned[unseen])),
    )


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--perturbations", type=int, default=40, help="a quarter unseen; default %(default)s")
    add("--clusters", type=int, help="of perturbations with similar features; default none")
    add("--cells", type=int, default=100, help="of each perturbation; default %(default)s")
    add_options(parser, range(20, 25), latent=10)


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    data = {
        "n_perturbations": args.perturbations,
        "n_clusters": args.clusters,
        "n_cells_per_perturbation": args.cells,
        "n_latent": args.latent,
    }
    options = options_of(args)
    of_data = ", ".join(f"{k}={v}" for k, v in data.items())
    jobs = [
        TableJob(of_data if name == BASELINES else f"{of_data}, {described(options)}", seed, name)
        for seed in seeds_of(args)
        for name in [BASELINES, *GRAPHS]
    ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, data, options)
    if len(results):
        report(results)
    return n_failed


def report(results):
    """Print means, penetrances, and differences paired over seeds and perturbations."""
    # each seed is another screen: its perturbations are others
    names = results["seed"].astype(str) + " " + results["perturbation"]
    table = results.assign(perturbation=names)
    print_means(table, METRICS, "Unseen perturbations of all seeds")
    of_seed = results.groupby(["estimator", "seed"], sort=False)[PENETRANCE].first()
    groups = of_seed.dropna().groupby(level="estimator", sort=False)
    recovered = groups.mean().join(groups.std().add_suffix(", sd"))
    print(f"\nPenetrances\n{recovered.to_string(float_format='{:.3f}'.format)}")
    others = [name for name in [*baselines(None), *GRAPHS] if name != MODEL]
    if MODEL in set(table["estimator"]):
        print_paired(table, MODEL, others)
