"""Sums over processes of one machine, in memory that they share.

Gloo sends through sockets, and for each sum several of its threads wake each other. A step has
about ten sums, most of them small, so that it would wait for threads longer than for numbers. Here
a process writes its own, says so to the others through their pipes, and adds up all by itself.
"""

import os
import select
import shutil
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

FOLDER = Path("/dev/shm")  # of files in memory, on Linux
N_BYTES = 2**25  # of all processes together; Docker gives 64 MB if it is not told otherwise
PATIENCE = 5.0  # seconds, after which it is seen whether the others are still there


class SharedMemory:
    """Two slots of memory and a pipe for each of the processes that train together.

    A process writes into its slots by turns. When it comes back to one of them, all have written
    into the other, and so have read what was in this one.
    """

    def __init__(self, folder: Path, rank: int, processes: list[int]):
        size = len(processes)
        self.rank, self.size, self.processes = rank, size, processes
        self.pipes = [os.open(folder / str(i), os.O_RDWR) for i in range(size)]
        memory = torch.from_file(str(folder / "memory"), True, N_BYTES, dtype=torch.uint8)
        width = N_BYTES // (2 * size * 64) * 64  # bytes of a slot, of whole numbers of any type
        self.slots = memory[: 2 * size * width].view(2, size, width)
        self.turn = 0  # 0 or 1
        self.heard = [0, 0]  # how many others have written at this turn, or at the next already

    @classmethod
    def of_all(cls, rank: int, size: int) -> "SharedMemory | None":
        """Memory of all processes of the group; None in all of them if one cannot have it."""
        folder, processes = [_made(size) if rank == 0 else None], [0] * size
        dist.broadcast_object_list(folder)
        dist.all_gather_object(processes, os.getpid())
        try:
            memory = None if folder[0] is None else cls(folder[0], rank, processes)
        except OSError:  # this is another machine
            memory = None
        n_without = torch.tensor(float(memory is None))
        dist.all_reduce(n_without)
        if rank == 0 and folder[0] is not None:
            shutil.rmtree(folder[0])  # memory and pipes are there as long as they are open
        return None if n_without > 0 else memory

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over processes, the same bits in all of them."""
        values = tensor.view(-1)
        for part in values.split(self.slots.shape[-1] // values.element_size()):
            slots = self.slots[self.turn].view(part.dtype)[:, : len(part)]
            slots[self.rank] = part
            self._meet()
            torch.add(*slots[:2], out=part)
            for slot in slots[2:]:
                part += slot

    def _meet(self) -> None:
        """Wait until all processes have written."""
        for rank, pipe in enumerate(self.pipes):
            if rank != self.rank:
                os.write(pipe, bytes([self.turn]))
        own = self.pipes[self.rank]
        while self.heard[self.turn] < self.size - 1:
            while not select.select([own], [], [], PATIENCE)[0]:
                self._check_alive()
            for turn in os.read(own, 2 * self.size):
                self.heard[turn] += 1
        self.heard[self.turn] = 0
        self.turn = 1 - self.turn

    def _check_alive(self) -> None:
        for number in self.processes:
            try:
                os.kill(number, 0)  # sends nothing
            except ProcessLookupError:
                message = f"process {number}, which trains this model, too, has ended"
                raise RuntimeError(message) from None
            except PermissionError:
                pass


def _made(size: int) -> Path | None:
    """Folder with a file of memory and a pipe for each process, if this machine has room."""
    if not os.access(FOLDER, os.W_OK):
        return None
    folder = Path(tempfile.mkdtemp(prefix="skpert-", dir=FOLDER))
    try:
        with open(folder / "memory", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, N_BYTES)
        for rank in range(size):
            os.mkfifo(folder / str(rank))
    except OSError:
        shutil.rmtree(folder)
        return None
    return folder
