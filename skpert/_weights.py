"""Weights of a module as arrays, and back into one that was built without memory."""

import re

import numpy as np
import torch

from .nn import Table

CAN_BE_INFINITE = re.compile(r"logit\.(frozen|rows)$")  # a mask that is fixed at 0 or 1


def arrays(module):
    """Weights by name, on the CPU."""
    return {name: weight.cpu().numpy() for name, weight in module.state_dict().items()}


def fill(module, weights):
    """Give a module its weights, arrays by name, if they are what it has a place for.

    The module was built under ``torch.device("meta")``, where a tensor is its shape and dtype
    alone, so that no number a file declares takes memory before an array of that size is there.
    What the constructor computed from other data has memory, and must be the same in the weights.

    Raises
    ------
    ValueError
        If a weight is missing, not known, of another shape or dtype, or not finite.
    """
    expected = module.state_dict()
    odd = set(expected) ^ set(weights)
    if odd:
        raise ValueError(f"weights are missing or not known: {sorted(map(str, odd))[:5]}")
    tensors = {name: torch.from_numpy(np.array(weights[name])) for name in expected}
    tables = {
        f"{name}.{part}"
        for name, table in module.named_modules()
        if isinstance(table, Table)
        for part in ("frozen", "rows")
    }
    for name, have in tensors.items():
        _check(name, expected[name], have, n_free=int(name in tables))
    _check_rows(module, tensors)
    module.load_state_dict(tensors, assign=True)
    return module


def _check(name, want, have, *, n_free):
    """Raise ValueError unless all but the first ``n_free`` dimensions, dtype and values fit."""
    if have.dtype != want.dtype or have.dim() != want.dim():
        raise ValueError(
            f"{name} has {have.dim()} dimensions of {have.dtype}, not {want.dim()} of {want.dtype}"
        )
    if have.shape[n_free:] != want.shape[n_free:]:
        raise ValueError(f"{name} has shape {tuple(have.shape)}, not {tuple(want.shape)}")
    finite = ~have.isnan() if CAN_BE_INFINITE.search(name) else have.isfinite()
    if not finite.all():
        raise ValueError(f"{name} holds values that are not finite")
    if not want.is_meta and not torch.equal(have, want):
        raise ValueError(f"{name} is not what follows from the rest of the estimator")


def _check_rows(module, tensors):
    """Raise ValueError unless all tables were extended by the same number of rows."""
    grown = {
        len(tensors[f"{name}.frozen"]) + len(tensors[f"{name}.rows"]) - len(table.rows)
        for name, table in module.named_modules()
        if isinstance(table, Table)
    }
    if len(grown) > 1 or min(grown, default=0) < 0:
        raise ValueError(f"tables have rows for different numbers of perturbations: {grown}")
