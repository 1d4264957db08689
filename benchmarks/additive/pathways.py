"""Pathways of perturbations from their masks, as in Table 1 of the SAMS-VAE paper.

::

    python -m benchmarks.additive pathways --simulated                     # the truth is known
    python -m benchmarks.additive pathways screen.h5ad --gmt pathways.gmt  # any screen of genes
    python -m benchmarks.additive pathways replogle                        # that of the paper

Each method is fitted to all cells. What it says of the perturbations of known pathway goes into
scikit-learn's random forest at its defaults, trained on 70 % of them and scored by accuracy on the
others, in ten random splits that are the same for all methods. Features are ``mask``, one bit for
each latent, as published; ``probability``, that of an edge; and ``effects``, masked embeddings.
Beside the models stand the most frequent pathway, random masks, and the mean effect on each gene
as it was measured.

The gene of a perturbation is its name up to the first "_", and its pathway the gene set with that
gene; perturbations in no set or in several are left out, and then pathways with fewer than
``--min-members`` left. In the simulation, ``pathway_screen``, another one for every seed, true
masks show what there is to find.
"""

import hashlib
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ShuffleSplit, cross_val_score
from sklearn.utils import Bunch

from skpert import CPAVAE, SAMSVAE, SVAEPlus
from skpert.datasets import fetch_replogle_filtered, make_additive_shift
from skpert.metrics import differential_expression
from skpert.preprocessing import read_gmt

from .. import runner
from ..command import add_job_options, seeds_of, spread
from ..svae.screens import read_screen

MODELS = {
    "SAMSVAE": (SAMSVAE, {}),
    "SAMSVAE, prior 0.001": (partial(SAMSVAE, edges="learned"), {"mask_prior": 0.001}),
    "SVAEPlus": (SVAEPlus, {}),
    "CPAVAE": (CPAVAE, {}),
}
GUESS, RANDOM, MEASURED, TRUTH = "most frequent", "random mask", "expression", "true model"
METHODS = (*MODELS, GUESS, RANDOM, MEASURED, TRUTH)
FEATURES = ("mask", "probability", "effects")
REPLOGLE = "replogle"  # instead of a path
PAPER = {  # masks, Replogle; SAMS-VAE with correlated basal states only, the default here
    "SAMSVAE, prior 0.001": "0.87 ± 0.02",
    "SVAEPlus": "0.78 ± 0.04",
}
N_SPLITS, TEST_SIZE = 10, 0.3
SIMULATION = {"n_pathways": 8, "n_members": 15, "n_latent": 20, "n_genes": 500}
N_PROGRAM, MISSING, EXTRA = 3, 0.2, 0.02  # latents of a pathway; edges that differ from it
EFFECT_SIZE, EFFECT_SCALE = 2.0, 0.5


@dataclass(frozen=True)
class Job(runner.Job):
    """One method on one screen."""

    screen: str  # what identifies the data and their pathways
    data: dict | None  # of the simulation
    model: dict
    device: str


def pathway_screen(n_pathways, n_members, n_latent, n_genes, n_cells, random_state):
    """Simulated screen in which perturbations of a pathway move about the same latents.

    A pathway is a random set of ``N_PROGRAM`` latents, no two the same, with a direction for each.
    Its members miss each of them with probability ``MISSING`` and move each other latent with
    probability ``EXTRA``, in a direction of their own.

    Parameters
    ----------
    n_pathways, n_members : int
        Number of pathways, and of perturbations in each.
    n_latent, n_genes : int
        As for ``make_additive_shift``.
    n_cells : int
        Cells of each perturbation; controls are ten times as many.
    random_state : int
        Seed.

    Returns
    -------
    screen : Bunch
        That of ``make_additive_shift``, with ``pathways``, a Series by perturbation.
    """
    pathway = np.repeat(np.arange(n_pathways), n_members)
    screen = make_additive_shift(
        len(pathway),
        n_cells_per_perturbation=n_cells,
        n_control_cells=10 * n_cells,
        n_latent=n_latent,
        n_genes=n_genes,
        effect=pathway_effects(pathway, n_latent, np.random.default_rng(random_state)),
        random_state=random_state,
    )
    names = [f"pathway {i}" for i in pathway]
    screen.pathways = pd.Series(names, index=screen.perturbations, name="pathway")
    return screen


def pathway_effects(pathway, n_latent, rng):
    """Shifts by perturbations of these pathways 0, 1, ..., (n_perturbations, n_latent)."""
    program, shape = _programs(max(pathway) + 1, n_latent, rng)[pathway], (len(pathway), n_latent)
    keep = rng.random(shape) >= MISSING
    extra = (rng.random(shape) < EXTRA) * rng.choice([-1.0, 1.0], size=shape)
    direction = np.where(program != 0, program * keep, extra)
    return direction * rng.normal(EFFECT_SIZE, EFFECT_SCALE, size=shape)


def _programs(n_pathways, n_latent, rng):
    """Directions of the latents of each pathway, (n_pathways, n_latent); no two sets the same."""
    chosen = set()
    while len(chosen) < n_pathways:
        chosen.add(tuple(sorted(rng.choice(n_latent, N_PROGRAM, replace=False).tolist())))
    programs = np.zeros((n_pathways, n_latent))
    for row, latents in zip(programs, sorted(chosen), strict=True):
        row[list(latents)] = rng.choice([-1.0, 1.0], size=N_PROGRAM)
    return programs


def pathway_of(perturbations, gene_sets):
    """Pathway of each perturbation whose gene is in exactly one set.

    Parameters
    ----------
    perturbations : iterable of str
        Names of genes, or of guides such as ``"RPS3_guide1"``.
    gene_sets : dict of str to list of str
        Genes of each pathway.

    Returns
    -------
    pathways : Series
        Names of gene sets by perturbation, without those in no set or in several.
    """
    found = {}
    for name in perturbations:
        gene = name.split("_")[0]
        sets = [pathway for pathway, genes in gene_sets.items() if gene in genes]
        if len(sets) == 1:
            found[name] = sets[0]
    return pd.Series(found, name="pathway", dtype=object)


def large_pathways(pathways, min_members):
    """Split pathways into those with so many perturbations, a Series, and the sizes of others."""
    sizes = pathways.value_counts()
    small = sizes[sizes < min_members]
    return pathways[~pathways.isin(small.index)], small


def accuracies(features, labels, *, classifier=None):
    """Accuracy in each of the ten splits.

    Parameters
    ----------
    features : array-like of shape (n_perturbations, n_features)
        What is known of each perturbation.
    labels : array-like of shape (n_perturbations,)
        Its pathway.
    classifier : estimator or None, default=None
        None is the random forest of scikit-learn.

    Returns
    -------
    accuracy : ndarray of shape (10,)
        Share of the held-out perturbations whose pathway is right.
    """
    forest = RandomForestClassifier(random_state=0) if classifier is None else classifier
    splits = ShuffleSplit(N_SPLITS, test_size=TEST_SIZE, random_state=0)
    return cross_val_score(forest, np.asarray(features), np.asarray(labels), cv=splits)


def score(job, screen):
    """Row of the CSV file; ``screen`` is None where it is to be simulated."""
    if screen is None:
        screen = pathway_screen(**job.data, random_state=job.seed)
    row = {"n_labelled": len(screen.pathways)}
    row |= dict.fromkeys(["n_iter", "n_edges", "seconds_fit"])
    row |= dict.fromkeys(f"{name}{end}" for name in FEATURES for end in ("", "_sd"))
    classifier = DummyClassifier() if job.method == GUESS else None
    kinds, cost = _described(job, screen)
    for name, frame in kinds.items():
        labelled = frame.loc[screen.pathways.index]
        accuracy = accuracies(labelled, screen.pathways, classifier=classifier)
        row |= {name: accuracy.mean(), f"{name}_sd": accuracy.std(ddof=1)}
    if "mask" in kinds and job.method in (*MODELS, TRUTH):
        row["n_edges"] = kinds["mask"].to_numpy().sum(axis=1).mean()  # of a perturbation
    return row | cost


def _described(job, screen):
    """What the method says of each perturbation, by kind of feature, and what that cost."""
    if job.method in MODELS:
        start = time.perf_counter()
        estimator = MODELS[job.method][0](**job.model, device=job.device, random_state=job.seed)
        estimator.fit(screen.X, screen.A)
        cost = {"n_iter": estimator.n_iter_, "seconds_fit": round(time.perf_counter() - start, 1)}
        return described(estimator), cost
    if job.method == MEASURED:
        return {"effects": differential_expression(screen.X, screen.A)}, {}
    if job.method == TRUTH:
        truth = {"mask": screen.mask.astype(int), "effects": screen.effect}
        return {k: pd.DataFrame(v, index=screen.perturbations) for k, v in truth.items()}, {}
    names = screen.pathways.index
    rng = np.random.default_rng(job.seed)
    mask = rng.integers(0, 2, size=(len(names), job.model["n_latent"]))
    return {"mask": pd.DataFrame(mask, index=names)}, {}


def described(estimator):
    """Features of perturbations, a DataFrame of each kind that the fitted estimator has."""
    values = {"effects": estimator.embedding_}
    if hasattr(estimator, "mask_"):
        values = {
            "mask": estimator.mask_.astype(int),
            "probability": estimator.mask_probability_,
            "effects": estimator.targets_.to_numpy(),
        }
    return {k: pd.DataFrame(v, index=estimator.perturbations_) for k, v in values.items()}


def read_labelled(args):
    """The screen with the pathways of its perturbations; None if it is to be simulated."""
    if args.simulated:
        return None
    if args.screen == REPLOGLE:
        screen = fetch_replogle_filtered()
        name = screen.DESCR
    else:
        args.path = Path(args.screen)
        screen = read_screen(args)
        name = screen.name
    sets = screen.pathways if args.gmt is None else read_gmt(args.gmt)
    names = np.setdiff1d(screen.A, [args.control])
    pathways, small = large_pathways(pathway_of(names, sets), args.min_members)
    n = pathways.nunique()
    print(f"{name}; {len(pathways)} of {len(names)} perturbations have one of {n} pathways")
    if len(small):
        dropped = ", ".join(f"{k} ({size})" for k, size in small.items())
        print(f"left out, with fewer than {args.min_members} perturbations: {dropped}")
    if n < 2:
        raise SystemExit(f"no two gene sets have {args.min_members} perturbations of their own")
    digest = hashlib.sha256(pathways.to_json().encode()).hexdigest()[:8]
    return Bunch(X=screen.X, A=screen.A, pathways=pathways, name=f"{name}, pathways {digest}")


def make_job(method, seed, screen, args):
    """The job at the settings of the command line."""
    model = {"n_latent": args.latent, "control": args.control}
    if args.epochs is not None:
        model["max_epochs"] = args.epochs
    if method in MODELS:
        model |= MODELS[method][1]
    data, name = None, None if screen is None else screen.name
    if screen is None:
        data, name = SIMULATION | {"n_cells": args.cells, "n_pathways": args.pathways}, "simulated"
    return Job(method, seed, name, data, model, args.device)


def print_scores(results, *, paper):
    """A line for each method and kind of features: means over seeds, and two spreads."""
    print(f"\nAccuracy of pathways; means of {results['seed'].nunique()} seeds and ten splits, ±")
    print("standard deviation over splits, as published, and of the means over seeds")
    print(f"{'':24}{'features':14}{'splits':>16}{'seeds':>16}" + f"{'paper':>16}" * paper)
    for method, rows in results.groupby("method", sort=False):
        for name in [name for name in FEATURES if rows[name].notna().any()]:
            over_splits = f"{rows[name].mean():.2f} ± {rows[f'{name}_sd'].mean():.2f}"
            line = f"{method:24}{name:14}{over_splits:>16}{spread(rows[name], 2):>16}"
            if paper and name == "mask":
                line += f"{PAPER.get(method, ''):>16}"
            print(line.rstrip())


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("screen", nargs="?", help=f"counts and labels: .h5ad, .mtx or .csv; or {REPLOGLE}")
    add("--gmt", type=Path, help=f"gene sets; not needed for {REPLOGLE}")
    add("--simulated", action="store_true", help="a simulated screen instead")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--latent", type=int, help="number of latents; 25 in the simulation, else 100")
    add("--epochs", type=int, help="at most; by default what the models choose")
    add("--cells", type=int, default=100, help="of each simulated perturbation")
    add("--pathways", type=int, default=SIMULATION["n_pathways"], help="simulated")
    add("--min-members", type=int, default=10, help="perturbations that a pathway needs")
    add("--n-hvg", type=int, help="highly variable genes to keep")
    add("--perturbation", default="perturbation", help="column of the labels")
    add("--control", default="control", help="label of untreated cells")
    add("--layer", help="layer that holds the counts")
    add("--device", default="auto", help="where to train")
    add_job_options(parser, range(5))


def run(args):
    """Run what is missing, print the table; return the number of jobs that failed."""
    if args.simulated == (args.screen is not None):
        raise SystemExit("give either a screen or --simulated")
    if args.screen not in (None, REPLOGLE) and args.gmt is None:
        raise SystemExit("a screen needs the gene sets of its perturbations, --gmt")
    args.latent = args.latent or (25 if args.simulated else 100)
    screen = read_labelled(args)
    methods = [m for m in args.methods if args.simulated or m != TRUTH]
    jobs = [make_job(method, seed, screen, args) for seed in seeds_of(args) for method in methods]
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs, screen)
    if len(results):
        print_scores(results, paper=args.screen == REPLOGLE)
    return n_failed
