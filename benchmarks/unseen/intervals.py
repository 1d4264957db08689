"""Intervals and a reliability for unseen perturbations, beside errors and discrimination.

Perturbations are left out in five folds, whose partition changes with the seed; means are
predicted by models within ``ConformalIntervals`` at level 0.9, which hold perturbations of
training out once more. Printed for each screen:

* ``error``, the mean over perturbations of the squared error of means over genes, and the mean
  over folds of seeds of each method less ridge, or less the mean effect, with 95 % t intervals
  over seeds and, seeds averaged, over perturbations;
* ``coverage``, the share of genes and perturbations within the intervals, which are per gene;
* errors where the surest 10, 25, 50, 75 and 100 % are answered, over that of all;
* ``pds``, the perturbation discrimination with the mean of controls as reference;
  ``pds_without_mean``, the same where the mean effect of training perturbations is taken off the
  predictions, which it makes alike; ``pds_beyond``, where it is taken off measurements, too.

Screens: ``papalexi``, knock-outs described by gene sets, and in the row "and controls" by how
control cells express the target, too, where it is measured; ``nelisa``, compounds by gene sets of
their target and by fingerprints (needs RDKit); ``norman``, single perturbations of the table of
effects by gene sets; ``simulated``, ``make_causal_shift`` with one more screen for each seed.

The row "chosen by discrimination" of ``nelisa`` is ridge with the features, penalty and centre of
the best ``discrimination_scorer`` over five folds of the training perturbations.

In the nELISA screen a compound is in the same well of all four plates. ``wells`` are predictions
from control wells near by alone, which know nothing of the compound: what discrimination they
reach is that of the plate, and so is the most of what replicates reach.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.stats import t as student
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils import Bunch

from skpert import SCCVAE, BilinearRidge, EffectRegression, PerturbedMean
from skpert.datasets import make_causal_shift
from skpert.metrics import energy_distance, perturbation_discrimination
from skpert.model_selection import (
    ConformalIntervals,
    LeavePerturbationsOut,
    discrimination_scorer,
    error_by_share_answered,
)
from skpert.preprocessing import CompoundFingerprints, ControlExpression, TargetGenes

from ..command import add_job_options, seeds_of
from ..runner import TableJob, fingerprint, run_jobs
from .shared import frozen_gene_sets, merged, read

N_FOLDS = 5
LEVEL = 0.9
RIDGE = "BilinearRidge"
ALPHA = 0.2  # of kernel ridge regression
CHOSEN = "BilinearRidge, chosen by discrimination"
SCREENS = ("papalexi", "nelisa", "norman", "simulated")
FILES = {
    "papalexi": "papalexi2021_thp1_crispr.h5ad",
    "nelisa": "dagher2023_nelisa_a549_compounds.h5ad",
    "norman": "effects/effects_norman2019.csv.gz",
}
DETECTABLE = ("IFNGR1", "IFNGR2", "IRF1", "JAK2", "SMAD4", "STAT1")  # see `papalexi`
PDS = ("pds", "pds_without_mean", "pds_beyond")
SHOWN = ("response_mse", "energy_distance", "coverage", *PDS)
SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)


def papalexi(path, sets, seed):
    """Cells of the THP-1 screen."""
    cells = read(path, 500.0)
    X = pd.DataFrame(cells.X.toarray(), columns=cells.genes)
    A, genes = cells.A.astype(str), frozen_gene_sets(sets)
    controls = FrozenEstimator(ControlExpression().fit(X[A == "control"]))
    blocks = [("sets", make_pipeline(genes, Normalizer())), ("controls", controls)]
    union = FeatureUnion(blocks, transformer_weights={"sets": 1.0, "controls": np.sqrt(0.5)})
    return Bunch(X=X, A=A, features=genes, union=union)


def nelisa(path, sets, seed):
    """Wells of the screen of compounds, with where they are."""
    import anndata

    data = anndata.read_h5ad(path)
    obs = data.obs.astype(str)
    one = obs.drop_duplicates("perturbation").set_index("perturbation")
    genes = TargetGenes(one["target"].to_dict(), frozen_gene_sets(sets))
    shape = CompoundFingerprints(one["smiles"].to_dict())
    blocks = FeatureUnion(
        [
            ("sets", make_pipeline(genes, Normalizer())),
            ("structure", make_pipeline(shape, Normalizer())),
        ],
        transformer_weights={"sets": 1.0, "structure": np.sqrt(0.5)},
    )
    X = pd.DataFrame(np.asarray(data.X, dtype=np.float32), columns=data.var_names)
    wells = obs["nelisa_well_loc"]
    place = np.column_stack([wells.str[0].map(ord) - ord("A"), wells.str[1:].astype(int)])
    A, names = obs["perturbation"].to_numpy().astype(str), list(one.index.drop("control"))
    union, features = _compact(blocks, names), _compact(genes, names)
    return Bunch(X=X, A=A, features=features, union=union, target=one["target"], place=place)


def _compact(features, names):
    """Table with the inner products of these features, which are all that ridge asks for."""
    U, s, _ = np.linalg.svd(features.fit(names).transform(names), full_matrices=False)
    return pd.DataFrame((U * s)[:, s > 1e-9 * s[0]], index=names)


def norman(path, sets, seed):
    """A cell of each single perturbation, its effect, and a control of zeros."""
    table = pd.read_csv(path, index_col=0)
    table = table[[("_" not in str(name)) for name in table.index]]
    table.columns = [str(name) for name in table.columns]
    known = set().union(*sets.values())
    table = table[[name in known for name in table.index]]
    X = pd.concat([table, pd.DataFrame(0.0, ["control"] * 2, table.columns)])
    A = X.index.to_numpy().astype(str)
    return Bunch(
        X=X.reset_index(drop=True).astype(np.float32), A=A, features=frozen_gene_sets(sets)
    )


def simulated(path, sets, seed):
    """A screen that shifts a latent causal model, with features that carry the shifts."""
    screen = make_causal_shift(
        60, n_cells_per_perturbation=50, n_control_cells=200, n_genes=100, random_state=seed
    )
    return Bunch(X=pd.DataFrame(screen.X), A=screen.A, features=screen.features)


def models(name, screen, seed):
    """Estimators and difficulties by row."""
    rows = {
        "PerturbedMean": (PerturbedMean(), None),
        RIDGE: (BilinearRidge(screen.features), "size"),
    }
    if name == "nelisa":
        sums = {"normalize_features": False, "alpha_targets": ALPHA}
        rows["BilinearRidge, target and structure"] = BilinearRidge(screen.union, **sums), "size"
        rows[CHOSEN] = searched(screen, seed), "size"
    else:
        trees = EffectRegression(screen.features, random_state=seed)
        rows["EffectRegression"] = trees, "std"
    if name == "papalexi":
        rows["BilinearRidge, and controls"] = BilinearRidge(screen.union), "size"
    if name in ("papalexi", "simulated"):
        rows["SCCVAE"] = SCCVAE(features=screen.features, random_state=seed), "size"
    return rows


def searched(screen, seed):
    """Ridge whose features, penalty and centre are chosen by discrimination."""
    same = {"alpha_targets": [0.1, 0.3], "center": ["perturbations", "contrast"]}
    grid = [
        {"features": [_by_name(screen.features)], "normalize_features": [True], **same},
        {"features": [_by_name(screen.union)], "normalize_features": [False], **same},
    ]
    cv = LeavePerturbationsOut(5, random_state=seed)
    return GridSearchCV(BilinearRidge(), grid, scoring=discrimination_scorer, cv=cv)


def _by_name(table):
    """Rows of a table in a dict, of which a search makes no array."""
    return dict(zip(table.index, table.to_numpy(), strict=True))


def score(job, screens):
    """Rows of the CSV file: one for each perturbation."""
    name, method = job.name.split(", ", 1)
    screen = screens[name] if name != "simulated" else simulated(None, None, job.seed)
    A, X = screen.A, screen.X
    names = np.unique(A[A != "control"])
    means = X.astype(np.float64).groupby(A).mean()
    tables = []
    for train, test in LeavePerturbationsOut(N_FOLDS, random_state=job.seed).split(A, A):
        asked = np.unique(A[test])
        split = Bunch(X=X.iloc[train], A=A[train], asked=asked, means=means, names=names)
        split.control = means.loc["control"].to_numpy()
        split.center = means.loc[np.setdiff1d(names, asked)].to_numpy().mean(0) - split.control
        if method in BY_HAND:
            columns = {"predicted": BY_HAND[method](screen, split)}
        else:
            columns = _fitted(name, method, screen, split, job.seed)
        found = pd.DataFrame(_scores(split, columns.pop("predicted")), index=asked)
        if name == "papalexi":
            found["energy_distance"] = _distances(
                columns.pop("model"), X.iloc[test], A[test], asked
            )
        columns.pop("model", None)
        tables.append(found.assign(**columns))
    table = pd.concat(tables).rename_axis("perturbation").reset_index()
    table.insert(0, "screen", name)
    table.insert(1, "estimator", method)
    return table


def _fitted(name, method, screen, split, seed):
    """What a model within ConformalIntervals predicts."""
    model, difficulty = models(name, screen, seed)[method]
    if method == CHOSEN:
        model = model.fit(split.X, split.A).best_estimator_
    cv = 3 if method == "SCCVAE" else 10  # it is fitted once for each
    options = {"difficulty": difficulty, "cv": cv, "random_state": seed}
    model = ConformalIntervals(model, level=LEVEL, **options).fit(split.X, split.A)
    lower, upper = model.predict_interval(split.asked)
    measured = split.means.loc[split.asked].to_numpy()
    sure = model.reliability(split.asked) if difficulty else np.nan
    return {
        "predicted": model.predict_intervention(split.asked),
        "coverage": ((lower <= measured) & (measured <= upper)).mean(1),
        "width": (upper - lower).mean(1),
        "reliability": sure,
        "model": model,
    }


def _scores(split, predicted):
    """Error and discrimination of each asked perturbation among all."""
    measured = split.means.loc[split.asked]
    others = split.means.loc[np.setdiff1d(split.names, split.asked)]
    predicted = pd.DataFrame(predicted, split.asked, split.means.columns)
    beyond = split.control + split.center
    pds = {
        column: perturbation_discrimination(
            measured, prediction, reference=reference, candidates=others
        )
        for column, prediction, reference in (
            ("pds", predicted, split.control),
            ("pds_without_mean", predicted - split.center, split.control),
            ("pds_beyond", predicted, beyond),
        )
    }
    errors = ((predicted - measured) ** 2).mean(axis=1)
    return {
        "response_mse": errors,
        **pds,
        "effect": ((measured - split.control) ** 2).mean(axis=1),
    }


def _distances(model, X, A, asked):
    """Energy distance of as many predicted as measured cells, at most 500."""
    random, found = np.random.default_rng(0), []
    for name in asked:
        cells = X.to_numpy()[A == name]
        cells = cells[random.permutation(len(cells))[:500]]
        drawn = model.sample_intervention([name], len(cells), random_state=0)[0]
        found.append(energy_distance(drawn, cells))
    return found


def same_target(screen, split):
    """Mean of training compounds with the same target, or of all."""
    trained = np.setdiff1d(split.names, split.asked)
    target = screen.target[trained].to_numpy()
    alike = [trained[target == screen.target[name]] for name in split.asked]
    mean = split.control + split.center
    return np.array([split.means.loc[n].to_numpy().mean(0) if len(n) else mean for n in alike])


def wells(screen, split):
    """What control wells of the same row, the same column and near by measure."""
    control, place = screen.A == "control", screen.place
    X = np.clip(screen.X.to_numpy(dtype=np.float64) - split.control, -4, 4)
    squared = cdist(place, place, "sqeuclidean")
    same = [place[:, [k]] == place[:, k] for k in (0, 1)]
    kernel = same[0] + 1.0 * same[1] + np.exp(-squared / 8) + np.exp(-squared / 50)
    gram = kernel[np.ix_(control, control)] + 10 * np.eye(control.sum())
    found = kernel[:, control] @ np.linalg.solve(gram, X[control])
    return np.array([found[screen.A == name].mean(0) for name in split.asked]) + split.control


BY_HAND = {"same target": same_target, "wells": wells}


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("data", type=Path, help="folder of the screens")
    add(
        "--gmt", type=Path, nargs="+", help="files of gene sets, or folders; default data/genesets"
    )
    add("--screens", nargs="+", choices=SCREENS, default=list(SCREENS))
    add("--without", nargs="+", default=[], help="methods to leave out, such as SCCVAE")
    add_job_options(parser, range(5))


def run(args):
    """Run what is missing, print the tables; return the number of jobs that failed."""
    sets = merged(args.gmt or [args.data / "genesets"])
    readers = {"papalexi": papalexi, "nelisa": nelisa, "norman": norman}
    screens = {
        name: readers[name](args.data / FILES[name], sets, 0)
        for name in args.screens
        if name in readers
    }
    jobs = []
    for name in args.screens:
        screen = screens.get(name) or simulated(None, None, 0)
        made = name == "simulated"
        data = "" if made else fingerprint(screen.X.to_numpy().sum(0).round(3), screen.A)
        methods = [*models(name, screen, 0), *(BY_HAND if name == "nelisa" else [])]
        jobs += [
            TableJob(f"{name} {data}".strip(), seed, f"{name}, {method}")
            for method in methods
            for seed in seeds_of(args)
            if method not in args.without
        ]
    results, n_failed = run_jobs(score, jobs, args.csv, args.jobs, screens)
    if len(results):
        report(results)
    return n_failed


def report(results):
    """Print a table for each screen, and differences from ridge regression."""
    for name, rows in results.groupby("screen", sort=False):
        groups = rows.groupby("estimator", sort=False)
        table = groups[[column for column in SHOWN if column in rows]].mean()
        table = table.dropna(axis="columns", how="all")
        print(f"\n{name}, {rows['perturbation'].nunique()} perturbations, mean over seeds")
        print(table.to_string(float_format="{:.4g}".format, na_rep="-"))
        rows = rows.assign(split=rows["seed"])
        for what in ("response_mse", "effect"):
            sure = error_by_share_answered(rows, what, shares=SHARES)
            if len(sure):
                text = sure.div(sure[1.0], axis=0).to_string(float_format="{:.2f}".format)
                print(f"\n{what} of the surest, over that of all\n{text}")
        differences(rows, "response_mse", rows["perturbation"].unique(), "all")
        if name == "papalexi":
            for metric in ("response_mse", "energy_distance"):
                differences(rows, metric, DETECTABLE, "the six detectable")
        if name == "nelisa":
            for metric in PDS:
                differences(rows, metric, rows["perturbation"].unique(), "all", "same target")


def differences(rows, metric, names, what, reference=RIDGE):
    """Print each method less a reference, with 95 % t intervals over seeds and perturbations."""
    rows = rows[rows["perturbation"].isin(names)]
    print(f"\n{metric} less that of {reference}, {what}")
    wide = rows.pivot(index=["seed", "perturbation"], columns="estimator", values=metric)
    for method in wide.columns.drop(reference):
        difference = (wide[method] - wide[reference]).dropna()
        if len(difference):
            seeds = _interval(difference.groupby(level="seed").mean())
            targets = _interval(difference.groupby(level="perturbation").mean())
            print(f"  {method:36} over seeds {seeds}, over perturbations {targets}")


def _interval(values):
    width = (
        student.ppf(0.975, max(len(values) - 1, 1)) * values.sem() if len(values) > 1 else np.nan
    )
    mean = values.mean()
    return f"{mean:+.3g} ({mean - width:+.3g} to {mean + width:+.3g})"
