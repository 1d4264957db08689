"""The map of interactions."""

import pandas as pd
import pytest

from skpert.plotting import InteractionsDisplay

TABLE = pd.DataFrame(
    {
        "combination": ["A+B", "A+B", "A+C", "A+C", "B+C", "B+C"],
        "latent": ["z1", "z0", "z0", "z1", "z0", "z1"],
        "interaction": [2.0, 0.1, 0.2, -1.0, 0.1, 0.0],
        "called": [True, False, False, True, False, False],
        "kind": ["synergy", *["additive"] * 2, "epistasis", *["additive"] * 2],
    }
)


def test_called_interactions_are_drawn_with_their_kinds():
    display = InteractionsDisplay(TABLE).plot()
    assert display.ordered_.columns.tolist() == ["z1"]
    assert display.ordered_["z1"].to_dict() == {"A+B": 2.0, "A+C": -1.0}
    assert display.silent_.tolist() == ["B+C"]
    assert display.ax_.texts[0].get_text() == "1 combination adds up"
    assert display.kinds_["z1"].to_dict()["A+C"] == "epistasis"
    _, labels = display.ax_.get_legend_handles_labels()
    assert labels == ["synergy", "epistasis"]
    assert display.ax_.get_xlabel() == "latent (1 more have no interaction)"


def test_a_screen_that_adds_up_is_drawn():
    display = InteractionsDisplay(TABLE.assign(called=False, kind="additive")).plot()
    assert not len(display.ordered_)
    assert display.ax_.texts[0].get_text() == "3 combinations add up"
    assert display.ax_.get_legend() is None


def test_what_is_no_table_of_interactions_is_refused():
    with pytest.raises(ValueError, match="no column 'kind'"):
        InteractionsDisplay(TABLE.drop(columns="kind")).plot()
    with pytest.raises(ValueError, match=r"several rows of one latent for 'A\+B'"):
        InteractionsDisplay(pd.concat([TABLE, TABLE[:1]])).plot()
    with pytest.raises(ValueError, match="no row"):
        InteractionsDisplay(TABLE[:0]).plot()
