"""Several seeds of one model: one after another, in threads, in processes, or as one network.

::

    python -m benchmarks.scale fit_many                            # 36,000 x 100, 1,500 x 300
    python -m benchmarks.scale fit_many --size small --rounds 5

Four ways take turns, and each round gives ratios to the first:

* `one by one`: ``clone(estimator).fit(X, A)`` in a loop.
* `threads`: the same calls in joblib threads.
* `processes`: ``skpert.model_selection.fit_many``, with processes that wait from the last call;
  `cold` starts them anew, which a first call has to, and each of them imports torch.
* `batched`: the parameters of all seeds stacked, the networks run by ``torch.func.vmap`` over
  seeds, each seed with minibatches of its own, on ``--threads`` threads. Batch norm in training
  mode needs its running statistics stacked too, so that each seed updates its own in place; then
  the networks give what each gives alone. They are of plain torch, since ``vmap`` cannot pass
  through derivatives written by hand, of which this package has several. It is an experiment, in
  favour of the method: no validation, no learning rate schedule and no history, which the others
  have.

Seconds are of the clock, and depend on what else the machine does; core seconds are the CPU time
of all processes, and hardly do. On two free cores a way that keeps both busy takes half of them.

There is no dropout anywhere here, so that all ways do the same.

What is expected on a GPU, where nothing of this was measured: a step of one small network is
mostly the launching of kernels there, and a stacked one launches as many for eight seeds as for
one, so that batched parameters should cost little more than a single fit until the GPU is full.
Processes on one GPU launch side by side, but pay for a CUDA context each and share the device in
turns: they should gain less than their number.
"""

import copy
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from skpert import IVAE
from skpert.datasets import make_sparse_shift
from skpert.distributions import NegativeBinomial
from skpert.exceptions import DataWarning
from skpert.model_selection import fit_many

N_PERTURBATIONS = 20
N_LATENT = 10
N_HIDDEN = 128
SIZES = {"large": (36_000, 100, 2), "small": (1_500, 300, 20)}  # cells, genes, epochs


def simulated(n_cells, n_genes):
    """Expression and design of a screen of this size."""
    screen = make_sparse_shift(
        N_PERTURBATIONS,
        n_cells_per_perturbation=-(-n_cells // N_PERTURBATIONS),  # rounded up
        n_latent=N_LATENT,
        n_genes=n_genes,
        random_state=0,
    )
    return screen.X[:n_cells], screen.A[:n_cells]


def fit(estimator, X, A):
    """One fit, as ``fit_many`` has to repeat it."""
    return clone(estimator).fit(X, A)


def network(n_in, n_out):
    """Hidden layers as all models have them, of torch's own modules."""
    layers = []
    for width in (n_in, N_HIDDEN):
        norm = nn.BatchNorm1d(N_HIDDEN, eps=1e-3, momentum=0.01)
        layers += [nn.Linear(width, N_HIDDEN), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(N_HIDDEN, n_out))


def stacked(networks):
    """Function that runs each network on rows of its own; its parameters; its buffers.

    The rows are (n_networks, n_rows, n_in) and become (n_networks, n_rows, n_out).
    """
    parameters, buffers = stack_module_state(networks)
    template = copy.deepcopy(networks[0]).to("meta")

    def one(parameters, buffers, rows):
        return functional_call(template, (parameters, buffers), (rows,))

    def run(rows):
        return vmap(one)(parameters, buffers, rows)

    return run, parameters, buffers


def train_stacked(x, part, n_seeds, *, n_epochs, batch_size, learning_rate=3e-3):
    """Train the iVAE from several seeds as one; return each seed's loss of the last step."""
    n_cells, n_genes = x.shape
    encoders = [network(n_genes, 2 * N_LATENT) for _ in range(n_seeds)]
    decoders = [network(N_LATENT, n_genes) for _ in range(n_seeds)]
    encode, encoding, _ = stacked(encoders)
    decode, decoding, _ = stacked(decoders)
    embedding = torch.randn(n_seeds, N_PERTURBATIONS, N_LATENT, requires_grad=True)
    log_dispersion = torch.randn(n_seeds, n_genes, requires_grad=True)
    weights = [*encoding.values(), *decoding.values(), embedding, log_dispersion]
    optimizer = torch.optim.Adam(weights, lr=learning_rate, weight_decay=1e-6, fused=True)
    log_library, seed = x.sum(1, keepdim=True).log(), torch.arange(n_seeds)[:, None]
    for _ in range(n_epochs):
        order = torch.stack([torch.randperm(n_cells) for _ in range(n_seeds)])
        for index in order.split(batch_size, 1):  # (n_seeds, n_rows)
            counts = x[index]
            mean, log_variance = encode(counts.log1p()).chunk(2, -1)
            scale = (log_variance.exp() + 1e-4).sqrt()
            z = mean + scale * torch.randn_like(mean)
            log_mean = decode(z).log_softmax(-1) + log_library[index]
            p_x = map(NegativeBinomial, log_mean, log_dispersion)  # no vmap there either
            log_p_x = torch.stack([p.log_prob(c) for p, c in zip(p_x, counts, strict=True)])
            shift = embedding[seed, part[index]]
            kl_z = ((scale.square() + (mean - shift).square() - 1) / 2 - scale.log()).sum(-1)
            loss = (kl_z - log_p_x).mean(1)  # (n_seeds,)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
    return loss.detach()


def ways(X, A, n_epochs, args):
    """What is timed, by name; the first is what the others are compared with."""
    common = {"n_latent": N_LATENT, "max_epochs": n_epochs, "batch_size": args.batch}
    estimators = [
        IVAE(n_hidden=N_HIDDEN, dropout=0.0, device="cpu", random_state=seed, **common)
        for seed in range(args.seeds)
    ]
    x = torch.from_numpy(X).float()
    part = torch.from_numpy(np.unique(A, return_inverse=True)[1])

    def many():
        return fit_many(estimators, X, A, n_jobs=args.jobs)

    def batched():
        before = torch.get_num_threads()
        torch.set_num_threads(args.threads)
        train_stacked(x, part, args.seeds, n_epochs=n_epochs, batch_size=args.batch)
        torch.set_num_threads(before)

    return {
        "one by one": lambda: [fit(estimator, X, A) for estimator in estimators],
        "threads": lambda: Parallel(args.jobs, prefer="threads")(
            delayed(fit)(estimator, X, A) for estimator in estimators
        ),
        "processes, cold": many,
        "processes": many,
        "batched": batched,
    }


def core_seconds():
    """CPU time of this process and, on Linux, of the processes that it started."""
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for thread in Path("/proc/self/task").glob("*/children"):
        for child in thread.read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick  # in user and in kernel mode
    return total


def timed(way, call):
    """Seconds, and seconds of a core, that a call takes."""
    if "cold" in way:
        get_reusable_executor().shutdown(wait=True)
    start, start_cores = time.perf_counter(), core_seconds()
    call()
    return time.perf_counter() - start, core_seconds() - start_cores


def measure(name, args):
    """Print the times of all ways at this size, and their ratios to the first."""
    n_cells, n_genes, n_epochs = SIZES[name]
    n_epochs = args.epochs or n_epochs
    X, A = simulated(n_cells, n_genes)
    print(
        f"\n{n_cells:,} cells x {n_genes} genes, {args.seeds} seeds, {n_epochs} epochs, batch "
        f"{args.batch}, {args.jobs} jobs on {os.cpu_count()} cores, {args.rounds} rounds"
    )
    for call in ways(X[:1000], A[:1000], 1, args).values():
        call()  # none is timed cold but the one that says so
    calls, rounds = ways(X, A, n_epochs, args), []
    for _ in range(args.rounds):
        load = os.getloadavg()[0]
        rounds.append({way: timed(way, call) for way, call in calls.items()})
        times = ", ".join(f"{way} {wall:.1f} s" for way, (wall, _) in rounds[-1].items())
        print(f"  load {load:.1f}: {times}", flush=True)
    print(f"{'median of':20}{'seconds':>9}{'core seconds':>14}{'times as fast':>15}{'range':>15}")
    for way in calls:
        ratios = sorted(times["one by one"][0] / times[way][0] for times in rounds)
        wall = statistics.median(times[way][0] for times in rounds)
        cores = statistics.median(times[way][1] for times in rounds)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"{way:20}{wall:9.2f}{cores:14.2f}{statistics.median(ratios):15.2f}{spread:>15}")


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--size", nargs="+", choices=SIZES, default=list(SIZES), help="of the data")
    add("--seeds", type=int, default=8, help="fits")
    add("--epochs", type=int, help="of each fit; default 2 for large, 20 for small")
    add("--batch", type=int, default=256, help="cells of a minibatch")
    add("--jobs", type=int, default=os.cpu_count(), help="threads and processes")
    add("--threads", type=int, default=1, help="of torch where seeds are batched")
    add("--rounds", type=int, default=3, help="times that each way is timed")


def run(args):
    """Time all ways in turn, for each size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # no control cells
        for name in args.size:
            measure(name, args)
