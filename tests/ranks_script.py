"""What processes of torchrun do in ``tests/test_ranks.py``: ``ranks_script.py CASE FOLDER``."""

import os
import signal
import sys
import time
import warnings

import numpy as np
import torch

from skpert import SAMSVAE, VAE, InVAE, SVAEPlus, _progress, _ranks
from skpert._data import Cells
from skpert._input import stored
from skpert._optimizer import Adam
from skpert._ranks import rank_and_size
from skpert._runtime import seeded
from skpert._shared_memory import SharedMemory
from skpert._training import train
from skpert.datasets import make_additive_shift

SCREEN = make_additive_shift(
    6, n_cells_per_perturbation=80, n_control_cells=77, n_latent=3, n_genes=40, random_state=0
)
SMALL = {"max_epochs": 4, "batch_size": 128, "n_hidden": 16, "random_state": 0}
MODELS = {
    "called": SVAEPlus(**SMALL, dropout=0.2),
    "learned": SVAEPlus(**SMALL, edges="learned", init="random"),
    "particles": SAMSVAE(**SMALL, dropout=0.2, n_train_particles=3, objective="iwelbo"),
    "basal": SAMSVAE(**SMALL, edges="learned", init="random", correlated_basal=False),
    "beta": SAMSVAE(**SMALL, edges="learned", mask_prior=(1, 10), mask_posterior="beta"),
}


def exact():
    """Weights after a training in float64, in which rounding is no matter."""
    found = {}
    for name, model in MODELS.items():
        model.design_ = model._make_design().fit(SCREEN.A)
        model.perturbations_ = model.design_.perturbations_
        with seeded(0, torch.device("cpu")):
            cells = Cells.of_design(SCREEN.X.copy(), model.design_, SCREEN.A).double()
            module = model._make_module(cells).double()
            adam = Adam(module.parameter_groups(), 1e-2)
            rows = train(module, cells, adam, max_epochs=4, batch_size=128, validation=cells)
        found |= {f"{name}.{key}": value.numpy() for key, value in module.state_dict().items()}
        found[f"{name}.history"] = np.array([list(row.values()) for row in rows])
    return found


def sums():
    """Sums in shared memory; then by gloo, since one process does not find the memory."""
    rank, size = rank_and_size()
    generator, found = np.random.default_rng(rank), {}
    for way in ("memory", "gloo"):
        if way == "gloo":
            _ranks._memory.cache_clear()
            SharedMemory.__init__ = [SharedMemory.__init__, missing][rank % 2]
        for shape, dtype in (((), "float64"), ((3, 257), "float32"), ((3_000_000,), "float64")):
            for number in range(30 if len(shape) < 1 else 2):
                time.sleep(generator.choice([0.0, 0.002]))
                values = torch.full(shape, number + 10.0**rank, dtype=getattr(torch, dtype))
                _ranks.add_up(values)
                found[f"{way} {shape} {number}"] = values.numpy().flatten()[:: 10**6]
        assert (_ranks._memory(torch.distributed.group.WORLD, rank, size) is None) == (
            way == "gloo"
        )
    return found


def missing(self, folder, rank, processes):
    """On another machine there is no such folder."""
    raise FileNotFoundError(folder)


def whole():
    """Whole fits: of no seed, of a model whose minibatches cannot be divided, and after a kill."""
    unseeded = VAE(**SMALL | {"random_state": None}, n_latent=3).fit(SCREEN.X, SCREEN.A)
    invariant = InVAE(**SMALL, n_latent=3).fit(SCREEN.X, SCREEN.A)
    return {"unseeded": unseeded.transform(SCREEN.X), "invariant": invariant.transform(SCREEN.X)}


def killed():
    """A fit that ends while a checkpoint is written, and one that goes on from there."""
    folder = f"{sys.argv[2]}/checkpoints"
    model = SVAEPlus(**SMALL, checkpoint=folder)
    rank, _ = rank_and_size()
    _progress.EVERY = 0.0
    if not os.path.isdir(folder):
        writes = iter(range(100))
        fsync = os.fsync
        os.fsync = lambda file: fsync(file) if next(writes) < 2 else os.kill(os.getpid(), 9)
    model.fit(SCREEN.X, SCREEN.A)
    return {"Z": model.transform(SCREEN.X), "left": np.array(len(os.listdir(folder)))}


def interrupted():
    """Ctrl-C in one process ends the training of all."""

    class Interrupts(VAE):
        def _optimise(self, module, *arguments, **settings):
            steps, loss_terms = iter(range(1000)), module.loss_terms

            def interrupting(cells, kl_weight=1.0):
                if module.training and next(steps) == 9 and rank_and_size()[0] == 1:
                    os.kill(os.getpid(), signal.SIGINT)
                return loss_terms(cells, kl_weight)

            module.loss_terms = interrupting
            result = super()._optimise(module, *arguments, **settings)
            del module.loss_terms
            return result

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = Interrupts(**SMALL | {"max_epochs": 50}, n_latent=3).fit(SCREEN.X, SCREEN.A)
    assert any("interrupted" in str(warning.message) for warning in said)
    return {"n_iter": np.array(model.n_iter_)}


def differing():
    """Processes that would choose otherwise whether to load, as memory differs, agree."""
    rank, _ = rank_and_size()
    path = f"{sys.argv[2]}/screen-{rank}.npy"
    np.save(path, SCREEN.X)
    stored.free_memory = lambda: [np.inf, 0][rank]
    X = np.load(path, mmap_mode="r")
    model = SVAEPlus(**SMALL, n_latent=3).fit(X, SCREEN.A)
    refined = model.refine(X, SCREEN.A)
    return {"fit": model.transform(X), "refine": refined.transform(X)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    case, folder = sys.argv[1:]
    result = globals()[case]()
    rank, size = rank_and_size()
    np.savez(f"{folder}/{case}-{rank}-of-{size}.npz", **result)
