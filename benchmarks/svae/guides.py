"""Direct effects and efficacy of the guides of a real screen with many non-targeting guides.

::

    python -m benchmarks.svae guides schraivogel2020_tapseq_86guides.h5ad          # ten draws
    python -m benchmarks.svae guides schraivogel2020_tapseq_86guides.h5ad --draws 2

The screen is that of Schraivogel et al. 2020 (CRISPR interference in K562 cells, 72 genes), with
the guide of each cell in ``obs["guide"]`` and the target of each guide in ``uns["guides"]``. As in
``benchmarks.svae nulls``, in each draw ten of the 30 non-targeting guides are the control, and
every other guide is a perturbation; ``SVAEPlus(random_state=draw)`` is fitted to all cells, and
to a half of them.

Direct effects at 5 %, of all cells: guides whose own gene is called (HBE1 of the enhancer HS2),
those of dead guides and of non-targeting ones, and the p-values of the latter, first with these
guides as ``nulls``, then without. Three guides are dead: their gene is as in control cells.

Efficacy on the half that was fitted: its Spearman correlation with the fold change of the gene in
the other half (ratio of means of counts over library size), of the targeting guides with at least
50 cells whose gene is measured; beside it that of the fold changes of both halves, which is how
far the other half can be known at all. Verdicts on the half and on all cells, and how many
non-targeting guides work; "disguised" ones are given as guides of a gene drawn at random.
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kstest, spearmanr
from sklearn.model_selection import train_test_split

from skpert import SVAEPlus
from skpert.inspection import direct_effects, guide_efficacy

from .. import runner
from ..command import add_csv
from .nulls import N_CONTROL

DEAD = ("CCNE2_-_95907017", "PHF20L1_+_133788065", "UBR5_-_103424857")
OWN = {"HS2": "HBE1"}  # gene that an enhancer acts on
MIN_CELLS = 50


def of_effects(table, is_null):
    """Figures of a table of direct effects."""
    guide = table["perturbation"]
    null, dead = guide.map(is_null), guide.str.contains("|".join(map(_plain, DEAD)))
    own = table[table["target"] & ~dead]
    follows = table[guide.str.contains("HS2") & ~table["target"] & table["called"]]
    p = table.loc[null, "p"].dropna()
    return {
        "own_called": int(own["called"].sum()),
        "n_living": len(own),
        "hs2_called": int(own.loc[own["perturbation"].str.contains("HS2"), "called"].sum()),
        "hs2_others": int(follows.groupby("perturbation").size().max()) if len(follows) else 0,
        "dead_called": int(table.loc[dead, "called"].sum()),
        "nulls_called": table.loc[null & table["called"], "perturbation"].nunique(),
        "n_nulls": guide[null].nunique(),
        "null_calls": "; ".join(_short(table[null & table["called"]])),
        "uniform_p": round(kstest(p, "uniform").pvalue, 4),
    }


def of_efficacy(table, is_null, fold=None):
    """Figures of a table of guides."""
    guide = table["guide"]
    null, dead = guide.map(is_null), guide.str.contains("|".join(map(_plain, DEAD)))
    row = {
        "dead_found": int((table.loc[dead, "verdict"] == "dead").sum()),
        "living_dead": int((table.loc[~dead & ~null, "verdict"] == "dead").sum()),
        "nulls_work": int((table.loc[null, "verdict"] == "works").sum()),
        "nulls_weak": int((table.loc[null, "verdict"] == "weak").sum()),
        "living_work": int((table.loc[~dead & ~null, "verdict"] == "works").sum()),
    }
    if fold is not None:
        row["spearman"] = round(_spearman(table.set_index("guide")["efficacy"], -fold), 3)
    return row


def folds(X, guides, table, genes, rows):
    """Fold change of the gene of each targeting guide, over non-targeting ones, in these cells."""
    share = X[rows].toarray() / np.asarray(X[rows].sum(1)).reshape(-1, 1)
    column = {gene: j for j, gene in enumerate(genes)}
    null = np.isin(guides[rows], table.index[table == "control"])
    counts = pd.Series(guides).value_counts()
    means = pd.DataFrame(share).groupby(guides[rows]).mean()
    return pd.Series(
        {
            guide: means.loc[guide, column[gene]] / share[null, column[gene]].mean()
            for guide, gene in table.items()
            if gene in column and counts[guide] >= MIN_CELLS
        }
    )


def score(draw, adata, guides, table):
    """Row of the table of results."""
    random = np.random.default_rng(draw)
    nulls = table.index[table == "control"].sort_values()
    control = random.choice(nulls, N_CONTROL, replace=False)
    A = np.where(np.isin(guides, control), "control", guides)
    tested = nulls.difference(control)
    is_null = dict.fromkeys(table.index, False) | dict.fromkeys(tested, True)
    own = table[table != "control"].replace(OWN)
    model = SVAEPlus(sep=None, random_state=draw).fit(adata, A)
    row = {"draw": draw}
    for name, given in (("", list(tested)), ("bulk_", None)):
        found = direct_effects(model, adata, A, targets=own, nulls=given)
        row |= {name + key: value for key, value in of_effects(found, is_null).items()}
    fitted, other = train_test_split(
        np.arange(len(A)), test_size=0.5, stratify=guides, random_state=draw
    )
    half = SVAEPlus(sep=None, random_state=draw).fit(adata[fitted], A[fitted])
    genes = list(adata.var_names)
    first, second = (folds(adata.X, guides, table, genes, rows) for rows in (fitted, other))
    of_half = guide_efficacy(half, adata[fitted], A[fitted], dict(table))
    row |= {f"half_{key}": v for key, v in of_efficacy(of_half, is_null, second).items()}
    row["halves_spearman"] = round(_spearman(first, second), 3)
    row |= {
        f"all_{key}": value
        for key, value in of_efficacy(
            guide_efficacy(model, adata, A, dict(table)), is_null
        ).items()
    }
    measured = sorted(set(table) & set(genes))
    disguised = dict(table) | {guide: random.choice(measured) for guide in tested}
    found = of_efficacy(guide_efficacy(model, adata, A, disguised), is_null)
    return row | {f"disguised_{key}": value for key, value in found.items()}


def add_arguments(parser):
    """Options of the command line."""
    parser.add_argument("screen", type=Path, help="an .h5ad file")
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(10)), help="which")
    add_csv(parser)


def run(args):
    """Fit one draw after another, and print each."""
    from anndata import read_h5ad

    adata = read_h5ad(args.screen)
    table = adata.uns["guides"].set_index("guide")["target"]
    guides = adata.obs["guide"].astype(str).to_numpy()
    known = np.isin(guides, table.index)
    adata, guides = adata[known].copy(), guides[known]
    rows = []
    for draw in args.draws:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            rows.append(score(draw, adata, guides, table))
        print(pd.Series(rows[-1]).to_string(), flush=True)
        runner.write(rows, args.csv)
    found = pd.DataFrame(rows)
    print(f"own gene called: {found['own_called'].tolist()} of {found['n_living'][0]}")
    print(f"without named nulls: {found['bulk_own_called'].tolist()}")
    n_nulls = found["n_nulls"].sum()
    for name in ("nulls_called", "bulk_nulls_called", "all_nulls_work", "disguised_nulls_work"):
        print(f"{name}: {found[name].sum()} of {n_nulls}")
    print(f"uniform p-values of non-targeting guides, KS: {found['uniform_p'].tolist()}")
    print(f"efficacy and fold in the other half, Spearman: {found['half_spearman'].tolist()}")
    print(f"fold in both halves, Spearman: {found['halves_spearman'].tolist()}")
    for name in ("all_dead_found", "half_dead_found", "all_living_dead", "half_living_dead"):
        print(f"{name}: {found[name].tolist()}")


def _spearman(first, second):
    both = pd.concat([first, second], axis=1, join="inner").dropna()
    return float(spearmanr(both.iloc[:, 0], both.iloc[:, 1]).statistic)


def _plain(name):
    return name.replace("+", r"\+")


def _short(table):
    return [
        f"{g[-5:]} {gene}" for g, gene in zip(table["perturbation"], table["gene"], strict=True)
    ]
