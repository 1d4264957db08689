"""Panels of curves, and rows of doses of half the effect."""

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import Bunch

from skpert import VAE
from skpert.plotting import DoseResponseDisplay

DOSES = np.array([0.1, 1.0, 10.0])
ENDS = {"slope": 0.1, "maximum": 2.0, "hill": 1.0, "ec50": 1.0, "ec50_lower": 0.5}


@pytest.fixture
def response():
    pairs = pd.MultiIndex.from_product([["A", "B", "C"], ["vae0", "vae1"]])
    curves = pairs.to_frame(index=False, name=["perturbation", "latent"])
    curves["shape"] = ["hill", "none", "linear", "log", "none", "none"]
    curves["q"] = [1e-3, 0.5, 1e-9, 0.04, 0.6, 0.7]
    curves = curves.assign(**ENDS, ec50_upper=[5.0, *[np.inf] * 5])
    doses = curves[["perturbation", "latent"]].merge(pd.DataFrame({"dose": DOSES}), "cross")
    doses["shift"] = doses["dose"] / (1 + doses["dose"]) * 2
    doses = doses.assign(lower=doses["shift"] - 0.1, upper=doses["shift"] + 0.1)
    doses["fitted"] = doses["shift"]
    return Bunch(curves=curves, doses=doses)


def lines(ax):
    """Curves that are drawn, without those of the legend."""
    return [line for line in ax.lines if len(line.get_xdata()) == 100]


def test_panels_are_of_perturbations_that_respond_the_clearest_first(response):
    display = DoseResponseDisplay(response).plot()
    assert [ax.get_title() for ax in display.axes_] == ["B", "A"]
    assert display.shown_["shape"].tolist() == ["linear", "log", "hill"]
    assert [len(lines(ax)) for ax in display.axes_] == [2, 1]
    [curve] = lines(display.axes_[1])
    dose = curve.get_xdata()
    np.testing.assert_allclose(curve.get_ydata(), 2 * dose / (1 + dose), rtol=1e-6)
    straight = lines(display.axes_[0])[0]
    slope = np.diff(straight.get_ydata()) / np.diff(straight.get_xdata())
    np.testing.assert_allclose(slope, slope[0])
    [legend] = display.figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1"]


def test_chosen_perturbations_are_drawn_in_their_order(response):
    display = DoseResponseDisplay(response).plot(perturbations=["C", "A"])
    assert [ax.get_title() for ax in display.axes_] == ["C", "A"]
    assert not lines(display.axes_[0])
    one = DoseResponseDisplay(response).plot(n_panels=1)
    assert [ax.get_title() for ax in one.axes_] == ["B"]
    assert one.figure_.legends[0].get_title().get_text() == "latent (1 more perturbations respond)"


def test_doses_of_half_the_effect_are_of_hill_curves(response):
    display = DoseResponseDisplay(response).plot(kind="ec50")
    assert display.shown_["perturbation"].tolist() == ["A"]
    [ax] = display.axes_
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A"]
    assert [0.5, 5.0] in [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata())]


def test_nothing_called_is_said(response):
    silent = Bunch(curves=response.curves.assign(shape="none"), doses=response.doses)
    for kind, text in {"curves": "no dose has an effect", "ec50": "no effect saturates"}.items():
        display = DoseResponseDisplay(silent).plot(kind=kind)
        assert display.axes_[0].texts[0].get_text() == text
        assert not display.figure_.legends


def test_many_perturbations_and_latents_are_drawn(response):
    names = [f"drug {i}" for i in range(120)]
    curves = pd.concat([response.curves.iloc[:1].assign(perturbation=n) for n in names])
    curves["latent"] = [f"vae{i % 25}" for i in range(120)]
    doses = pd.concat([response.doses.iloc[:3].assign(perturbation=n) for n in names])
    doses["latent"] = np.repeat(curves["latent"].to_numpy(), 3)
    many = Bunch(curves=curves, doses=doses)
    assert len(DoseResponseDisplay(many).plot().axes_) == 24
    display = DoseResponseDisplay(many).plot(kind="ec50")
    assert [len(ax.get_yticklabels()) for ax in display.axes_] == [40, 40, 40]
    assert display.figure_.legends[0].get_texts()[-1].get_text() == "other"


def test_cells_of_a_fitted_model_are_drawn(screen):
    model = VAE(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    A = pd.get_dummies(screen.A).drop(columns="control") * 1.0
    A[::2] *= 10
    display = DoseResponseDisplay.from_estimator(model, screen.X, A, fdr=1.0)
    assert len(display.axes_) == 5


def test_bad_input(response):
    display = DoseResponseDisplay(response)
    with pytest.raises(ValueError, match="kind must be"):
        display.plot(kind="lines")
    with pytest.raises(ValueError, match="no perturbations 'D'"):
        display.plot(perturbations="D")
    with pytest.raises(ValueError, match="n_panels"):
        display.plot(n_panels=0)
    with pytest.raises(ValueError, match="response has no doses with columns 'fitted'"):
        DoseResponseDisplay(
            Bunch(curves=response.curves, doses=response.doses.drop(columns="fitted"))
        ).plot()
    with pytest.raises(ValueError, match="response has no curves"):
        DoseResponseDisplay(response.curves).plot()
