"""How to choose the strength of a sparsity prior: rules beside the F1 of all of a grid.

::

    python -m benchmarks.svae sparsity                      # ten screens of each family
    python -m benchmarks.svae sparsity --families SVAEPlus  # some of them
    python -m benchmarks.svae sparsity --quick              # the first screen only
    python -m benchmarks.svae sparsity --screen papalexi2021_thp1_crispr.h5ad

Masks are learned (``edges="learned"``) under priors from far too weak to far too strong. Each
value is fitted in three folds, on which rules choose, and to all cells, on which F1 is measured
against the true graph, latents matched by the true states. A rule should come within 0.05 of the
best F1 of the grid. Every seed draws its screen as well: numbers of perturbations, cells, latents
and targets, depth, and effects of 1 to 5 standard deviations. The seeds here, 2000 on, were not
looked at while the rules were chosen.

A real screen has no true graph. Its table shows how many targets each value finds, for how many
knock-outs without a detectable effect, and what each rule chooses.
"""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import gammaln
from sklearn.model_selection import cross_validate, train_test_split
from sklearn.utils import Bunch

from skpert import SAMSVAE, SVAE, SVAEPlus
from skpert.datasets import load_screen, make_sparse_shift
from skpert.exceptions import DataWarning
from skpert.metrics import graph_scores, match_latents
from skpert.model_selection import PerturbationKFold, sparsest, sparsity_scores
from skpert.sparsity.edges import edge_probability

from .. import runner
from ..command import add_job_options, seeds_of
from .known_biology import SILENT

N_FOLDS = 3
WITHIN = 0.05  # of the best F1
FAMILIES = {  # the class, what else is set, the name of the parameter, and its grid
    "SVAEPlus": (SVAEPlus, {}, "sparsity", (1, 3, 8, 20, 60, 500)),
    "SAMSVAE": (SAMSVAE, {}, "mask_prior", (0.999, 0.9, 0.5, 0.1, 1e-6, 1e-40)),
    "SVAE": (SVAE, {}, "sparsity", (0.1, 0.5, 2, 5, 20, 100)),
    "SVAEPlus, random weights": (SVAEPlus, {"init": "random"}, "sparsity", (1, 3, 8, 20, 60, 500)),
}
TRAINING = {"max_epochs": 40, "n_particles": 20, "random_state": 0}
N_MATCHED = 600  # cells on which latents of different folds are matched
REAL = {"n_latent": 10, "n_cells": 6000}  # of a real screen
CHOICES = {
    "n_perturbations": (20, 30),
    "n_cells_per_perturbation": (40, 70, 100),
    "n_control_cells": (0, 150, 300),
    "n_latent": (3, 4, 5, 6),
    "n_genes": (60,),
    "effect_size": (1.0, 1.5, 2.0, 3.0, 5.0),
    "n_targets": (1, (1, 2), (1, 3)),
    "library_size": (500, 2000, 20000),
}


def data_of(seed):
    """Arguments of the simulator, drawn."""
    random = np.random.default_rng(seed)
    return {name: values[random.integers(len(values))] for name, values in CHOICES.items()}


@dataclass(frozen=True)
class Job(runner.Job):
    """One value of a grid, or called edges, on one screen; the method is the family."""

    screen: str
    data: dict
    value: float | None  # of the parameter; None: edges are called
    training: dict


def score(job, screen=None):
    """Row of the CSV file."""
    screen = screen or make_sparse_shift(**job.data, random_state=job.seed)
    model, start = _model(job), time.perf_counter()
    model.fit(screen.X, screen.A)
    row = {"screen": job.screen, "value": job.value, "n_cells": len(screen.A)}
    row |= {"n_pairs": model.mask_.size, "edges": int(model.mask_.sum())}
    row["seconds_fit"] = round(time.perf_counter() - start, 1)
    if "mask" in screen:
        match = match_latents(screen.Z, model.transform(screen.X))
        row["f1"] = graph_scores(screen.mask, model.mask_, match=match).f1
    else:
        silent = np.isin(model.perturbations_, SILENT)
        row["silent_with_targets"] = int(model.mask_[silent].any(1).sum())
        row["n_with_targets"] = int(model.mask_.any(1).sum())
    return row if job.value is None else row | _over_folds(model, screen)


def _model(job):
    cls, settings, name, _ = FAMILIES[job.method]
    if job.value is None:
        return cls(job.data["n_latent"], **job.training)
    learned = {"edges": "learned", name: job.value, **settings}
    return cls(job.data["n_latent"], **learned, **job.training)


def _over_folds(model, screen):
    """What rules choose by: JSON of a value per fold, and the agreement of folds."""
    folds = PerturbationKFold(N_FOLDS, random_state=0)
    result = cross_validate(
        model, screen.X, screen.A, cv=folds, scoring=scores, return_estimator=True
    )
    row = {
        name.removeprefix("test_"): json.dumps(np.round(values, 5).tolist())
        for name, values in result.items()
        if name.startswith("test_")
    }
    return row | {"stability": stability(result["estimator"], screen.X[:N_MATCHED])}


def scores(model, X, A):
    """Scores of one fold."""
    return sparsity_scores(model, X, A) | {"edge_f1": held_out_f1(model, X, A)}


def held_out_f1(model, X, A):
    """F1 that ``mask_`` can expect by the probability of each edge in these cells."""
    Z, treated = pd.DataFrame(model.transform(X)), A != model.control
    cells = Z[treated].groupby(A[treated])
    mean, size = cells.mean(), cells.size().to_numpy()[:, None]
    control = Z[~treated].mean() if (~treated).any() else mean.median()
    variance = cells.var().mean().to_numpy() * (1 / size + 1 / max((~treated).sum(), len(mean)))
    probability = edge_probability(mean - control, np.sqrt(variance))
    mask = model.mask_[np.isin(model.perturbations_, mean.index)]
    return 2 * probability[mask].sum() / max(mask.sum() + probability.sum(), 1e-9)


def stability(models, X):
    """Mean F1 between the edges of every two models, latents matched on these cells."""
    states = [model.transform(X) for model in models]
    pairs = [(i, j) for i in range(len(models)) for j in range(i)]
    return np.mean(
        [
            graph_scores(
                models[i].mask_, models[j].mask_, match=match_latents(states[i], states[j])
            ).f1
            for i, j in pairs
        ]
    )


# Rules: each takes the rows of one grid and returns the number of one of them.


def folds_of(rows, name):
    """Values of every candidate in every fold, (n_candidates, n_folds)."""
    return np.array([json.loads(text) for text in rows[name]])


def results_of(rows):
    """What ``GridSearchCV`` with ``sparsity_scores`` would give."""
    score, n_edges = folds_of(rows, "score"), folds_of(rows, "n_edges")
    folds = {f"split{i}_test_score": fold for i, fold in enumerate(score.T)}
    return folds | {"mean_test_score": score.mean(1), "mean_test_n_edges": n_edges.mean(1)}


def by_score(rows):
    """The best held-out IWELBO."""
    return folds_of(rows, "score").mean(1).argmax()


def by_description(rows):
    """The best held-out IWELBO less what edges cost: their choice, and a number for each."""
    n_edges, data = folds_of(rows, "n_edges").mean(1), json.loads(rows["settings"].iloc[0])["data"]
    n_pairs, n_cells = rows["n_pairs"].iloc[0], rows["n_cells"].iloc[0]
    choice = gammaln(n_pairs + 1) - gammaln(n_edges + 1) - gammaln(n_pairs - n_edges + 1)
    numbers = n_edges / 2 * np.log(n_cells / n_pairs * data["n_latent"])
    return (folds_of(rows, "score").mean(1) - (choice + numbers) / n_cells).argmax()


def by_standard_error(rows):
    """The fewest edges within one standard error of the best, paired over folds."""
    return sparsest(results_of(rows), share=1.0)


def by_share(rows):
    """The fewest edges with four fifths of what perturbations explain."""
    return sparsest(results_of(rows))


def by_half(rows):
    """The fewest edges with half of what perturbations explain."""
    return sparsest(results_of(rows), share=0.5)


def by_stability(rows):
    """The best agreement of the edges of folds."""
    return rows["stability"].to_numpy().argmax()


def by_held_out_edges(rows):
    """The best agreement with edges that are called in held-out cells."""
    return folds_of(rows, "edge_f1").mean(1).argmax()


RULES = {
    "IWELBO": by_score,
    "less edges": by_description,
    "1 SE": by_standard_error,
    "sparsest": by_share,
    "half": by_half,
    "stability": by_stability,
    "held-out": by_held_out_edges,
}


def print_screens(results):
    """F1 of each value and of called edges, and how far each rule stays below the best."""
    for family in results["method"].unique():
        rows = results[results["method"] == family]
        grid = FAMILIES[family][3]
        print(f"\n{family}: F1 by {FAMILIES[family][2]}, then the best less that of each choice")
        head = [*(f"{value:g}" for value in grid), "called", *RULES]
        print(f"{'screen':>8}" + "".join(f"{name:>11}" for name in head))
        losses = []
        for seed, group in rows.groupby("seed"):
            learned, called = group[group["value"].notna()], group[group["value"].isna()]
            if len(learned) < len(grid) or called.empty:
                continue
            f1 = learned["f1"].to_numpy()
            loss = {name: f1.max() - f1[rule(learned)] for name, rule in RULES.items()}
            losses.append({"called": f1.max() - called["f1"].iloc[0], **loss})
            cells = [*f1, called["f1"].iloc[0], *loss.values()]
            print(f"{seed:8}" + "".join(f"{value:11.2f}" for value in cells))
        _print_summary(pd.DataFrame(losses))


def _print_summary(losses):
    for name in losses:
        n_within = int((losses[name] <= WITHIN + 1e-9).sum())
        print(
            f"{name:>12}: within {WITHIN} of the best in {n_within} of {len(losses)} screens, "
            f"mean {losses[name].mean():.3f}, most {losses[name].max():.2f} below it"
        )


def print_real(results):
    """Targets that each value finds, and what each rule chooses."""
    names = ["value", "edges", "n_with_targets", "silent_with_targets", "stability"]
    for family, rows in results.groupby("method", sort=False):
        print(f"\n{family}\n{rows[names].to_string(index=False)}")
        learned = rows[rows["value"].notna()]
        for name, rule in RULES.items():
            print(f"{name:>12} chooses {learned['value'].iloc[rule(learned)]:g}")


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    add("--screen", type=Path, help="a real one, that of Papalexi et al. 2021")
    add("--latent", type=int, default=REAL["n_latent"], help="of a real screen")
    add("--cells", type=int, default=REAL["n_cells"], help="of a real screen")
    add_job_options(parser, range(2000, 2010))


def _jobs(args, name, data=None):
    return [
        Job(family, seed, name, data or data_of(seed), value, TRAINING)
        for family in args.families
        for seed in (seeds_of(args) if data is None else [0])
        for value in (*FAMILIES[family][3], None)
    ]


def read_screen(args):
    """Some cells of a real screen, an even share of each label."""
    screen = load_screen(args.screen)
    rows, _ = train_test_split(
        np.arange(len(screen.A)), train_size=args.cells, stratify=screen.A, random_state=0
    )
    return Bunch(X=screen.X[rows], A=np.asarray(screen.A)[rows])


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    if args.screen is None:
        jobs, data = _jobs(args, "simulated"), ()
    else:
        size = {"n_latent": args.latent, "n_cells": args.cells}
        jobs, data = _jobs(args, args.screen.name, size), (read_screen(args),)
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs, *data)
    warnings.simplefilter("ignore", DataWarning)  # some grids end before edges do
    if len(results):
        print_screens(results) if args.screen is None else print_real(results)
    return n_failed
