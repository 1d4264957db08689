"""The pretended GPU accepts what a real one accepts, and refuses what that refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.adam import adam

from tests.fake_device import fake_cuda

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def memory(monkeypatch):
    with fake_cuda(monkeypatch) as memory:
        yield memory


REFUSED = {
    "add": lambda here, there: here + there,
    "add in place": lambda here, there: there.add_(here),
    "a number of the device changes one of the CPU": lambda here, there: there[0].add_(here[0]),
    "a number of the device and a vector of the CPU": lambda here, there: here[0] * there,
    "cat": lambda here, there: torch.cat([here, there]),
    "stack numbers": lambda here, there: torch.stack([here[0], there[0]]),
    "matmul": lambda here, there: here @ there,
    "where": lambda here, there: torch.where(here > 0, here, there),
    "out": lambda here, there: torch.add(here, here, out=there),
    "index_select": lambda here, there: here.index_select(0, there.long()),
    "gather": lambda here, there: here.gather(0, there.long()),
    "scatter": lambda here, there: here.scatter_add(0, there.long(), here),
    "embedding": lambda here, there: nn.functional.embedding(there.long(), here[:, None]),
    "index of the device": lambda here, there: there[here.long()],
    "mask of the device": lambda here, there: there[here > 0],
    "assigned values": lambda here, there: here.__setitem__(here.long(), there),
    "numpy": lambda here, there: here.numpy(),
    "asarray": lambda here, there: np.asarray(here),
    "generator": lambda here, there: torch.randn(
        2, generator=torch.Generator(), device=here.device
    ),
    "layer left behind": lambda here, there: nn.Linear(3, 2)(here[None]),
    "equal": lambda here, there: torch.equal(here, there),
    "backward": lambda here, there: Crossing.apply(here.requires_grad_(), there).sum().backward(),
}


class Crossing(torch.autograd.Function):
    """Mixes devices in the backward pass only."""

    @staticmethod
    def forward(ctx, here, there):
        ctx.save_for_backward(there)
        return here.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


@pytest.mark.parametrize("program", REFUSED.values(), ids=list(REFUSED))
def test_what_cuda_refuses_is_refused(memory, program):
    here, there = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises((RuntimeError, TypeError), match=r"device|numpy"):
        program(here, there)


ON_DEVICE = {
    "a number of the CPU": lambda here, there: here * there[0],
    "two numbers": lambda here, there: here[0] * there[0],
    "where": lambda here, there: torch.where(here > 0, here, torch.tensor(2.0)),
    "index of the CPU": lambda here, there: here[there.long()],
    "mask of the CPU": lambda here, there: here[there > 0],
    "assign": lambda here, there: copied(here, there),
    "a number is assigned": lambda here, there: assigned(here, there),
    "to": lambda here, there: there.to(here.device),
    "to another": lambda here, there: there.double().to(here),
    "cuda": lambda here, there: there.cuda(),
    "new": lambda here, there: here.new_zeros(2),
    "new tensor": lambda here, there: here.new_tensor([1.0]),
    "like": lambda here, there: torch.ones_like(here),
    "view": lambda here, there: here.view(3, 1)[1:].flatten(),
    "deepcopy": lambda here, there: copy.deepcopy(here),
    "deepcopy of a parameter": lambda here, there: copy.deepcopy(nn.Parameter(here)),
    "pseudoinverse": lambda here, there: torch.linalg.pinv(here[:, None]),
    "permutation": lambda here, there: torch.randperm(3, device=here.device),
    "as_tensor": lambda here, there: torch.as_tensor(there, device=here.device),
    "layer": lambda here, there: nn.Linear(3, 2).to(here.device)(here[None]),
    "gradient": lambda here, there: gradient(here),
    "buffer": lambda here, there: nn.BatchNorm1d(3).to(here.device).running_mean,
    "data": lambda here, there: replaced(here, there),
    "loaded": lambda here, there: loaded(here),
    "empty": lambda here, there: here[:0].cumsum(0),
}
ON_CPU = {
    "made without a device": lambda here, there: torch.arange(3),
    "cpu": lambda here, there: here.cpu(),
    "to cpu": lambda here, there: here.to("cpu"),
    "from numpy": lambda here, there: torch.from_numpy(here.cpu().numpy()),
    "copied": lambda here, there: copied(there, here),
    "from a list": lambda here, there: torch.tensor(here.tolist()),
    "after the device's": lambda here, there: [torch.ones(3, device="cuda"), torch.ones(3)][1],
}


def copied(to, other):
    to[1:] = other[1:]
    return to


def assigned(here, there):
    here[here > 0] = there[0]
    return here


def gradient(here):
    (here.requires_grad_().square().sum() * 2).backward()
    return here.grad


def replaced(here, there):
    parameter = nn.Parameter(there)
    parameter.data = here
    return parameter


def loaded(here):
    layer = nn.Linear(3, 2).to(here.device)
    layer.load_state_dict(nn.Linear(3, 2).state_dict())
    return layer.weight


@pytest.mark.parametrize("program", ON_DEVICE.values(), ids=list(ON_DEVICE))
def test_what_stays_on_the_device(memory, program):
    result = program(torch.ones(3, device="cuda"), torch.ones(3))
    assert result.device == DEVICE
    assert result.is_cuda


@pytest.mark.parametrize("program", ON_CPU.values(), ids=list(ON_CPU))
def test_what_is_on_the_cpu(memory, program):
    result = program(torch.ones(3, device="cuda"), torch.ones(3))
    assert result.device.type == "cpu"
    result.numpy()


def test_values_are_those_of_the_cpu(memory):
    x = torch.arange(6.0).view(2, 3)
    expected = torch.softmax(x @ x.T, 0)[1]
    here = x.to("cuda")
    assert torch.equal(torch.softmax(here @ here.T, 0)[1].cpu(), expected)


def test_flat_parameters_are_stepped_on_their_device(memory):
    layer = nn.Linear(2, 1).to("cuda")
    values = torch.cat([p.detach().flatten() for p in layer.parameters()])
    for parameter, view in zip(layer.parameters(), values.split([2, 1]), strict=True):
        parameter.data = view.view_as(parameter)
    before = layer.weight.tolist()
    settings = {"beta1": 0.9, "beta2": 0.999, "lr": 0.1, "weight_decay": 0.0, "eps": 1e-8}
    settings |= {"fused": True, "amsgrad": False, "maximize": False}
    slope = torch.ones_like(values)
    state = [torch.zeros_like(values)], [torch.zeros_like(values)], []
    adam([values], [slope], *state, [torch.zeros((), device="cuda")], **settings)
    assert layer.weight.tolist() != before
    with pytest.raises(RuntimeError, match="device"):
        adam([values], [slope], *state, [torch.zeros(())], **settings)


def test_the_device_has_a_generator_of_its_own(memory):
    torch.manual_seed(0)
    torch.rand(3, device="cuda")
    of_cpu = torch.rand(3)
    with torch.random.fork_rng(devices=[DEVICE]):
        torch.manual_seed(0)
        of_device = torch.rand(3, device="cuda").tolist()
        assert torch.equal(torch.rand(3), of_cpu)
    assert torch.rand(3, device="cuda").tolist() != of_device
    torch.cuda.manual_seed(0)
    assert torch.rand(3, device="cuda").tolist() == of_device


def test_nothing_is_left_of_it_afterwards(monkeypatch):
    available = torch.cuda.is_available()
    with fake_cuda(monkeypatch):
        x = torch.ones(3, device="cuda")
    assert torch.cuda.is_available() == available
    assert x.device.type == "cpu"
