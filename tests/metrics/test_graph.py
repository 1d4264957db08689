import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support

from skpert.metrics import graph_scores, match_latents, top_k_mask

MASK_TRUE = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]])
MASK = np.array([[0, 0, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0]])


def test_known_scores_under_the_best_matching():
    assert graph_scores(MASK_TRUE, MASK) == pytest.approx(
        {"precision": 0.8, "recall": 0.8, "f1": 0.8}
    )


def test_given_matching_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    mask_true, mask = rng.random((2, 30, 5)) < 0.3
    match = rng.permutation(5)
    scores = graph_scores(mask_true, mask, match=match)
    expected = precision_recall_fscore_support(
        mask_true.ravel(), mask[:, match].ravel(), average="binary"
    )
    assert [scores.precision, scores.recall, scores.f1] == pytest.approx(list(expected[:3]))


def test_flipped_latents_keep_their_edges():
    Z_true = np.array([[0.0, 1, 2], [1, 0, 1], [2, 3, 0], [3, 1, 1], [4, 5, 5], [0, 2, 1]])
    Z = np.column_stack([-2 * Z_true[:, 2] + 1, 3 * Z_true[:, 0], -(Z_true[:, 1] ** 3)])
    mask_true = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]])
    mask = mask_true[:, [2, 0, 1]]  # the true graph, columns in the order of Z
    assert graph_scores(mask_true, mask, match=match_latents(Z_true, Z)).f1 == 1
    signed = [1, 0, 2]  # what maximising signed correlations would match
    assert graph_scores(mask_true, mask, match=signed).f1 == 0.25


def test_best_matching_does_not_depend_on_the_order_of_latents():
    rng = np.random.default_rng(1)
    mask_true, mask = rng.random((2, 40, 6)) < 0.2
    scores = graph_scores(mask_true, mask)
    assert graph_scores(mask_true, mask[:, rng.permutation(6)]) == scores
    assert graph_scores(mask_true[:, rng.permutation(6)], mask) == scores
    assert graph_scores(mask_true, mask_true[:, ::-1]).f1 == 1


def test_unmatched_edges_are_missed_or_wrong():
    mask_true = [[1, 0], [1, 1], [0, 1]]
    assert graph_scores(mask_true, [[1], [1], [0]]) == pytest.approx(
        {"precision": 1, "recall": 0.5, "f1": 2 / 3}
    )
    surplus = [[1, 0, 1], [1, 1, 1], [0, 1, 0]]
    assert graph_scores(mask_true, surplus, match=[0, 1]) == pytest.approx(
        {"precision": 4 / 6, "recall": 1, "f1": 0.8}
    )
    assert graph_scores(mask_true, surplus, match=[0, -1]) == pytest.approx(
        {"precision": 2 / 6, "recall": 0.5, "f1": 0.4}
    )


def test_dense_guess_has_perfect_recall_and_the_density_as_precision():
    scores = graph_scores(MASK_TRUE, np.ones((4, 3)))
    assert scores == pytest.approx({"precision": 5 / 12, "recall": 1, "f1": 10 / 17})


@pytest.mark.parametrize("scale", [(0, 1), (1, 0), (0, 0)])
def test_empty_graphs_score_zero(scale):
    scores = graph_scores(scale[0] * MASK_TRUE, scale[1] * MASK)
    assert scores == {"precision": 0, "recall": 0, "f1": 0}


def test_random_graph_scores_at_chance():
    rng = np.random.default_rng(2)
    mask_true, mask = rng.random((2, 5000, 4)) < 0.25
    scores = graph_scores(mask_true, mask, match=range(4))
    assert scores.precision == pytest.approx(0.25, abs=0.02)
    assert scores.recall == pytest.approx(0.25, abs=0.02)


def test_data_frames_are_masks_too():
    assert graph_scores(pd.DataFrame(MASK_TRUE), pd.DataFrame(MASK > 0)).f1 == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("mask", "match", "message"),
    [
        (MASK[1:], None, "mask_true has 4 rows and mask 3"),
        (MASK * 0.7, None, "mask must hold only 0 and 1: threshold"),
        (np.where(MASK, np.nan, 0), None, "Input mask contains NaN"),
        (MASK[0], None, "Expected 2D array"),
        (MASK, [0, 1], "match must hold 3 whole numbers"),
        (MASK, [0.0, 1.0, 2.0], "match must hold 3 whole numbers"),
        (MASK, [0, 1, 3], r"match must lie in \[-1, 3\)"),
        (MASK, [0, 1, -2], r"match must lie in \[-1, 3\)"),
        (MASK, [0, 1, 1], "takes a column of mask twice"),
    ],
)
def test_unusable_graphs_are_errors(mask, match, message):
    with pytest.raises(ValueError, match=message):
        graph_scores(MASK_TRUE, mask, match=match)


def test_top_entries_are_the_largest_in_absolute_value():
    embedding = np.random.default_rng(0).normal(size=(50, 7))
    mask = top_k_mask(embedding, k=3)
    assert (mask.sum(axis=1) == 3).all()
    weakest_in = np.where(mask, np.abs(embedding), np.inf).min(axis=1)
    strongest_out = np.where(mask, 0, np.abs(embedding)).max(axis=1)
    assert (weakest_in > strongest_out).all()
    assert np.array_equal(mask, top_k_mask(-embedding, k=3))


def test_top_entries_are_two_by_default_and_ties_go_to_the_first():
    assert top_k_mask([[1, -1, 1, 1]]).tolist() == [[True, True, False, False]]


def test_top_entries_never_include_zeros_and_may_be_all():
    assert top_k_mask([[0.0, 0.0], [0.0, 3.0]]).tolist() == [[False, False], [False, True]]
    assert top_k_mask([[0.5], [-2.0]], k=2).tolist() == [[True], [True]]


def test_top_entries_need_a_number():
    with pytest.raises(ValueError, match="k == 0"):
        top_k_mask([[1.0]], k=0)
    with pytest.raises(ValueError, match="embedding contains NaN"):
        top_k_mask([[np.nan]])
