"""A step of training does not wait for the device."""

import copy

import pytest
import torch
from sklearn.base import clone

from skpert._data import Cells
from skpert._optimizer import Adam
from skpert._training import train
from tests.fake_device import CUDA, fake_cuda
from tests.test_devices import CONDITIONS, EFFECTS, SMALL, X, design

pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:X looks like raw counts"),
]
ESTIMATORS = EFFECTS | CONDITIONS


@pytest.fixture
def memory(monkeypatch):
    with fake_cuda(monkeypatch) as memory:
        yield memory


def waits_of_an_epoch(memory, module, cells, batch_size):
    """Training changes a copy of the module."""
    module = copy.deepcopy(module)
    adam = Adam(module.parameter_groups(), 1e-3, max_norm=1.0)
    del memory.waits[:]
    train(module, cells, adam, max_epochs=1, batch_size=batch_size, validation=cells)
    return list(memory.waits)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_twice_the_steps_wait_as_often(memory, estimator):
    """At the start and the end of an epoch there are waits, in a step there are none."""
    short = SMALL | {"max_epochs": 1, "n_particles": 1}
    model = clone(estimator).set_params(**short).fit(X, design(estimator))
    cells = Cells.of_design(model._expression(X), model.design_, design(estimator))
    cells = cells.to(CUDA)._resident().with_saturated(tallied=True)
    for module in (model._make_module(cells).to(CUDA), model.module_):
        few, many = (waits_of_an_epoch(memory, module, cells, size) for size in (32, 8))
        assert few == many


WAITING = {
    "a number": lambda x: x.sum().item(),
    "a decision": lambda x: bool((x > 0).all()),
    "numbers": lambda x: x[0].tolist(),
    "where": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 3],
    "an assigned mask": lambda x: x.__setitem__(x > 3, 0.0),
    "distinct": lambda x: x.unique(dim=0),
    "repeated": lambda x: x[0].long().abs().repeat_interleave(x[0].long().abs()),
    "from Python": lambda x: x.new_tensor([1.0, 2.0]),
    "made there": lambda x: torch.tensor([1.0], device="cuda"),
    "to the CPU": lambda x: x.cpu(),
    "from the CPU": lambda x: torch.ones(3).to("cuda"),
    "copied over": lambda x: x.copy_(torch.zeros(4, 5)),
}
GOING_ON = {
    "a number of the CPU": lambda x: x * torch.tensor(2.0) + 1,
    "rows": lambda x: x.index_select(0, torch.randperm(4, device="cuda")),
    "chosen": lambda x: torch.where(x > 3, x, 0.0).masked_fill(x > 3, 1.0),
    "made there": lambda x: torch.zeros(3, device="cuda") + x.new_ones(1),
}


@pytest.mark.parametrize("program", WAITING.values(), ids=list(WAITING))
def test_what_waits_is_seen(memory, program):
    x = torch.arange(20.0, device="cuda").view(4, 5)
    del memory.waits[:]
    program(x)
    assert memory.waits


@pytest.mark.parametrize("program", GOING_ON.values(), ids=list(GOING_ON))
def test_what_does_not_wait_is_not_listed(memory, program):
    x = torch.arange(20.0, device="cuda").view(4, 5)
    del memory.waits[:]
    program(x)
    assert not memory.waits
