from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator

from skpert import VAE, SVAEPlus
from skpert.plotting import TargetsDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def targets():
    """Two programmes, strong and weak members of each in turn, and two without effect."""
    effects = np.zeros((8, 6))
    effects[[0, 2, 4]] = np.outer([3.0, 0.3, 1.0], [0, 1, 0, -0.5, 0, 0])
    effects[[1, 3, 6]] = np.outer([0.4, 4.0, 2.0], [0, 0, 0, 0, 1, 0])
    names = ["IFNGR1", "SMAD4", "IRF1", "SMAD3", "JAK2", "CD86", "SMAD2", "ATF2"]
    return pd.DataFrame(effects, index=names, columns=[f"svaeplus{i}" for i in range(6)])


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_map_shows_the_targets_in_the_order_of_its_labels(targets):
    display = TargetsDisplay(targets).plot(show_silent=True)
    rows = labels(display.ax_.yaxis)
    columns = [f"svaeplus{number}" for number in labels(display.ax_.xaxis)]
    assert sorted(rows) == sorted(targets.index)
    np.testing.assert_array_equal(display.im_.get_array(), targets.loc[rows, columns])
    pd.testing.assert_frame_equal(display.ordered_, targets.loc[rows, columns])
    np.testing.assert_array_equal(display.ax_.get_yticks(), range(8))
    assert display.ax_.yaxis_inverted()  # first row on top


def test_members_of_a_programme_stand_together_and_the_silent_below(targets):
    display = TargetsDisplay(targets).plot(show_silent=True)
    programmes = [name[:4] for name in display.ordered_.index]
    assert programmes[6:] == ["CD86", "ATF2"]
    assert {frozenset(display.ordered_.index[i : i + 3]) for i in (0, 3)} == {
        frozenset(["IFNGR1", "IRF1", "JAK2"]),
        frozenset(["SMAD2", "SMAD3", "SMAD4"]),
    }
    assert display.dendrogram_ax_.texts[0].get_text() == "no target\n(2)"
    assert sorted(display.ordered_.columns) == ["svaeplus1", "svaeplus3", "svaeplus4"]
    assert display.ax_.get_xlabel() == "latent (3 more are moved by nothing)"


def test_the_silent_are_one_line_below_the_map(targets):
    display = TargetsDisplay(targets).plot()
    assert len(display.ordered_) == len(labels(display.ax_.yaxis)) == 6
    assert set(display.silent_) == {"CD86", "ATF2"}
    [note] = display.ax_.texts
    assert note.get_text() == "2 perturbations without a called effect"
    display.figure_.canvas.draw()
    axes, box = display.ax_.get_window_extent(), note.get_window_extent()
    last_row = display.ax_.transData.transform((0, 5.5))[1]
    assert axes.y0 <= box.y0 < box.y1 <= last_row
    shown = TargetsDisplay(targets).plot(show_silent=True)
    assert not len(shown.silent_)
    assert not shown.ax_.texts


def test_a_circle_marks_edges_of_low_probability(targets):
    edges = edges_of(targets).assign(probability=1.0)
    edges.loc[
        (edges["perturbation"] == "JAK2") & (edges["latent"] == "svaeplus1"), "probability"
    ] = 0.7
    display = TargetsDisplay(targets, None, edges).plot()
    [circles] = display.ax_.collections
    [(column, row)] = circles.get_offsets()
    assert display.ordered_.index[int(row)] == "JAK2"
    assert display.ordered_.columns[int(column)] == "svaeplus1"
    assert display.ax_.get_xlabel().endswith("○ probability below 0.9")
    sure = TargetsDisplay(targets, None, edges.assign(probability=1.0)).plot()
    assert "probability" not in sure.ax_.get_xlabel()


def test_the_dendrogram_joins_neighbouring_rows(targets):
    display = TargetsDisplay(targets).plot()
    [collection] = display.dendrogram_ax_.collections
    joints = sorted(collection.get_segments(), key=lambda joint: joint[:, 0].max())
    assert len(joints) == 5  # of six rows
    np.testing.assert_allclose([joint[:, 0].max() for joint in joints[:4]], 0, atol=1e-7)
    np.testing.assert_allclose(joints[4][:, 0], [0, 2**0.5, 2**0.5, 0], atol=1e-7)
    below, above = sorted({joint.item() for joint in joints[4][:, 1]})
    assert 0 <= below <= 2 < 3 <= above <= 5
    assert display.dendrogram_ax_.get_ylim() == display.ax_.get_ylim()


def test_colours_are_symmetric_about_zero(targets):
    display = TargetsDisplay(-targets).plot(cmap="PiYG")
    assert display.im_.get_clim() == (-4, 4)
    assert display.im_.get_cmap().name == "PiYG"
    assert display.colorbar_.ax.get_xlabel() == "shift (prior s.d., sign arbitrary)"


@pytest.mark.parametrize(("n_latents", "length"), [(1, 30), (3, 5), (15, 5)])
def test_numbers_of_the_scale_do_not_overlap(n_latents, length):
    effects = np.random.default_rng(0).normal(scale=3, size=(5, n_latents))
    display = TargetsDisplay(pd.DataFrame(effects, index=[i * length for i in "ABCDE"])).plot()
    display.figure_.canvas.draw()
    labels = display.colorbar_.ax.xaxis.get_ticklabels()
    boxes = sorted(label.get_window_extent().extents[[0, 2]].tolist() for label in labels)
    inside = [box for box in boxes if box[1] > box[0]]
    assert len(inside) >= 2
    assert all(one[1] < other[0] for one, other in zip(inside[:-1], inside[1:], strict=True))


def test_columns_follow_the_rows_that_are_moved():
    display = TargetsDisplay(pd.DataFrame(np.eye(12)[::-1])).plot()
    np.testing.assert_array_equal(display.im_.get_array(), np.eye(12))


@pytest.mark.parametrize("n_moving", [0, 1, 2])
def test_few_or_no_targets(n_moving):
    effects = np.diag([1.0, -2.0, 0.0]) * (np.arange(3) < n_moving)
    frame = pd.DataFrame(effects, index=list("abc"))
    display = TargetsDisplay(frame).plot(show_silent=True)
    assert display.ordered_.shape == (3, n_moving or 3)
    assert (display.ordered_.iloc[n_moving:] == 0).all(axis=None)
    assert sorted(labels(display.ax_.yaxis)) == list("abc")
    display.figure_.canvas.draw()
    display = TargetsDisplay(frame).plot()
    assert len(display.ordered_) == n_moving == 3 - len(display.silent_)
    if not n_moving:
        assert display.im_ is display.colorbar_ is display.dendrogram_ax_ is None
        assert display.ax_.texts[0].get_text() == "3 perturbations without a called effect"
    display.figure_.canvas.draw()


def test_labels_of_many_perturbations_do_not_overlap():
    random = np.random.default_rng(0)
    effects = random.normal(size=(1500, 40)) * (random.random((1500, 40)) < 0.05)
    names = [f"GENE{i}" for i in range(1500)]
    display = TargetsDisplay(pd.DataFrame(effects, index=names)).plot()
    display.figure_.canvas.draw()
    for axis in (display.ax_.xaxis, display.ax_.yaxis):
        boxes = [text.get_window_extent() for text in axis.get_ticklabels()]
        assert not any(box.overlaps(after) for box, after in pairwise(boxes))
    shown = dict(zip(display.ax_.get_yticks(), labels(display.ax_.yaxis), strict=True))
    assert 50 < len(shown) < 500
    assert all(display.ordered_.index[row] == name for row, name in shown.items())


def test_targets_of_an_estimator_and_axes_of_ones_own(screen):
    model = SVAEPlus(n_latent=3, max_epochs=5, random_state=0).fit(screen.X, screen.A)
    _, (ax, other) = plt.subplots(1, 2)
    display = TargetsDisplay.from_estimator(model, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure is other.figure
    ordered = model.targets_.loc[display.ordered_.index, display.ordered_.columns]
    np.testing.assert_array_equal(display.im_.get_array(), ordered)


class Dense(BaseEstimator):
    """An estimator with an embedding only."""

    def fit(self, X, y):
        self.perturbations_ = np.array(["A", "B"])
        self.embedding_ = np.array([[0.1, 2.0], [1.0, 0.0]])
        return self

    def get_feature_names_out(self):
        return ["dense0", "dense1"]


def test_an_embedding_without_mask_is_shown_whole():
    model = Dense().fit(None, None)
    display = TargetsDisplay.from_estimator(model)
    shown = display.ordered_.loc[["A", "B"], ["dense0", "dense1"]]
    np.testing.assert_array_equal(shown, model.embedding_)


def test_estimators_without_effects_or_fit_are_refused(screen):
    model = VAE(n_latent=3, max_epochs=1, random_state=0)
    with pytest.raises(ValueError, match="not fitted yet"):
        TargetsDisplay.from_estimator(model)
    with pytest.raises(ValueError, match="VAE learns no effects"):
        TargetsDisplay.from_estimator(model.fit(screen.X, screen.A))


def test_confounded_perturbations_are_marked_and_their_column_named(targets):
    confounded = pd.DataFrame({"perturbation": ["JAK2", "ATF2"], "column": ["batch", "batch"]})
    display = TargetsDisplay(targets, confounded).plot(show_silent=True)
    marked = {label for label in labels(display.ax_.yaxis) if label.endswith("†")}
    assert marked == {"JAK2 †", "ATF2 †"}
    assert display.ax_.get_xlabel().endswith("† confounded with 'batch'")
    assert set(display.ordered_.index) == set(targets.index)  # names stay as they are
    plain = TargetsDisplay(targets, confounded.iloc[:0]).plot()
    assert "†" not in plain.ax_.get_xlabel()


@pytest.mark.filterwarnings("ignore:Effects in A that look confounded")
def test_the_map_of_a_model_marks_what_its_design_says():
    A = pd.DataFrame({"perturbation": np.repeat(["control", "P", "Q"], 20)})
    A["batch"] = A["perturbation"].map({"control": "b1", "P": "b2", "Q": "b1"})
    X = np.random.default_rng(0).poisson(3.0, (60, 8))
    model = SVAEPlus(n_latent=2, n_hidden=4, max_epochs=2, random_state=0).fit(X, A)
    display = TargetsDisplay.from_estimator(model, show_silent=True)
    assert sorted(labels(display.ax_.yaxis)) == ["P †", "Q"]


def edges_of(targets):
    names, latents = targets.index, targets.columns
    edges = pd.DataFrame(
        {
            "perturbation": np.repeat(names, len(latents)),
            "latent": np.tile(latents, len(names)),
            "probability": np.linspace(1, 0.5, targets.size),
        }
    )
    return edges.assign(
        lower=targets.to_numpy().ravel() - 0.5, upper=targets.to_numpy().ravel() + 1
    )


def test_intervals_are_drawn_latent_by_latent(targets):
    edges = edges_of(targets)
    display = TargetsDisplay(targets, None, edges).plot(kind="intervals")
    [ax] = display.axes_
    assert display.ax_ is ax
    rows = display.rows_
    shown = rows.dropna()
    assert len(shown) == (targets != 0).sum().sum()
    values = [
        targets.loc[p, k] for p, k in zip(shown["perturbation"], shown["latent"], strict=True)
    ]
    np.testing.assert_array_equal(shown["effect"], values)
    dots, whiskers = ax.collections[1], ax.collections[0]
    np.testing.assert_allclose(dots.get_offsets()[:, 0], shown["effect"])
    np.testing.assert_array_equal(dots.get_offsets()[:, 1], shown.index)
    np.testing.assert_allclose(dots.get_sizes() / 30, shown["probability"])
    ends = np.array([segment[:, 0] for segment in whiskers.get_segments()])
    np.testing.assert_allclose(ends, shown[["lower", "upper"]])
    assert labels(ax.yaxis) == rows["perturbation"].fillna("").tolist()
    assert [text.get_text() for text in ax.texts] == ["latent 1", "latent 3", "latent 4"]
    assert (shown.groupby("latent")["effect"].diff().fillna(0) <= 0).all()
    assert ax.yaxis_inverted()


def test_a_long_list_of_intervals_is_in_blocks_and_none_is_lost():
    random = np.random.default_rng(0)
    effects = random.normal(size=(80, 20)) * (random.random((80, 20)) < 0.08)
    targets = pd.DataFrame(effects, index=[f"GENE{i}" for i in range(80)])
    targets.columns = [f"svaeplus{i}" for i in range(20)]
    display = TargetsDisplay(targets, None, edges_of(targets)).plot(kind="intervals")
    assert len(display.axes_) == 3
    display.figure_.canvas.draw()
    shown = [text for ax in display.axes_ for text in labels(ax.yaxis)]
    assert shown == display.rows_["perturbation"].fillna("").tolist()
    for ax in display.axes_:
        assert labels(ax.yaxis)[-1]  # no name of a latent without effects below it
        boxes = [text.get_window_extent() for text in ax.yaxis.get_ticklabels()]
        assert not any(box.overlaps(after) for box, after in pairwise(boxes))
    _, ax = plt.subplots()
    assert TargetsDisplay(targets, None, edges_of(targets)).plot(ax, kind="intervals").ax_ is ax


def test_intervals_of_nothing_and_of_one_confounded(targets):
    nothing = targets * 0
    display = TargetsDisplay(nothing, None, edges_of(nothing)).plot(kind="intervals")
    display.figure_.canvas.draw()
    assert not labels(display.ax_.yaxis)
    confounded = pd.DataFrame({"perturbation": ["JAK2"], "column": ["batch"]})
    display = TargetsDisplay(targets, confounded, edges_of(targets)).plot(kind="intervals")
    assert "JAK2 †" in labels(display.ax_.yaxis)
    assert display.ax_.get_xlabel().endswith("† confounded with 'batch'")


def test_intervals_of_an_estimator_with_and_without_standard_errors(screen):
    for edges in ("called", "learned"):
        model = SVAEPlus(n_latent=3, edges=edges, max_epochs=5, random_state=0)
        model.fit(screen.X, screen.A)
        display = TargetsDisplay.from_estimator(model, kind="intervals")
        assert len(display.rows_.dropna(subset="effect")) == (model.targets_ != 0).sum().sum()
        display.figure_.canvas.draw()


def test_intervals_without_their_table_are_refused(targets):
    with pytest.raises(ValueError, match="kind='intervals' needs edges, the table of skpert"):
        TargetsDisplay(targets).plot(kind="intervals")
    edges = edges_of(targets)
    edges = edges[edges["perturbation"] != "JAK2"]
    with pytest.raises(ValueError, match="no row for 2 effects of targets, the first is"):
        TargetsDisplay(targets, None, edges).plot(kind="intervals")
    with pytest.raises(ValueError, match="kind must be 'map' or 'intervals', got 'dots'"):
        TargetsDisplay(targets).plot(kind="dots")
    with pytest.raises(ValueError, match="Dense calls no edges"):
        TargetsDisplay.from_estimator(Dense().fit(None, None), kind="intervals")
