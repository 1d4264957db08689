import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from sklearn.pipeline import make_pipeline

from skpert import ControlMean, PerturbedMean
from skpert.model_selection import evaluate_perturbations
from skpert.plotting import EvaluationDisplay
from skpert.preprocessing import LogNormalize

plt = pytest.importorskip("matplotlib.pyplot")
METRICS = ["response_mse", "delta_pearson"]
TITLES = ["mean squared error (response)", "Pearson Δ (from control)"]


@pytest.fixture(scope="module")
def table():
    """Scores of two estimators, a floor and a ceiling for ten perturbations in two splits."""
    random = np.random.default_rng(0)
    names = [f"P{i}" for i in range(10)]
    means = {"good": (1, 0.8), "poor": (3, 0.1), "floor": (2, 0.5), "ceiling": (0.5, 0.9)}
    rows = [
        (name, split, perturbation, 20, *(mean + random.normal(0, 0.05, 2)))
        for name, mean in means.items()
        for split in range(2)
        for perturbation in names
    ]
    return pd.DataFrame(rows, columns=["estimator", "split", "perturbation", "n_cells", *METRICS])


def diamonds(ax):
    """Centre, height and ends of the interval of each mean."""
    found = []
    for container in ax.containers:
        line, _, (bar,) = container.lines
        ends = bar.get_segments()[0][:, 0]
        found.append((line.get_xdata().item(), line.get_ydata().item(), *ends))
    return np.array(found)


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_means_intervals_and_lines_are_those_of_the_table(table):
    display = EvaluationDisplay(table, floor="floor", ceiling="ceiling").plot()
    assert [" ".join(ax.get_title().split()) for ax in display.axes_] == TITLES
    averaged = table.groupby(["estimator", "perturbation"])[METRICS].mean()
    for ax, metric in zip(display.axes_, METRICS, strict=True):
        scores = [averaged.loc[name, metric] for name in ("good", "poor")]
        expected = [
            (s.mean(), row, *ttest_1samp(s, 0).confidence_interval(0.95))
            for row, s in enumerate(scores)
        ]
        np.testing.assert_allclose(diamonds(ax), expected)
        for what in ("floor", "ceiling"):
            [line] = [line for line in ax.lines if line.get_label() == what]
            assert line.get_xdata()[0] == pytest.approx(averaged.loc[what, metric].mean())
        for points, score in zip(ax.collections[::2], scores, strict=True):
            x, y = points.get_offsets().T
            np.testing.assert_allclose(np.sort(x), np.sort(score))
            assert np.ptp(np.round(y)) == 0  # in one row
    assert labels(display.axes_[0]) == ["good", "poor"]
    assert labels(display.axes_[1]) == ["", ""]


def test_the_metric_says_where_better_is_even_if_the_ceiling_is_below_the_floor(table):
    swapped = {"floor": "ceiling", "ceiling": "floor"}
    other = table.rename(columns={"delta_pearson": "my_own"})
    for lines, frame, arrows in [
        (swapped, table, ["← better", "better →"]),
        (swapped, other, ["← better", ""]),
    ]:
        display = EvaluationDisplay(frame, **lines).plot()
        assert [ax.get_xlabel() for ax in display.axes_] == arrows


def test_the_arrow_needs_neither_floor_nor_ceiling(table):
    display = EvaluationDisplay(table, floor="floor", ceiling="ceiling").plot()
    assert [ax.get_xlabel() for ax in display.axes_] == ["← better", "better →"]
    display = EvaluationDisplay(table, floor="floor").plot()
    assert [ax.get_xlabel() for ax in display.axes_] == ["← better", "better →"]
    assert labels(display.axes_[0]) == ["good", "poor", "ceiling"]


def test_an_extreme_point_does_not_flatten_a_panel_but_a_mean_stays_in_it(table):
    table = table.copy()
    table.loc[0, "response_mse"] = 50.0
    display = EvaluationDisplay(table).plot()
    mean, half_width = (
        t.loc["good", "response_mse"] for t in (display.mean_, display.half_width_)
    )
    assert display.axes_[0].get_xlim()[1] == pytest.approx(mean + half_width, rel=0.2)
    assert mean + half_width < display.axes_[0].get_xlim()[1] < 25


def test_what_was_not_predicted_is_said(table):
    table = table.copy()
    table.loc[table["estimator"] == "good", METRICS] = np.nan
    one = (table["estimator"] == "poor") & (table["perturbation"] != "P0")
    table.loc[one, METRICS] = np.nan
    display = EvaluationDisplay(table, floor="floor", ceiling="ceiling").plot()
    [text] = display.axes_[0].texts
    assert (text.get_text(), text.get_position()[1]) == ("not predicted", 0)
    assert display.half_width_.loc[["good", "poor"]].isna().all(axis=None)
    assert len(display.axes_[0].containers) == 1  # a mean without interval
    [legend] = display.figure_.legends
    wanted = ["floor", "ceiling", "perturbation", "mean, 95 % interval"]
    assert [text.get_text() for text in legend.get_texts()] == wanted


def test_an_evaluation_is_drawn_on_axes_of_ones_own(screen):
    models = {"none": ControlMean(), "mean": PerturbedMean()}
    estimators = {name: make_pipeline(LogNormalize(), model) for name, model in models.items()}
    result = evaluate_perturbations(
        estimators, screen.X, screen.A, cv=2, space="counts", metrics=METRICS, random_state=0
    )
    _, axes = plt.subplots(1, 2)
    display = EvaluationDisplay.from_evaluation(result, axes=axes)
    assert display.axes_.tolist() == axes.tolist()
    pd.testing.assert_frame_equal(display.mean_, result.summary, check_names=False)
    assert labels(axes[0]) == ["none", "mean"]
    display = EvaluationDisplay.from_evaluation(result, metrics="delta_pearson", axes=axes[1])
    assert list(display.mean_) == ["delta_pearson"]
    with pytest.raises(ValueError, match="axes must be 2"):
        EvaluationDisplay.from_evaluation(result, axes=axes[:1])


def test_names_of_estimators_do_not_overlap_panels(table):
    table = table.assign(estimator=table["estimator"].replace("good", "a very long name " * 4))
    display = EvaluationDisplay(table, floor="floor", ceiling="ceiling").plot()
    display.figure_.canvas.draw()
    left, right = (ax.get_window_extent() for ax in display.axes_)
    assert left.width > 80 < right.width
    assert all(
        text.get_window_extent().x1 < left.x0 for text in display.axes_[0].get_yticklabels()
    )


def test_bad_input(table):
    display = EvaluationDisplay(table, floor="floor", ceiling="ceiling")
    with pytest.raises(ValueError, match="no metrics 'mse': the table has 'response_mse'"):
        display.plot(metrics="mse")
    with pytest.raises(ValueError, match="the table has 'good', 'poor'"):
        EvaluationDisplay(table, floor="mean").plot()
    lines = table[table["estimator"].isin(["floor", "ceiling"])]
    display = EvaluationDisplay(lines, floor="floor", ceiling="ceiling")
    with pytest.raises(ValueError, match="must be other estimators than 'floor', 'ceiling'"):
        display.plot()
