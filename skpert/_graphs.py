"""A step of training as a CUDA graph: one launch in place of hundreds.

On a GPU a step of small networks is mostly the launching of its kernels. A graph holds them with
the addresses they read and write, so that inputs are copied to where they were when it was made,
and all that a step changes has to stay where it is. Nothing is taken on trust: the next minibatch
is done without the graph and with it, from the same weights and random numbers, and unless both
come to the same the graph is not used.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ._runtime import random_state, set_random_state

N_WARM = 3  # steps before a graph is made: libraries set themselves up in the first ones
LEAST_STEPS = 200  # of a training for which it pays
AGREEMENT = 0.05  # of the change by a step that may differ; sums of another order differ by less
ROUNDING = 1e-5  # of a value that may differ

logger = logging.getLogger("skpert")
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]


def cuda_graph(
    function: Callable[[], Tensor], device: torch.device
) -> tuple[Callable[[], Any], Tensor]:
    """Do what the function does, into the same result, at each call of what is returned first.

    A recording that fails gives back the stream and the generator that it would keep.
    """
    generator = torch.cuda.default_generators[device.index]
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        fresh = generator.clone_state()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(N_WARM):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others have threads
                result = function()
        except BaseException:
            generator.graphsafe_set_state(fresh)
            raise
    return graph.replay, result


class Replayed:
    """A step that is recorded at the first minibatch, and replayed for all of the same shape.

    Parameters
    ----------
    step : callable
        ``step(batch, *numbers)`` changes tensors in place and returns one. A number is a float,
        or when it is recorded a tensor, (), whose value may change.
    state : list of Tensor
        All that it changes.
    record : callable
        ``cuda_graph`` of a device, or what does the same.
    """

    def __init__(self, step: Callable[..., Tensor], state: list[Tensor], record: Recorder):
        self.step, self.state, self.record = step, state, record
        self.numbers: list[Tensor] = []
        self.inputs: list[Tensor] = []  # that the graph reads
        self.replay: Any = None
        self.result = torch.zeros(())  # that it writes
        self.agreed: bool | None = None  # with a step without it; None is not known yet

    def __call__(self, batch: Any, *numbers: float) -> Tensor:
        """Take the step."""
        given = list(tensors_of(batch))
        if not self.inputs and self.agreed is None:
            self._make(batch, len(numbers))
        elif self._fits(given) and self.agreed is None:
            return self._compared(batch, given, numbers)
        elif self._fits(given) and self.agreed:
            return self._replayed(given, numbers)
        return self.step(batch, *numbers)

    def _fits(self, given: list[Tensor]) -> bool:
        return [t.shape for t in given] == [t.shape for t in self.inputs]

    def _make(self, batch: Any, n_numbers: int) -> None:
        """Record a step, and leave all as it was."""
        device = self.state[0].device
        before = self._saved(), random_state(device)
        inputs = copied(batch)
        self.numbers = [torch.zeros((), device=device) for _ in range(n_numbers)]
        try:
            self.replay, self.result = self.record(lambda: self.step(inputs, *self.numbers))
            self.inputs = list(tensors_of(inputs))
        except Exception as reason:  # of any kind: without a graph all goes on
            self._leave(f"cannot be recorded ({type(reason).__name__}: {str(reason)[:100]})")
        finally:
            self._restore(*before)

    def _compared(self, batch: Any, given: list[Tensor], numbers: tuple[float, ...]) -> Tensor:
        """Take the step without the graph, after one with it; say whether they agree."""
        device = self.state[0].device
        before, random = self._saved(), random_state(device)
        result = self._replayed(given, numbers).clone()
        after = self._saved()
        self._restore(before, random)
        expected = self.step(batch, *numbers)
        pairs = [(result, expected, torch.zeros_like(expected))]
        pairs += list(zip(after, self.state, before, strict=True))
        self.agreed = bool(torch.stack([_agree(*pair) for pair in pairs]).all())
        if not self.agreed:
            self._leave("does not come to the same")
        return expected

    def _replayed(self, given: list[Tensor], numbers: tuple[float, ...]) -> Tensor:
        for own, tensor in zip(self.inputs, given, strict=True):
            own.copy_(tensor)
        for place, number in zip(self.numbers, numbers, strict=True):
            place.fill_(number)
        self.replay()
        return self.result

    def _leave(self, why: str) -> None:
        logger.info("training goes on without a CUDA graph, which %s", why)
        self.agreed, self.replay, self.inputs = False, None, []

    def _saved(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self.state]

    @torch.no_grad()
    def _restore(self, saved: list[Tensor], random: Any) -> None:
        for tensor, value in zip(self.state, saved, strict=True):
            tensor.copy_(value)
        set_random_state(random, self.state[0].device)


def _agree(found: Tensor, expected: Tensor, before: Tensor) -> Tensor:
    """Whether two changes of a tensor are the same but for rounding, a tensor, ()."""
    found, expected, before = (t.detach().double() for t in (found, expected, before))
    most = AGREEMENT * _distance(expected, before) + ROUNDING * expected.norm()
    agree: Tensor = _distance(found, expected) <= most
    return agree


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Norm of the difference, where equal infinities are the same."""
    distance: Tensor = torch.where(first == second, 0.0, first - second).norm()
    return distance


def tensors_of(batch: Any) -> Iterator[Tensor]:
    """Tensors of a minibatch, a NamedTuple of these, of None and of such tuples."""
    if isinstance(batch, Tensor):
        yield batch
    elif batch is not None:
        for field in batch:
            yield from tensors_of(field)


def copied(batch: Any) -> Any:
    """The same minibatch in other memory."""
    if batch is None or isinstance(batch, Tensor):
        return None if batch is None else batch.clone()
    return type(batch)(*(copied(field) for field in batch))
