"""scikit-learn's inspection of pipelines with a model as transformer."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(page):
    return page("scikit-learn")


def test_genes_that_matter_are_those_that_the_perturbation_changes(found):
    screen, importance = found["screen"], found["importance"].importances_mean
    assert importance.shape == (60,)
    change = np.abs(np.log(screen.expected_expression[0] / screen.control_expression))
    change *= np.sqrt(screen.control_expression)  # over the noise of counts
    top = np.argsort(change)[-20:]
    assert importance[top].mean() > 2 * np.delete(importance, top).mean()


def test_dependence_is_monotone_in_a_latent(found):
    steps = np.diff(found["dependence"]["average"][0])
    assert (steps >= 0).all() or (steps <= 0).all()
    assert len(steps) > 10


def test_displays_draw_it(found):
    pytest.importorskip("matplotlib.pyplot").switch_backend("Agg")
    from sklearn.inspection import PartialDependenceDisplay

    Z = found["pipeline"][:-1].transform(found["counts"])
    display = PartialDependenceDisplay.from_estimator(found["pipeline"][-1], Z, [0, (0, 1)])
    assert len(display.axes_.ravel()) == 2
