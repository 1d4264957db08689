"""Profiles: known values, invariances, what is exact for constants and the truth, bad input."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.stats import ttest_ind
from sklearn.metrics import r2_score

from skpert.exceptions import DataWarning
from skpert.metrics import (
    _discrimination,
    ate_pearson,
    delta_pearson,
    direction_agreement,
    perturbation_discrimination,
    profile_pearson,
    response_mse,
    response_weights,
    weighted_mse,
    weighted_r2,
)

X = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, 1]])
Y = np.array([[1, 1], [2, 2], [1, 3], [0, 2], [3, 1]])
CONTROL = np.ones(4)
TRUE, PREDICTED = np.array([[2, 0.5, 1, 3]]), np.array([[1.5, 1.2, 1, 0.8]])
DISTANCES = pytest.mark.parametrize("distance", ["cosine", "l1", "euclidean"])


@pytest.fixture
def profiles():
    random = np.random.default_rng(0)
    names, genes = [f"P{p}" for p in range(7)], [f"gene {g}" for g in range(25)] + ["P0", "P1"]
    true = random.normal(5, 1, size=(7, 27))
    predicted = true + random.normal(size=true.shape)
    return pd.DataFrame(true, names, genes), pd.DataFrame(predicted, names, genes)


@pytest.fixture
def control():
    return np.random.default_rng(1).normal(5, 0.1, size=27)


def scores(true, predicted, control, **options):
    """All scores of profiles, by name."""
    weights = np.arange(1, true.shape[1] + 1)
    fractions = direction_agreement(true, predicted, reference=control, **options)
    return {
        "mse": response_mse(true, predicted, **options),
        "profile": profile_pearson(true, predicted, **options),
        "delta": delta_pearson(true, predicted, reference=control, **options),
        "same": fractions["same"],
        "opposite": fractions["opposite"],
        "pds": perturbation_discrimination(true, predicted, reference=control, **options),
        "weighted_mse": weighted_mse(true, predicted, weights),
        "weighted_r2": weighted_r2(true, predicted, weights, reference=control),
    }


@pytest.mark.parametrize("distance", ["cosine", "l1", "euclidean"])
def test_discrimination_of_many_is_that_of_few_at_a_time(monkeypatch, distance):
    random = np.random.default_rng(0)
    true, predicted, others = random.normal(size=(3, 30, 5))
    options = {"reference": 0, "distance": distance, "candidates": others}
    whole = perturbation_discrimination(true, predicted, **options)
    monkeypatch.setattr(_discrimination, "MAX_PAIRS", 7 * 60)
    assert whole.equals(perturbation_discrimination(true, predicted, **options))


def test_known_values():
    assert response_mse([X.mean(0)], [Y.mean(0)], aggregate="mean") == pytest.approx(0.9)
    r = profile_pearson(TRUE, PREDICTED, aggregate="mean")
    assert r == pytest.approx(-0.3146459268, abs=1e-10)
    fractions = direction_agreement(TRUE, PREDICTED, reference=CONTROL)
    assert fractions.iloc[0].to_dict() == {"same": 0.5, "opposite": 0.5}
    one_zero = direction_agreement(TRUE, [[1.5, 1.2, 1.1, 0.8]], reference=CONTROL)
    assert one_zero.iloc[0].to_dict() == {"same": 0.25, "opposite": 0.5}


def test_delta_pearson_is_the_correlation_of_effects(profiles, control):
    true, predicted = profiles
    r = delta_pearson(true, predicted, reference=control)
    expected = ate_pearson(true - control, predicted - control, average="perturbation")
    np.testing.assert_allclose(r, expected)
    differences = delta_pearson(true - control, predicted - control, reference=0)
    np.testing.assert_allclose(differences, expected)
    of_each = np.tile(control, (7, 1))
    np.testing.assert_array_equal(delta_pearson(true, predicted, reference=of_each), r)


def test_the_truth_has_the_best_scores(profiles, control):
    found = scores(profiles[0], profiles[0], control)
    best = {"mse": 0, "opposite": 0, "weighted_mse": 0}
    for name, score in found.items():
        assert score.to_numpy() == pytest.approx(np.full(7, best.get(name, 1))), name


def test_a_mean_response_correlates_but_does_not_discriminate(control):
    random = np.random.default_rng(0)
    shared = 2 * random.normal(size=27)
    true = control + shared + 0.5 * random.normal(size=(33, 27))
    mean = np.tile(true.mean(0), (33, 1))
    options = {"reference": control, "aggregate": "mean"}
    assert profile_pearson(true, mean, aggregate="mean") > 0.9
    assert delta_pearson(true, mean, **options) > 0.9
    assert perturbation_discrimination(true, mean, **options) == 0.5
    centred = delta_pearson(true, mean, reference=true.mean(0))
    assert np.isnan(centred).all()  # nothing is left to correlate


@DISTANCES
@pytest.mark.parametrize("scale", [0, 1e-3, 1, 100])
def test_a_constant_prediction_discriminates_at_exactly_one_half(distance, scale):
    true = np.random.default_rng(0).normal(5, 1, size=(9, 27))  # eighths are exact in binary
    true[3] = true[5]  # a tie
    constant = np.tile(scale * np.linspace(-1, 3, 27), (9, 1))
    mean = perturbation_discrimination(
        true, constant, reference=0, distance=distance, aggregate="mean"
    )
    assert mean == 0.5


def test_no_effect_is_as_near_to_all_by_cosine(profiles, control):
    nothing = np.tile(control, (7, 1))
    pds = perturbation_discrimination(profiles[0].to_numpy(), nothing, reference=control)
    assert pds.tolist() == [0.5] * 7


@DISTANCES
def test_discrimination_is_the_share_of_others_farther_away(profiles, control, distance):
    true, predicted = profiles
    pds = perturbation_discrimination(true, predicted, reference=control, distance=distance)
    norm = {"l1": 1, "euclidean": 2}.get(distance)
    for name, delta in (predicted - control).iterrows():
        others = true - control
        if norm is None:
            far = -(others @ delta) / np.linalg.norm(others, axis=1)
        else:
            far = pd.Series(np.linalg.norm(others - delta, norm, axis=1), others.index)
        assert pds[name] == pytest.approx((far > far[name]).sum() / 6)


def test_equal_responses_share_their_ranks():
    true = [[1, 0], [1, 0], [0, 1]]
    for distance in ("cosine", "l1", "euclidean"):
        pds = perturbation_discrimination(true, true, reference=0, distance=distance)
        assert pds.tolist() == [0.75, 0.75, 1]


def test_cosine_ignores_the_size_of_responses(profiles, control):
    true, predicted = (frame.to_numpy() for frame in profiles)
    scale = np.geomspace(1e-3, 1e3, 7)[:, None]
    inflated = control + scale * (predicted - control)
    for distance, same in (("cosine", True), ("l1", False)):
        both = [
            perturbation_discrimination(true, p, reference=control, distance=distance)
            for p in (predicted, inflated)
        ]
        assert both[0].equals(both[1]) == same


def test_centroid_accuracy_needs_no_reference(profiles, control):
    pds = [
        perturbation_discrimination(*profiles, reference=r, distance="euclidean")
        for r in (0, control, profiles[0].mean())
    ]
    pd.testing.assert_series_equal(pds[0], pds[1])
    pd.testing.assert_series_equal(pds[0], pds[2])


def test_candidates_are_further_profiles_to_rank_among(profiles, control):
    true, predicted = profiles
    options = {"reference": control}
    everything = perturbation_discrimination(true, predicted, **options)
    some = perturbation_discrimination(
        true[:3], predicted, candidates=true[3:].iloc[:, ::-1], **options
    )
    pd.testing.assert_series_equal(some, everything[:3])
    alone = perturbation_discrimination(true[:1], predicted, candidates=true[1:], **options)
    assert alone["P0"] == everything["P0"]


def test_names_and_not_places_match(profiles, control):
    true, predicted = profiles
    expected = scores(true, predicted, control)
    shuffled = predicted.iloc[::-1, ::-1].assign(other=1.0)
    reference = pd.Series(control, true.columns).iloc[::-1]
    for name, score in expected.items():
        if name.startswith("weighted"):
            continue
        pd.testing.assert_series_equal(scores(true, shuffled, reference)[name], score)
    of_each = pd.DataFrame(np.tile(control, (7, 1)), true.index, true.columns).iloc[::-1, ::-1]
    by_name = delta_pearson(true, shuffled, reference=of_each)
    pd.testing.assert_series_equal(by_name, expected["delta"])
    weights = pd.DataFrame(np.tile(np.arange(1, 28), (7, 1)), true.index, true.columns)
    mse = weighted_mse(true, shuffled, weights.iloc[::-1, ::-1])
    pd.testing.assert_series_equal(mse, expected["weighted_mse"])


def test_scores_do_not_depend_on_the_order_of_perturbations_and_genes(profiles, control):
    true, predicted = (frame.to_numpy() for frame in profiles)
    rows, columns = (
        np.random.default_rng(0).permutation(7),
        np.random.default_rng(1).permutation(27),
    )
    shuffled = scores(true[rows][:, columns], predicted[rows][:, columns], control[columns])
    for name, score in scores(true, predicted, control).items():
        if not name.startswith("weighted"):  # their weights are by place
            np.testing.assert_allclose(shuffled[name], score.to_numpy()[rows], err_msg=name)


def test_aggregates_leave_out_what_is_undefined(profiles, control):
    true, predicted = profiles
    predicted = predicted.copy()
    predicted.loc["P2"] = control
    r = delta_pearson(true, predicted, reference=control)
    assert np.isnan(r["P2"])
    for how in ("mean", "median"):
        value = delta_pearson(true, predicted, reference=control, aggregate=how)
        assert isinstance(value, float)
        assert value == pytest.approx(getattr(np, how)(r.drop("P2")))
    fractions = direction_agreement(true, predicted, reference=control, aggregate="mean")
    assert fractions.index.tolist() == ["same", "opposite"]


@pytest.mark.parametrize("exclude", ["targets", {"P0": ["P0"], "P1": "P1", "unknown": ["gene 1"]}])
def test_targets_do_not_count(profiles, control, exclude):
    true, predicted = profiles
    spoilt = predicted.copy()
    spoilt.loc["P0", "P0"] = spoilt.loc["P1", "P1"] = 1e3
    before = scores(true, predicted, control, exclude=exclude)
    after = scores(true, spoilt, control, exclude=exclude)
    for name in ("mse", "profile", "delta", "same", "opposite", "pds"):
        pd.testing.assert_series_equal(before[name], after[name])
    rest = list(true.columns[:25])
    own = rest if exclude == "targets" else [*rest, "P1"]  # a mapping is for each perturbation
    assert before["mse"]["P0"] == pytest.approx(
        ((true - predicted).loc["P0", own] ** 2).mean(), rel=1e-12
    )
    pds = perturbation_discrimination(true[rest], predicted[rest], reference=control[:25])
    pd.testing.assert_series_equal(before["pds"], pds)  # one set of genes for all


def test_parts_of_a_combination_are_targets():
    true = pd.DataFrame([[1.0, 2, 3, 4]], ["A+B"], ["A", "B", "C", "D"])
    assert response_mse(true, true + [9, 9, 1, 1], exclude="targets").tolist() == [1]


def test_weighted_scores_are_those_of_repeated_genes(profiles, control):
    true, predicted = (frame.to_numpy() for frame in profiles)
    weights = np.arange(27) % 4
    repeated = np.repeat(np.arange(27), weights)
    np.testing.assert_allclose(
        weighted_mse(true, predicted, weights),
        response_mse(true[:, repeated], predicted[:, repeated]),
    )
    r2 = weighted_r2(true, predicted, weights, reference=control)
    for p in range(7):
        expected = r2_score((true - control)[p, repeated], (predicted - control)[p, repeated])
        assert r2[p] == pytest.approx(expected)
    constant = weighted_r2(np.ones((2, 3)), np.zeros((2, 3)), [1, 1, 0], reference=0)
    assert np.isnan(constant).all()


@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_weights_are_squared_ranges_of_welch_statistics(form):
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(["control", "A", "B"], [20, 15, 9]))
    values = random.normal(size=(44, 6)) + (labels == "A")[:, None] * np.arange(6)
    values[:, 5] = 0.7  # never changes
    weights = response_weights(form(values), labels, space="lognorm")
    assert weights.index.tolist() == ["A", "B"]
    for name in "AB":
        inside = labels == name
        t = np.abs(ttest_ind(values[inside, :5], values[~inside, :5], equal_var=False).statistic)
        w = np.append(t / t.max(), 0) ** 2  # the constant gene has the smallest, 0
        np.testing.assert_allclose(weights.loc[name], w / w.sum(), atol=1e-12)


def test_counts_are_made_logarithmic_for_weights():
    random = np.random.default_rng(0)
    counts, labels = random.poisson(2, size=(30, 8)), np.repeat(["control", "A", "B"], 10)
    logs = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    pd.testing.assert_frame_equal(
        response_weights(counts, labels, space="counts"),
        response_weights(csr_array(logs), labels, space="lognorm"),
    )


def test_weights_of_perturbations_with_one_cell_are_unknown():
    values, labels = np.arange(10.0).reshape(5, 2), ["A", "A", "B", "control", "control"]
    with pytest.warns(DataWarning, match=r"one cell only \(1\), left out .* 'B'"):
        weights = response_weights(values, labels, space="lognorm")
    assert weights.index.tolist() == ["A"]
    with pytest.raises(ValueError, match="a perturbation of two cells"):
        response_weights(values[3:], labels[3:], space="lognorm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [[1, 2, 3]]), r"true has shape \(1, 2\) and predicted \(1, 3\)"),
        (([[1, np.nan]], [[1, 2]]), "true contains NaN"),
        ((pd.DataFrame([[1]], ["A"]), pd.DataFrame([[1]], ["B"])), "predicted lacks 1 of 1 pert"),
        ((pd.DataFrame([[1], [2]], ["A", "A"]),) * 2, "names of perturbations are not unique"),
        ((pd.DataFrame([[1, 2]], ["A"], ["g", "g"]),) * 2, "names of genes are not unique"),
    ],
)
def test_profiles_that_do_not_match(arguments, message):
    with pytest.raises(ValueError, match=message):
        response_mse(*arguments)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (None, "reference is None: give the mean of control cells"),
        ([1, 2], r"reference has shape \(2,\)"),
        ([1, 2, np.nan], "missing or infinite"),
        (pd.Series([1, 2], ["a", "b"]), "reference lacks 1 of 3 genes .* 'c'"),
    ],
)
def test_references_that_fit_no_profile(reference, message):
    true = pd.DataFrame([[1, 2, 3]], ["P"], list("abc"))
    with pytest.raises(ValueError, match=message):
        delta_pearson(true, true, reference=reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude": "own"}, "exclude must be None, 'targets' or a mapping, got 'own'"),
        ({"exclude": "targets"}, "exclude leaves out nothing"),
        ({"exclude": {"P": ["z"]}}, "exclude leaves out nothing"),
        ({"exclude": {"P": list("abc")}}, "exclude leaves no gene for 'P'"),
        ({"aggregate": "sum"}, "aggregate must be None, 'mean' or 'median', got 'sum'"),
    ],
)
def test_options_that_make_no_sense(options, message):
    true = pd.DataFrame([[1, 2, 3], [4, 5, 6]], ["P", "Q"], list("abc"))
    with pytest.raises(ValueError, match=message):
        response_mse(true, true, **options)
    with pytest.raises(ValueError, match="give true as a DataFrame"):
        response_mse([[1, 2]], [[1, 2]], exclude="targets")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "l3"}, "distance must be 'cosine', 'l1' or 'euclidean', got 'l3'"),
        ({"candidates": [[1, 2]]}, "candidates have 2 genes, but true has 3"),
        ({"candidates": pd.DataFrame([[1, 2, 3]], ["Q"], list("abc"))}, "repeat 1 pert.* 'Q'"),
        ({"candidates": [[1, 2, 3]], "reference": np.ones((2, 3))}, "one reference for all"),
        ({"exclude": {"P": ["a", "b"], "Q": ["c"]}}, "no gene that counts for all"),
    ],
)
def test_discrimination_that_makes_no_sense(options, message):
    true = pd.DataFrame([[1, 2, 3], [4, 5, 7]], ["P", "Q"], list("abc"))
    with pytest.raises(ValueError, match=message):
        perturbation_discrimination(true, true, **({"reference": 0} | options))
    with pytest.raises(ValueError, match="one perturbation only"):
        perturbation_discrimination([[1, 2]], [[1, 2]], reference=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], r"weights have shape \(2,\)"),
        ([1, -1, 1], "not negative"),
        ([0, 0, 0], "not all zero"),
        (pd.DataFrame([[1, 1, 1]], ["Q"], list("abc")), "weights lacks 1 of 1 perturbations"),
    ],
)
def test_weights_that_weigh_nothing(weights, message):
    true = pd.DataFrame([[1, 2, 3]], ["P"], list("abc"))
    with pytest.raises(ValueError, match=message):
        weighted_mse(true, true, weights)


def test_the_space_of_expression_is_never_guessed():
    with pytest.raises(TypeError, match="space"):
        response_weights([[1], [2]], ["A", "control"])
    with pytest.raises(ValueError, match="space must be 'counts' or 'lognorm'.* got 'log'"):
        response_weights([[1], [2]], ["A", "control"], space="log")
    with pytest.raises(ValueError, match="counts cannot be negative"):
        response_weights([[1], [-2]], ["A", "control"], space="counts")
