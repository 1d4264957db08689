"""A training step and the scoring of cells beside a plain torch implementation, in turns.

Both train the model of the released code at its sizes: 303 genes, 25 perturbations, 20 latents,
one hidden layer of 400, minibatches of 512 with 5 particles, embeddings whose posterior depends on
the mask by two layers of 200; one thread. Ours takes the KL in closed form (``objective="elbo"``);
the plain one, ``peers/sams.py``, takes every density at the sample, as the released code does.
Times are of whole epochs, the first of each training left out, divided by their steps; scores are
of 1,000 cells with 100 particles. Programs take turns, and ratios are those of neighbours.
"""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from skpert import SAMSVAE, ConditionalVAE

from .. import runner
from ..command import add_csv
from ..peers.sams import PlainConditionalVAE, PlainSAMSVAE
from ..timing import Clock, OurClock, Size, in_turns, screen

SIZE = Size(n_cells=10_240, batch_size=512, n_genes=303, n_perturbations=25, n_latent=20)
N_HIDDEN, WIDTHS, MASK_PRIOR, N_TRAIN, N_SCORE = 400, (200, 200), 0.01, 5, 100
LEARNING_RATE = 3e-4
N_SCORED = 1000  # cells
MODELS = {
    "SAMSVAE": (
        partial(
            SAMSVAE,
            edges="learned",
            mask_prior=MASK_PRIOR,
            correlated_embedding=WIDTHS,
            init="random",
        ),
        partial(PlainSAMSVAE, widths=WIDTHS, mask_prior=MASK_PRIOR),
    ),
    "ConditionalVAE": (ConditionalVAE, PlainConditionalVAE),
}
RELEASED = {  # the authors' code on another day: ms of a step, s of scoring
    "SAMSVAE": (92, 4.4),
    "ConditionalVAE": (77, None),
}
COLUMNS = {"step_ms": "step, ms", "score_s": "scoring, s"}


def time_ours(name, X, A, size):
    """Milliseconds of a step and seconds of scoring, of the clock and of the CPU."""
    estimator = MODELS[name][0](
        n_latent=size.n_latent,
        n_hidden=N_HIDDEN,
        n_layers=1,
        n_train_particles=N_TRAIN,
        objective="elbo",
        input_transform="log_standardize",
        batch_size=size.batch_size,
        max_epochs=2,
        n_epochs_kl_warmup=0,
        learning_rate=LEARNING_RATE,
        schedule="constant",
        validation_fraction=0,
        device="cpu",
        random_state=0,
    )
    clock = OurClock()
    estimator.set_callbacks(clock).fit(X, A)
    start = Clock.now()
    estimator.score_cells(X[:N_SCORED], A[:N_SCORED], n_particles=N_SCORE)
    return _row(clock, Clock.now() - start, size)


def time_plain(name, X, A, size):
    """The same of the plain implementation."""
    torch.manual_seed(0)
    x, dosage = torch.from_numpy(X), dosages(A)
    model = MODELS[name][1](torch.log1p(x), dosage.sum(0), size.n_latent, n_hidden=N_HIDDEN)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-6)
    clock = Clock()
    for _ in range(2):
        for index in torch.randperm(len(x)).split(size.batch_size):
            loss = model.loss(x[index], dosage[index], N_TRAIN)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        clock.tick(model)
    start = Clock.now()
    model.score(x[:N_SCORED], dosage[:N_SCORED], N_SCORE)
    return _row(clock, Clock.now() - start, size)


def dosages(A):
    """One column per perturbation, float tensor."""
    names = np.setdiff1d(A, ["control"])
    return torch.from_numpy((A[:, None] == names).astype(np.float32))


def _row(clock, scoring, size):
    n_steps = -(-size.n_cells // size.batch_size)
    wall, cpu = 1e3 * clock.epochs[-1] / n_steps
    return {
        "step_ms": wall,
        "step_cpu_ms": cpu,
        "score_s": scoring[0],
        "score_cpu_s": scoring[1],
    }


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    add("--repeats", type=int, default=9, help="pairs of timings; default %(default)s")
    add("--steps", type=int, default=20, help="of an epoch; default %(default)s")
    add("--quick", action="store_true", help="three pairs of epochs of four steps")
    add_csv(parser)


def run(args):
    """Measure and print."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    n_repeats, n_steps = (3, 4) if args.quick else (args.repeats, args.steps)
    size = replace(SIZE, n_cells=n_steps * SIZE.batch_size)
    data = screen(size)
    rows = []
    for name in args.models:
        programs = {
            "skpert": partial(time_ours, name, *data, size),
            "plain": partial(time_plain, name, *data, size),
        }
        # the first are left out: neither is timed cold
        timed = [row for row in in_turns(programs, n_repeats + 1) if row["repeat"]]
        rows += [{"model": name} | row for row in timed]
    runner.write(rows, args.csv)
    table = pd.DataFrame(rows)
    for name in args.models:
        _print(name, table[table["model"] == name].set_index(["repeat", "program"]))


def _print(name, table):
    """Medians of both, of their ratios, and of the ratios of CPU time."""
    for column, title, released in zip(COLUMNS, COLUMNS.values(), RELEASED[name], strict=True):
        wall = table[column].unstack()
        cpu = table[f"{column.replace('_', '_cpu_')}"].unstack()
        ratio, cpu_ratio = wall["plain"] / wall["skpert"], cpu["plain"] / cpu["skpert"]
        low, middle, high = ratio.quantile([0.25, 0.5, 0.75])
        print(
            f"{name:15} {title}: skpert {wall['skpert'].median():.4g}, plain "
            f"{wall['plain'].median():.4g}, {middle:.2f} times as fast ({low:.2f} to {high:.2f}; "
            f"CPU {cpu_ratio.median():.2f}); released code, elsewhere: {released or '-'}"
        )
