"""What every estimator keeps, whatever it models."""

from inspect import getmembers, isclass

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import skpert
from skpert.base import PerturbationVAE

ESTIMATORS = [cls for _, cls in getmembers(skpert, isclass) if issubclass(cls, PerturbationVAE)]
SMALL = {"n_latent": 2, "n_hidden": 8, "n_layers": 1, "max_epochs": 2, "n_particles": 3}
SMALL |= {"random_state": 0}


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([cls(**SMALL) for cls in ESTIMATORS])
def test_estimator(estimator, check):
    check(estimator)
