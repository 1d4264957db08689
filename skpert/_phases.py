"""A training from start to end: its phases, one after another."""

from ._optimizer import Adam
from ._progress import Progress
from ._ranks import interruptible, warn_if_whole
from ._runtime import suitable_threads
from ._training import check_predictions, mean_elbo, probe, train

N_MANY = 12_000  # cells that allow for any warm-up
SHORTEST_WARMUP = 1 / 3  # of a phase


def optimise(
    estimator, module, cells, validation=None, monitor=None, *, phases=None, progress=None
):
    """Train in the phases of the module, or in these; history, and ELBO before and after.

    The estimator says how: learning rate, length, regularisation. With ``progress`` it goes on
    from where that stands.
    """
    warn_if_whole(module)
    some, progress = probe(cells), Progress() if progress is None else progress
    n_epochs, batch_size, rate = estimator._budget(cells)
    if progress.phases is None:
        if phases is None:
            phases = (module.phases if module.fresh else module.later_phases)(n_epochs)
        progress.phases = phases if module.parameter_groups() else []
        progress.before = mean_elbo(module, some)
    elif monitor is not None:
        monitor.go_on(len(progress.rows) + len(progress.epochs.history))
    with suitable_threads(batch_size * cells.n_genes), interruptible():
        for number, phase in list(enumerate(progress.phases))[progress.phase :]:
            rows = []
            if monitor is not None:
                monitor.phase = phase.name
            if phase.n_epochs and not (monitor is not None and monitor.stopped):
                is_first = module.fresh and number == 0
                rows = train(
                    module,
                    cells,
                    _optimizer(estimator, module, phase.rate * rate),
                    max_epochs=phase.n_epochs,
                    batch_size=batch_size,
                    n_epochs_kl_warmup=_warmup(estimator, phase, cells) if is_first else 0,
                    validation=validation,
                    patience=estimator.patience,
                    on_epoch=monitor,
                    progress=progress,
                )
            progress.rows += [({"phase": phase.name} if phase.name else {}) | row for row in rows]
            if phase.finalise is not None:
                phase.finalise(cells)
            progress.phase = number + 1
            progress.end_phase()
    after = mean_elbo(module, some)
    check_predictions(module, some)
    return progress.rows, progress.before, after


def _optimizer(estimator, module, rate):
    return Adam(
        module.parameter_groups(),
        estimator.learning_rate * rate,
        weight_decay=estimator.weight_decay,
        epsilon=estimator.adam_epsilon,
        max_norm=estimator.max_gradient_norm,
        schedule=estimator.schedule,
    )


def _warmup(estimator, phase, cells):
    """Epochs of the KL's warm-up: of few cells latents hold the noise while it is weak."""
    if estimator.n_epochs_kl_warmup != "auto":
        return estimator.n_epochs_kl_warmup
    share = min(phase.warmup, max(cells.n_cells / N_MANY, SHORTEST_WARMUP))
    return min(round(phase.n_epochs * share), phase.n_warming / cells.n_cells)
