"""Small screens of any kind, each described by a few plain values so that it can be written down.

>>> screen = Screen(cells=6, genes=2, values="counts", names="plain", control=True, seed=0)
>>> X, A = screen.expression(), screen.labels()
>>> X.shape, X.dtype, A.tolist()
((6, 2), dtype('float32'), ['control', 'A', 'B', 'B', 'A', 'A'])
"""

from typing import NamedTuple

import numpy as np


def _but_the_first(X):
    """Without what is in the first row."""
    return X * (np.arange(len(X)) > 0)[:, None]


COUNTS = {
    "counts": lambda shape, rng: rng.poisson(3.0, shape),
    "few counts": lambda shape, rng: rng.poisson(0.2, shape),
    "deep counts": lambda shape, rng: rng.poisson(rng.gamma(0.5, 2e5, shape)),
    "zeros and ones": lambda shape, rng: rng.integers(2, size=shape),
    "an empty cell": lambda shape, rng: _but_the_first(rng.poisson(3.0, shape)),
    "a gene without counts": lambda shape, rng: _but_the_first(rng.poisson(3.0, shape).T).T,
    "the same in all cells": lambda shape, rng: np.full(shape, 7),
    "nothing at all": lambda shape, rng: np.zeros(shape),
    "fractions": lambda shape, rng: rng.gamma(1.0, 3.0, shape),
    "astronomic": lambda shape, rng: rng.poisson(3.0, shape) * 1e37,
}
REALS = {
    "log-normalised": lambda shape, rng: np.log1p(rng.poisson(3.0, shape)),
    "centred": lambda shape, rng: rng.normal(size=shape),
    "constant": lambda shape, rng: np.full(shape, 0.5),
    "zeros": lambda shape, rng: np.zeros(shape),
    "large": lambda shape, rng: 1e6 * rng.normal(size=shape),
    "tiny": lambda shape, rng: 1e-8 * rng.normal(size=shape),
    "an outlier": lambda shape, rng: np.where(
        np.arange(shape[0])[:, None] == 0, 1e4, rng.normal(size=shape)
    ),
    "astronomic reals": lambda shape, rng: 1e37 * rng.normal(size=shape),
}
VALUES = COUNTS | REALS
NAMES = {  # of treatments besides the control
    "plain": ["A", "B"],
    "one": ["A"],
    "guides": ["KLF1-1", "KLF1-2", "non-gene_3", "TP53|g4"],
    "combinations": ["A", "B", "A+B", "C"],
    "digits": ["1", "2", "10"],
    "strange": ["é ß", "日本語", "x,y;z", "a\tb", "'q'", "NaN?", "-", "*"],
    "long": ["A" * 300, "A" * 299 + "B"],
    "many": [f"P{j}" for j in range(9)],
    "like numbers": ["1.5", "1e3", "-2", "0x10"],
}


class Screen(NamedTuple):
    """What a screen of a few cells looks like."""

    cells: int
    genes: int
    values: str
    names: str
    control: bool
    seed: int

    def expression(self):
        """Plain expression, (cells, genes) float32."""
        rng = np.random.default_rng(self.seed)
        return VALUES[self.values]((self.cells, self.genes), rng).astype(np.float32)

    def treatments(self):
        """Labels that occur, the control first if there is one."""
        labels = ["control"] * self.control + NAMES[self.names]
        return labels[: self.cells]

    def labels(self):
        """Plain labels of the cells, each treatment at least once."""
        labels, rng = self.treatments(), np.random.default_rng(self.seed)
        drawn = rng.choice(len(labels), self.cells - len(labels))
        return np.array([*labels, *(labels[j] for j in drawn)], dtype=object)
