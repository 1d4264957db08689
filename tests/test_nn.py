"""Hidden layers against the modules of torch."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from skpert.nn import DenseStack, thinned


def stack(n_in=3, dropout=0.0, n_environments=0):
    torch.manual_seed(0)
    module = DenseStack(n_in, 5, 2, dropout, n_environments).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("n_environments", [0, 2])
def test_layers_are_those_of_torch(n_environments):
    module, twin = stack(n_environments=n_environments), stack(n_environments=n_environments)
    x = torch.randn(7, 3, dtype=torch.float64)
    environment = torch.randn(7, n_environments, dtype=torch.float64)
    weight = torch.randn(7, 5, dtype=torch.float64)

    def plain(h):
        for linear, norm in zip(twin.linears, twin.norms, strict=True):
            h = torch.relu(norm(linear(torch.cat([h, environment], 1))))
        return h

    for train in (True, True, False):
        h, expected = module.train(train)(x, environment), twin.train(train) and plain(x)
        torch.testing.assert_close(h, expected)
        (weight * h).sum().backward()
        (weight * expected).sum().backward()
    for parameter, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    for norm, other in zip(module.norms, twin.norms, strict=True):
        torch.testing.assert_close(norm.running_mean, other.running_mean)
        torch.testing.assert_close(norm.running_var, other.running_var)


def test_slopes_by_finite_differences_with_the_same_dropout():
    module = stack(dropout=0.4)
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    parameters = list(module.parameters())

    def forward(x, *_):
        torch.manual_seed(1)
        return module(x, x[:, :0])

    assert gradcheck(forward, (x, *parameters))


def test_dropout_keeps_the_share_it_says_and_the_mean():
    module = DenseStack(4, 50, 1, 0.3)
    nn.init.ones_(module.norms[0].bias)
    nn.init.zeros_(module.norms[0].weight)  # each unit is one unless it is dropped
    h = module(torch.randn(2000, 4), torch.empty(2000, 0))
    assert h.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert (h == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(module.eval()(torch.randn(9, 4), torch.empty(9, 0)), torch.ones(9, 50))


def test_thinned_counts_are_as_expected_on_average_and_never_more():
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 1.0, 3.0, 100.0]]).repeat(40_000, 1)
    share = torch.tensor([0.3])
    kept = thinned(x, share)
    assert torch.equal(kept, kept.round())
    assert (kept >= 0).all()
    assert (kept <= x).all()
    torch.testing.assert_close(
        kept.mean(0), torch.tensor([0.0, 0.3, 0.9, 30.0]), rtol=0, atol=0.02
    )
    torch.testing.assert_close(thinned(x, torch.ones(1)), x)
