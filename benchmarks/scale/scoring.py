"""What scoring costs beside the decoder: the importance-weighted ELBO of many cells.

::

    python -m benchmarks.scale scoring                   # 1,000 cells x 100 genes, 1,000 particles
    python -m benchmarks.scale scoring --cells 10000

``score_cells(X, A, n_particles)`` and the bare forward pass of the same decoder are timed in
turn, in one process. The decoder maps as many latent states to log expected counts, in chunks of
the same size, and no likelihood is taken. A ratio of 1 would mean that encoder, noise, masks,
likelihood and weights cost nothing.
"""

import statistics
import time
import warnings

import torch

import skpert
from skpert.datasets import make_sparse_shift
from skpert.exceptions import DataWarning

N_PERTURBATIONS = 20


def fitted(args):
    """A screen of the size asked for, and a model trained on it for one epoch."""
    n_each = -(-args.cells // N_PERTURBATIONS)  # rounded up
    screen = make_sparse_shift(
        N_PERTURBATIONS,
        n_cells_per_perturbation=n_each,
        n_latent=args.latent,
        n_genes=args.genes,
        random_state=0,
    )
    X, A = screen.X[: args.cells], screen.A[: args.cells]
    estimator = getattr(skpert, args.method)(
        n_latent=args.latent, max_epochs=1, device=args.device, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # no control cells
        return estimator.fit(X, A), X, A


def decoder_inputs(estimator, score):
    """Tensors like those that pass through the decoder in ``score``, drawn anew."""
    inputs, own = [], estimator.module_.decoder

    def keep(decoder, arguments):
        if decoder is own:  # no copy in float64, which scores some cells once more
            inputs.append(tuple(torch.randn_like(tensor).abs_() for tensor in arguments))

    handle = own.register_forward_pre_hook(keep)
    score()
    handle.remove()
    return inputs


def seconds(function):
    """Time of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--cells", type=int, default=1000, help="cells to score")
    add("--genes", type=int, default=100, help="genes")
    add("--latent", type=int, default=10, help="latents")
    add("--particles", type=int, default=1000, help="samples of the latent state per cell")
    add("--method", default="SVAEPlus", help="estimator")
    add("--repeats", type=int, default=5, help="pairs of timings")
    add("--threads", type=int, default=1, help="of torch")
    add("--device", default="auto", help="where to compute")


def run(args):
    """Time both in turn and print the ratio."""
    torch.set_num_threads(args.threads)
    estimator, X, A = fitted(args)

    def score():
        estimator.score_cells(X, A, n_particles=args.particles)

    inputs = decoder_inputs(estimator, score)

    @torch.no_grad()
    def decode():
        for tensors in inputs:
            estimator.module_.decoder(*tensors)

    seconds(decode), seconds(score)  # neither is timed cold
    pairs = [(seconds(decode), seconds(score)) for _ in range(args.repeats)]
    ratios = sorted(scoring / decoding for decoding, scoring in pairs)
    decoding, scoring = (statistics.median(values) for values in zip(*pairs, strict=True))
    device = next(estimator.module_.parameters()).device
    print(
        f"{args.method} on {device}, {args.threads} threads: {args.cells} cells x {args.genes} "
        f"genes, {args.latent} latents, {args.particles} particles, {len(inputs)} chunks, "
        f"{args.repeats} repeats"
    )
    print(f"decoder alone  {decoding:8.3f} s, median")
    print(f"score_cells    {scoring:8.3f} s, median")
    print(
        f"ratio          {statistics.median(ratios):8.2f}, median of pairs; "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    )
