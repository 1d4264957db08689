"""Where a training stands, and on disk, so that one that was killed goes on from there."""

import logging
import os
import time
import warnings
import zlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import joblib
import torch

from ._data import Cells
from ._ranks import rank_and_size, same
from ._rows import DiskRows, dense_rows
from ._runtime import random_state, set_random_state
from .exceptions import TrainingWarning

logger = logging.getLogger("skpert")

N_READ = 64  # cells on disk that tell data apart, beside the totals of all
EVERY = 60.0  # seconds between two writings, at least
OWN = {"path", "device", "written"}  # what is of this process, not of the training
IRRELEVANT = {"checkpoint", "device", "memory", "random_state", "verbose"}  # to what is learned


class Progress:
    """What a training has done so far; with a file it is written there now and then.

    A training is a sequence of trainings (``n_init``), phases and epochs. It stands at the end of
    an epoch, and what is random goes on from the state that it had there.

    Parameters
    ----------
    path : Path or None, default=None
        The file. One that is there is read; None writes nothing.
    device : torch.device, default="cpu"
        Where the training is.
    """

    def __init__(self, path: Path | None = None, device: torch.device | str = "cpu"):
        self.path, self.device, self.written = path, torch.device(device), time.monotonic()
        self.number, self.highest = 0, -float("inf")  # of n_init trainings
        self.kept: Any = None
        self.seeds: list[int] = []  # of each of these
        self.forget()
        if path is not None:
            self._read(path)

    def forget(self) -> None:
        """Begin a training of ``n_init``."""
        self.module: Any = None
        self.phases: Any = None  # of the module, of which so many are done
        self.phase, self.before = 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self.end_phase()

    def end_phase(self) -> None:
        """Begin a phase."""
        self.epochs: Any = None  # what the loop over epochs goes on with
        self.random: Any = None

    def stands(self, history: Any, before: float, best: Any, moments: Any) -> None:
        """An epoch has ended, with this for the next one; write it if it is time."""
        self.epochs = SimpleNamespace(history=history, before=before, best=best, moments=moments)
        if (
            self.path is not None
            and rank_and_size()[0] == 0
            and time.monotonic() - self.written >= EVERY
        ):
            self._try_to_write()

    def _try_to_write(self) -> None:
        """Write the file; where that fails, as on a full disk, say so and go on."""
        try:
            self.write()
        except OSError as reason:
            self.written = time.monotonic()
            warnings.warn(
                f"checkpoint {self.path} cannot be written ({reason}): training goes on, and if "
                "it is killed, it will go on from an earlier file or begin anew",
                TrainingWarning,
                stacklevel=5,
            )

    def resume_random(self) -> None:
        """Have torch's generators go on."""
        set_random_state(self.random, self.device)

    def write(self) -> None:
        """Replace the file as a whole; it is never there in part."""
        assert self.path is not None
        self.random = random_state(self.device)
        state = {k: v for k, v in vars(self).items() if k not in OWN}
        partial = self.path.with_suffix(f".{uuid4().hex}.partial")  # machines may share the folder
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as reason:  # torch has errors of its own
            with suppress(OSError):
                partial.unlink()
            raise OSError(str(reason)) from reason
        with suppress(FileNotFoundError):  # the same fit elsewhere has ended and removed it
            os.replace(partial, self.path)
        self.written = time.monotonic()

    def finish(self) -> None:
        """Remove the file, and what was left of writing it."""
        if self.path is not None and rank_and_size()[0] == 0:
            for path in self.path.parent.glob(f"{self.path.stem}.*"):
                with suppress(OSError):
                    path.unlink()

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=False)
            if state.keys() != vars(self).keys() - OWN:
                raise ValueError("it does not hold what this version writes")
        except Exception as reason:  # of any kind: there are many ways to damage a file
            warnings.warn(
                f"checkpoint {path} cannot be read ({reason!s:.200}): training begins anew",
                TrainingWarning,
                stacklevel=4,
            )
            return
        vars(self).update(state)
        n_epochs = len(self.rows) + (len(self.epochs.history) if self.epochs else 0)
        message = "training goes on from checkpoint %s, written after %d epochs of training %d"
        logger.info(message, path, n_epochs, self.number + 1)


def progress_of(
    estimator: Any, cells: Cells, seeds: list[int], device: torch.device, start: Any = None
) -> Progress:
    """Progress of a fit to these cells, as far as it came before it was killed.

    The name of its file is a digest of all on which the result depends: parameters, cells,
    versions, seeds, and weights to begin with.
    """
    if estimator.checkpoint is None:
        return _with_seeds(Progress(None, device), seeds)
    if estimator.random_state is None:
        raise ValueError(
            f"checkpoint={str(estimator.checkpoint)!r} needs a random_state: without one, fits to "
            "the same cells at the same time would go on from each other's file. Give an int"
        )
    folder = Path(os.path.expanduser(estimator.checkpoint))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(
            f"checkpoint={str(folder)!r} is no folder that can be written to: name one"
        )
    parameters = estimator.get_params(deep=False)
    parts = [cells.library, cells.part, cells.dosage, cells.environment]
    weights = {} if start is None else start.state_dict()  # of the module to begin with
    key = joblib.hash(
        [
            (type(estimator).__qualname__, isinstance(cells.x, DiskRows)),  # in another order
            {name: value for name, value in parameters.items() if name not in IRRELEVANT},
            (import_module(__package__).__version__, torch.__version__),
            (seeds, _checksum(cells)),
            [part.numpy() for part in (*parts, *(w.cpu() for w in weights.values()))],
        ]
    )
    path = folder / f"{type(estimator).__name__}-{key}.checkpoint"
    return _with_seeds(Progress(path, device), seeds)


def _checksum(cells: Cells) -> int:
    """Of all expression, in whatever form it is; on disk of some cells, as reading takes long."""
    step = max(cells.n_cells // N_READ, 1) if isinstance(cells.x, DiskRows) else 1
    n_rows = max(2**18 // max(cells.n_genes, 1), 1)
    total = 0
    for x in dense_rows(cells.x, torch.arange(0, cells.n_cells, step).split(n_rows)):
        total = zlib.crc32(x.numpy().data, total)
    return total


def _with_seeds(progress: Progress, seeds: list[int]) -> Progress:
    """The seeds of a training that has begun stay; processes that train together have the same."""
    progress.seeds = progress.seeds or seeds
    vars(progress).update(same({k: v for k, v in vars(progress).items() if k not in OWN}))
    if progress.module is not None:
        progress.module.to(progress.device)
    return progress
