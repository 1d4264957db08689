"""A new screen drawn from a fitted model."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._data import ENCODE_SIZE, Cells
from .._input.expression import check_same_cells
from .._input.values import as_list, check_finite, check_integer, check_number, listed, text
from .._prediction import moments
from .._runtime import seeded
from ..inspection import latent_shifts
from ..sparsity.edges import check_calls_edges
from ._pilot import check_depth, guides_of

N_STATES = 2000  # basal states over which expected expression is averaged
LEAST_OWN = 20  # cells of a perturbation that have library sizes of their own


class _Source(NamedTuple):
    """Where states and library sizes of new cells come from."""

    mean: np.ndarray | None  # (n_controls, n_latent), None: the prior
    scale: np.ndarray | None
    library: np.ndarray  # (n_controls,)
    own: dict  # library sizes of the cells of each perturbation, by name

    def states(self, n, n_latent, rng):
        """Basal states and library sizes of so many cells."""
        chosen = rng.integers(len(self.library), size=n)
        if self.mean is None:
            return rng.normal(size=(n, n_latent)), self.library[chosen]
        noise = self.scale[chosen] * rng.normal(size=(n, n_latent))
        return self.mean[chosen] + noise, self.library[chosen]


def simulate_screen(
    estimator,
    n_cells=100,
    *,
    X=None,
    A=None,
    perturbations=None,
    effects=None,
    n_control_cells=None,
    depth=1.0,
    efficacy=1.0,
    response=1.0,
    n_batches=1,
    batch_effect=0.3,
    shuffle=True,
    random_state=None,
) -> Bunch:
    """Screen drawn from a fitted model, with known truth, as from the simulators of ``datasets``.

    A cell has the latent state of an untreated cell, moved by the effect of its perturbation as
    the model has it, and counts that the model's decoder gives for it. Anything that takes a
    simulated screen can so be run on a screen like the one of the model.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``.
    n_cells : int, default=100
        Cells of each perturbation, at least 1.
    X : {array-like, sparse matrix, AnnData} of shape (n_real_cells, n_genes), default=None
        Cells of the real screen, with ``A``. Untreated states are then those that its control
        cells may have, and library sizes those of real cells, of the same perturbation where it
        has 20 or more, else of control cells. None: states of the prior, N(0, 1), which real
        cells follow in part only, and library sizes of training controls.
    A : array-like or DataFrame of n_real_cells rows, default=None
        Their design.
    perturbations : list of str or None, default=None
        Which of the model's; None: all.
    effects : DataFrame of shape (n_added, n_latent), default=None
        Further perturbations, by name (index), and what they do to the latents that the model
        found, in standard deviations of a latent.
    n_control_cells : int or None, default=None
        Untreated cells; None: four times ``n_cells``.
    depth : float, default=1.0
        What library sizes are multiplied by, above 0.
    efficacy : float or array-like of shape (n_guides,), default=1.0
        Share of the effect that is there, of each guide in turn, in [0, 1].
    response : float, default=1.0
        Share of cells that respond; all others stay untreated. In [0, 1].
    n_batches : int, default=1
        Batches to which cells are dealt at random. Each moves the latent state by a vector of its
        own.
    batch_effect : float, default=0.3
        Standard deviation of these moves, in standard deviations of a latent.
    shuffle : bool, default=True
        Shuffle the cells; otherwise they come in the order of ``perturbations``, controls last.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Counts; real values with a normal likelihood.
        A : ndarray of shape (n_cells,), object
            Label of each cell: a name in ``perturbations``, or the model's control.
        obs : DataFrame of shape (n_cells, 4)
            ``perturbation``, ``guide``, ``batch``, and whether the cell ``responded``.
        Z : ndarray of shape (n_cells, n_latent)
            True latent states.
        mask, embedding : ndarray of shape (n_perturbations, n_latent)
            Which latents each perturbation moves, and how far in cells that respond, over all
            guides; the effect is ``mask * embedding``.
        perturbations : ndarray of shape (n_perturbations,), object
            Names, sorted, in the order of the rows above.
        held_out : ndarray of shape (0,), object
            As of other simulators, none.
        expected_expression : ndarray of shape (n_perturbations, n_genes)
            Mean expected expression over 2,000 untreated states moved by each effect, of cells
            that respond, at the median library size.
        control_expression : ndarray of shape (n_genes,)
            The same without perturbation.
        rate : callable
            ``rate(Z)``: expected expression of latent states at that library size.
        log_likelihood : callable
            ``log_likelihood(X, Z)``: of each cell given its state and its total, nats.
        feature_names : ndarray of shape (n_genes,), object
            Genes, numbers where the model knows no names.
        DESCR : str
            One sentence on what was simulated.

    Raises
    ------
    ValueError
        If the estimator calls no edges, a perturbation is unknown or there twice, ``effects`` has
        other columns than the latents, only one of X and A is given, or a number is out of range.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.planning import simulate_screen
    >>> pilot = make_sparse_shift(6, n_cells_per_perturbation=50, n_control_cells=50, n_latent=3,
    ...                           n_genes=50, library_size=2000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=10, random_state=0).fit(pilot.X, pilot.A)
    >>> screen = simulate_screen(model, 20, X=pilot.X, A=pilot.A, random_state=0)
    >>> screen.X.shape, len(screen.perturbations)
    ((200, 50), 6)
    """
    check_is_fitted(estimator)
    check_calls_edges(estimator)
    check_integer(n_cells, "n_cells", 1)
    n_controls = 4 * n_cells if n_control_cells is None else n_control_cells
    check_integer(n_controls, "n_control_cells", 0)
    _check(estimator, depth, response, n_batches, batch_effect)
    guides = guides_of(efficacy)
    shift = _effects(estimator, perturbations, effects)
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    source = _source(estimator, X, A)
    cells = _cells(estimator, shift, n_cells, n_controls, guides, response, n_batches, rng)
    cells = cells.iloc[rng.permutation(len(cells))] if shuffle else cells
    cells = cells.reset_index(drop=True)
    Z, library = _states(shift, cells, source, guides, n_batches * [batch_effect], rng)
    library = library * depth
    decode = Decoder(estimator, float(depth * estimator._population["median"]))
    counts = decode.sample(Z, library, int(rng.integers(2**31 - 1)))
    basal, _ = source.states(N_STATES, shift.shape[1], rng)
    return Bunch(
        X=counts,
        A=cells["perturbation"].to_numpy(dtype=object),
        obs=cells,
        Z=Z,
        feature_names=_genes(estimator, counts.shape[1]),
        DESCR=f"Drawn from a fitted {type(estimator).__name__}: {len(shift)} perturbations.",
        **_truth(shift, np.mean(guides), decode, basal),
    )


def _truth(shift, efficacy, decode, basal):
    """What is known of perturbations, as entries of a data set."""
    effect = shift.to_numpy() * efficacy
    expected = [decode.rate(basal + row).mean(0) for row in [*effect, np.zeros(shift.shape[1])]]
    return {
        "mask": effect != 0,
        "embedding": effect,
        "perturbations": shift.index.to_numpy(dtype=object),
        "held_out": np.array([], dtype=object),
        "expected_expression": np.array(expected[:-1]),
        "control_expression": expected[-1],
        "rate": decode.rate,
        "log_likelihood": decode.log_likelihood,
    }


def _check(estimator, depth, response, n_batches, batch_effect):
    check_depth(estimator, depth)
    check_number(response, "response", 0, 1, "both")
    check_integer(n_batches, "n_batches", 1)
    check_finite(batch_effect, "batch_effect")


def _genes(estimator, n_genes):
    return np.asarray(getattr(estimator, "feature_names_in_", range(n_genes)), dtype=object)


def _effects(estimator, perturbations, effects):
    """Effects of known and of added perturbations on the latents found, sorted by name."""
    known = latent_shifts(estimator, estimator.perturbations_)
    known = known.iloc[:, : estimator.n_latent_].astype(np.float64)
    if perturbations is not None:
        names = [text(name) for name in as_list(perturbations)]
        unknown = [name for name in names if name not in known.index]
        if unknown:
            raise ValueError(
                f"perturbations has {listed(unknown, 5)}, which the model does not know: give "
                "what they do as effects"
            )
        known = known.loc[names]
    parts = [known]
    if effects is not None:
        parts.append(_added(effects, known.columns))
    shift = pd.concat(parts).sort_index()
    repeated = shift.index[shift.index.duplicated()]
    if len(repeated) or text(estimator.control) in shift.index:
        raise ValueError(
            f"names of perturbations must differ from each other and from the control: "
            f"{listed(list(repeated) or [estimator.control], 5)}"
        )
    if not len(shift):
        raise ValueError("perturbations is empty: nothing is to be simulated")
    return shift


def _added(effects, latents):
    """Effects of perturbations that the model does not know, once they are finite numbers."""
    if not isinstance(effects, pd.DataFrame) or effects.shape[1] != len(latents):
        raise ValueError(
            f"effects must be a DataFrame of {len(latents)} columns, the latents "
            f"{listed(list(latents), 3)}; got one of shape {np.shape(effects)}"
        )
    try:
        effects = effects.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"effects must be numbers: {error}") from error
    if not np.isfinite(effects).all(axis=None):
        raise ValueError("effects must be finite")
    return effects.set_axis(latents, axis=1).rename(index=text)


def _source(estimator, X, A):
    """States of real control cells and library sizes, or those that the model has."""
    if (X is None) != (A is None):
        raise ValueError("X and A are the cells of a screen and their design: give both, or none")
    if X is None:
        library = estimator._population["library"].ravel().astype(np.float64)
        return _Source(None, None, library, {})
    check_same_cells(X, A)
    labels = np.array(estimator.design_.labels(A), dtype=object)
    values = estimator._expression(X, A)
    library = np.asarray(values.sum(1), dtype=np.float64).ravel()
    control = labels == text(estimator.control)
    if not control.any():
        raise ValueError("A has no control cells: leave X and A out to draw from the prior")
    with estimator._inference():
        posterior = moments(estimator.module_, Cells.untreated(values[control]))
    own = {name: library[labels == name] for name in pd.unique(labels)}
    own = {name: sizes for name, sizes in own.items() if len(sizes) >= LEAST_OWN}
    return _Source(posterior["z"], posterior["scale"], library[control], own)


def _cells(estimator, shift, n_cells, n_controls, guides, response, n_batches, rng):
    """What is known of each cell, in the order of perturbations."""
    control = text(estimator.control)
    names = np.repeat([*shift.index, control], [n_cells] * len(shift) + [n_controls])
    number = np.arange(len(names)) % len(guides)
    guide = [f"{name}_g{i + 1}" for name, i in zip(names, number, strict=True)]
    treated = np.arange(len(names)) < n_cells * len(shift)
    return pd.DataFrame(
        {
            "perturbation": names.astype(object),
            "guide": np.where(treated, guide, control),
            "batch": rng.integers(n_batches, size=len(names)),
            "responded": treated & (rng.uniform(size=len(names)) < response),
            "number": number,
        }
    )


def _states(shift, cells, source, guides, batch_effects, rng):
    """True states and library sizes; the column that numbers guides is dropped."""
    basal, library = source.states(len(cells), shift.shape[1], rng)
    for name, index in cells.groupby("perturbation").indices.items():
        if name in source.own:
            library[index] = rng.choice(source.own[name], size=len(index))
    strength = guides[cells.pop("number").to_numpy()] * cells["responded"].to_numpy()
    row = shift.index.get_indexer(cells["perturbation"])
    moved = np.where(row[:, None] >= 0, shift.to_numpy()[row], 0.0) * strength[:, None]
    batches = np.zeros((len(batch_effects), shift.shape[1]))
    if len(batches) > 1:
        batches = rng.normal(size=batches.shape) * np.array(batch_effects)[:, None]
    return basal + moved + batches[cells["batch"].to_numpy()], library


class Decoder:
    """Expression of latent states, in the environments of training cells."""

    def __init__(self, estimator, library):
        self.estimator, self.library = estimator, library

    def _batches(self, Z, library, X=None):
        """Distribution of expression, a batch of cells at a time."""
        module = self.estimator.module_
        environment = self.estimator._population["environment"]
        rows = environment[np.arange(len(Z)) % len(environment)]
        n = len(module.learned()["embedding"])
        nothing = np.zeros((len(Z), 0)) if X is None else np.asarray(X)
        cells = Cells.from_arrays(nothing, csr_array((len(Z), n)), rows)
        sizes = torch.as_tensor(np.asarray(library), dtype=torch.float32).reshape(-1, 1)
        cells = cells._replace(library=sizes)
        states = torch.as_tensor(np.asarray(Z), dtype=torch.float32)
        for index in torch.arange(len(Z)).split(ENCODE_SIZE):
            batch = cells.take(index).to(module.device)
            yield module.decode(states[index].to(module.device), batch), index

    @torch.no_grad()
    def sample(self, Z, library, seed):
        """Counts of cells in these states, (n_cells, n_genes)."""
        with seeded(seed, self.estimator.module_.device):
            parts = [p_x.sample().cpu().numpy() for p_x, _ in self._batches(Z, library)]
        return np.concatenate(parts).astype(np.float32)

    @torch.no_grad()
    def moments(self, Z, library):
        """Expected counts and their variances, (n_cells, n_genes) each, float64."""
        found = []
        for p_x, _ in self._batches(Z, library):
            mean = p_x.mean.double()
            extra = 0.0 if p_x.theta is None else mean**2 / p_x.theta.double()
            found.append((mean.cpu().numpy(), (mean + extra).cpu().numpy()))
        means, variances = zip(*found, strict=True)
        return np.concatenate(means), np.concatenate(variances)

    @torch.no_grad()
    def rate(self, Z):
        """Expected expression of these states at the median library size."""
        library = np.full(len(Z), self.library)
        parts = [p_x.mean.cpu().numpy() for p_x, _ in self._batches(Z, library)]
        return np.concatenate(parts)

    @torch.no_grad()
    def log_likelihood(self, X, Z):
        """Log-probability of each cell given its state and its total, nats."""
        X = np.asarray(X, dtype=np.float32)
        values = torch.as_tensor(X).to(self.estimator.module_.device)
        library = X.sum(1)
        parts = [
            p_x.log_prob(values[index]).cpu().numpy() for p_x, index in self._batches(Z, library)
        ]
        return np.concatenate(parts)
