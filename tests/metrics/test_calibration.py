"""Calibrated scores: ends of the scale, either direction, labels, what is undefined."""

import numpy as np
import pandas as pd
import pytest

from skpert.metrics import calibrate

PERTURBATIONS = ["JAK2", "KLF1", "TP53"]
VALUE = pd.Series([0.5, 0.8, 0.1], PERTURBATIONS, name="r")
FLOOR = pd.Series([0.2, 0.4, 0.3], PERTURBATIONS)
CEILING = pd.Series([0.8, 0.6, 0.7], PERTURBATIONS)
EXPECTED = pd.Series([0.5, 2.0, -0.5], PERTURBATIONS, name="r")
METRICS = pd.DataFrame(
    {"mse": [0.3, 0.1, 0.9], "pearson": [0.4, 0.6, 0.1]}, index=["linear", "vae", "constant"]
)


@pytest.mark.parametrize(("floor", "ceiling"), [(0.2, 0.9), (0.9, 0.2), (-3.0, 5.0)])
def test_the_ends_of_the_scale_are_floor_and_ceiling(floor, ceiling):
    assert calibrate(floor, floor, ceiling) == 0.0
    assert calibrate(ceiling, floor, ceiling) == 1.0
    assert calibrate((floor + ceiling) / 2, floor, ceiling) == pytest.approx(0.5)
    assert type(calibrate(1, 0, 2)) is float


def test_nothing_is_clipped():
    span = np.array([-4.0, -1.0, 2.0, 10.0])
    np.testing.assert_allclose(calibrate(3 + 2 * span, 3, 5), span)  # higher is better
    np.testing.assert_allclose(calibrate(3 - 2 * span, 3, 1), span)  # an error


def test_the_unit_and_sign_of_a_metric_do_not_matter():
    value, floor, ceiling = np.random.default_rng(0).normal(size=(3, 8))
    expected = calibrate(value, floor, ceiling)
    for a, b in [(1000.0, 0.0), (-1.0, 0.0), (0.5, 3.0)]:
        np.testing.assert_allclose(
            calibrate(a * value + b, a * floor + b, a * ceiling + b), expected
        )


def test_arrays_broadcast():
    value, floor, ceiling = np.arange(6.0).reshape(2, 3), [0.0, 1.0, 2.0], [[4.0], [8.0]]
    expected = [
        [calibrate(value[i, j], floor[j], ceiling[i][0]) for j in range(3)] for i in (0, 1)
    ]
    np.testing.assert_allclose(calibrate(value, floor, ceiling), expected)
    np.testing.assert_allclose(calibrate(3.0, floor, 9.0), [1 / 3, 1 / 4, 1 / 7])


@pytest.mark.parametrize(
    ("floor", "ceiling"), [(0.5, 0.5), (np.nan, 1.0), (0.5, np.nan), (np.inf, np.inf)]
)
def test_what_is_undefined_is_nan(floor, ceiling):
    assert np.isnan(calibrate(0.7, floor, ceiling))
    np.testing.assert_array_equal(
        calibrate([0.5, 2.0], [floor, 0.0], [ceiling, 4.0]), [np.nan, 0.5]
    )
    assert np.isnan(calibrate(np.nan, 0.0, 1.0))


def test_series_are_matched_by_label():
    pd.testing.assert_series_equal(calibrate(VALUE, FLOOR, CEILING), EXPECTED)
    shuffled = calibrate(VALUE, FLOOR.iloc[[2, 0, 1]], CEILING[::-1])
    pd.testing.assert_series_equal(shuffled, EXPECTED)
    pd.testing.assert_series_equal(calibrate(VALUE, FLOOR.to_numpy(), CEILING), EXPECTED)
    pd.testing.assert_series_equal(
        calibrate(0.5, FLOOR, 1.0), pd.Series([0.375, 1 / 6, 2 / 7], PERTURBATIONS)
    )


def test_tables_are_matched_by_both_labels():
    floor, ceiling = METRICS * 0 + [1.0, 0.0], METRICS * 0 + [0.0, 0.8]
    expected = pd.DataFrame(
        {"mse": [0.7, 0.9, 0.1], "pearson": [0.5, 0.75, 0.125]}, index=METRICS.index
    )
    pd.testing.assert_frame_equal(calibrate(METRICS, floor, ceiling), expected)
    turned = calibrate(METRICS, floor.iloc[::-1, ::-1], ceiling.loc[:, ["pearson", "mse"]])
    pd.testing.assert_frame_equal(turned, expected)


def test_a_series_beside_a_table_has_a_score_for_each_metric():
    floor = pd.Series({"pearson": 0.0, "mse": 1.0})
    ceiling = pd.Series({"mse": 0.0, "pearson": 0.8})
    scores = calibrate(METRICS, floor, ceiling)
    np.testing.assert_allclose(scores["mse"], 1 - METRICS["mse"])
    np.testing.assert_allclose(scores["pearson"], METRICS["pearson"] / 0.8)
    assert scores.columns.tolist() == ["mse", "pearson"]


def test_missing_values_of_pandas_are_nan():
    value = pd.Series([0.5, None, 0.1], PERTURBATIONS, dtype="Float64")
    scores = calibrate(value, FLOOR, CEILING)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [0.5, np.nan, -0.5])


@pytest.mark.parametrize(
    ("floor", "message"),
    [
        (FLOOR.iloc[:2], "labels of floor differ .* in 1 places, such as 'TP53'"),
        (FLOOR.rename({"JAK2": "GATA1"}), "labels of floor differ .* in 2 places"),
        (FLOOR.reset_index(drop=True), "labels of floor differ .* in 6 places"),
        (FLOOR.iloc[[0, 1, 2, 2]], "labels of floor occur more than once"),
        (FLOOR.to_numpy()[:, None], r"shape \(3, 3\), but the labels are of shape \(3,\)"),
        (METRICS, "labels of value differ"),
        ([0.1, 0.2], "broadcast"),
        ("low", "could not convert"),
    ],
)
def test_scores_that_do_not_belong_together_are_told(floor, message):
    with pytest.raises(ValueError, match=message):
        calibrate(VALUE, floor, CEILING)
