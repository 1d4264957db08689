"""A real screen as in Table 2 and Figure 3 of the sVAE+ paper: five methods, held-out groups.

::

    python -m benchmarks.svae screens screen.h5ad                  # 5 groups, 5 seeds
    python -m benchmarks.svae screens screen.h5ad --quick          # the first group and seed
    python -m benchmarks.svae screens norman.h5ad --preset norman  # Table 2
    python -m benchmarks.svae screens replogle.h5ad --preset replogle --gmt sets.gmt --groups A B

The file is anything that ``skpert.datasets.load_screen`` reads, counts and labels. Perturbations
are held out in groups: dealt at random to ``--held-out-groups`` folds, or those of gene sets in a
.gmt file. For each group, method and seed a model is trained on nine tenths of the cells of the
other perturbations, and scored in nats per cell, lower is better:

* nELBO, the negative ELBO on the tenth left out, and nIWELBO, the tighter bound with
  ``--particles`` samples: means over labels of the means over their cells;
* I-NLL, the interventional NLL of the group, the same mean over its perturbations. Its shifts are
  learned with all else frozen; ``--refine`` first trains again with fixed masks, as released.

Labels with at most ``--min-cells`` cells do not count. With ``--held-out-groups 0`` there is no
group and no I-NLL. Networks and training are those of ``benchmarks.svae table1``; what presets
set, ``PRESETS``, can be set one by one as well.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils import Bunch

from skpert.datasets import load_screen
from skpert.model_selection import LeavePerturbationsOut, PerturbationKFold, interventional_nll
from skpert.preprocessing import HighlyVariableGenes, perturbation_labels, read_gmt

from .. import runner
from ..command import add_job_options, seeds_of, spread
from .paper import METHODS, PUBLISHED

PRESETS = {
    "small": {  # a first look at any screen
        "latent": 10,
        "n_hvg": 2000,
        "epochs": 100,
        "warmup": 10,
        "particles": 100,
    },
    "norman": {  # the file as the authors of CPA processed it, unperturbed cells merged
        "latent": 50,
        "n_hvg": 3000,
        "epochs": 300,
        "warmup": 50,
        "particles": 1000,
    },
    "replogle": {  # the 681 clustered perturbations and 1,187 clustered genes, chosen beforehand
        "latent": 50,
        "n_hvg": None,
        "epochs": 100,
        "warmup": 10,
        "particles": 1000,
    },
}
PAPER = {  # Table 2, Norman: nELBO and I-NLL; for Replogle there are box plots only
    "VAE": (717.00, 776.26),
    "BetaVAE": (718.75, 777.18),
    "IVAE": (715.69, 777.87),
    "SVAE": (715.66, 776.02),
    "SVAEPlus": (716.30, 775.33),
}
COLUMNS = {"nelbo": "nELBO", "niwelbo": "nIWELBO", "interventional_nll": "I-NLL"}
EVERYTHING = "none"  # the group that holds nothing out


@dataclass(frozen=True)
class Job(runner.Job):
    """One method on one screen without one group of perturbations."""

    group: str
    held_out: tuple  # names of perturbations
    screen: str  # what identifies the data
    model: dict
    n_particles: int
    min_cells: int
    refine: bool
    device: str


def score(job, screen):
    """Row of the CSV file.

    Parameters
    ----------
    job : Job
        What to train, and on what.
    screen : Bunch
        ``X``, counts, and ``A``, canonical labels.

    Returns
    -------
    row : dict
        Scores in nats per cell; ``targets``, the learned effects of sVAE+ as JSON.
    """
    X, A = screen.X, screen.A
    held_out = np.isin(A, job.held_out)
    seen = np.flatnonzero(~held_out)
    folds = PerturbationKFold(10, control=job.model["control"], sep=None, random_state=job.seed)
    train, test = (seen[part] for part in next(folds.split(seen, A[seen])))
    start = time.perf_counter()
    estimator = METHODS[job.method][0](**job.model, device=job.device, random_state=job.seed)
    estimator.fit(X[train], A[train])
    row = {
        "group": job.group,
        "n_held_out": len(job.held_out),
        "n_iter": estimator.n_iter_,
        "seconds_fit": round(time.perf_counter() - start, 1),
        "nelbo": _macro_nll(estimator, X[test], A[test], 1, job.min_cells),
        "niwelbo": _macro_nll(estimator, X[test], A[test], job.n_particles, job.min_cells),
        "interventional_nll": None,
        "targets": _targets(estimator) if job.method == "SVAEPlus" else None,
    }
    if held_out.any():
        row["interventional_nll"] = interventional_nll(
            estimator,
            X[held_out],
            A[held_out],
            *((X[train], A[train]) if job.refine else ()),
            n_particles=job.n_particles,
            min_cells=job.min_cells,
        ).nll
    return row


def _macro_nll(estimator, X, A, n_particles, min_cells):
    """Mean over labels, the control among them, of the mean over their cells."""
    scores = -estimator.score_cells(X, A, n_particles=n_particles)
    means = pd.Series(scores).groupby(A).agg(["mean", "size"])
    return float(means.loc[means["size"] > min_cells, "mean"].mean())


def _targets(estimator):
    """Effects that are not masked, by perturbation and latent, as JSON."""
    effects = estimator.mask_ * estimator.embedding_
    return json.dumps(
        {
            name: {int(i): round(float(row[i]), 2) for i in np.flatnonzero(row)}
            for name, row in zip(estimator.perturbations_, effects, strict=True)
        }
    )


def read_screen(args):
    """Cells that have a label, genes that vary, and labels in canonical form."""
    screen = load_screen(args.path, perturbation=args.perturbation, layer=args.layer)
    labelled = pd.notna(screen.A)
    X = screen.X[labelled]
    if args.n_hvg is not None:
        X = HighlyVariableGenes(args.n_hvg).fit_transform(X)  # one choice for all groups
    A = perturbation_labels(screen.A[labelled], control=args.control)
    name = f"{args.path.name}: {X.shape[0]} cells, {X.shape[1]} genes, {X.sum():.0f} counts"
    return Bunch(X=X, A=A, name=name)


def groups(A, args):
    """Names of perturbations to hold out together, by name of the group."""
    names = np.setdiff1d(A, [args.control])
    if args.gmt is not None:
        return _in_gene_sets(names, read_gmt(args.gmt), args.groups)
    if args.held_out_groups == 0:
        return {EVERYTHING: ()}
    if args.held_out_groups == 1:
        raise SystemExit("--held-out-groups must be 0, or at least 2: one would hold out all")
    folds = LeavePerturbationsOut(
        args.held_out_groups, control=args.control, sep=None, random_state=args.split_seed
    )
    parts = [np.unique(A[test]) for _, test in folds.split(A, A)]
    return {f"fold {i}": tuple(map(str, held_out)) for i, held_out in enumerate(parts)}


def _in_gene_sets(names, sets, wanted):
    """Perturbations with a part in the gene set; those without any only if asked for by name."""
    found = {}
    for group in wanted or sets:
        genes = set(sets.get(group, ()))
        members = tuple(str(name) for name in names if genes & set(name.split("+")))
        if members:
            found[group] = members
        elif wanted:
            raise SystemExit(f"no perturbation of this screen is in a gene set {group!r}")
    return found


def make_job(method, seed, group, held_out, screen, args):
    """The job at the settings of the command line."""
    _, special = METHODS[method]
    if method == "SVAEPlus":
        # As many as there are perturbations, the paper's advice.
        special = {"sparsity": None, "init": "random"}
    model = {**PUBLISHED, **special, "n_latent": args.latent, "max_epochs": args.epochs}
    model |= {"n_epochs_kl_warmup": args.warmup, "control": args.control}
    return Job(
        method,
        seed,
        group,
        held_out,
        screen.name,
        model,
        args.particles,
        args.min_cells,
        args.refine,
        args.device,
    )


def print_scores(results, preset):
    """Layout of Table 2: means over groups, their spread over seeds."""
    n_groups, n_seeds = results["group"].nunique(), results["seed"].nunique()
    print(f"\nMean over groups ({n_groups}), ± standard deviation over seeds ({n_seeds})")
    print(f"{'':16}" + "".join(f"{title:>20}" for title in COLUMNS.values()))
    for method, rows in results.groupby("method", sort=False):
        by_seed = rows.groupby("seed")[list(COLUMNS)].mean()
        print(f"{method:16}" + "".join(f"{spread(by_seed[name], 2):>20}" for name in COLUMNS))
        if preset == "norman":
            nelbo, nll = PAPER[method]
            print(f"{'  paper':16}{nelbo:>20.2f}{'':20}{nll:>20.2f}")


def print_groups(results):
    """Layout of Figure 3: the interventional NLL of each group, a column per method."""
    table = results.groupby(["group", "method"], sort=False)["interventional_nll"]
    cells = table.agg(lambda values: spread(values, 2)).unstack(sort=False)
    cells.insert(0, "perturbations", results.groupby("group")["n_held_out"].first())
    print("\nI-NLL by group, mean ± standard deviation over seeds")
    print(cells.rename_axis(index=None, columns=None).to_string())


def print_targets(results):
    """Latents that each perturbation moves according to the first model of sVAE+."""
    row = results[results["method"] == "SVAEPlus"].iloc[0]
    print(f"\nsVAE+, seed {row['seed']}, group held out: {row['group']}; effects by latent")
    for name, effects in json.loads(row["targets"]).items():
        moved = ", ".join(f"{latent} ({effect:+.2f})" for latent, effect in effects.items())
        print(f"{name}: {moved or '-'}")


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("path", type=Path, help="the screen: .h5ad, .mtx or .csv")
    add("--preset", choices=list(PRESETS), default="small", help="defaults of the next five")
    add("--latent", type=int, help="number of latents")
    add("--n-hvg", type=int, help="highly variable genes to keep")
    add("--epochs", type=int, help="at most, in each phase")
    add("--warmup", type=int, help="epochs over which the KL is phased in")
    add("--particles", type=int, help="of nIWELBO and I-NLL")
    add("--held-out-groups", type=int, default=5, help="folds of perturbations; 0 for none")
    add("--gmt", type=Path, help="gene sets that are the groups instead")
    add("--groups", nargs="+", help="which of them; all by default")
    add("--split-seed", type=int, default=0, help="of the folds")
    add("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add("--min-cells", type=int, default=10, help="a label needs more to count")
    add("--refine", action="store_true", help="with the released step 2 before the I-NLL")
    add("--perturbation", default="perturbation", help="column of the labels")
    add("--control", default="control", help="label of untreated cells")
    add("--layer", help="layer that holds the counts")
    add("--device", default="auto", help="where to train")
    add_job_options(parser, range(5))


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    for name, value in PRESETS[args.preset].items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    screen = read_screen(args)
    print(screen.name)
    parts = groups(screen.A, args)
    jobs = [
        make_job(method, seed, group, held_out, screen, args)
        for seed in seeds_of(args)
        for group, held_out in list(parts.items())[: 1 if args.quick else None]
        for method in args.methods
    ]
    results, n_failed = runner.run_jobs(score, jobs, args.csv, args.jobs, screen)
    if len(results):
        print_scores(results, args.preset)
    if len(results) and EVERYTHING not in parts:
        print_groups(results)
    if "SVAEPlus" in set(results.get("method", ())):
        print_targets(results)
    return n_failed
