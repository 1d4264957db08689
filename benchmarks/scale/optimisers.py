"""Quality against time by optimiser and number of steps, on a screen.

::

    python -m benchmarks.scale optimisers --screen FILE --split FILE --seeds 10

Trains ``SVAEPlus`` with default parameters but for the optimiser and the number of steps: the
package's own Adam; SOAP and schedule-free AdamW of ``pytorch-optimizer`` (install it beside the
package); and torch's Muon for the weights of the networks, with AdamW for all else. Each follows
the same one-cycle course of its learning rate but schedule-free AdamW, which warms up only.
Printed are the IWELBO of held-out cells, CPU seconds of the whole fit, latents and edges, and the
difference of the IWELBO to Adam's 5,000 steps with the same seed: mean and its 95 % interval.
"""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse, stats

from skpert import SVAEPlus, _phases
from skpert._optimizer import Adam, one_cycle
from skpert.datasets import load_screen

from ..command import add_csv

RATES = {"adam": 1e-2, "soap": 1e-2, "muon": 2e-2, "schedule_free": 1e-2}
FITS = ["adam:5000", "adam:2500", "schedule_free:2500", "soap:2500", "soap:1250", "muon:2500"]
WARM = 0.05  # share of steps over which schedule-free AdamW warms up


def add_arguments(parser):
    """Options of the command line."""
    add = parser.add_argument
    add("--screen", type=Path, required=True)
    add("--split", type=Path, required=True, help=".npz with rows `train` and `test`")
    add("--perturbation", default="perturbation", help="column of the labels")
    add("--control", default="control", help="label of untreated cells")
    add("--fits", nargs="+", default=FITS, metavar="OPTIMISER:STEPS", help="default %(default)s")
    add("--rate", type=float, help="learning rate; default: one for each, that suits it")
    add("--latent", type=int, default=20)
    add("--seeds", type=int, default=10)
    add("--first", type=int, default=0, help="first seed")
    add_csv(parser)


def run(args):
    """Train all, print, and keep."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    data, parts = load_screen(args.screen, perturbation=args.perturbation), np.load(args.split)
    X, A = sparse.csr_matrix(data.X, dtype=np.float32), np.asarray(data.A)
    train, test = parts["train"], parts["test"]
    rows = []
    for seed in range(args.first, args.first + args.seeds):
        for fit in args.fits:
            name, _, n_steps = fit.partition(":")
            rate = args.rate or RATES[name]
            _phases.Adam = Adam if name == "adam" else OPTIMISERS[name]
            model = type("Model", (SVAEPlus,), {"_n_steps": int(n_steps)})(
                args.latent, control=args.control, learning_rate=rate, random_state=seed
            )
            start = time.process_time()
            try:
                model.fit(X[train], A[train])
            except FloatingPointError as error:
                print(name, n_steps, seed, error, flush=True)
                continue
            row = {"optimiser": name, "rate": rate, "steps": int(n_steps), "seed": seed}
            row |= {"cpu_seconds": time.process_time() - start}
            row |= {"iwelbo": model.score(X[test], A[test]), "latents": model.n_latent_}
            rows.append(row | {"edges": int(model.mask_.sum())})
            pd.DataFrame(rows).to_csv(args.csv, index=False)
            print(rows[-1], flush=True)
    print(summary(pd.DataFrame(rows)).round(3).to_string())
    return 0


def summary(table):
    """Means by optimiser and steps, and the paired difference to the most steps of Adam."""
    wide = table.pivot_table("iwelbo", "seed", ["optimiser", "rate", "steps"])
    base = wide[[c for c in wide if c[0] == "adam"]]
    found = (
        table.groupby(["optimiser", "rate", "steps"]).mean(numeric_only=True).drop(columns="seed")
    )
    if base.shape[1] and len(wide) > 1:
        difference = wide.sub(base.iloc[:, -1], axis=0)
        found["to_adam"] = difference.mean()
        found["half_interval"] = difference.sem() * stats.t.ppf(0.975, len(wide) - 1)
    return found


class Wrapped:
    """An optimiser of torch in the place of the package's Adam."""

    schedule = staticmethod(one_cycle)

    def __init__(
        self, groups, learning_rate, *, weight_decay, epsilon, max_norm, schedule="one_cycle"
    ):
        self.max_norm = max_norm
        self.optimisers = []
        for group in groups:
            rate = learning_rate * group.get("lr", 1.0)
            for made in self.made(group["params"], rate, epsilon):
                self.optimisers.append((made, [part["lr"] for part in made.param_groups]))
        self.parameters = [p for group in groups for p in group["params"]]

    def made(self, parameters, rate, epsilon):
        """Optimisers of these parameters."""
        raise NotImplementedError

    def step(self, progress):
        """Follow the gradients and clear them."""
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        for optimiser, rates in self.optimisers:
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * max(self.schedule(progress), 1e-8)
            optimiser.step()
            optimiser.zero_grad()

    def state(self):
        """None: these trainings are not interrupted."""
        return []

    def total(self):
        """Sum of all weights."""
        return float(sum(p.detach().sum() for p in self.parameters))


class Soap(Wrapped):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024)."""

    def made(self, parameters, rate, epsilon):
        """One optimiser of all."""
        from pytorch_optimizer import SOAP

        settings = {"betas": (0.9, 0.95), "weight_decay": 0.0, "precondition_frequency": 10}
        return [SOAP(parameters, lr=rate, eps=epsilon, **settings)]


class Muon(Wrapped):
    """Orthogonalised momentum of matrices (Jordan et al. 2024), AdamW of the rest."""

    def made(self, parameters, rate, epsilon):
        """Matrices of networks are wider than a table of few latents; both have optimisers."""
        matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) > 8]
        others = [p for p in parameters if not (p.ndim == 2 and min(p.shape) > 8)]
        made = []
        if matrices:
            muon = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw"}
            made.append(torch.optim.Muon(matrices, lr=rate, **muon))
        if others:
            made.append(torch.optim.AdamW(others, lr=rate / 2, eps=epsilon, weight_decay=0.0))
        return made


class ScheduleFree(Wrapped):
    """AdamW that averages instead of lowering its learning rate (Defazio et al. 2024)."""

    @staticmethod
    def schedule(progress):
        """Warm-up only."""
        return min(progress / WARM, 1.0)

    def made(self, parameters, rate, epsilon):
        """One optimiser of all."""
        from pytorch_optimizer import ScheduleFreeAdamW

        self.averaged = False
        return [ScheduleFreeAdamW(parameters, lr=rate, eps=epsilon, weight_decay=0.0)]

    def step(self, progress):
        """Leave the average, and step."""
        if self.averaged:
            self._go("train")
        super().step(progress)

    def total(self):
        """Go to the average, which the trainer is about to keep."""
        if not self.averaged:
            self._go("eval")
        return super().total()

    def _go(self, mode):
        for optimiser, _ in self.optimisers:
            getattr(optimiser, mode)()
        self.averaged = mode == "eval"


OPTIMISERS = {"soap": Soap, "muon": Muon, "schedule_free": ScheduleFree}
