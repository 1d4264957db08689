import numpy as np
import pandas as pd
import pytest

from skpert import IVAE
from skpert.plotting import CombinationTargetsDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def targets():
    """C+A moves a latent of its own, the parts of B+D are not all known."""
    effects = {
        "A": [3.0, 0, 0, 0],
        "B": [0, 4.0, 0, 0],
        "C": [0, 0, 0, 0],
        "A+B": [3.0, 4.0, 0, 0],
        "C+A": [1.0, 0, -2.0, 0],
        "B+D": [0, 0, 0, 5.0],
    }
    return pd.DataFrame(effects, index=[f"svaeplus{i}" for i in range(4)]).T


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_numbers_and_sizes_of_targets(targets):
    summary = CombinationTargetsDisplay(targets).plot().summary_
    assert summary.index.tolist() == list(targets.index)
    assert summary["n_parts"].tolist() == [1, 1, 1, 2, 2, 2]
    assert summary["n_targets"].tolist() == [1, 1, 0, 2, 2, 1]
    np.testing.assert_allclose(summary["norm"], [3, 4, 0, 5, 5**0.5, 5])


def test_an_emergent_latent_is_moved_by_the_combination_and_none_of_its_parts(targets):
    display = CombinationTargetsDisplay(targets).plot()
    expected = pd.DataFrame(0.0, ["A+B", "C+A"], targets.columns)  # D was not measured alone
    expected.loc["C+A", "svaeplus2"] = -2.0
    pd.testing.assert_frame_equal(display.emergent_, expected)
    n_emergent = display.summary_["n_emergent"]
    assert n_emergent[["A+B", "C+A"]].tolist() == [0, 1]
    assert n_emergent[["A", "B", "C", "B+D"]].isna().all()


def test_the_map_shows_the_emergent_latents(targets):
    targets.loc["A+B", "svaeplus3"] = 1.0
    display = CombinationTargetsDisplay(targets).plot()
    rows, columns = labels(display.axes_[2].yaxis), labels(display.axes_[2].xaxis)
    assert sorted(rows) == ["A+B", "C+A"]
    shown = display.emergent_.loc[rows, [f"svaeplus{number}" for number in columns]]
    np.testing.assert_array_equal(display.im_.get_array(), shown)
    assert display.im_.get_clim() == (-2, 2)
    assert display.axes_[2].get_xlabel() == "latent (2 more are not moved so)"


def test_bars_are_shares_and_points_are_norms(targets):
    display = CombinationTargetsDisplay(targets).plot()
    single, double = display.axes_[0].containers
    np.testing.assert_allclose([bar.get_height() for bar in single], [1 / 3, 2 / 3])
    np.testing.assert_allclose([bar.get_height() for bar in double], [0, 1 / 3, 2 / 3])
    legend = [text.get_text() for text in display.axes_[0].get_legend().get_texts()]
    assert legend == ["single (3)", "double (3)"]
    assert labels(display.axes_[1].xaxis) == ["single\n(3)", "double\n(3)"]
    points = [collection.get_offsets()[:, 1] for collection in display.axes_[1].collections]
    np.testing.assert_allclose(points[0], [3, 4, 0])
    np.testing.assert_allclose(points[1], [5, 5**0.5, 5])
    assert [line.get_ydata()[0] for line in display.axes_[1].lines] == [3, 5]  # medians


def test_named_combinations_that_are_no_rows_are_sums(targets):
    single = targets.iloc[:3] + np.outer([1.0, -1.0, 0.0], [0, 0, 1, 0])
    names = ["B + A", "A+B+C"]
    display = CombinationTargetsDisplay(single, combinations=names).plot()
    assert display.summary_["n_targets"].tolist() == [2, 2, 0, 2, 2]  # the third cancels
    np.testing.assert_allclose(display.summary_.loc[names, "norm"], 5)
    assert display.summary_["n_parts"].tolist() == [1, 1, 1, 2, 3]
    assert not display.emergent_.any(axis=None)  # a sum of zeros is zero
    assert display.im_ is None
    assert "no combination moves" in display.axes_[2].texts[0].get_text()


def test_named_combinations_are_rows_in_any_order_of_their_parts(targets):
    display = CombinationTargetsDisplay(targets, combinations=["A+C"]).plot()
    assert display.summary_.index.tolist() == ["A", "B", "C", "A+C"]
    assert display.emergent_.loc["A+C"].tolist() == [0, 0, -2, 0]


def test_without_parts_nothing_can_be_called_emergent(targets):
    display = CombinationTargetsDisplay(
        targets.drop(index="A"), combinations=["A+B", "B+D"]
    ).plot()
    assert display.emergent_.shape == (0, 4)
    assert display.summary_["n_emergent"].isna().all()
    assert display.axes_[2].texts[0].get_text().startswith("no combination has all of its parts")


def test_without_any_target(targets):
    display = CombinationTargetsDisplay(0 * targets).plot()
    assert (display.summary_[["n_targets", "norm"]] == 0).all(axis=None)
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": pd.DataFrame([[1.0]], index=["A"])}, "there is no combination to show"),
        ({"targets": pd.DataFrame(1.0, ["A", "A+B", "B+A"], range(2))}, "same parts as 'A[+]B'"),
        ({"sep": None}, "no combination to show: names with sep=None"),
        ({"combinations": []}, "there is no combination to show"),
        ({"combinations": ["A+B", "A"]}, "there is no combination to show"),
        ({"combinations": ["A+E+F"]}, "'A[+]E[+]F' is not a row .* no row 'E', 'F'"),
    ],
)
def test_no_combination_or_unknown_parts(targets, change, message):
    with pytest.raises(ValueError, match=message):
        CombinationTargetsDisplay(**{"targets": targets} | change).plot()


def test_combinations_of_an_estimator_and_axes_of_ones_own(screen):
    A = np.where(screen.A == "P4", "P0/P1", screen.A)
    model = IVAE(n_latent=3, max_epochs=5, sep="/", random_state=0).fit(screen.X, A)
    _, axes = plt.subplots(1, 3)
    display = CombinationTargetsDisplay.from_estimator(model, axes=axes)
    assert display.axes_.tolist() == axes.tolist()
    n_targets = (model.targets_ != 0).sum(axis=1)
    assert n_targets.to_dict() == display.summary_["n_targets"].to_dict()
    assert display.emergent_.index.tolist() == ["P0/P1"]
    with pytest.raises(ValueError, match="axes must be 3"):
        display.plot(axes[:2])
