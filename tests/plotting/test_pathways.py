from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from skpert import IVAE, SVAEPlus
from skpert.plotting import PathwayTargetsDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def probability():
    """The third latent is in no mask; RPS2 and RPL1 move the same, RPS1 another."""
    values = [[0.9, 0.1, 0.5, 0.2], [0.1, 0.2, 0.3, 1.0], [0.8, 0, 0, 0], [0, 0.6, 0, 0], [0] * 4]
    names = ["RPS2", "RPS1", "RPL1", "ERCC1", "CD86"]
    return pd.DataFrame(values, names, [f"samsvae{i}" for i in range(4)], dtype=float)


@pytest.fixture
def embedding(probability):
    return (2 * (probability > 0.5) * [1, -1, 1, -1.5]).iloc[::-1, ::-1]


PATHWAYS = {"NER": ["ERCC1", "ERCC2"], "40S": ["RPS1", "RPS2", "RPS3"], "none": ["TP53"]}


def names_at_the_left(display):
    return [text.get_text() for text in display.axes_[0].texts]


def test_rows_are_grouped_in_the_order_of_the_pathways(probability, embedding):
    display = PathwayTargetsDisplay(probability, embedding, PATHWAYS).plot()
    assert (
        display.pathways_.astype(object).fillna("-").tolist() == ["NER"] + ["40S"] * 2 + ["-"] * 2
    )
    assert display.pathways_.index.equals(display.probability_.index)
    assert set(display.pathways_.index) == set(probability.index)
    assert names_at_the_left(display) == ["NER (1)", "40S (2)", "no pathway (2)"]
    assert display.pathways_.index[-1] == "CD86"  # without effect


def test_the_maps_show_the_frames_in_one_order(probability, embedding):
    display = PathwayTargetsDisplay(probability, embedding, PATHWAYS).plot()
    rows, columns = display.probability_.index, display.probability_.columns
    for image, shown, given in zip(
        display.images_,
        [display.probability_, display.embedding_],
        [probability, embedding],
        strict=True,
    ):
        np.testing.assert_array_equal(image.get_array(), given.loc[rows, columns])
        pd.testing.assert_frame_equal(shown, given.loc[rows, columns].astype(float))
    assert [image.get_clim() for image in display.images_] == [(0, 1), (-3, 3)]
    labels = [label.get_text() for label in display.axes_[1].yaxis.get_ticklabels()]
    assert labels == rows.tolist()


def test_latents_in_no_mask_are_left_out_and_others_follow_the_rows(probability, embedding):
    display = PathwayTargetsDisplay(probability, embedding, PATHWAYS).plot()
    assert display.probability_.columns[0] == "samsvae1"  # of the first row
    assert set(display.probability_.columns) == {"samsvae0", "samsvae1", "samsvae3"}
    assert display.axes_[0].get_xlabel() == "latent (1 more are in no mask)"


def test_others_can_be_left_out_and_their_latents_with_them(probability, embedding):
    pathways = {"40S": ["RPS1"]}
    display = PathwayTargetsDisplay(probability, embedding, pathways, show_others=False).plot()
    assert display.probability_.index.tolist() == ["RPS1"]
    assert display.embedding_.columns.tolist() == ["samsvae3"]
    assert names_at_the_left(display) == ["40S (1)"]


def test_a_series_is_the_same_as_the_members(probability, embedding):
    members = {"NER": ["ERCC1"], "40S": ["RPS1", "RPS2"]}
    of = pd.Series({"ERCC1": "NER", "RPS1": "40S", "CD86": None, "RPS2": "40S", "TP53": "p53"})
    first = PathwayTargetsDisplay(probability, embedding, members).plot()
    second = PathwayTargetsDisplay(probability, embedding, of).plot()
    pd.testing.assert_series_equal(first.pathways_, second.pathways_)


def test_a_member_of_two_pathways_stands_in_the_first(probability, embedding):
    pathways = {"no pathway": ["RPS1"], "40S": ["RPS1", "RPS2"]}
    display = PathwayTargetsDisplay(probability, embedding, pathways).plot()
    assert display.pathways_.iloc[:2].to_dict() == {"RPS1": "no pathway", "RPS2": "40S"}
    assert names_at_the_left(display) == ["no pathway (1)", "40S (1)", "no pathway (3)"]


def test_names_of_many_small_pathways_do_not_overlap():
    names = [f"P{i}" for i in range(300)]
    values = pd.DataFrame(np.eye(300, 12), names)
    pathways = {"large": names[:280]} | {f"pathway {name}": [name] for name in names[280:]}
    display = PathwayTargetsDisplay(values, values, pathways).plot()
    display.figure_.canvas.draw()
    texts = sorted(display.axes_[0].texts, key=lambda text: text.get_position()[1])
    assert [text.get_text() for text in texts] == names_at_the_left(display)
    boxes = [text.get_window_extent() for text in texts]
    assert not any(box.overlaps(after) for box, after in pairwise(boxes))
    assert min(box.y0 for box in boxes) > 0


def test_without_any_target_all_latents_are_shown(probability, embedding):
    display = PathwayTargetsDisplay(0 * probability, 0 * embedding, PATHWAYS).plot()
    assert display.probability_.shape == (5, 4)
    display.figure_.canvas.draw()


@pytest.mark.parametrize("n_rows", [1, 2])
def test_few_perturbations(probability, embedding, n_rows):
    few = probability.iloc[:n_rows]
    display = PathwayTargetsDisplay(few, embedding.loc[few.index], {"40S": ["RPS2"]}).plot()
    assert display.pathways_.index.tolist() == few.index.tolist()
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pathways": {"NER": ["XPA", "XPC"]}},
            "no member of pathways .* 2 members are 'XPA', 'XPC', the 5 perturbations are 'RPS2'",
        ),
        ({"pathways": {}}, "no member of pathways"),
        ({"pathways": ["RPS1"]}, "must be a dict .* got list"),
        ({"embedding": pd.DataFrame(0.0, ["RPS1"], range(4))}, "same index; only one .*'CD86'"),
        ({"embedding": np.zeros((5, 4))}, "embedding must be a DataFrame .* got ndarray"),
    ],
)
def test_bad_input(probability, embedding, change, message):
    given = {"probability": probability, "embedding": embedding, "pathways": PATHWAYS} | change
    with pytest.raises(ValueError, match=message):
        PathwayTargetsDisplay(**given).plot()


def test_probabilities_outside_their_range(probability, embedding):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]; got -0.5 to 0.5"):
        PathwayTargetsDisplay(probability - 0.5, embedding, PATHWAYS).plot()


def test_masks_of_an_estimator_and_axes_of_ones_own(screen):
    model = SVAEPlus(n_latent=3, max_epochs=5, random_state=0).fit(screen.X, screen.A)
    _, axes = plt.subplots(1, 2)
    pathways = {"later": ["P3", "P4"], "first": ["P0"]}
    display = PathwayTargetsDisplay.from_estimator(model, pathways, axes=axes)
    assert display.axes_.tolist() == axes.tolist()
    rows = [list(model.perturbations_).index(name) for name in display.pathways_.index]
    latents = [list(model.get_feature_names_out()).index(c) for c in display.embedding_]
    np.testing.assert_allclose(
        display.images_[0].get_array(), model.mask_probability_[rows][:, latents]
    )
    np.testing.assert_allclose(display.images_[1].get_array(), model.embedding_[rows][:, latents])
    with pytest.raises(ValueError, match="axes must be 2"):
        display.plot(axes[:1])


def test_an_estimator_without_masks_is_refused(screen):
    model = IVAE(n_latent=3, max_epochs=1, random_state=0).fit(screen.X, screen.A)
    with pytest.raises(ValueError, match="IVAE learns no masks"):
        PathwayTargetsDisplay.from_estimator(model, {"all": screen.A})
