"""Which guides work: planted living and dead guides, and what a guide of few cells is worth."""

import numpy as np
import pandas as pd
import pytest

from skpert import IVAE, VAE
from skpert.inspection import guide_efficacy

GENES = [f"G{j:02d}" for j in range(30)]
FOLDS = {  # of the expression of each guide's own gene
    **{"G00_1": 0.2, "G00_2": 0.25, "G00_3": 1.0},
    **{"G01_1": 0.5, "G01_2": 0.45, "G01_3": 0.55},
    **{"G02_1": 0.1, "G02_2": 0.15, "G02_3": 0.12},
    **{"G03_1": 1.0, "G03_2": 1.0, "G03_3": 1.0},
}
NULLS = [f"NT_{k}" for k in range(8)]


def drawn(folds=FOLDS, n_cells=120, sizes=None, activated=()):
    """Counts, genes and guides of cells; non-targeting guides have the label of the control."""
    random = np.random.default_rng(0)
    names = [*folds, *NULLS]
    sizes = {} if sizes is None else sizes
    guide = np.repeat(names, [sizes.get(name, n_cells) for name in names])
    gene = np.array(["control" if g in NULLS else g.split("_")[0] for g in guide], dtype=object)
    share = random.dirichlet(np.full(len(GENES), 5))
    shares = share * random.gamma(20, 1 / 20, (len(guide), len(share)))
    for name, fold in folds.items():
        column = GENES.index(name.split("_")[0])
        shares[guide == name, column] *= 1 / fold if name in activated else fold
    X = random.poisson(4000 * shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return pd.DataFrame(X, columns=GENES), gene, guide


def quick(X, A, **options):
    return VAE(n_latent=2, max_epochs=1, random_state=0, **options).fit(X, A)


@pytest.fixture(scope="module")
def screen():
    return drawn()


@pytest.fixture(scope="module")
def model(screen):
    return quick(screen[0], screen[1])


@pytest.fixture(scope="module")
def table(model, screen):
    return guide_efficacy(model, *screen).set_index("guide")


def test_dead_guides_are_found_and_living_ones_measured(table):
    verdicts = table["verdict"]
    assert verdicts["G00_3"] == "dead"
    living = [name for name, fold in FOLDS.items() if fold < 1]
    assert (verdicts[living] == "works").all()
    np.testing.assert_allclose(
        table.loc[living, "efficacy"], [1 - FOLDS[name] for name in living], atol=0.1
    )
    assert (table.loc[living, "evidence"] == "expression").all()
    assert table.loc["G00_3", "lower"] <= 0 <= table.loc["G00_3", "upper"]


def test_a_gene_without_a_living_guide_has_dead_ones(table):
    assert (table.loc[["G03_1", "G03_2", "G03_3"], "verdict"] == "dead").all()


def test_non_targeting_guides_do_not_work(table):
    assert set(NULLS) <= set(table.index)
    assert not table.loc[NULLS, "verdict"].isin(["works", "weak"]).any()
    assert table.loc[NULLS, "probability_dead"].isna().all()


def test_rows_are_sorted_by_gene_and_guide(model, screen):
    table = guide_efficacy(model, *screen)
    assert table[["gene", "guide"]].apply(tuple, axis=1).is_monotonic_increasing
    counts = pd.Series(screen[2]).value_counts()
    assert table["n_cells"].tolist() == counts[table["guide"]].tolist()


def test_a_table_of_guides_says_the_same_as_a_guide_per_cell(table, screen):
    X, gene, guide = screen
    A = np.where(gene == "control", "control", guide)
    genes = {name: name.split("_")[0] for name in FOLDS}
    for given in (genes, pd.Series(genes)):
        other = guide_efficacy(quick(X, A), X, A, given).set_index("guide")
        assert other.index.tolist() == list(FOLDS)
        np.testing.assert_allclose(
            other["efficacy"], table.loc[list(FOLDS), "efficacy"], atol=0.06
        )


def test_a_column_of_the_design_frame_names_guides(table, screen):
    X, gene, guide = screen
    design = pd.DataFrame({"perturbation": gene, "sgrna": guide})
    other = guide_efficacy(quick(X, design), X, design, "sgrna").set_index("guide")
    pd.testing.assert_series_equal(other["verdict"], table["verdict"])


def test_few_cells_do_not_decide_alone():
    """With three cells a living guide stays close to its siblings, and its interval is wide."""
    X, gene, guide = drawn(sizes={"G02_3": 3})
    table = guide_efficacy(quick(X, gene), X, gene, guide).set_index("guide")
    few, many = table.loc["G02_3"], table.loc["G02_1"]
    assert few["efficacy"] == pytest.approx(many["efficacy"], abs=0.15)
    assert few["upper"] - few["lower"] > many["upper"] - many["lower"]
    assert few["verdict"] != "dead"


def test_guides_that_activate_have_a_positive_efficacy():
    activated = [name for name in FOLDS if name.startswith("G01")]
    X, gene, guide = drawn(activated=activated)
    table = guide_efficacy(quick(X, gene), X, gene, guide).set_index("guide")
    assert (table.loc[activated, "log2_fold_change"] > 0.5).all()
    np.testing.assert_allclose(table.loc[activated, "efficacy"], 0.5, atol=0.12)
    assert (table.loc[activated, "verdict"] == "works").all()


def latent_screen():
    """Two genes that are not measured; one guide of each does as those of the other, or nothing.

    Real values of two latents, which a normal model finds.
    """
    random, n_cells = np.random.default_rng(0), 150
    shifts = {
        f"{gene}_{k}": shift
        for gene, shift in (("A", 0), ("B", 1))
        for k, shift in enumerate([shift] * 4)
    }
    names = [*shifts, *NULLS]
    guide = np.repeat(names, n_cells)
    Z = random.normal(size=(len(guide), 2))
    for name, latent in shifts.items():
        Z[guide == name, latent] += 2.5
    Z[guide == "A_3"] += [-2.5, 2.5]  # as guides of B
    Z[guide == "B_3"] -= [0, 2.5]  # dead
    X = Z @ random.normal(size=(2, 40)) + 0.5 * random.normal(size=(len(guide), 40))
    gene = np.array(["control" if g in NULLS else g[0] for g in guide], dtype=object)
    return (5 + X).astype(np.float32), gene, guide


def test_latents_speak_where_the_gene_is_not_measured():
    X, gene, guide = latent_screen()
    model = IVAE(n_latent=2, likelihood="normal", max_epochs=15, random_state=0).fit(X, gene)
    table = guide_efficacy(model, X, gene, guide).set_index("guide")
    alive = ["A_0", "A_1", "A_2", "B_0", "B_1", "B_2"]
    assert (table.loc[alive, "verdict"] == "works").all()
    assert (table.loc[alive, "evidence"] == "latents").all()
    assert table.loc["A_3", "verdict"] == "differs"
    assert table.loc["B_3", "verdict"] == "dead"
    assert not table.loc[NULLS, "verdict"].eq("works").any()


def test_a_knock_out_that_leaves_the_rna_is_not_dead():
    """Guides of A move the latent state; one of them does not lower the gene A, and works."""
    X, gene, guide = latent_screen()
    X[:, 0] = np.random.default_rng(1).normal(5, 0.5, len(X))  # no part of a programme
    X[np.isin(guide, ["A_0", "A_1"]), 0] -= 1
    frame = pd.DataFrame(X, columns=["A", *(f"G{j}" for j in range(1, 40))])
    model = IVAE(n_latent=2, likelihood="normal", max_epochs=15, random_state=0).fit(frame, gene)
    table = guide_efficacy(model, frame, gene, guide).set_index("guide")
    assert table.loc["A_2", "evidence"] == "expression"
    assert table.loc["A_2", "probability_dead"] > 0.5
    assert table.loc["A_2", "verdict"] == "works"


def test_a_gene_that_shows_nowhere_is_unknown():
    X, gene, guide = drawn()
    other = pd.Series(gene).replace({"G03": "elsewhere"}).to_numpy()
    table = guide_efficacy(quick(X, other), X, other, guide).set_index("guide")
    assert (table.loc[["G03_1", "G03_2", "G03_3"], "verdict"] == "unknown").all()


def test_a_guide_of_every_cell_says_nothing(model, screen):
    X, gene, guide = screen
    some = np.flatnonzero(np.isin(gene, ["control", "G00"]))[::20]
    table = guide_efficacy(model, X.iloc[some], gene[some], np.arange(len(some)))
    assert (table["n_cells"] == 1).all()
    assert (table["q_shift"] == 1).all()


def test_bad_input(model, screen):
    X, gene, guide = screen
    with pytest.raises(ValueError, match="guides must have one value for each of the"):
        guide_efficacy(model, X, gene, guide[:-1])
    with pytest.raises(ValueError, match="names a column"):
        guide_efficacy(model, X, gene, "sgrna")
    with pytest.raises(ValueError, match="none of which is a label in A"):
        guide_efficacy(model, X, gene, {"sg1": "G00"})
    missing = np.array(guide, dtype=object)
    missing[:2] = None
    with pytest.raises(ValueError, match="2 of 2400 cells have no guide"):
        guide_efficacy(model, X, gene, missing)
    twice = np.where(guide == "G01_1", "G00_1", guide)
    with pytest.raises(ValueError, match="'G00_1' has cells of several genes"):
        guide_efficacy(model, X, gene, twice)
    control = gene == "control"
    with pytest.raises(ValueError, match="no guide in A targets a gene"):
        guide_efficacy(model, X[control], gene[control], guide[control])
    for name, value in {"fdr": 2, "level": 1}.items():
        with pytest.raises(ValueError, match=name):
            guide_efficacy(model, X, gene, guide, **{name: value})
