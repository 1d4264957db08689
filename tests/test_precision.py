"""Scores in float32 against the same module, noise and cells in float64."""

import copy
from inspect import getmembers, isclass

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

import skpert
from skpert._data import Cells
from skpert._scoring import evidence
from skpert.base import PerturbationVAE
from skpert.nn import LIKELIHOODS

ESTIMATORS = [cls for _, cls in getmembers(skpert, isclass) if issubclass(cls, PerturbationVAE)]
N_GENES, N_PARTICLES = 100, 10


class SameDraws(TorchDispatchMode):
    """Random numbers are drawn in float32, whatever is asked for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in function.tags:
            return function(*args, **kwargs)
        drawn = function(*tree_map(_single, args), **tree_map(_single, kwargs))
        asked = [v.dtype for v in args if isinstance(v, torch.Tensor)] + [kwargs.get("dtype")]
        drawn = drawn.double() if torch.float64 in asked else drawn
        return args[0].copy_(drawn) if function._schema.is_mutable else drawn


def _single(value):
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        return value.float()
    return torch.float32 if value is torch.float64 else value


def screen(total, likelihood):
    """Cells of that many counts each, or log-normalised values."""
    random = np.random.default_rng(0)
    label = np.arange(30) % 3
    mean = np.exp(random.normal(0, 1.5, N_GENES) + random.normal(0, 0.3, (3, N_GENES))[label])
    mean *= total / mean.sum(1, keepdims=True)
    if likelihood != "poisson":
        mean *= random.gamma(5, 1 / 5, mean.shape)
    X = random.poisson(mean)
    if not LIKELIHOODS[likelihood].counts:
        X = np.log1p(1e4 * X / X.sum(1, keepdims=True))
    return X.astype(np.float32), np.array(["control", "A", "B"])[label]


def doubled(cells):
    return Cells(
        *(None if f is None else f.double() if f.is_floating_point() else f for f in cells)
    )


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")  # one-hot features
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_agree_with_float64(estimator, likelihood):
    """Within 1e-3 nats at 1e5 counts per cell and 2e-2 at 1e6, for what was just begun to fit.

    A Poisson is then tens of thousands of nats off, of which float32 keeps seven digits.
    """
    settings = {"n_hidden": 16, "n_layers": 1, "max_epochs": 2, "random_state": 0}
    X, A = screen(1e5, likelihood)
    model = estimator(3, likelihood=likelihood, device="cpu", **settings).fit(X, A)
    exact = copy.deepcopy(model.module_).double().eval()
    for total, bound in ((1e5, 1e-3), (1e6, 2e-2)):
        cells = model._check(*screen(total, likelihood))
        scores = []
        for module, data in ((model.module_, cells), (exact, doubled(cells))):
            with torch.no_grad(), SameDraws():
                torch.manual_seed(0)
                scores.append(evidence(module, data, N_PARTICLES, torch.device("cpu")))
        score, expected = (found.log_evidence for found in scores)
        rest = 1e-6 * expected.abs() if likelihood == "poisson" else 0
        assert ((score - expected).abs() < bound + rest).all()
