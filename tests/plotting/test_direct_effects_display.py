"""The map of direct effects beside that of targets."""

import numpy as np
import pandas as pd
import pytest

from skpert.plotting import DirectEffectsDisplay


@pytest.fixture
def direct():
    pairs = pd.MultiIndex.from_product(
        [["CD86", "IRF1", "JAK2", "SMAD4"], ["IRF1", "JAK2", "TP53"]]
    )
    table = pairs.to_frame(index=False, name=["perturbation", "gene"])
    table["log2_fold_change"] = np.linspace(-4, -1, 12)
    table["target"] = table["perturbation"] == table["gene"]
    table["called"] = table["target"] | table["perturbation"].eq("SMAD4") & table["gene"].eq(
        "IRF1"
    )
    return table


@pytest.fixture
def targets():
    values = [[0, 0, 0], [0, 1.0, 0], [0, 2.0, 0.5], [0, 0, 0]]
    return pd.DataFrame(
        values, ["CD86", "IRF1", "JAK2", "SMAD4"], [f"svaeplus{i}" for i in range(3)]
    )


def test_called_changes_are_drawn_and_no_others(direct):
    display = DirectEffectsDisplay(direct).plot()
    assert display.ordered_.columns.tolist() != []
    assert set(display.ordered_.columns) == {"IRF1", "JAK2"}
    called = direct[direct["called"]].set_index(["perturbation", "gene"])["log2_fold_change"]
    drawn = display.ordered_.stack()
    pd.testing.assert_series_equal(
        drawn[drawn != 0].sort_index(), called.sort_index(), check_names=False
    )
    assert display.silent_.tolist() == ["CD86"]
    assert display.axes_[0].texts[0].get_text() == "1 perturbation without a called effect"
    assert len(display.axes_) == 1


def test_rows_of_both_maps_are_the_same(direct, targets):
    display = DirectEffectsDisplay(direct, targets).plot()
    latents, genes = display.axes_
    assert [label.get_text() for label in genes.get_yticklabels()] == list(display.ordered_.index)
    shown = targets.loc[display.ordered_.index, ["svaeplus1", "svaeplus2"]]
    np.testing.assert_array_equal(np.sort(latents.images[0].get_array()), np.sort(shown))
    assert genes.collections[0].get_offsets().shape == (2, 2)  # dots of targets


def test_nothing_called_is_an_empty_map(direct):
    display = DirectEffectsDisplay(direct.assign(called=False)).plot()
    assert not len(display.ordered_)
    assert display.axes_[0].texts[0].get_text() == "4 perturbations without a called effect"


def test_bad_input(direct, targets):
    with pytest.raises(ValueError, match="no column 'called'"):
        DirectEffectsDisplay(direct.drop(columns="called")).plot()
    with pytest.raises(ValueError, match="targets has no rows 'CD86'"):
        DirectEffectsDisplay(direct, targets.drop("CD86")).plot()
