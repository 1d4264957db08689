"""Training in two phases: without sparsity, and with it on the axes that were found."""

from collections.abc import Callable
from typing import Any

DENSE_SHARE = 3  # a third of the epochs trains without sparsity


def in_two_phases(
    estimator: Any,
    optimise: Callable[..., Any],
    module: Any,
    cells: Any,
    validation: Any,
    monitor: Any,
) -> list[dict[str, Any]]:
    """Train without sparsity, find the axes, and train on with it; return the history.

    The module has ``find_axes(cells)``, for between the phases, and ``judge(cells)``, for the
    end.
    """
    n_epochs = estimator._budget(cells.n_cells).n_epochs
    n_dense = -(-n_epochs // DENSE_SHARE)
    history = {"dense": optimise(module, cells, validation, monitor, max_epochs=n_dense)}
    module.find_axes(cells)
    if n_epochs > n_dense and not (monitor is not None and monitor.stopped):
        n_sparse = n_epochs - n_dense
        history["sparse"] = optimise(
            module, cells, validation, monitor, warm=True, max_epochs=n_sparse
        )
    module.judge(cells)
    return [{"phase": phase} | row for phase, rows in history.items() for row in rows]
