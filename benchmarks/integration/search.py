"""Random search by the ELBO of validation cells, as in the inVAE paper; a recipe.

Parameters are drawn from the ranges of the released scripts, as far as ours have the same meaning:
the scale of the ELBO beside score matching, for one, changes nothing where the two train different
weights, and the networks of our priors have a fixed size. Of one half of the cells, four fifths
are for training and one fifth for validation; the integration scores of the other half, read from
expression alone, are not looked at by the search and show whether it finds what is asked for. The
ELBO is the score at one particle, with the estimated normaliser, so that priors can be compared.
``default`` is the estimator as it comes.
"""

import numpy as np
import pandas as pd
from scipy.stats import loguniform, randint
from sklearn.model_selection import ParameterSampler

from skpert import InVAE

from ..command import seeds_of
from ..runner import TableJob, run_jobs
from . import shared
from .halves import scored

DEFAULT = "default"
PUBLISHED = {"schedule": "constant", "batch_size": 256, "n_epochs_kl_warmup": 40}
RANGES = {
    "learning_rate": loguniform(1e-5, 1e-2),
    "weight_decay": loguniform(1e-6, 1e-3),
    "n_hidden": np.unique(np.logspace(6, 10, 17, base=2).astype(int)).tolist(),
    "n_layers": [2, 3, 4],
    "total_correlation": randint(0, 11),
}
REGULARISED = [  # either with even odds
    RANGES | {"score_regularization": [0.0]},
    RANGES | {"score_regularization": loguniform(1e-4, 1e-2)},
]
METRICS = ("total", "bio_conservation", "batch_correction")


def drawn(seed, n_draws, prior):
    """Parameters of the first draws of a seed, of which more begin with the same ones."""
    ranges = REGULARISED if prior == "nonfactorized" else RANGES
    return [
        {name: getattr(value, "item", lambda value=value: value)() for name, value in row.items()}
        for row in ParameterSampler(ranges, n_draws, random_state=seed)
    ]


def score(job, cells, options, n_draws, prior):
    """One row: parameters, ELBO of validation cells, and scores of the other half."""
    chosen = {}
    if job.name != DEFAULT:
        number = int(job.name.removeprefix("draw "))
        chosen = PUBLISHED | drawn(job.seed, n_draws, prior)[number]
    half = shared.halves(cells, job.seed)
    train, test = cells.take(half == 0), cells.take(half == 1)
    fifth = np.random.default_rng(job.seed).permutation(len(train.obs)) % 5 == 0
    model = InVAE(
        invariant=cells.invariant,
        spurious=cells.spurious,
        prior=prior,
        random_state=job.seed,
        **(options | chosen),
    ).fit(train.X[~fifth], train.obs[~fifth])
    validation = train.take(fifth)
    elbo = model.score_cells(validation.X, validation.obs, n_particles=1).mean()
    names = ["learning_rate", "weight_decay", "n_hidden", "n_layers"]
    names += ["total_correlation", "score_regularization"]
    row = {name: model.get_params()[name] for name in names} | {"elbo": elbo}
    return pd.DataFrame([row | scored(model.transform(test.X), test)[0]])


def add_arguments(parser):
    """Options of the command line."""
    shared.add_file(parser)
    shared.add_options(parser, ("InVAE",))
    add = parser.add_argument
    add("--draws", type=int, default=10, help="settings to try; default %(default)s")
    add("--prior", choices=("nonfactorized", "factorized"), default="nonfactorized")
    parser.set_defaults(seeds=[0], epochs=400)


def run(args):
    """Run what is missing and print; return the number of jobs that failed."""
    cells = shared.read(args.file, args.invariant, args.spurious)
    options = shared.options_of(args)
    setting = f"{cells.described()}, {options}, {args.prior}"
    names = [DEFAULT, *(f"draw {i}" for i in range(args.draws))]
    jobs = [TableJob(setting, seed, name) for seed in seeds_of(args) for name in names]
    data = (cells, options, args.draws, args.prior)
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, *data)
    for seed, table in results.groupby("seed") if len(results) else ():
        report(table.drop(columns=["setting", "seed"]).set_index("job"), seed)
    return n_failed


def report(table, seed):
    """Print all draws, best ELBO first, and whether the ELBO agrees with the total."""
    columns = [*table.loc[:, :"elbo"], *METRICS]
    ranked = table.sort_values("elbo", ascending=False)[columns]
    print(f"\nseed {seed}\n{ranked.to_string(float_format='{:.4g}'.format)}")
    draws = table.drop(index=DEFAULT, errors="ignore")
    if len(draws) > 1:
        correlation = draws["elbo"].corr(draws["total"], method="spearman")
        print(f"rank correlation of ELBO and total over {len(draws)} draws: {correlation:.2f}")
