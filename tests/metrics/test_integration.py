import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import chisquare, hypergeom, ortho_group
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from skpert.metrics import (
    graph_connectivity,
    integration_scores,
    isolated_label_score,
    kbet,
    kmeans_agreement,
    pcr_comparison,
    principal_component_regression,
    silhouette_batch,
    silhouette_label,
)
from skpert.metrics._integration import with_means


def all_scores(Z, labels, batch):
    """Every score of the module, by name."""
    scores = integration_scores(Z, labels, batch, random_state=0)
    f1 = isolated_label_score(Z, labels, batch, method="f1", random_state=0)
    variance = principal_component_regression(Z, batch)
    return pd.concat([scores, pd.Series({"f1": f1, "variance": variance})])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def cells(rng):
    """Embedding, labels and batches of 240 cells; "NK" has no cell of batch "c"."""
    labels = rng.choice(["T", "B", "NK"], size=240, p=[0.5, 0.3, 0.2])
    batch = rng.choice(["a", "b", "c"], size=240)
    batch[(labels == "NK") & (batch == "c")] = "a"
    Z = rng.normal(size=(240, 4)) + 5 * np.eye(4)[pd.factorize(labels, sort=True)[0]]
    return Z + 0.5 * (batch == "a")[:, None], labels, batch


@pytest.fixture
def mixed(rng):
    """1000 cells of one label, of two batches at random."""
    return rng.normal(size=(1000, 3)), np.zeros(1000), rng.integers(2, size=1000)


def naive_silhouettes(Z, labels):
    """Silhouettes from the matrix of all distances."""
    distance, names = cdist(Z, Z), np.unique(labels)
    member = labels[:, None] == names
    sums, sizes = distance @ member, member.sum(axis=0)
    own = sums[member] / np.maximum(member @ sizes - 1, 1)
    nearest = np.where(member, np.inf, sums / sizes).min(axis=1)
    widths = (nearest - own) / np.maximum(nearest, own)
    return np.where(member @ sizes > 1, widths, 0)


def test_the_total_of_the_scores_printed_for_scanvi():
    printed = {
        "graph_connectivity": 0.93,
        "isolated_labels": 0.48,
        "kmeans_nmi": 0.73,
        "kmeans_ari": 0.57,
        "silhouette_label": 0.59,
        "silhouette_batch": 0.92,
        "kbet": 0.67,
    }
    scores = with_means(printed)
    assert scores["bio_conservation"] == pytest.approx(0.5925)
    assert scores["batch_correction"] == pytest.approx(0.84)
    assert scores["total"] == pytest.approx(0.6915)  # .69 in print
    assert scores[list(printed)].to_dict() == printed


def test_scores_are_those_of_the_single_functions(cells):
    Z, labels, batch = cells
    agreement = kmeans_agreement(Z, labels, random_state=3)
    scores = integration_scores(Z, labels, batch, n_neighbors=8, random_state=3)
    assert scores.iloc[:7].to_dict() == {
        "isolated_labels": isolated_label_score(Z, labels, batch),
        "kmeans_nmi": agreement["nmi"],
        "kmeans_ari": agreement["ari"],
        "silhouette_label": silhouette_label(Z, labels),
        "silhouette_batch": silhouette_batch(Z, labels, batch),
        "kbet": kbet(Z, labels, batch),
        "graph_connectivity": graph_connectivity(Z, labels, n_neighbors=8),
    }


def test_rotation_offset_and_scale_do_not_matter(cells):
    Z, labels, batch = cells
    moved = 1e-3 * Z @ ortho_group.rvs(4, random_state=0) + [1, -2, 50, 0]
    expected = all_scores(Z, labels, batch)
    assert all_scores(moved, labels, batch).to_dict() == pytest.approx(expected.to_dict())
    assert all_scores(1e160 * Z, labels, batch).to_dict() == pytest.approx(expected.to_dict())


def test_order_of_cells_does_not_matter(cells, rng):
    order = rng.permutation(240)
    expected = all_scores(*cells).to_dict()
    assert all_scores(*(part[order] for part in cells)).to_dict() == pytest.approx(expected)


def test_names_do_not_matter(cells):
    Z, labels, batch = cells
    frame = pd.DataFrame({"type": labels, "lane": batch}, index=range(7, 247)).astype("category")
    frame["type"] = frame["type"].cat.add_categories("absent")
    numbers = pd.Series(batch).map({"a": 3, "b": -1, "c": 10}).to_numpy()
    expected = all_scores(Z, labels, batch).to_dict()
    assert all_scores(pd.DataFrame(Z), frame["type"], frame["lane"]).to_dict() == expected
    assert all_scores(Z.tolist(), np.char.add("z", labels), numbers).to_dict() == expected


def test_noise_is_within_bounds_and_at_chance(rng):
    Z = rng.normal(size=(900, 5))
    scores = all_scores(Z, rng.integers(3, size=900), rng.integers(3, size=900))
    assert scores.drop("kmeans_ari").between(0, 1).all()
    assert scores["kmeans_ari"] == pytest.approx(0, abs=0.02)
    assert scores["kmeans_nmi"] == pytest.approx(0, abs=0.02)
    assert scores["silhouette_label"] == pytest.approx(0.5, abs=0.02)
    assert scores["kbet"] == pytest.approx(0.95, abs=0.03)
    assert scores["variance"] == pytest.approx(2 / 899, abs=2e-3)


def test_k_means_follows_its_seed(rng):
    Z, labels = rng.normal(size=(200, 6)), rng.integers(8, size=200)
    nmi = [kmeans_agreement(Z, labels, random_state=seed)["nmi"] for seed in (0, 0, 1)]
    assert nmi[0] == nmi[1] != nmi[2]


def test_separate_labels_are_found_whole(cells):
    _, labels, batch = cells
    Z = np.column_stack([labels == "T", labels == "B"]) + np.arange(240)[:, None] * 1e-6
    scores = all_scores(Z, labels, batch)
    assert scores[["kmeans_nmi", "kmeans_ari", "f1"]].tolist() == pytest.approx([1, 1, 1])
    assert scores[["silhouette_label", "isolated_labels"]].min() > 0.9999


@pytest.mark.parametrize("n_cells", [60, 3500])  # one block of distances, and more than one
def test_silhouettes_in_blocks_are_those_of_the_whole_matrix(n_cells, rng):
    Z, labels = 100 + rng.normal(size=(n_cells, 5)), rng.integers(4, size=n_cells)
    labels[7] = 4  # one cell of its own, with a silhouette of 0
    Z += 0.3 * labels[:, None]
    widths = naive_silhouettes(Z, labels)
    assert silhouette_label(Z, labels) == pytest.approx((widths.mean() + 1) / 2, abs=1e-12)
    isolated = isolated_label_score(Z, labels, batch=np.arange(n_cells) % 2)
    assert isolated == pytest.approx(0.5)  # the single cell is in one batch, others in two


def test_isolated_labels_are_those_in_the_fewest_batches(cells):
    Z, labels, batch = cells
    widths = naive_silhouettes(Z, labels)  # "NK" in two batches, others in three
    expected = (widths[labels == "NK"].mean() + 1) / 2
    assert isolated_label_score(Z, labels, batch) == pytest.approx(expected)
    batch = np.where(labels == "B", "a", batch)
    assert isolated_label_score(Z, labels, batch) == pytest.approx(
        (widths[labels == "B"].mean() + 1) / 2
    )


def test_labels_count_alike_if_all_are_equally_isolated(cells):
    Z, labels, _ = cells
    widths = pd.Series((naive_silhouettes(Z, labels) + 1) / 2).groupby(labels).mean()
    everywhere = np.arange(240) % 2
    assert isolated_label_score(Z, labels, everywhere) == pytest.approx(widths.mean())


def test_f1_of_an_isolated_label_counts_lost_and_foreign_cells():
    Z = [[0.0]] * 6 + [[9.0]] * 4
    labels = ["B"] * 5 + ["T"] * 2 + ["B"] * 3  # T: one of six cells here, and one of four there
    score = isolated_label_score(
        Z, labels, batch=["a"] * 5 + ["b"] * 2 + ["b"] * 3, method="f1", random_state=0
    )
    assert score == pytest.approx(2 * 1 / (2 + 4))


def test_separate_batches_are_not_mixed(rng):
    Z = rng.normal(size=(300, 2))
    batch, labels = np.arange(300) % 3, np.zeros(300)
    apart = Z + 1e4 * np.eye(3)[batch][:, :2]
    assert silhouette_batch(apart, labels, batch) < 1e-3
    assert kbet(apart, labels, batch) == 0
    assert principal_component_regression(apart, batch) > 0.9999


def test_batches_in_the_same_places_are_mixed(rng):
    Z, batch, labels = np.repeat(rng.normal(size=(100, 2)), 2, axis=0), [0, 1] * 100, ["T"] * 200
    assert silhouette_batch(Z, labels, batch) > 0.98
    assert kbet(Z, labels, batch) == 1
    assert principal_component_regression(Z, batch) == pytest.approx(0)


def test_batch_silhouette_by_the_formula(cells):
    Z, labels, batch = cells
    expected = np.mean(
        [
            1 - np.abs(naive_silhouettes(Z[labels == label], batch[labels == label])).mean()
            for label in np.unique(labels)
        ]
    )
    assert silhouette_batch(Z, labels, batch) == pytest.approx(expected)


def test_overlap_in_pairs_misleads_the_batch_silhouette_only(rng):
    batch, labels = np.arange(400) % 4, np.zeros(400)
    Z = rng.normal(size=(400, 3)) + 1e3 * (batch < 2)[:, None]
    assert silhouette_batch(Z, labels, batch) > 0.95
    assert kbet(Z, labels, batch) == 0


@pytest.mark.parametrize("score", [silhouette_batch, kbet])
def test_labels_that_say_nothing_on_batches_are_left_out(score, cells, rng):
    Z, labels, batch = cells
    lonely = rng.normal(size=(22, 4))  # 20 cells of one batch; one cell of either batch
    extended = (
        np.concatenate([Z, lonely]),
        np.concatenate([labels, ["plasma"] * 20, ["mast"] * 2]),
        np.concatenate([batch, ["d"] * 20, ["a", "b"]]),
    )
    assert score(*extended) == pytest.approx(score(*cells), rel=1e-12)


def test_kbet_is_the_share_of_chi_square_tests_that_accept(cells):
    Z, labels, batch = cells
    shares = []
    for label in ("T", "B", "NK"):
        z, b = Z[labels == label], pd.get_dummies(batch[labels == label]).to_numpy(float)
        size = 1 + min(70, max(10, len(z) // b.shape[1] // 4))
        nearest = cdist(z, z).argsort(axis=1)[:, :size]  # the cell itself is the first
        tests = chisquare(b[nearest].sum(axis=1), size * b.mean(axis=0)[None], axis=1)
        shares.append((tests.pvalue >= 0.05).mean())
    assert kbet(Z, labels, batch) == pytest.approx(np.mean(shares))
    assert 0 < np.mean(shares) < 1


@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_kbet_accepts_random_batches_as_often_as_their_distribution_says(alpha, mixed, rng):
    Z, labels, batch = mixed
    found = [kbet(Z, labels, rng.permutation(batch), alpha=alpha) for _ in range(10)]
    n, k, n_first = 1000, 71, np.bincount(batch)[0]  # draws of 71 cells, without replacement
    first = np.arange(k + 1)
    expected = np.array([n_first, n - n_first]) * k / n
    accepted = chisquare([first, k - first], expected[:, None]).pvalue >= alpha
    probability = hypergeom(n, n_first, k).pmf(first)[accepted].sum()
    assert np.mean(found) == pytest.approx(probability, abs=0.03)


def test_larger_neighbourhoods_see_smaller_shifts_of_batches(mixed):
    Z, labels, batch = mixed
    shifted = Z + 0.5 * batch[:, None]
    scores = [kbet(shifted, labels, batch, n_neighbors=size) for size in (10, 50, 200)]
    assert scores[0] > scores[1] > scores[2]


def test_a_label_that_is_one_neighbourhood_is_not_tested(mixed):
    Z, labels, batch = (part[:100] for part in mixed)
    apart = np.repeat([[0.0], [9.0]], 6, axis=0)[:-1] * np.ones(3)  # 11 cells in two batches
    with_few = np.concatenate([Z, apart]), np.r_[labels, [1] * 11], np.r_[batch, [0] * 6, [1] * 5]
    assert kbet(*with_few) == kbet(Z, labels, batch)
    assert kbet(*with_few, n_neighbors=5) == kbet(Z, labels, batch, n_neighbors=5) / 2


def test_connectivity_is_the_mean_share_of_the_largest_part(rng):
    centres = np.repeat([0, 100, 200, 300], [30, 70, 40, 1])  # "T" is broken in 30 and 70
    labels = np.repeat(["T", "B", "NK"], [100, 40, 1])
    Z = centres[:, None] + rng.normal(size=(141, 2))
    assert graph_connectivity(Z, labels) == pytest.approx((0.7 + 1 + 1) / 3)


def test_other_labels_in_between_break_connections():
    Z = np.arange(100.0)[:, None] ** 1.001  # nearest neighbours on a line, without ties
    assert graph_connectivity(Z, ["T"] * 100, n_neighbors=5) == 1
    labels = np.where(np.arange(100) % 10 < 5, "T", "B")  # stretches of five
    assert graph_connectivity(Z, labels, n_neighbors=5) == pytest.approx(0.1)


def test_a_cell_that_no_other_points_to_is_not_connected():
    Z = np.append(np.arange(20.0) ** 1.01, 1000.0)[:, None]
    assert graph_connectivity(Z, ["T"] * 21, n_neighbors=5) == pytest.approx(20 / 21)


def test_variance_of_batches_is_that_of_regressed_components(cells):
    Z, _, batch = cells
    components = PCA().fit_transform(Z)
    indicators = pd.get_dummies(batch)
    fitted = LinearRegression().fit(indicators, components).predict(indicators)
    r2 = r2_score(components, fitted, multioutput="raw_values")
    expected = np.average(r2, weights=components.var(axis=0))
    assert principal_component_regression(Z, batch) == pytest.approx(expected)


def test_comparison_is_the_share_of_batch_variance_removed(cells, rng):
    Z, _, batch = cells
    means = pd.DataFrame(Z).groupby(batch).transform("mean").to_numpy()
    assert pcr_comparison(Z, Z - means, batch) == pytest.approx(1)
    assert pcr_comparison(Z, Z, batch) == pytest.approx(0)
    assert pcr_comparison(Z - 0.5 * means, Z + means, batch) == 0  # more than before
    wide = np.column_stack([Z, rng.normal(size=(240, 3))])
    shares = [principal_component_regression(part, batch) for part in (wide, Z - 0.5 * means)]
    assert pcr_comparison(wide, Z - 0.5 * means, batch) == pytest.approx(1 - shares[1] / shares[0])


@pytest.mark.parametrize(
    "score", [integration_scores, silhouette_batch, kbet, isolated_label_score]
)
def test_scores_of_batches_refuse_what_they_cannot_compare(score, cells):
    Z, labels, batch = cells
    with pytest.raises(ValueError, match="batch is 'a' for all cells"):
        score(Z, labels, ["a"] * 240)
    with pytest.raises(ValueError, match=r"batch must hold one name .* 240 cells, .* \(239,\)"):
        score(Z, labels, batch[1:])
    with pytest.raises(ValueError, match="labels is missing for 2 cells, first 4"):
        score(Z, pd.Series(labels).where(~np.isin(np.arange(240), [4, 9])), batch)
    with pytest.raises(ValueError, match="Input Z contains NaN"):
        score(np.where(Z > 5, np.nan, Z), labels, batch)
    with pytest.raises(ValueError, match="Z is the same for all 240 cells"):
        score(np.full((240, 4), 0.1), labels, batch)


@pytest.mark.parametrize("score", [silhouette_label, kmeans_agreement])
def test_scores_of_labels_refuse_what_they_cannot_compare(score, cells):
    Z, labels, _ = cells
    with pytest.raises(ValueError, match="labels is 'T' for all cells"):
        score(Z, ["T"] * 240)
    with pytest.raises(ValueError, match="each of the 240 cells has a label of its own"):
        score(Z, np.arange(240))
    with pytest.raises(ValueError, match="labels must hold one name"):
        score(Z, labels[:, None])
    with pytest.raises(ValueError, match="Expected 2D array"):
        score(Z[:, 0], labels)


@pytest.mark.parametrize("score", [integration_scores, silhouette_batch, kbet])
def test_labels_that_are_batches_leave_nothing_to_score(score, cells):
    Z, labels, _ = cells
    with pytest.raises(ValueError, match="no label has"):
        score(Z, labels, labels)


def test_variance_refuses_what_it_cannot_explain(cells):
    Z, _, batch = cells
    with pytest.raises(ValueError, match="batch is 'a' for all cells"):
        principal_component_regression(Z, ["a"] * 240)
    with pytest.raises(ValueError, match="Z_before has 239 cells and Z has 240"):
        pcr_comparison(Z[1:], Z, batch)
    with pytest.raises(ValueError, match="batches explain nothing of Z_before"):
        pcr_comparison([[0], [1], [0], [1]], [[0], [1], [2], [3]], list("aabb"))


def test_options_out_of_range_are_errors(cells):
    Z, labels, batch = cells
    with pytest.raises(ValueError, match="n_neighbors=241, and there are only 240 cells"):
        graph_connectivity(Z, labels, n_neighbors=241)
    with pytest.raises(ValueError, match="n_neighbors == 1, must be >= 2"):
        kbet(Z, labels, batch, n_neighbors=1)
    with pytest.raises(ValueError, match="n_neighbors=500"):
        integration_scores(Z, labels, batch, n_neighbors=500)
    with pytest.raises(ValueError, match="alpha == 1"):
        kbet(Z, labels, batch, alpha=1)
    with pytest.raises(ValueError, match="more of them than a neighbourhood, which is 240"):
        kbet(Z, labels, batch, n_neighbors=240)
    with pytest.raises(ValueError, match="'silhouette' or 'f1', got 'ASW'"):
        isolated_label_score(Z, labels, batch, method="ASW")
