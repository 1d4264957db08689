"""The loop on a problem whose optimum is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from skpert import SAMSVAE
from skpert._data import Cells
from skpert._optimizer import Adam, budget, one_cycle
from skpert._runtime import suitable_threads
from skpert._training import train as train_with
from skpert.exceptions import TrainingWarning
from skpert.models.sams import AdditiveModule


class Mean(nn.Module):
    """Finds the mean of the first gene; ``poison`` turns the loss to NaN after so many steps."""

    def __init__(self, poison=math.inf, interrupt=math.inf):
        super().__init__()
        self.mean, self.free = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.poison, self.interrupt, self.n_steps = poison, interrupt, 0
        self.modes, self.kl_weights = [], []

    def loss_terms(self, cells, kl_weight=1.0):
        self.kl_weights.append(kl_weight)
        if self.training:
            self.n_steps += 1
        if self.n_steps > self.interrupt:
            raise KeyboardInterrupt
        loss = (cells.x[:, 0] - self.mean).square().mean()
        return {
            "squares": loss * (math.nan if self.n_steps > self.poison else 1),
            "none": 0 * loss,
        }

    def minibatches(self, cells):
        return cells.minibatches

    def log_weights(self, cells, n_particles):
        return -(cells.x[:, 0] - self.mean).square().expand(n_particles, -1)

    def parameter_groups(self):
        return [{"params": [self.mean]}, {"params": [self.free], "lr": 3.0, "weight_decay": 0.0}]


def cells_around(mean, n_cells=64):
    torch.manual_seed(0)
    x = mean + torch.randn(n_cells, 2)
    nothing = torch.zeros(n_cells, 1)
    return Cells(x, nothing, nothing.long(), nothing, nothing[:, :0])


SETTINGS = {"batch_size": 16, "learning_rate": 0.1}


def train(module, cells, *, learning_rate, **settings):
    """Train with an optimiser that has its own of the settings."""
    names = ("weight_decay", "schedule", "epsilon", "max_norm")
    options = {name: settings.pop(name) for name in names if name in settings}
    optimizer = Adam(module.parameter_groups(), learning_rate, **options)
    return train_with(module, cells, optimizer, **settings)


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_it_finds_the_optimum(schedule):
    cells, module = cells_around(2.0), Mean()
    history = train(module, cells, max_epochs=60, schedule=schedule, **SETTINGS)
    assert module.mean.item() == pytest.approx(cells.x[:, 0].mean().item(), abs=0.15)
    assert len(history) == 60
    assert history[-1].keys() == {"squares", "none"}
    assert not module.training


def test_kl_weight_warms_up_by_epoch():
    module = Mean()
    train(module, cells_around(0.0), max_epochs=6, n_epochs_kl_warmup=4, **SETTINGS)
    assert module.kl_weights[::4] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert module.kl_weights[1::4] == module.kl_weights[::4]


def test_kl_weight_of_parts_of_epochs_warms_up_within_them():
    module = Mean()
    train(module, cells_around(0.0), max_epochs=3, n_epochs_kl_warmup=0.5, **SETTINGS)
    assert module.kl_weights[:4] == pytest.approx([0, 0.5, 1, 1])
    assert module.kl_weights[4:] == [1] * 8
    module = Mean()
    train(module, cells_around(0.0), max_epochs=3, n_epochs_kl_warmup=1.25, **SETTINGS)
    assert module.kl_weights == sorted(module.kl_weights)
    assert module.kl_weights[5:] == [1] * 7


def test_history_is_the_mean_over_cells_of_what_was_optimised():
    cells, module = cells_around(1.0, 50), Mean()
    (row,) = train(module, cells, max_epochs=1, batch_size=16, learning_rate=1e-12)
    assert row["squares"] == pytest.approx(cells.x[:, 0].square().mean().item(), rel=1e-5)


def test_the_best_epoch_is_kept_and_patience_ends_it():
    module = Mean()
    history = train(
        module,
        cells_around(3.0),
        validation=cells_around(1.0),  # training drives past it
        max_epochs=200,
        patience=5,
        **SETTINGS,
    )
    elbo = [row["validation_elbo"] for row in history]
    best = max(range(len(elbo)), key=elbo.__getitem__)
    assert len(history) == best + 1 + 5
    kept = module.log_weights(cells_around(1.0), 1).mean().item()
    assert kept == pytest.approx(elbo[best], rel=1e-5)


def test_nan_stops_with_the_last_finite_weights_and_says_where():
    module = Mean(poison=12)
    with pytest.warns(TrainingWarning, match="squares became nan in epoch 3: lower learning_rate"):
        history = train(module, cells_around(2.0), max_epochs=9, **SETTINGS)
    assert len(history) == 3
    assert math.isfinite(module.mean.item())
    assert module.mean.item() > 0


def test_nan_from_the_start_is_an_error():
    with pytest.raises(FloatingPointError, match="epoch 0"):
        train(Mean(poison=0), cells_around(2.0), max_epochs=9, **SETTINGS)


def test_ctrl_c_keeps_what_was_learned():
    module = Mean(interrupt=10)
    with pytest.warns(TrainingWarning, match="interrupted; the weights of epoch 1"):
        history = train(module, cells_around(2.0), max_epochs=9, **SETTINGS)
    assert len(history) == 2
    assert module.mean.item() > 0


def test_ctrl_c_before_anything_was_learned_is_passed_on():
    with pytest.raises(KeyboardInterrupt):
        train(Mean(interrupt=2), cells_around(2.0), max_epochs=9, **SETTINGS)


def test_a_listener_can_stop_and_own_minibatches_are_used():
    cells, module, seen = cells_around(2.0), Mean(), []
    module.minibatches = lambda cells: lambda size: iter([cells.take(torch.arange(8))])
    history = train(
        module,
        cells,
        max_epochs=9,
        on_epoch=lambda row: seen.append(row) or len(seen) == 2,
        **SETTINGS,
    )
    assert history == seen
    assert module.n_steps == 2


def test_groups_scale_rate_and_decay():
    module = Mean()
    with torch.no_grad():
        module.free.fill_(5.0)
    train(module, cells_around(0.0), max_epochs=3, weight_decay=0.5, **SETTINGS)
    assert module.free.item() == 5.0  # no gradient, and no decay in its group


def test_steps_are_those_of_torch():
    cells, module, twin = cells_around(2.0), Mean(), Mean()
    for each in (module, twin):
        with torch.no_grad():
            each.free.fill_(5.0)
    settings = {"batch_size": 64, "learning_rate": 0.1, "weight_decay": 0.5}
    train(module, cells, max_epochs=7, **settings)
    groups = [
        {"params": [twin.mean], "lr": 0.1, "weight_decay": 0.5},
        {"params": [twin.free], "lr": 0.3, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adam(groups)
    for _ in range(7):
        optimizer.zero_grad()
        sum(twin.loss_terms(cells).values()).backward()
        optimizer.step()
    assert module.mean.item() == pytest.approx(twin.mean.item(), rel=1e-5)
    assert module.free.item() == 5.0


def test_one_cycle_rises_peaks_and_falls_to_nothing():
    rate = [one_cycle(progress) for progress in (0, 0.15, 0.3, 0.65, 1)]
    assert rate == pytest.approx([0.04, 0.52, 1, 0.5, 0])


def test_a_weight_that_overflows_at_the_last_step_is_not_kept():
    module = Mean()
    settings = {"batch_size": 64, "learning_rate": 1e39}
    with pytest.raises(FloatingPointError, match="a weight became"):
        train(module, cells_around(2.0), max_epochs=2, **settings)


def test_gradients_are_clipped_as_by_torch():
    cells, ours, theirs = cells_around(3.0), Mean(), Mean()
    settings = {"max_epochs": 2, "batch_size": 64, "learning_rate": 0.1}
    train(ours, cells, **settings, max_norm=0.5, epsilon=0.01)
    groups = [
        {"params": [theirs.mean], "lr": 0.1, "weight_decay": 0.0},
        {"params": [theirs.free], "lr": 0.3, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.Adam(groups, eps=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum(theirs.loss_terms(cells).values()).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
    assert ours.mean.item() == pytest.approx(theirs.mean.item(), rel=1e-5)


def test_every_training_of_small_minibatches_has_one_thread(monkeypatch):
    seen, loss_terms = [], AdditiveModule.loss_terms

    def counted(self, cells, kl_weight=1.0):
        seen.append(torch.get_num_threads())
        return loss_terms(self, cells, kl_weight)

    monkeypatch.setattr(AdditiveModule, "loss_terms", counted)
    A, new = np.repeat(["control", "P0"], 20), np.repeat(["control", "P1"], 20)
    X = np.random.default_rng(0).poisson(3.0, (40, 8)).astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = SAMSVAE(n_latent=2, n_hidden=4, max_epochs=2, random_state=0).fit(X, A)
        model.refine(X, A)
        model.adapt(X, new)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_are_few_for_small_minibatches_and_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suitable_threads(128 * 300):
            assert torch.get_num_threads() == 1
        with suitable_threads(4096 * 2000):
            assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError), suitable_threads(1):
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_cells", "on_cpu", "on_gpu"),
    [
        (270, (200, 64, 1.0), (200, 64, 1.0)),
        (1_500, (200, 64, 1.0), (283, 128, math.sqrt(2))),
        (13_000, (49, 128, 1.0), (98, 512, 2.0)),
        (2_000_000, (20, 512, 1.0), (20, 2048, 2.0)),
    ],
)
def test_automatic_minibatches_of_a_gpu_are_larger(n_cells, on_cpu, on_gpu):
    assert budget(n_cells, "auto", "auto") == on_cpu
    assert budget(n_cells, "auto", "auto", device="cuda") == on_gpu


def test_what_is_given_is_the_same_on_every_device():
    for device in ("cpu", "cuda"):
        assert budget(13_000, 7, 100, device=device) == (7, 100, 1.0)
        assert budget(13_000, "auto", 128, device=device) == (49, 128, 1.0)
    assert budget(13_000, 7, "auto", device="cuda") == (7, 512, 2.0)
