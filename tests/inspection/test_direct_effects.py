"""Direct effects on single genes: what is planted is found, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, kstest

from skpert import CPAVAE, IVAE, SAMSVAE, SCCVAE, VAE, InVAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.inspection import direct_effects
from skpert.inspection._direct import _q_values
from skpert.inspection._pseudobulk import PRIOR_PREDICTED, PRIOR_SHIFT, _without_itself

GENE, LOWERED, FOLD = 7, "P03", 0.2


def simulated(planted=True, n_cells=100):
    screen = make_sparse_shift(
        12,
        n_cells_per_perturbation=n_cells,
        n_control_cells=2 * n_cells,
        n_latent=3,
        n_genes=50,
        n_targets=1,
        effect_size=2.0,
        library_size=5000,
        random_state=0,
    )
    if planted:
        cells = screen.A == LOWERED
        counts = screen.X[cells, GENE].astype(int)
        screen.X[cells, GENE] = np.random.default_rng(0).binomial(counts, FOLD)
    return screen


def fitted(screen, estimator=SVAEPlus, **options):
    options = {"n_latent": 3, "max_epochs": 25, "random_state": 0} | options
    return estimator(**options).fit(screen.X, screen.A)


@pytest.fixture(scope="module")
def screen():
    return simulated()


@pytest.fixture(scope="module")
def model(screen):
    return fitted(screen)


@pytest.fixture(scope="module")
def table(model, screen):
    return direct_effects(model, screen.X, screen.A)


@pytest.fixture(scope="module")
def untrained(screen):
    return fitted(screen, VAE, max_epochs=1)


def without_latents(*, dominant=0.02, change=None, lane=None):
    """Counts of 30 genes in 9 perturbations and control cells, and labels.

    ``change`` multiplies the share of a gene in a perturbation; ``lane`` that of gene 5 in some
    cells.
    """
    random = np.random.default_rng(0)
    A = np.repeat(["control", *(f"P{i}" for i in range(9))], 150)
    share = np.r_[dominant, (1 - dominant) * random.dirichlet(np.full(29, 5))]
    shares = share * random.gamma(20, 1 / 20, (len(A), len(share)))
    if change is not None:
        perturbation, gene, fold = change
        shares[A == perturbation, gene] *= fold
    if lane is not None:
        shares[lane == 1, 5] *= 0.3
    X = random.poisson(4000 * shares / shares.sum(1, keepdims=True)).astype(np.float32)
    return X, A


def quick(X, A):
    return VAE(n_latent=2, max_epochs=1, random_state=0).fit(X, A)


def entry(table, perturbation=LOWERED, gene=GENE):
    return table[(table["perturbation"] == perturbation) & (table["gene"] == gene)].iloc[0]


def named(screen):
    return pd.DataFrame(screen.X, columns=[f"G{j:02d}" for j in range(screen.X.shape[1])])


def test_a_gene_that_is_lowered_is_found_with_its_fold_change(table):
    found = entry(table)
    assert found["called"]
    assert found["log2_fold_change"] == pytest.approx(np.log2(FOLD), abs=0.5)
    assert found["lower"] < found["log2_fold_change"] < found["upper"] < 0
    assert table.loc[0, "perturbation"] == "P00"
    called = table[table["called"]].sort_values("p")
    assert len(called) <= 3
    assert called.iloc[0][["perturbation", "gene"]].tolist() == [LOWERED, GENE]


def test_columns_and_order(table):
    assert table.columns.tolist() == [
        *("perturbation", "gene", "log2_fold_change", "standard_error", "lower", "upper"),
        *("p", "q", "called", "target"),
    ]
    assert len(table) == 12 * 50
    p = table["p"].fillna(2)
    assert (p.groupby(table["perturbation"]).diff().fillna(0) >= 0).all()
    assert table["perturbation"].is_monotonic_increasing


def test_without_direct_effects_nothing_is_called_and_p_values_are_uniform():
    screen = simulated(planted=False)
    table = direct_effects(fitted(screen), screen.X, screen.A)
    assert table["called"].sum() <= 1
    assert kstest(table["p"].dropna(), "uniform").pvalue > 0.01


def test_a_dominant_gene_does_not_drag_the_others_along():
    """It is half of each library, whose size is constant: without it the rest doubles."""
    X, A = without_latents(dominant=0.5, change=("P1", 0, 0.1))
    raw = np.log2(X[A == "P1"].mean(0) / X[A == "control"].mean(0))
    assert np.median(raw) > 0.5
    table = direct_effects(quick(X, A), X, A)
    found = table[(table["perturbation"] == "P1") & table["called"]]
    assert found["gene"].tolist() == [0]
    assert found["log2_fold_change"].iloc[0] == pytest.approx(np.log2(0.1), abs=0.3)


def test_sparse_cells_and_order_change_nothing(table, model, screen):
    order = np.random.default_rng(1).permutation(len(screen.A))
    other = direct_effects(model, csr_array(screen.X[order]), screen.A[order])
    numbers = ["log2_fold_change", "standard_error", "p", "q"]
    keys = ["perturbation", "gene"]
    first, second = (part.sort_values(keys).reset_index(drop=True) for part in (table, other))
    pd.testing.assert_frame_equal(first[numbers], second[numbers], rtol=1e-3, atol=1e-6)


def test_names_of_genes_are_those_of_the_cells_and_targets(screen):
    X = named(screen)
    A = pd.Series(screen.A).replace({LOWERED: "G07"}).to_numpy()
    model = VAE(n_latent=2, max_epochs=1, random_state=0).fit(X, A)
    table = direct_effects(model, X, A)
    assert table.loc[table["target"], ["perturbation", "gene"]].to_numpy().tolist() == [
        ["G07", "G07"]
    ]
    of_guides = {LOWERED: ["G07", "G08"], "P00": "not measured"}
    other = VAE(n_latent=2, max_epochs=1, random_state=0).fit(X, screen.A)
    table = direct_effects(other, X, screen.A, targets=of_guides)
    assert table.loc[table["target"], "gene"].sort_values().tolist() == ["G07", "G08"]
    p, q = (table.loc[table["target"], column].to_numpy() for column in "pq")
    np.testing.assert_allclose(q, false_discovery_control(p))


def test_rare_genes_are_not_tested_unless_they_are_targets(untrained, screen):
    rare = 10 ** np.ceil(np.log10(screen.X[screen.A == "P00"].sum(0).min() + 1))
    table = direct_effects(untrained, screen.X, screen.A, min_expected=rare)
    assert table["p"].isna().any()
    assert not table.loc[table["p"].isna(), "called"].any()
    assert table.loc[table["p"].isna(), "q"].isna().all()
    everything = direct_effects(untrained, screen.X, screen.A, min_expected=0)
    assert everything["p"].notna().all()


def test_a_batch_that_goes_with_a_perturbation_is_allowed_for():
    random, A = np.random.default_rng(2), without_latents()[1]
    lane = (random.random(len(A)) < np.where(A == "P5", 0.95, 0.2)).astype(int)
    X, A = without_latents(lane=lane)
    model, design = quick(X, A), pd.DataFrame({"perturbation": A, "lane": lane})
    assert entry(direct_effects(model, X, A), "P5", 5)["p"] < 1e-4
    for given in ({"A": design, "batch": "lane"}, {"A": A, "batch": lane}):
        table = direct_effects(model, X, **given)
        assert entry(table, "P5", 5)["p"] > 0.01


def test_nulls_are_the_reference_and_the_null(model, screen):
    nulls = [f"P{i:02d}" for i in range(4, 12)]
    table = direct_effects(model, screen.X, screen.A, nulls=nulls)
    assert entry(table)["called"]
    assert set(table["perturbation"]) == set(screen.perturbations)


def test_without_control_cells_the_reference_is_all_cells():
    X, A = without_latents(change=("P3", 8, 0.3))
    X, A = X[A != "control"], A[A != "control"]
    with pytest.warns(UserWarning, match="no control cell"):
        model = quick(X, A)
    assert entry(direct_effects(model, X, A), "P3", 8)["called"]


def test_real_values_have_differences_in_their_unit():
    random, genes = np.random.default_rng(0), 30
    A = np.repeat(["control", *(f"P{i}" for i in range(8))], 100)
    X = (5 + random.normal(size=(len(A), 2)) @ random.normal(size=(2, genes))).astype(np.float32)
    X += random.normal(size=X.shape)
    X[A == "P3", 4] += 1.5
    model = IVAE(n_latent=2, likelihood="normal", max_epochs=2, random_state=0).fit(X, A)
    table = direct_effects(model, X, A)
    assert table.loc[table["called"] & (table["perturbation"] == "P3"), "gene"].tolist() == [4]
    assert entry(table, "P3", 4)["log2_fold_change"] == pytest.approx(1.5, abs=0.4)


@pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot")
@pytest.mark.parametrize("estimator", [SAMSVAE, CPAVAE, SCCVAE], ids=lambda e: e.__name__)
def test_every_estimator_with_a_posterior_will_do(estimator, screen):
    options = {"n_hidden": 8, "max_epochs": 1, "random_state": 0, "n_latent": 3}
    if estimator is SCCVAE:
        options["likelihood"] = "negative_binomial"
    X, A = screen.X, screen.A
    table = direct_effects(estimator(**options).fit(X, A), X, A)
    assert len(table) == 12 * 50
    assert entry(table)["p"] < 1e-4


def test_of_invae_conditions_are_compared_with_all_cells(screen):
    design = pd.DataFrame({"donor": np.where(screen.A == LOWERED, "a", "b")})
    model = InVAE(
        invariant=["donor"], n_spurious=0, n_latent=3, n_hidden=8, max_epochs=1, random_state=0
    )
    table = direct_effects(model.fit(screen.X, design), screen.X, design)
    assert table["perturbation"].nunique() == 2


@pytest.mark.filterwarnings("ignore:.*one cell only", "ignore:1 of 4 cells have no counts")
def test_a_handful_of_cells_and_a_single_gene_will_do(screen):
    X, A = without_latents()
    model = quick(X, A)
    few = np.flatnonzero(np.isin(A, ["control", "P1"]))[[0, 1, 2, 200]]
    cells = X[few] * [[0], [1], [1], [1]]
    table = direct_effects(model, cells, A[few])
    assert np.isfinite(table[["log2_fold_change", "standard_error"]]).all(axis=None)
    assert not table["called"].any()
    table = direct_effects(quick(X[:, :1], A), X[:, :1], A)
    assert not table["called"].any()


def test_each_gene_is_predicted_from_all_others():
    random = np.random.default_rng(0)
    n_conditions, n_genes, n_latent = 3, 12, 2
    y, predicted = (random.normal(size=(n_conditions, n_genes)) for _ in range(2))
    variance, weight = (random.uniform(0.5, 2, (n_conditions, n_genes)) for _ in range(2))
    J = random.normal(size=(n_latent, n_genes))
    fitted, uncertain = _without_itself(y, variance, weight, J, predicted)
    ridge = np.diag([1e-8, PRIOR_PREDICTED**-2, *[PRIOR_SHIFT**-2] * n_latent])
    for p in range(n_conditions):
        B = np.vstack([np.ones(n_genes), predicted[p], J])
        for g in range(n_genes):
            others = np.arange(n_genes) != g
            BW = B[:, others] * (weight[p] / variance[p])[others]
            hat = B[:, g] @ np.linalg.inv(BW @ B[:, others].T + ridge) @ BW
            assert fitted[p, g] == pytest.approx(hat @ y[p, others])
            assert uncertain[p, g] == pytest.approx(hat**2 @ variance[p, others])


def test_q_values_are_the_least_rates_of_the_two_steps():
    random = np.random.default_rng(0)
    p = random.uniform(size=(20, 15)) ** random.uniform(1, 6, (20, 1))
    p[3, 4] = np.nan
    q = _q_values(p, np.zeros(p.shape, dtype=bool))
    assert np.isnan(q[3, 4])
    within = np.array([_adjusted(row) for row in p])
    for rate in (0.01, 0.05, 0.2, 0.5):
        first = np.sort(np.nanmin(within, axis=1))
        passed = np.flatnonzero(first <= rate * np.arange(1, 21) / 20)
        n_selected = passed[-1] + 1 if len(passed) else 0
        np.testing.assert_array_equal(q <= rate, within <= rate * n_selected / 20)


def _adjusted(p):
    adjusted = np.full(len(p), np.nan)
    adjusted[~np.isnan(p)] = false_discovery_control(p[~np.isnan(p)])
    return adjusted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nulls": "nothing"}, "nulls names 'nothing'"),
        ({"targets": ["P00"]}, "targets must map"),
        ({"batch": "lane"}, "A is no DataFrame"),
        ({"batch": [1, 2]}, "one value for each of the 1400 cells"),
        ({"fdr": 2}, "fdr"),
        ({"level": 1}, "level"),
        ({"min_expected": -1}, "min_expected"),
    ],
)
def test_bad_input(options, message, untrained, screen):
    with pytest.raises(ValueError, match=message):
        direct_effects(untrained, screen.X, screen.A, **options)


def test_real_values_of_one_cell_each_are_not_tested():
    X = np.random.default_rng(0).normal(size=(4, 20))
    A = ["control", "A", "B", "C"]
    model = SVAEPlus(n_latent=2, max_epochs=1, likelihood="normal", random_state=0)
    with pytest.warns(UserWarning, match="one cell only"):
        model = model.fit(X, A)
    table = direct_effects(model, X, A)
    assert table["p"].isna().all()
    assert not table["called"].any()


def test_cells_that_do_not_fit(untrained, screen):
    control = screen.A == "control"
    with pytest.raises(ValueError, match="control cells only"):
        direct_effects(untrained, screen.X[control], screen.A[control])
    with pytest.raises(ValueError, match="inconsistent"):
        direct_effects(untrained, screen.X[:-1], screen.A)
    with pytest.raises(ValueError, match="JAK2"):
        direct_effects(untrained, screen.X[:2], ["JAK2", "control"])
