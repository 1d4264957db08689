"""Panels of posterior predictive checks."""

import numpy as np
import pandas as pd
import pytest

from skpert import SVAEPlus
from skpert.plotting import PosteriorPredictiveDisplay


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "statistic": ["mean"] * 3 + ["ate"] * 2,
            "perturbation": ["CD86", "JAK2", "control", "CD86", "JAK2"],
            "observed": [1.0, 1.6, 1.1, 0.2, 0.5],
            "expected": [1.0, 1.0, 1.0, 0.1, 0.9],
            "lower": [0.9, 0.9, 0.9, -0.1, 0.8],
            "upper": [1.1, 1.1, 1.1, 0.3, 0.95],
            "q": [0.6, 0.02, 0.3, 0.9, 0.04],
        }
    )


def test_rows_are_what_the_table_has_the_worst_at_the_top(table):
    display = PosteriorPredictiveDisplay(table).plot()
    assert display.ordered_.tolist() == ["JAK2", "control", "CD86"]
    mean, ate = display.axes_
    assert [ax.get_title() for ax in display.axes_] == ["mean", "ate"]
    assert [label.get_text() for label in mean.get_yticklabels()] == list(display.ordered_)
    np.testing.assert_allclose(mean.collections[1].get_offsets()[:, 0], [1.6, 1.1, 1.0])
    bars = [
        segment[:, 0].tolist() for segment in ate.collections[0].get_segments() if len(segment)
    ]
    assert [0.8, 0.95] in bars
    assert [-0.1, 0.3] in bars
    assert (ate.get_xlabel(), mean.get_xlabel()) == ("correlation", "distance\n(1: as expected)")


@pytest.mark.parametrize(("fdr", "n_red"), [(0.05, 2), (0.03, 1), (0, 0)])
def test_what_is_found_is_red(fdr, n_red, table):
    axes = PosteriorPredictiveDisplay(table).plot(fdr=fdr).axes_
    colors = np.vstack([ax.collections[1].get_facecolors() for ax in axes])
    assert (colors[:, 0] > colors[:, 1] + 0.1).sum() == n_red


def test_statistics_of_ones_own_have_a_value(table):
    table["statistic"] = table["statistic"].replace({"ate": "doublets"})
    assert PosteriorPredictiveDisplay(table).plot().axes_[1].get_xlabel() == "value"


def test_from_estimator(screen):
    model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    display = PosteriorPredictiveDisplay.from_estimator(
        model, screen.X, screen.A, ["zero_fraction", "ate"], n_replicates=3
    )
    assert len(display.axes_) == 2
    assert len(display.ordered_) == 6
    assert len(display.table) == 11


def test_what_cannot_be_drawn(table):
    with pytest.raises(ValueError, match="table has no column 'q'"):
        PosteriorPredictiveDisplay(table.drop(columns="q")).plot()
    with pytest.raises(ValueError, match="table has no rows"):
        PosteriorPredictiveDisplay(table[:0]).plot()
    with pytest.raises(ValueError, match="several rows of 'mean' and 'CD86'"):
        PosteriorPredictiveDisplay(pd.concat([table, table])).plot()
    with pytest.raises(ValueError, match="axes must be 2"):
        PosteriorPredictiveDisplay(table).plot([PosteriorPredictiveDisplay(table).plot().axes_[0]])
