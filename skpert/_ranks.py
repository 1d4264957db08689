"""Processes that train one model together, each on its share of every minibatch.

They are those of the default group of ``torch.distributed``; under ``torchrun`` it is made when
it is first needed. Every process has all cells and does all but gradient steps by itself, with
the same random numbers: where a process has a share of the cells, it draws the noise of all and
takes its own. So the result is that of one process, but for the rounding of sums.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from joblib.parallel import get_active_backend
from torch import Tensor

from ._shared_memory import SharedMemory
from .exceptions import TrainingWarning

LEAST_SHARE = 16  # cells; of minibatches with smaller shares every process does the whole


class Share(NamedTuple):
    """A part of the rows of a minibatch."""

    start: int
    n_rows: int  # of the whole minibatch


_dividing = False  # whether minibatches are divided
_share: Share | None = None  # of the minibatch that is worked on, if it is divided
_interrupted = False  # whether this process was asked to stop


def rank_and_size() -> tuple[int, int]:
    """Number of this process among those that train together, and how many they are."""
    if not dist.is_available():
        return 0, 1
    joined = dist.is_initialized()
    if not (joined or dist.is_torchelastic_launched()) or get_active_backend()[0].nesting_level:
        return 0, 1  # a task of joblib trains by itself
    if not joined:
        if not _is_launched():
            return 0, 1
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _is_launched() -> bool:
    """Whether this is a process of torchrun, not a worker of one, which has its variables, too."""
    own = multiprocessing.current_process().name == "MainProcess"  # a worker's has another
    main = threading.current_thread() is threading.main_thread()  # Dask's tasks are in others
    return own and main and int(os.environ["WORLD_SIZE"]) > 1


def same(value: Any) -> Any:
    """Value of the first process, for all."""
    rank, size = rank_and_size()
    if size == 1:
        return value
    values = [value if rank == 0 else None]
    dist.broadcast_object_list(values)
    return values[0]


def read_alike(read: Callable[..., Any], *data: Any, memory: str, alike: bool, **how: Any) -> Any:
    """``read(*data, memory=memory, **how)``; if ``alike``, on disk or not as in the first process.

    Free memory differs between processes, and minibatches of what is on disk have another order.
    """
    values = read(*data, memory=memory, **how)
    if not alike or memory != "auto" or rank_and_size()[1] == 1:
        return values
    on_disk = hasattr(values, "n_at_once")  # as rows on disk have
    if same(on_disk) != on_disk:
        values = read(*data, memory="load" if on_disk else "stream", **how)
    return values


def add_up(tensor: Tensor) -> None:
    """Replace a tensor by its sum over processes."""
    rank, size = rank_and_size()
    if size == 1:
        return
    memory = _memory(dist.group.WORLD, rank, size) if tensor.device.type == "cpu" else None
    if memory is None:
        dist.all_reduce(tensor)
    else:
        memory.add_up(tensor)


@lru_cache(maxsize=1)
def _memory(group: Any, rank: int, size: int) -> SharedMemory | None:
    """Memory that the processes of this group share, if they are on one machine."""
    return SharedMemory.of_all(rank, size)


def add_up_gradient(gradient: Tensor) -> None:
    """The same of a gradient, whose last number is not of it; KeyboardInterrupt at Ctrl-C.

    That number says to all processes whether any of them was asked to stop.
    """
    if rank_and_size()[1] == 1:
        return
    gradient[-1] = float(_interrupted)
    add_up(gradient)
    if gradient[-1] > 0:
        raise KeyboardInterrupt


def warn_if_whole(module: Any) -> None:
    """Say once that a training gains nothing from several processes."""
    rank, size = rank_and_size()
    if size > 1 and rank == 0 and not module.divisible:
        message = f"{size} processes do the same: minibatches of this model cannot be divided"
        warnings.warn(message, TrainingWarning, stacklevel=4)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C reach all processes within the same step, so that none waits for another."""
    global _interrupted
    _interrupted = False
    main = threading.current_thread() is threading.main_thread()
    if rank_and_size()[1] == 1 or not main:
        yield
        return

    def note(number: int, frame: Any) -> None:
        global _interrupted
        _interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether any process says so."""
    if rank_and_size()[1] == 1:
        return bool(flag)
    said = torch.tensor(float(flag), device=device)
    add_up(said)
    return bool(said > 0)


def shares(batches: Iterable[Any], module: Any) -> Iterator[tuple[Any, int, float]]:
    """Own rows of each minibatch, number of all rows, and weight of its mean.

    Noise that is drawn before the next minibatch is that of these rows. Where the module's
    objective is not divisible, every process does the whole.
    """
    global _dividing, _share
    _, size = rank_and_size()
    if size == 1:
        yield from ((batch, batch.n_cells, 1.0) for batch in batches)
        return
    _dividing = module.divisible
    try:
        for batch in batches:
            if _share is None:
                yield batch, batch.n_cells, 1 / size
            else:
                yield batch, _share.n_rows, batch.n_cells / _share.n_rows
    finally:
        _dividing, _share = False, None


def own_rows(index: Tensor) -> Tensor:
    """Own part of the rows of the next minibatch, (n_rows,), if it is divided."""
    global _share
    _share, n_rows = None, len(index)
    if not _dividing:
        return index
    rank, size = rank_and_size()
    if n_rows < LEAST_SHARE * size:
        return index
    start, stop = (n_rows * i // size for i in (rank, rank + 1))
    _share = Share(start, n_rows)
    return index[start:stop]


def is_divided() -> bool:
    """Whether this process has a share of a minibatch."""
    return _share is not None


def rows_of_all(rows: Tensor) -> int:
    """Number of rows of the whole minibatch of which these are a share, if they are one."""
    return len(rows) if _share is None else _share.n_rows


def drawn(
    draw: Callable[..., Tensor], shape: Iterable[int], rows: int | None, device: torch.device
) -> Tensor:
    """Noise of this shape, ``draw(shape, device=device)``; rows of cells are dimension ``rows``.

    With None the noise belongs to no cell, and is the same in all processes.
    """
    if _share is None or rows is None:
        return draw(tuple(shape), device=device)
    whole = list(shape)
    n_own, whole[rows] = whole[rows], _share.n_rows
    return draw(tuple(whole), device=device).narrow(rows, _share.start, n_own)
