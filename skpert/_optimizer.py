"""Adam, the course of its learning rate, and how many steps it takes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from ._ranks import add_up_gradient

N_STEPS = 5000  # gradient steps of a training of automatic length
LARGER = 4  # minibatches of automatic size on a GPU


class Adam:
    """Adam on one flat tensor per group, of which parameters and gradients become views.

    A step is one kernel a group instead of several a layer. The bookkeeping of
    ``torch.optim.Optimizer`` is left out: it is a twentieth of a step of small networks.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        epsilon: float = 1e-8,
        max_norm: float | None = None,
        schedule: str = "constant",
    ):
        self.schedule = one_cycle if schedule == "one_cycle" else constant
        self.epsilon, self.max_norm = epsilon, max_norm
        self.groups = []
        sizes = [sum(p.numel() for p in group["params"]) for group in groups]
        first = groups[0]["params"][0]
        self.gradient = first.detach().new_zeros(sum(sizes) + 1)  # one more, as ranks want it
        for group, gradient in zip(groups, self.gradient[:-1].split(sizes), strict=True):
            values = _flat(group["params"], gradient)
            rate = learning_rate * group.get("lr", 1.0)
            decay = weight_decay * group.get("weight_decay", 1.0)
            n_steps = torch.zeros((), device=values.device)
            state = torch.zeros_like(values), torch.zeros_like(values), n_steps
            self.groups.append((values, gradient, state, rate, decay))

    def step(self, progress: float) -> None:
        """Follow the gradient, and clear it, after this share of the training."""
        self.follow(self.schedule(progress))

    @torch.no_grad()
    def follow(self, relative: float | Tensor) -> None:
        """The same at this learning rate, relative to the highest; a tensor, (), in a CUDA graph.

        Gradients of processes that train together are added up.
        """
        add_up_gradient(self.gradient)
        if self.max_norm is not None:
            self._clip(self.max_norm)
        for values, gradient, (mean, square, n_steps), rate, decay in self.groups:
            adam(
                [values],
                [gradient],
                [mean],
                [square],
                [],
                [n_steps],
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=rate * relative,
                weight_decay=decay,
                eps=self.epsilon,
                maximize=False,
            )
            gradient.zero_()

    def _clip(self, max_norm: float) -> None:
        """Scale all gradients together to a norm of at most ``max_norm``."""
        gradients = [gradient for _, gradient, *_ in self.groups]
        norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
        scale = (max_norm / norm.clamp(min=1e-12)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)

    def state(self) -> list[tuple[Tensor, ...]]:
        """Moments and number of steps of each group; they change with the next step."""
        return [state for _, _, state, *_ in self.groups]

    def load_state(self, state: list[tuple[Tensor, ...]]) -> None:
        """Go on with these moments."""
        for (_, _, own, *_), given in zip(self.groups, state, strict=True):
            for tensor, value in zip(own, given, strict=True):
                tensor.copy_(value)

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [
            t for values, gradient, state, *_ in self.groups for t in (values, gradient, *state)
        ]

    def total(self) -> float:
        """Sum of all weights, which is finite as long as each is."""
        return float(sum(values.sum() for values, *_ in self.groups))


def _flat(parameters: list[nn.Parameter], gradient: Tensor) -> Tensor:
    """Tensor of which the parameters become views, as their gradients do of the given one.

    A parameter that is replaced after this, as those of a ``Table`` are, is not trained: each
    phase of a training makes an optimiser of its own.
    """
    values = torch.cat([p.detach().flatten() for p in parameters])
    sizes = [p.numel() for p in parameters]
    views = values.split(sizes), gradient.split(sizes)
    for parameter, value, slope in zip(parameters, *views, strict=True):
        parameter.data, parameter.grad = value.view_as(parameter), slope.view_as(parameter)
    return values


def one_cycle(progress: float) -> float:
    """Learning rate relative to its peak after this share of the training, 0 to 1.

    Rises from 1/25 over the first 30 % and falls to nothing, both along a cosine (Smith and
    Topin 2018, in the two-phase form of fastai).
    """
    if progress < 0.3:
        return 1 - 0.96 * (1 + math.cos(math.pi * progress / 0.3)) / 2
    return (1 + math.cos(math.pi * min((progress - 0.3) / 0.7, 1.0))) / 2


def constant(progress: float) -> float:
    """No change."""
    return 1.0


class Budget(NamedTuple):
    """How long to train, and in what steps."""

    n_epochs: int
    batch_size: int
    rate: float = 1.0  # of learning, relative


def budget(
    n_cells: int,
    max_epochs: int | str,
    batch_size: int | str,
    n_steps: int = N_STEPS,
    device: str = "cpu",
) -> Budget:
    """Replace what is "auto" by what suits the number of training cells, and the device.

    Minibatches are about an 80th of the cells, a power of two from 64 to 512; epochs are so many
    that ``n_steps`` minibatches are seen, from 20 to 200. A step of a GPU takes hardly longer for
    ``LARGER`` times the cells, as long as a minibatch is no more than an 8th of them: the learning
    rate rises with the square root of that, and the steps become fewer by as much.
    """
    size = min(max(2 ** round(math.log2(n_cells / 80)), 64), 512)
    larger = 1.0
    if device == "cuda" and isinstance(batch_size, str):
        larger = max(min(LARGER, 2 ** math.floor(math.log2(n_cells / 8 / size))), 1)
    rate = math.sqrt(larger)
    size = round(size * larger) if isinstance(batch_size, str) else batch_size
    n_epochs = min(max(round(n_steps / rate * size / n_cells), 20), round(200 * rate))
    n_epochs = n_epochs if isinstance(max_epochs, str) else max_epochs
    return Budget(n_epochs, size, rate)
