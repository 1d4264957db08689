"""Networks of several seeds run as one against each run alone."""

import copy

import torch

from benchmarks.scale.fit_many import network, stacked, train_stacked


def test_stacked_networks_in_training_are_the_networks_alone():
    torch.manual_seed(0)
    networks = [network(5, 3) for _ in range(3)]
    alone = copy.deepcopy(networks)
    run, parameters, buffers = stacked(networks)
    x = torch.randn(2, 3, 16, 5)  # two steps, as the first moves the running statistics
    y = torch.stack([run(rows) for rows in x])
    y.square().sum().backward()
    for i, single in enumerate(alone):
        expected = torch.stack([single(rows) for rows in x[:, i]])
        torch.testing.assert_close(y[:, i], expected)
        expected.square().sum().backward()
        for name, parameter in single.named_parameters():
            gradient = parameters[name].grad[i]
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)
        for name, buffer in single.named_buffers():
            torch.testing.assert_close(buffers[name][i], buffer)


def test_stacked_training_lowers_the_loss_of_every_seed():
    torch.manual_seed(0)
    x, part = torch.poisson(torch.rand(1, 6) * torch.full((300, 1), 20.0)), torch.arange(300) % 20
    settings = {"batch_size": 300, "learning_rate": 0.01}
    start = train_stacked(x, part, 3, n_epochs=1, **settings)
    end = train_stacked(x, part, 3, n_epochs=60, **settings)
    assert end.shape == (3,)
    assert (end < start.min() - 1).all()
