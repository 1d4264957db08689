"""Devices, and torch's generators and threads, which are given back as they were."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .exceptions import TrainingWarning

logger = logging.getLogger("skpert")
GENERATOR = threading.RLock()  # held while torch's generators are ours


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a generator of our own and leave the caller's as it was.

    Torch has one generator for all threads, so that one seeded piece of work waits for another.
    """
    with GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        set_seed(seed, device)
        yield


def set_seed(seed: int, device: torch.device) -> None:
    """Seed what work on this device draws from; ``torch.manual_seed`` seeds other GPUs, too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States of the generators that work on this device draws from."""
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def set_random_state(
    state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device
) -> None:
    """Have them go on from there."""
    on_cpu, on_device = state
    torch.set_rng_state(on_cpu)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)


@contextmanager
def suitable_threads(n_elements: int) -> Iterator[None]:
    """One thread for minibatches of fewer than a million numbers, else as many as torch has.

    Small matrix products gain nothing from a second thread, and lose all where another program
    wants the same cores: the threads wait for each other at every operation.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if n_elements < 2**20 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def chosen_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU, or the CPU where there is none that works.

    Processes of ``torchrun`` take a GPU each.
    """
    auto = name == "auto"
    if auto:
        own = f":{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else ""
        name = f"cuda{own}" if torch.cuda.is_available() else "cpu"
    try:  # there and back, in the precision of effects
        number = torch.zeros((), dtype=torch.float64, device=name)
        number.cpu()
    except (RuntimeError, AssertionError, TypeError) as reason:
        said = str(reason).splitlines()[0]
        if not auto:
            raise ValueError(
                f"device={name!r} cannot be used here ({said}): choose another, or 'auto' for a "
                "GPU where there is one"
            ) from reason
        message = f"there is a GPU that cannot be used ({said}): training is on the CPU"
        warnings.warn(message, TrainingWarning, stacklevel=3)
        return torch.device("cpu")
    if auto:
        logger.info("device='auto' is %s", number.device)
    return number.device


@contextmanager
def without_overflow() -> Iterator[None]:
    """Have it leave as a ValueError that numbers of a training are not finite."""
    try:
        yield
    except (FloatingPointError, torch.linalg.LinAlgError) as reason:
        raise ValueError(str(reason)) from reason
