import numpy as np
import pandas as pd
import pytest

from skpert import IVAE, SVAEPlus
from skpert.plotting import HistoryDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.mark.parametrize(("cls", "terms"), [(IVAE, 2), (SVAEPlus, 2)])
def test_the_history_shows_every_term_and_the_elbo(cls, terms, screen):
    model = cls(n_latent=3, max_epochs=12, random_state=0).fit(screen.X, screen.A)
    display = HistoryDisplay.from_estimator(model)
    names = {"reconstruction": "reconstruction", "kl_z": "KL of z"}
    titles = [names.get(term, term) for term in model.history_.columns[1 : terms + 1]]
    assert [ax.get_title() for ax in display.axes_] == [*titles, "ELBO"]
    assert set(display.lines_) == set(model.history_.columns) - {"phase"}
    for name, line in display.lines_.items():
        np.testing.assert_array_equal(line.get_ydata(), model.history_[name])
        np.testing.assert_array_equal(line.get_xdata(), range(12))
    best = model.history_["validation_elbo"].argmax()
    [legend] = display.figure_.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:3] == ["training cells", "held-out cells", f"best epoch, {best}"]
    assert not any(ax.get_legend() for ax in display.axes_)  # none lies on a curve
    phases = model.history_["phase"].unique()
    assert texts[3:] == [f"phase: {phase}" for phase in phases] * (len(phases) > 1)


def test_phases_are_tinted_and_the_jump_between_them_is_explained():
    phases = ["dense"] * 4 + ["decoder"] * 2 + ["sparse"] * 6
    history = pd.DataFrame({"phase": phases, "kl_z": np.arange(12.0)})
    display = HistoryDisplay(history).plot()
    spans = [patch.get_extents() for patch in display.axes_[0].patches]
    to_data = display.axes_[0].transData.inverted()
    ends = [to_data.transform(span.get_points())[:, 0].tolist() for span in spans]
    np.testing.assert_allclose(ends, [[3.5, 5.5], [5.5, 11.5]])
    why = " ".join(display.figure_.get_supxlabel().split())
    assert why == (
        "Before “decoder” redundant latents are left out. Before “sparse” latents are rotated and "
        "edges called: terms may jump there."
    )
    one = HistoryDisplay(history.assign(phase="fit")).plot()
    assert not one.figure_.get_supxlabel()
    assert not one.axes_[0].patches


def test_a_history_without_held_out_cells_or_with_axes_of_ones_own():
    history = pd.DataFrame({"phase": "fit", "reconstruction": [9.0, 5.0], "kl_z": [0.0, 1.0]})
    _, axes = plt.subplots(1, 2)
    display = HistoryDisplay(history).plot(axes)
    assert display.axes_.tolist() == axes.tolist()
    assert list(display.lines_) == ["reconstruction", "kl_z"]
    with pytest.raises(ValueError, match="axes must be 2"):
        HistoryDisplay(history).plot(axes[:1])
    with pytest.raises(ValueError, match="no epoch"):
        HistoryDisplay(history[:0][["phase"]]).plot()
