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
    assert [ax.get_title() for ax in display.axes_] == [*model.history_.columns[1 : terms + 1]] + [
        "ELBO"
    ]
    assert set(display.lines_) == set(model.history_.columns) - {"phase"}
    for name, line in display.lines_.items():
        np.testing.assert_array_equal(line.get_ydata(), model.history_[name])
        np.testing.assert_array_equal(line.get_xdata(), range(12))
    best = model.history_["validation_elbo"].argmax()
    legend = [text.get_text() for text in display.axes_[-1].get_legend().get_texts()]
    assert legend == ["held-out cells", f"best epoch, {best}"]


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
