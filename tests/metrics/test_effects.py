"""Agreement of effects against scipy and scikit-learn, by hand, and under changes of scale."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from skpert.metrics import ate_pearson, ate_r2
from skpert.metrics.cells import log_relative_counts

SCORES = pytest.mark.parametrize("score", [ate_pearson, ate_r2])
GENES = [f"gene {g}" for g in range(30)]


@pytest.fixture
def effects():
    random = np.random.default_rng(0)
    true = random.normal(size=(6, 30)) * np.arange(1, 7)[:, None]
    noisy = 0.7 * true + random.normal(size=true.shape)
    names = [f"P{p}" for p in range(6)]
    return pd.DataFrame(true, names, GENES), pd.DataFrame(noisy, names, GENES)


def test_pooled_scores_are_those_of_all_values(effects):
    true, predicted = (effect.to_numpy().ravel() for effect in effects)
    assert ate_pearson(*effects) == pytest.approx(pearsonr(true, predicted).statistic)
    assert ate_r2(*effects) == pytest.approx(r2_score(true, predicted))


def test_scores_by_perturbation_are_those_of_its_genes(effects):
    r, r2 = (score(*effects, average="perturbation") for score in (ate_pearson, ate_r2))
    assert r.index.tolist() == r2.index.tolist() == effects[0].index.tolist()
    for name in r.index:
        true, predicted = (effect.loc[name] for effect in effects)
        assert r[name] == pytest.approx(pearsonr(true, predicted).statistic)
        assert r2[name] == pytest.approx(r2_score(true, predicted))


def test_the_measured_effect_decides_which_genes_are_the_top():
    true = [[3.0, -4, 1, 0], [0, 1, -2, 9]]
    predicted = [[1.0, 2, 99, 99], [99, 99, 3, 4]]
    assert ate_pearson(true, predicted, top=2) == pytest.approx(
        pearsonr([-4, 3, 9, -2], [2, 1, 4, 3]).statistic
    )
    by_row = ate_pearson(true, predicted, top=2, average="perturbation")
    assert by_row.round(9).tolist() == [-1, 1]


@SCORES
def test_all_genes_are_the_top_of_as_many(score, effects):
    assert score(*effects, top=30) == pytest.approx(score(*effects))


@SCORES
def test_the_truth_scores_one(score, effects):
    assert score(effects[0], effects[0]) == pytest.approx(1)
    assert score(effects[0], effects[0], average="perturbation").to_list() == pytest.approx(
        [1] * 6
    )


def test_scale_and_offset_matter_to_r2_only(effects):
    true, predicted = effects
    changed = 5 * predicted + 2
    assert ate_pearson(true, changed) == pytest.approx(ate_pearson(true, predicted))
    assert ate_r2(true, changed) < ate_r2(true, predicted)
    mean = np.full(true.shape, true.to_numpy().mean())
    assert ate_r2(true, mean) == pytest.approx(0)
    assert ate_r2(3 * true + 1, 3 * predicted + 1) == pytest.approx(ate_r2(true, predicted))


@SCORES
def test_frames_are_matched_by_name(score, effects):
    true, predicted = effects
    more = pd.concat([predicted, predicted.rename(index=lambda name: name + "x")])
    shuffled = more.sample(frac=1, random_state=0).sample(frac=1, axis=1, random_state=0)
    assert score(true, shuffled) == score(true, predicted)
    order = true.index[::-1]
    by_row = score(true.loc[order], shuffled, average="perturbation")
    pd.testing.assert_series_equal(by_row, score(true, predicted, average="perturbation")[order])
    arrays = score(true.to_numpy(), predicted.to_numpy(), average="perturbation")
    np.testing.assert_array_equal(arrays[::-1], by_row)


def test_what_is_constant_has_no_score():
    true, predicted = (
        [[1.0, 2, 3], [0.1, 0.1, 0.1], [1, 2, 3]],
        [[1.0, 2, 3], [1, 2, 3], [5, 5, 5]],
    )
    r = ate_pearson(true, predicted, average="perturbation")
    np.testing.assert_allclose(r, [1, np.nan, np.nan])
    r2 = ate_r2(true, predicted, average="perturbation")
    np.testing.assert_allclose(r2, [1, np.nan, 1 - (16 + 9 + 4) / 2])
    assert np.isnan(ate_pearson([[1, 1], [1, 1]], [[1, 2], [3, 4]]))


@SCORES
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda true, e: (true, e.drop("P2")), "lacks 1 of 6 perturbations .* the first 'P2'"),
        (lambda true, e: (true, e.drop(columns="gene 3")), "lacks 1 of 30 genes"),
        (lambda true, e: (true, pd.concat([e, e])), "perturbations are not unique"),
        (lambda true, e: (true, e.to_numpy()[:5]), r"shape \(6, 30\) and effect \(5, 30\)"),
        (lambda true, e: (true, e.where(e > 0)), "effect contains NaN"),
        (lambda true, e: (true.loc["P0"], e.loc["P0"]), "Expected a 2-dimensional"),
    ],
)
def test_effects_that_do_not_match_are_told(score, change, message, effects):
    with pytest.raises(ValueError, match=message):
        score(*change(*effects))


@SCORES
def test_bad_options_are_told(score, effects):
    for top in (0, 31, 2.5):
        with pytest.raises(ValueError, match="top must be an integer from 1 to n_genes=30"):
            score(*effects, top=top)
    with pytest.raises(ValueError, match="average must be 'pooled' or 'perturbation'"):
        score(*effects, average="macro")


def test_log_relative_counts_by_hand():
    X = np.array([[1, 3, 6], [0, 0, 0], [0, 5, 5]])
    Y, counted = log_relative_counts(X)
    assert counted.tolist() == [True, False, True]
    np.testing.assert_allclose(Y[0], np.log2([1001, 3001, 6001]))
    np.testing.assert_allclose(Y[1:], [[0, 0, 0], [0, np.log2(5001), np.log2(5001)]])
    sparse, same = log_relative_counts(csr_array(X))
    np.testing.assert_array_equal(sparse.toarray(), Y)
    np.testing.assert_array_equal(same, counted)


def test_known_log_relative_counts():
    control, treated = (
        log_relative_counts(np.array(X))[0].mean(0)
        for X in ([[1, 3, 6], [0, 5, 5]], [[4, 4, 2], [2, 2, 0]])
    )
    expected = [7.1434597721, 0.2074586549, -6.9362413262]
    np.testing.assert_allclose(treated - control, expected, rtol=0, atol=1e-10)
