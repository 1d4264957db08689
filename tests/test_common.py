"""What every estimator keeps, whatever it models."""

from inspect import getmembers, isclass

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

import skpert
from skpert.base import PerturbationVAE

ESTIMATORS = [cls for _, cls in getmembers(skpert, isclass) if issubclass(cls, PerturbationVAE)]


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")
@parametrize_with_checks([cls(n_latent=2, max_epochs=3, random_state=0) for cls in ESTIMATORS])
def test_estimator(estimator, check):
    check(estimator)
