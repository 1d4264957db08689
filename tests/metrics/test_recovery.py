"""Differential expression against scipy, its recovery by hand, and the error of expression."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, mannwhitneyu, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from skpert.exceptions import DataWarning
from skpert.metrics import _pseudobulk, de_recovery, de_table, expression_error
from skpert.metrics import cells as reading

GENES = [f"gene {g}" for g in range(40)]
NAMES = ["A", "A+B", "B"]
UNBOUNDED = ["n_true", "n_predicted"]


def draw(effects, n_cells, random):
    """Counts of cells whose profile is shifted on the log scale, one block per row of effects."""
    rates = np.exp(np.linspace(-1, 3, effects.shape[1]) + effects)
    return random.poisson(np.repeat(rates, n_cells, axis=0))


@pytest.fixture
def screen():
    random = np.random.default_rng(0)
    effects = np.vstack([np.zeros(40), random.normal(0, 0.8, size=(3, 40))])
    counts = draw(effects, 30, random)
    return pd.DataFrame(counts, columns=GENES), np.repeat(["control", *NAMES], 30)


@pytest.fixture
def tables(screen):
    """Measured and predicted tables, the latter of noisier fold changes."""
    random = np.random.default_rng(1)
    true = de_table(*screen, space="counts", min_control_mean=0)
    noisy = true.log2_fold_change + random.normal(size=(3, 40))
    p_value = true.p_value ** random.uniform(0.1, 2, size=(3, 40))
    fdr = p_value.apply(lambda p: pd.Series(false_discovery_control(p), GENES), axis=1)
    return true, {"log2_fold_change": noisy, "p_value": p_value, "fdr": fdr}


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_tests_are_those_of_scipy(screen, form):
    counts, labels = screen
    values = counts.to_numpy() / counts.to_numpy().sum(1, keepdims=True)
    ties = np.round(values * 100) / 100  # few distinct values
    for X in (values, ties):
        table = de_table(form(X), labels, space="lognorm", min_control_mean=-1)
        for name in NAMES:
            expected = mannwhitneyu(X[labels == name], X[labels == "control"], axis=0)
            np.testing.assert_allclose(table.p_value.loc[name], expected.pvalue, rtol=1e-9)
            fdr = false_discovery_control(table.p_value.loc[name])
            np.testing.assert_allclose(table.fdr.loc[name], fdr)


def test_fold_changes_are_ratios_of_mean_shares(screen):
    counts, labels = screen
    shares = 1e4 * counts.div(counts.sum(1), axis=0)
    means = shares.groupby(labels).mean()
    table = de_table(counts, labels, space="counts", pseudocount=0.5)
    expected = np.log2((means + 0.5) / (means.loc["control"] + 0.5)).drop("control")
    np.testing.assert_allclose(table.log2_fold_change, expected)
    assert table.log2_fold_change.index.tolist() == NAMES
    assert table.log2_fold_change.columns.tolist() == GENES


def test_counts_and_their_logarithms_have_the_same_table(screen):
    counts, labels = screen
    logs = np.log1p(1e4 * counts.div(counts.sum(1), axis=0))
    pair = de_table(counts, labels, space="counts"), de_table(logs, labels, space="lognorm")
    for key in ("log2_fold_change", "p_value", "fdr"):
        pd.testing.assert_frame_equal(*(table[key] for table in pair))


def test_logarithms_below_zero_are_no_expression_and_large_ones_no_logarithms(screen):
    counts, labels = screen
    logs = np.log1p(1e4 * counts.div(counts.sum(1), axis=0))
    predicted = logs - 5
    table = de_table(predicted, labels, space="lognorm", min_control_mean=-1)
    clipped = de_table(predicted.clip(lower=0), labels, space="lognorm", min_control_mean=-1)
    pd.testing.assert_frame_equal(table.log2_fold_change, clipped.log2_fold_change)
    message = "holds 5000, which is no logarithm.*give space='counts'"
    with pytest.warns(DataWarning), pytest.raises(ValueError, match=message):
        de_table(logs.mask(logs == logs.iloc[0, 0], 5000), labels, space="lognorm")


def test_genes_that_controls_hardly_express_are_left_out(screen):
    counts, labels = screen
    shares = 1e4 * counts.div(counts.sum(1), axis=0)
    mean = shares[labels == "control"].mean()
    threshold = mean.iloc[7]
    table = de_table(counts, labels, space="counts", min_control_mean=threshold + 1e-9)
    assert table.fdr.columns.tolist() == mean.index[mean > threshold + 1e-9].tolist()
    counts = counts.assign(silent=0)
    assert "silent" not in de_table(counts, labels, space="counts").fdr
    everything = de_table(counts, labels, space="counts", min_control_mean=-1)
    assert (everything.p_value["silent"] == 1).all()
    assert (everything.log2_fold_change["silent"] == 0).all()
    with pytest.raises(ValueError, match="no gene has a mean over controls above 1000000"):
        de_table(counts, labels, space="counts", min_control_mean=1_000_000)


def test_without_an_effect_p_values_are_uniform():
    random = np.random.default_rng(0)
    counts = random.poisson(20, size=(200, 400))
    p = de_table(counts, np.repeat(["A", "control"], 100), space="counts").p_value.to_numpy()
    assert p.mean() == pytest.approx(0.5, abs=0.05)
    assert np.mean(p < 0.1) == pytest.approx(0.1, abs=0.04)


def test_the_truth_is_recovered(tables):
    true = tables[0]
    scores = de_recovery(true, true)
    assert (scores["n_true"] >= 10).all()
    best = pd.Series(1.0, scores.columns)
    best["lfc_nmae"] = 0
    for name in scores.columns.difference(UNBOUNDED):
        np.testing.assert_allclose(scores[name], best[name], err_msg=name)


def test_no_change_is_an_error_of_one(tables):
    true = tables[0]
    silent = {"log2_fold_change": 0 * true.log2_fold_change, "fdr": 0 * true.fdr + 1}
    scores = de_recovery(true, silent)
    assert (scores["lfc_nmae"] == 1).all()
    assert (scores["roc_auc"] == 0.5).all()
    np.testing.assert_allclose(scores["pr_auc"], scores["n_true"] / 40)
    zero = ["recall", "jaccard", "overlap_at_n", "direction_match", "direction_reach"]
    assert (scores[zero] == 0).all(axis=None)


def test_scores_by_hand(tables):
    true, predicted = tables
    scores = de_recovery(true, predicted)
    for name in NAMES:
        lfc, fdr = (true[key].loc[name] for key in ("log2_fold_change", "fdr"))
        guess, rate = (predicted[key].loc[name] for key in ("log2_fold_change", "fdr"))
        real, called = set(fdr.index[fdr < 0.05]), set(rate.index[rate < 0.05])
        right = {g for g in GENES if np.sign(lfc[g]) == np.sign(guess[g])}
        n = len(real)
        top = lfc[list(real)].abs().nlargest(n), guess[list(called)].abs().nlargest(n)
        real_genes = sorted(real)
        expected = {
            "n_true": n,
            "n_predicted": len(called),
            "overlap_at_n": len(set(top[0].index) & set(top[1].index)) / n,
            "recall": len(real & called) / n,
            "jaccard": len(real & called) / len(real | called),
            "direction_match": len(real & right) / n,
            "direction_fidelity": len(called & right) / max(n, len(called)),
            "lfc_spearman": spearmanr(lfc[real_genes], guess[real_genes]).statistic,
            "lfc_nmae": (guess - lfc)[real_genes].abs().sum() / lfc[real_genes].abs().sum(),
            "pr_auc": average_precision_score(fdr < 0.05, -np.log10(rate)),
            "roc_auc": roc_auc_score(fdr < 0.05, -np.log10(rate)),
        }
        found = scores.loc[name].drop("direction_reach").to_dict()
        assert found == pytest.approx(expected)


def one(change, fdr, **more):
    """Table of one perturbation."""
    genes = [f"g{j}" for j in range(len(change))]
    entries = {"log2_fold_change": change, "fdr": fdr} | more
    return {key: pd.DataFrame([row], ["P"], genes) for key, row in entries.items()}


def test_reach_is_the_deepest_prefix_with_nine_right_signs_of_ten():
    true = one(np.ones(20), np.full(20, 0.01))
    for wrong, reach in (([], 20), ([9], 20), ([0, 1], 20), ([0, 1, 2], 0), ([17, 18, 19], 18)):
        change = np.ones(20)
        change[wrong] = -1
        found = de_recovery(true, one(change, np.arange(20) / 100))
        assert found.loc["P", "direction_reach"] == reach / 20
    # Equal FDRs are told apart by the p-value, and equal p-values by the change.
    change = np.r_[-1.0, np.ones(9)]
    true, flat = one(np.ones(10), np.full(10, 0.01)), np.full(10, 0.04)
    last = one(change, flat, p_value=np.r_[0.03, np.full(9, 0.02)])
    assert de_recovery(true, last).loc["P", "direction_reach"] == 1
    smallest = de_recovery(true, one(change * np.r_[0.1, np.ones(9)], flat))
    assert smallest.loc["P", "direction_reach"] == 1


def test_top_limits_the_genes_that_are_compared():
    true = one([3, 2, 1, 9.0], [0.01, 0.01, 0.01, 0.9])
    predicted = one([1, 2, 3, 9.0], [0.01, 0.01, 0.01, 0.9])
    overlap = [
        de_recovery(true, predicted, top=top).loc["P", "overlap_at_n"] for top in (1, 2, 99, None)
    ]
    assert overlap == [0, 0.5, 1, 1]


def test_what_is_undefined_is_left_out_of_averages_and_counted(tables):
    true, predicted = tables
    silent = dict(true, fdr=true.fdr.copy())
    silent["fdr"].loc["A"] = 1
    scores = de_recovery(silent, predicted)
    undefined = scores.columns[scores.isna().any()].tolist()
    assert undefined == [
        "overlap_at_n",
        "recall",
        "direction_match",
        "direction_reach",
        "lfc_spearman",
        "lfc_nmae",
        "pr_auc",
        "roc_auc",
    ]
    means = de_recovery(silent, predicted, aggregate="mean")
    assert means.columns.tolist() == ["mean", "n_perturbations"]
    assert means.loc["recall"].tolist() == [scores.loc[["A+B", "B"], "recall"].mean(), 2]
    assert means.loc["jaccard"].tolist() == pytest.approx([scores["jaccard"].mean(), 3])
    nothing = one([1, 2.0], [1, 1])
    assert de_recovery(nothing, nothing).loc["P", ["jaccard", "n_true"]].tolist() == [1, 0]
    few = one(np.ones(9), np.full(9, 0.01))
    assert np.isnan(de_recovery(few, few).loc["P", "lfc_nmae"])


def test_order_and_further_genes_do_not_matter(tables):
    true, predicted = tables
    expected = de_recovery(true, predicted)
    shuffled = {key: frame.iloc[::-1, ::-1].assign(z=1.0) for key, frame in predicted.items()}
    pd.testing.assert_frame_equal(de_recovery(true, shuffled), expected)


def test_the_own_target_does_not_count(tables):
    names = dict(zip(GENES[:2], "AB", strict=True))
    true, predicted = (
        {key: frame.rename(columns=names) for key, frame in table.items()} for table in tables
    )
    rest = GENES[2:]
    expected = de_recovery(*({key: t[key][rest] for key in t} for t in (true, predicted)))
    found = de_recovery(true, predicted, exclude="targets")
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fdr": None}, "needs DataFrames .* its 'fdr' is a NoneType"),
        ({"fdr": pd.DataFrame([[2.0]], ["P"], ["g0"])}, "fdr must be from 0 to 1, got 2 to 2"),
        ({"fdr": pd.DataFrame([[1.0]], ["Q"], ["g0"])}, "predicted lacks 1 of 1 perturbations"),
        ({"log2_fold_change": pd.DataFrame([[1.0]], ["P"], ["g1"])}, "lacks 1 of 1 genes"),
    ],
)
def test_tables_that_do_not_fit(change, message):
    true = one([1.0], [0.5])
    with pytest.raises(ValueError, match=message):
        de_recovery(true, true | change)


def test_options_out_of_range():
    table = one([1.0], [0.5])
    with pytest.raises(ValueError, match="top must be None or an integer of at least 1, got 0"):
        de_recovery(table, table, top=0)
    with pytest.raises(ValueError, match=r"fdr must be in \(0, 1\], got 5"):
        de_recovery(table, table, fdr=5)
    with pytest.raises(ValueError, match="aggregate must be"):
        de_recovery(table, table, aggregate="pooled")
    with pytest.raises(ValueError, match="need control cells, with the label 'control'"):
        de_table([[1], [2]], ["A", "B"], space="counts")
    with pytest.raises(ValueError, match="space must be 'counts' or 'lognorm'"):
        de_table([[1], [2]], ["A", "control"], space=None)


def naive_error(X, labels, predicted, predicted_labels, controls):
    """The formula, one cell left out at a time."""

    def profile(counts):
        return np.log1p(5e4 * counts.sum(0) / counts.sum())

    def noise(counts):
        n = len(counts)
        if n == 1:
            return 0
        left = np.array([profile(np.delete(counts, i, 0)) for i in range(n)])
        return (n - 1) / n * ((left - left.mean(0)) ** 2).sum()

    parts = {}
    for name in np.unique(labels):
        true, guess = X[labels == name], predicted[predicted_labels == name]
        error = ((profile(guess) - profile(true)) ** 2).sum()
        response = ((profile(true) - profile(controls)) ** 2).sum()
        c = noise(true)
        parts[name] = [
            (error - c - min(noise(guess), c)) / X.shape[1],
            (response - c - noise(controls)) / X.shape[1],
        ]
    return pd.DataFrame(parts, ["numerator", "denominator"]).T


@pytest.fixture
def cells(screen):
    """Measured cells and labels, predicted cells and labels, and controls."""
    counts, labels = screen[0].to_numpy(), screen[1]
    random = np.random.default_rng(2)
    true = labels != "control"
    predicted_labels = np.r_[["C"], random.permutation(np.repeat(NAMES, 12)), ["control"]]
    predicted = random.gamma(2, 3, size=(38, 40))
    return counts[true], labels[true], predicted, predicted_labels, counts[~true]


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_expression_error_is_that_of_the_formula(cells, form, monkeypatch):
    monkeypatch.setattr(reading, "MAX_ELEMENTS", 200)  # five cells at once
    X, labels, predicted, predicted_labels, controls = cells
    found = expression_error(
        form(X), labels, form(predicted), predicted_labels, form(controls), space="counts"
    )
    expected = naive_error(*cells)
    np.testing.assert_allclose(found, expected.loc[found.index], rtol=1e-8)
    pooled = expression_error(*cells, space="counts", aggregate="pooled")
    assert pooled == pytest.approx(expected["numerator"].sum() / expected["denominator"].sum())


def test_a_prediction_of_controls_is_an_error_of_one(cells):
    X, labels, _, _, controls = cells
    many = np.vstack([controls] * 20)  # so many that their noise is below that of any other
    names = np.repeat(NAMES, len(many))
    parts = expression_error(X, labels, np.vstack([many] * 3), names, many, space="counts")
    np.testing.assert_allclose(parts["numerator"], parts["denominator"])
    assert (parts["denominator"] > 0).all()


def test_a_replicate_is_an_error_of_zero_in_the_mean():
    random = np.random.default_rng(0)
    effects = random.normal(0, 0.3, size=(60, 40))
    names = np.repeat([f"P{p}" for p in range(60)], 40)
    controls = draw(np.zeros((1, 40)), 200, random)
    first, second = (draw(effects, 40, random) for _ in range(2))
    error = expression_error(
        first, names, second, names, controls, space="counts", aggregate="pooled"
    )
    assert abs(error) < 0.03
    parts = expression_error(first, names, first, names, controls, space="counts")
    assert (parts["numerator"] < 0).all()  # no replicate is the very same cells


def test_expression_error_does_not_depend_on_order_or_depth(cells):
    X, labels, predicted, predicted_labels, controls = cells
    expected = expression_error(*cells, space="counts")
    rows = np.random.default_rng(0).permutation(len(X))
    genes = np.random.default_rng(1).permutation(40)
    shuffled = expression_error(
        X[rows][:, genes],
        labels[rows],
        3 * predicted[:, genes],
        predicted_labels,
        controls[:, genes],
        space="counts",
    )
    pd.testing.assert_frame_equal(shuffled, expected)


def test_genes_match_by_name_and_targets_do_not_count(cells):
    X, labels, predicted, predicted_labels, controls = cells
    genes = ["A", "B", *GENES[2:]]
    X, controls = (pd.DataFrame(part, columns=genes) for part in (X, controls))
    guess = pd.DataFrame(predicted, columns=genes)
    options = {"space": "counts", "exclude": {"A": ["A"], "B": ["B"]}}
    found = expression_error(X, labels, guess.iloc[:, ::-1], predicted_labels, controls, **options)
    by_place = expression_error(X, labels, predicted, predicted_labels, controls, **options)
    pd.testing.assert_frame_equal(found, by_place)
    everything = expression_error(*cells, space="counts")
    assert found.loc["A+B"].tolist() == pytest.approx(everything.loc["A+B"].tolist())
    assert not np.isclose(found.loc[["A", "B"]], everything.loc[["A", "B"]]).any()
    with pytest.raises(ValueError, match="genes of true_cells in the same order"):
        expression_error(
            X, labels, guess, predicted_labels, controls.iloc[:, ::-1], space="counts"
        )


def test_one_cell_is_taken_to_have_no_noise(cells):
    X, labels, _, _, controls = cells
    means = np.array([X[labels == name].mean(0) for name in NAMES])
    parts = expression_error(X, labels, means, NAMES, controls, space="counts")
    exact = expression_error(X, labels, X, labels, controls, space="counts")
    np.testing.assert_allclose(2 * parts["numerator"], exact["numerator"])
    lonely = np.zeros((2, 40))
    lonely[0] = 3  # holds all counts
    noise = _pseudobulk._jackknife(lonely, "A")[1]
    assert np.isfinite(noise).all()


def test_no_response_has_no_error(cells):
    X, labels, predicted, predicted_labels, _ = cells
    error = expression_error(
        X[labels == "A"],
        labels[labels == "A"],
        predicted,
        predicted_labels,
        X[labels == "A"],
        space="counts",
        aggregate="pooled",
    )
    assert np.isnan(error)


def test_cells_that_have_no_error(cells):
    X, labels, predicted, predicted_labels, controls = cells
    rest = predicted, predicted_labels, controls
    with pytest.raises(ValueError, match="sums counts over cells"):
        expression_error(X, labels, *rest, space="lognorm")
    with pytest.raises(ValueError, match="space must be 'counts' or 'lognorm'"):
        expression_error(X, labels, *rest, space="CPM")
    known = predicted_labels != "A"
    some = predicted[known], predicted_labels[known], controls
    with pytest.raises(ValueError, match="predicted lacks 1 of 3 perturbations of true.* 'A'"):
        expression_error(X, labels, *some, space="counts")
    with pytest.raises(ValueError, match="the cells of 'A' have no counts"):
        expression_error(X * (labels != "A")[:, None], labels, *rest, space="counts")
    with pytest.raises(ValueError, match="control_cells have 39 genes, but true_cells 40"):
        expression_error(X, labels, *rest[:2], controls[:, 1:], space="counts")
    with pytest.raises(ValueError, match="all cells have the label 'control'"):
        expression_error(controls, ["control"] * 30, *rest, space="counts")
    with pytest.raises(ValueError, match="aggregate must be None or 'pooled', got 'mean'"):
        expression_error(X, labels, *rest, space="counts", aggregate="mean")


def test_cells_are_read_in_blocks(screen, monkeypatch):
    expected = de_table(*screen, space="counts")
    monkeypatch.setattr(reading, "MAX_ELEMENTS", 200)
    pd.testing.assert_frame_equal(de_table(*screen, space="counts").fdr, expected.fdr)
