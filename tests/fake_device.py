"""A pretended GPU: tensors of the CPU that report CUDA, and refuse what CUDA refuses.

Which storages lie on it is kept in a table; values, views and gradients are those of the CPU.
Every operation is seen twice: as Python calls it (factories, ``to``, ``numpy``), and as the
dispatcher runs it, in backward passes too, where devices are compared. CPU tensors without
dimensions may join pointwise operations, CPU indices may index, and ``copy_`` crosses over;
all else that mixes is an error. Random numbers on the device come from a generator of its own.
What a program would have to wait for the device for is listed: numbers that Python reads, shapes
that depend on values, and copies from one side to the other.
"""

from contextlib import contextmanager

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
CROSSING = {aten.copy_, aten._to_copy, aten.set_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount}
WAITING |= {aten.is_nonzero, aten._unique2, aten.unique_dim, aten.unique_consecutive}
WAITING |= {aten.repeat_interleave}
SCALARS_MIX = {aten.fill_, aten.fill, aten.masked_fill, aten.masked_fill_}
DEVICE_OF = torch.Tensor.device.__get__
IS_CUDA = torch.Tensor.is_cuda.__get__
TO_NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__}
AS_TENSOR = {torch.as_tensor, torch.asarray}
FROM_PYTHON = AS_TENSOR | {torch.tensor}
LIKE_SELF = {torch.Tensor.__deepcopy__, torch.Tensor.new_tensor, torch.Tensor.new}


def tensors_in(values):
    """Tensors of nested tuples, lists and dicts; most of the time goes into this, so no pytree."""
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, tuple | list):
        return []
    return [tensor for value in values for tensor in tensors_in(value)]


class Memory:
    """What lies on the device, and its generator."""

    def __init__(self):
        self.storages = {}  # weak references keep an address from being used again
        self.generator = torch.Generator().manual_seed(1)
        self.default = False  # whether what is made without a device lies here
        self.waits = []  # what the program would have waited for the device for

    def holds(self, tensor):
        return tensor.untyped_storage()._cdata in self.storages

    def place(self, values, here=True):
        for tensor in tensors_in(values):
            storage = tensor.untyped_storage()
            if here:
                self.storages[storage._cdata] = StorageWeakRef(storage)
            else:
                self.storages.pop(storage._cdata, None)

    @contextmanager
    def made_here(self, here):
        before, self.default = self.default, here
        try:
            yield
        finally:
            self.default = before

    @contextmanager
    def own_noise(self):
        """Numbers that torch draws come from the device's generator."""
        of_cpu = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(of_cpu)


class Dispatched(TorchDispatchMode):
    """Compares the devices of what an operation gets, and places what it gives."""

    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        here = [tensor for tensor in given if self.memory.holds(tensor)]
        if here and len(here) < len(given):
            self._check(func, args, kwargs, given)
        on_device = bool(here) if given else self.memory.default
        self._note_wait(func, args, here, given)
        if func.overloadpacket in CROSSING:
            on_device = self.memory.holds(args[0])
        if kwargs.get("generator") is not None and on_device:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if on_device and torch.Tag.nondeterministic_seeded in func.tags:
            with self.memory.own_noise():
                result = func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        if on_device:
            known = {id(tensor) for tensor in given}
            self.memory.place([t for t in tensors_in(result) if id(t) not in known])
        return result

    def _note_wait(self, func, args, here, given):
        """A mask as an index asks how many of it are true."""
        packet = func.overloadpacket
        masks = packet in INDEXING and any(t.dtype == torch.bool for t in tensors_in(args[1]))
        crosses = packet is aten.copy_ and len(here) < len(given)
        if here and (packet in WAITING or masks or crosses):
            self.memory.waits.append(str(func))

    def _check(self, func, args, kwargs, given):
        packet = func.overloadpacket
        if packet in CROSSING:
            return
        left = [tensor for tensor in given if not self.memory.holds(tensor)]
        if packet in INDEXING and self.memory.holds(args[0]):
            values = tensors_in(args[2:3])
            left = [tensor for tensor in values if not self.memory.holds(tensor)]
            mixes = True
        else:
            mixes = torch.Tag.pointwise in func.tags or packet in SCALARS_MIX
        changed = tensors_in([kwargs.get("out"), args[0] if func._schema.is_mutable else None])
        refused = [t for t in left if t.ndim or any(t is c for c in changed)]
        if refused or (left and not mixes):
            shapes = [tuple(tensor.shape) for tensor in left]
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({func}, on the CPU are shapes {shapes})"
            )


class Called(TorchFunctionMode):
    """Answers what Python asks of devices."""

    def __init__(self, memory):
        super().__init__()
        self.memory = memory

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        own = bool(args) and isinstance(args[0], torch.Tensor) and self.memory.holds(args[0])
        if func is torch.Tensor.tolist and own:
            self.memory.waits.append("numbers that Python reads")
        if func in (DEVICE_OF, IS_CUDA) or (func in TO_NUMPY and own):
            return self._asked(func, args, own)
        if func is torch.Tensor.cuda or (func is torch.Tensor.cpu and own):
            return self._moved(args[0], CUDA if func is torch.Tensor.cuda else CPU)
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.backward:
            slopes = kwargs.pop("gradient", None)
            with self.memory.made_here(own), self:  # functions with a backward pass of their own
                return torch.autograd.backward(args[0], slopes, **kwargs)
        if device is not None and torch.device(device).type in ("cpu", "cuda"):
            return self._on_device(func, args, kwargs)
        return self._beside(func, args, kwargs, own)

    def _asked(self, func, args, own):
        if func in TO_NUMPY:
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        if func == DEVICE_OF:
            return CUDA if own else func(*args)
        return own

    def _beside(self, func, args, kwargs, own):
        """What an operation makes on the way lies where its tensors do."""
        memory = self.memory
        here = any(memory.holds(tensor) for tensor in tensors_in((args, kwargs)))
        with memory.made_here(memory.default or here):
            result = func(*args, **kwargs)
        if func in LIKE_SELF:
            memory.place(result, own)
            if own and func is not torch.Tensor.__deepcopy__:
                memory.waits.append(str(func))
        return result

    def _on_device(self, func, args, kwargs):
        here = torch.device(kwargs.pop("device")).type == "cuda"
        if here and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if func in AS_TENSOR and isinstance(args[0], torch.Tensor):
            return self._moved(func(*args, **kwargs), CUDA if here else CPU)
        if here and func in FROM_PYTHON:
            self.memory.waits.append("torch.tensor on the device")
        with self.memory.made_here(here):
            result = func(*args, **kwargs)
        self.memory.place(result, here)
        return result

    def _to(self, tensor, *args, **kwargs):
        others = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if others:
            device = CUDA if self.memory.holds(others[0]) else CPU
            dtype = others[0].dtype
        else:
            kwargs.pop("copy", None)
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype is not None:
            with self.memory.made_here(self.memory.holds(tensor)):
                tensor = tensor.to(dtype)
        return tensor if device is None else self._moved(tensor, device)

    def _moved(self, tensor, device):
        here = torch.device(device).type == "cuda"
        if self.memory.holds(tensor) == here:
            return tensor
        result = tensor.clone()
        self.memory.waits.append("a copy from one side to the other")
        self.memory.place(result, here)
        return result


@contextmanager
def fake_cuda(monkeypatch):
    """In this context a CUDA device seems to be there; yields its memory."""
    memory = Memory()
    with monkeypatch.context() as patch:
        for module in (torch.cuda, torch.cuda.random):
            patch.setattr(module, "_lazy_init", lambda: None)
            patch.setattr(module, "_lazy_call", lambda function, **options: function())
            patch.setattr(module, "device_count", lambda: 1)
            patch.setattr(module, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
        patch.setattr(torch.cuda, "default_generators", (memory.generator,))
        with Called(memory), Dispatched(memory):
            yield memory
