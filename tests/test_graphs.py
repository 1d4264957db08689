"""Steps that are recorded and replayed; what records them here is a function, not a GPU."""

import copy
import logging
from typing import NamedTuple

import pytest
import torch
from sklearn.base import clone
from torch import nn

from skpert import SVAEPlus
from skpert._data import Cells
from skpert._graphs import Replayed, copied, tensors_of
from skpert._optimizer import Adam
from skpert._training import train
from tests.fake_device import fake_cuda
from tests.test_devices import CONDITIONS, EFFECTS, SMALL, X, design

pytestmark = [
    pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot"),
    pytest.mark.filterwarnings("ignore:X looks like raw counts"),
]
ESTIMATORS = EFFECTS | CONDITIONS


class Recorded:
    """Does as a CUDA graph does: some steps first, then always the same tensors."""

    def __init__(self, change=None):
        self.n_made, self.n_replayed, self.change = 0, 0, change

    def __call__(self, function):
        self.n_made += 1
        function()
        result = function().clone()

        def replay():
            self.n_replayed += 1
            result.copy_(function())
            if self.change is not None:
                self.change(result)

        return replay, result


class Batch(NamedTuple):
    x: torch.Tensor
    y: object


class Target(NamedTuple):
    value: torch.Tensor
    nothing: None = None


class Linear:
    """A step of least squares by momentum, with noise."""

    def __init__(self):
        self.weight, self.momentum = nn.Parameter(torch.zeros(3)), torch.zeros(3)
        self.weight.grad = torch.zeros(3)

    @property
    def state(self):
        return [self.weight.data, self.weight.grad, self.momentum]

    def __call__(self, batch, rate):
        x, (y, _) = batch
        noise = 0.01 * torch.randn(len(x))
        loss = (x @ self.weight + noise - y).square().mean()
        loss.backward()
        with torch.no_grad():
            self.momentum.mul_(0.9).add_(self.weight.grad)
            self.weight -= rate * self.momentum
            self.weight.grad.zero_()
        return loss.detach()


def batches(n=9, sizes=(8, 8, 5)):
    torch.manual_seed(0)
    for i in range(n):
        x = torch.randn(sizes[i % len(sizes)], 3)
        yield Batch(x, Target(x @ torch.tensor([1.0, -2.0, 0.5])))


def trained(record=None):
    step, given = Linear(), list(batches())
    take = step if record is None else Replayed(step, step.state, record)
    torch.manual_seed(1)
    losses = torch.stack([take(batch, 0.1 / (i + 1)).clone() for i, batch in enumerate(given)])
    return losses, step.weight.detach(), torch.get_rng_state()


def test_replayed_steps_come_to_the_same_and_partial_ones_are_taken_as_they_are():
    record = Recorded()
    for found, expected in zip(trained(record), trained(), strict=True):
        torch.testing.assert_close(found, expected)
    assert record.n_made == 1
    assert record.n_replayed == 5  # one of them compared; the first, and those of 5 rows, are not


def broken(function):
    function()
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")


def stale(function):
    """What reads other inputs than it is given."""
    result = function().clone()
    return (lambda: result), result


DISTRUSTED = {
    "cannot be recorded": (broken, "cannot be recorded (RuntimeError: operation not permitted"),
    "does nothing": (stale, "does not come to the same"),
    "another result": (Recorded(lambda result: result.mul_(1.2)), "does not come to the same"),
    "other noise": (Recorded(lambda result: result.add_(torch.rand(()))), "not come to the same"),
    "not a number": (Recorded(lambda result: result.fill_(torch.nan)), "not come to the same"),
}


@pytest.mark.parametrize(("record", "said"), DISTRUSTED.values(), ids=list(DISTRUSTED))
def test_a_graph_that_fails_or_differs_is_not_used(record, said, caplog):
    with caplog.at_level(logging.INFO, logger="skpert"):
        results = trained(record)
    for found, expected in zip(results, trained(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(caplog.messages) == 1
    assert said in caplog.messages[0]


def test_what_another_error_leaves_is_as_before():
    def interrupted(function):
        function()
        raise KeyboardInterrupt

    step, (first, *_) = Linear(), list(batches())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        Replayed(step, step.state, interrupted)(first, 0.1)
    assert not step.weight.any()
    assert torch.equal(torch.get_rng_state(), before)


def test_minibatches_are_copied_whole():
    cells = Cells.of_shape(3, 2, 1)._replace(x=torch.ones(3, 2))
    found = copied(cells)
    assert isinstance(found, Cells)
    assert found.log_saturated is None
    for own, given in zip(tensors_of(found), tensors_of(cells), strict=True):
        assert own.data_ptr() != given.data_ptr() or not len(given)
        torch.testing.assert_close(own, given)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_every_model_can_be_replayed(estimator):
    """The KL weight and the learning rate are tensors then, and all that changes is known."""
    A = design(estimator)
    model = clone(estimator).set_params(**SMALL | {"device": "cpu", "max_epochs": 1}).fit(X, A)
    cells = Cells.of_design(model._expression(X), model.design_, A).with_saturated(tallied=True)
    found = []
    for record in (None, Recorded()):
        module = copy.deepcopy(model.module_)
        adam = Adam(module.parameter_groups(), 1e-3, max_norm=1.0, schedule="one_cycle")
        torch.manual_seed(0)
        options = {"max_epochs": 2, "batch_size": 16, "n_epochs_kl_warmup": 2}
        rows = train(module, cells, adam, **options, record=record)
        found.append(rows)
    assert record.n_replayed >= 3
    assert found[0] == [pytest.approx(row, rel=2e-3, abs=1e-4) for row in found[1]]


def test_a_gpu_that_cannot_record_trains_all_the_same(monkeypatch, caplog):
    options = SMALL | {"batch_size": 8, "max_epochs": 40}
    with fake_cuda(monkeypatch), caplog.at_level(logging.INFO, logger="skpert"):
        model = SVAEPlus(**options, init="random", edges="learned").fit(X, design(SVAEPlus()))
    assert "without a CUDA graph, which cannot be recorded" in caplog.text
    assert model.module_.device.type == "cuda" or model.n_iter_ == 40
