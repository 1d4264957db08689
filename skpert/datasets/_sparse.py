r"""Simulated screens: counts whose latent states, targets and likelihood are known.

.. math:: z \sim \mathcal{N}(m_a \odot e_a, I), \qquad x_g \mid z \sim
          \mathrm{Poisson}(\ell \, \mathrm{softmax}_g(f(z)))

:math:`m_a` is the mask of perturbation :math:`a` (few latents), :math:`e_a` its embedding and
:math:`f` a random network with orthonormal layers, so that no latent is lost on the way.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state, check_scalar

from ._decoders import check_poisson, draw_poisson_decoder
from ._simulation import (
    TargetRule,
    check_sizes,
    check_strengths,
    check_target_range,
    draw_embedding,
    draw_expression,
    draw_rows,
    numbered,
)


def make_sparse_shift(
    n_perturbations: int = 100,
    *,
    n_cells_per_perturbation: int = 500,
    n_latent: int = 15,
    n_genes: int = 100,
    effect_size: float = 5.0,
    effect_scale: float = 0.5,
    n_targets: int | tuple[int, int] = (1, 3),
    target_fraction: float | None = None,
    n_covered: int | None = None,
    n_control_cells: int = 0,
    n_held_out: int = 0,
    held_out_effect_size: float | None = None,
    held_out_target_fraction: float | None = None,
    replace_targets: bool = False,
    normalize: str = "genes",
    library_size: float = 1e5,
    shuffle: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Screen in which each perturbation shifts a few latents: the sVAE+ paper's simulation.

    A cell under perturbation ``a`` has latent state ``z ~ Normal(mask[a] * embedding[a], I)``. A
    random network of three leaky hidden layers of 40 units, every layer with orthonormal rows up
    to a gain, turns it into logits; these are divided by their standard deviation over the data
    set, normalised to expected counts, and observed through Poisson noise.

    Parameters
    ----------
    n_perturbations, n_cells_per_perturbation : int, default=100 and 500
        Number of perturbations, held-out ones included, and of cells of each.
    n_latent, n_genes : int, default=15 and 100
        Dimension of the latent state, at most 40, and number of genes, at least 40.
    effect_size, effect_scale : float, default=5.0 and 0.5
        Mean and standard deviation of the absolute shift of a target, in standard deviations of
        the basal state; signs are random.
    n_targets : int or (int, int), default=(1, 3)
        Number of targets of a perturbation: fixed, or drawn uniformly from this range, both ends
        included. A range that reaches beyond ``n_covered`` is cut there.
    target_fraction : float in (0, 1] or None, default=None
        Active fraction of all (perturbation, covered latent) edges, instead of ``n_targets``:
        exact up to rounding, and spread evenly, so that the numbers of targets of perturbations
        differ by at most one. One target each among 5 latents is 0.2.
    n_covered : int or None, default=None
        Only the first ``n_covered`` latents are ever targeted; None means all.
    n_control_cells : int, default=0
        Number of cells labelled ``"control"``, which have no shift.
    n_held_out : int, default=0
        The last ``n_held_out`` perturbations are named in ``held_out``; their cells are in the
        data, to be left out of training.
    held_out_effect_size, held_out_target_fraction : float or None, default=None
        Effect size and target fraction of the held-out perturbations; None: as of the others.
    replace_targets : bool, default=False
        Draw the targets of a perturbation with replacement, as the authors' released code does:
        repeated draws leave fewer targets. The paper's text draws without.
    normalize : {"genes", "cells"}, default="genes"
        "genes" (the paper's text, equation 17): each cell's rates are ``library_size`` times a
        softmax over genes. "cells" (the released code, and hence the paper's tables): each gene's
        rates are 1e6 times a softmax over the cells of the data set, so that the mean expected
        depth of a cell is ``1e6 * n_genes / n_cells``.
    library_size : float, default=1e5
        Expected total counts of every cell; used by ``normalize="genes"`` only.
    shuffle : bool, default=True
        Shuffle the cells; otherwise they come in the order of ``perturbations``, controls last.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Counts.
        A : ndarray of shape (n_cells,), object
            Label of each cell: a name in ``perturbations`` or ``"control"``.
        Z : ndarray of shape (n_cells, n_latent)
            True latent states.
        mask : ndarray of shape (n_perturbations, n_latent), bool
            True latents that each perturbation moves.
        embedding : ndarray of shape (n_perturbations, n_latent)
            Shifts before masking; the effect is ``mask * embedding``.
        perturbations : ndarray of shape (n_perturbations,), object
            Names, sorted, in the order of the rows above.
        held_out : ndarray of shape (n_held_out,), object
            Names of the held-out perturbations.
        expected_expression : ndarray of shape (n_perturbations, n_genes)
            Expected counts of a cell under each perturbation: the mean rate over 2,048 basal
            states, the same for all (a fixed Sobol sequence); 0.2 percent off on average.
        control_expression : ndarray of shape (n_genes,)
            The same without perturbation, with or without control cells in the data.
        rate : callable
            ``rate(Z)``: expected counts of any latent states under the network and normalisation
            of this data set, (n_cells, n_genes).
        log_likelihood : callable
            ``log_likelihood(X, Z)``: log probability of counts given latent states, in nats per
            cell, (n_cells,); every constant is included.
        DESCR : str
            One sentence on what was simulated.

    References
    ----------
    Lopez et al. (2023). Learning causal representations of single cells via sparse mechanism
    shift modeling. CLeaR, PMLR 213:662-691. Appendices C and E.

    Examples
    --------
    >>> from skpert.datasets import make_sparse_shift
    >>> data = make_sparse_shift(10, n_cells_per_perturbation=20, random_state=0)
    >>> data.X.shape, data.Z.shape, data.mask.shape
    ((200, 100), (200, 15), (10, 15))
    """
    check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells)
    check_poisson(n_latent, n_genes, library_size, normalize)
    check_strengths(effect_size, effect_scale)
    _check_held_out(n_held_out, n_perturbations, held_out_effect_size, held_out_target_fraction)
    fractions = [target_fraction, held_out_target_fraction]
    rule = _check_targets(n_targets, fractions, n_covered, n_latent, replace_targets)
    rng = check_random_state(random_state)

    n_each = [n_perturbations - n_held_out, n_held_out]
    fractions = [target_fraction, held_out_target_fraction or target_fraction]
    mask = np.vstack([rule.draw(n, rng, f) for n, f in zip(n_each, fractions, strict=True)])
    sizes = [effect_size, effect_size if held_out_effect_size is None else held_out_effect_size]
    embedding = draw_embedding(np.repeat(sizes, n_each)[:, None], effect_scale, mask.shape, rng)
    n_cells = [n_cells_per_perturbation] * n_perturbations + [n_control_cells]
    cells = _draw_cells(mask * embedding, n_cells, shuffle, rng)
    decoder = draw_poisson_decoder(cells["Z"], n_genes, rng, library_size, normalize)
    return Bunch(
        mask=mask,
        embedding=embedding,
        held_out=cells["perturbations"][n_each[0] :],
        DESCR=f"Sparse shifts: {n_perturbations} perturbations, {n_latent} latents, {normalize=}.",
        **cells,
        **draw_expression(decoder, decoder.mean, cells["Z"], mask * embedding, rng),
    )


def _draw_cells(effect, n_cells, shuffle, rng):
    """Labels and latent states of the cells of each perturbation and of the control, the last."""
    row = draw_rows(n_cells, shuffle, rng)
    names = np.array([*numbered("P", len(effect)), "control"], dtype=object)
    return {
        "A": names[row],
        "Z": rng.normal(np.vstack([effect, np.zeros(effect.shape[1])])[row]),
        "perturbations": names[:-1],
    }


def _check_held_out(n_held_out, n_perturbations, effect_size, target_fraction):
    check_scalar(n_held_out, "n_held_out", Integral, min_val=0)
    if n_held_out >= n_perturbations:
        raise ValueError(f"{n_held_out=} must leave some of the {n_perturbations=}")
    if n_held_out == 0 and not (effect_size is None and target_fraction is None):
        raise ValueError("held_out_effect_size and held_out_target_fraction need n_held_out > 0")
    if effect_size is not None:
        check_scalar(effect_size, "held_out_effect_size", Real, min_val=0)


def _check_targets(n_targets, fractions, n_covered, n_latent, with_replacement):
    """Return the rule for choosing targets, or say what is wrong with it."""
    n_covered = n_latent if n_covered is None else n_covered
    check_scalar(n_covered, "n_covered", Integral, min_val=1, max_val=n_latent)
    names = ["target_fraction", "held_out_target_fraction"]
    for name, fraction in zip(names, fractions, strict=True):
        if fraction is not None:
            check_scalar(fraction, name, Real, min_val=0, max_val=1, include_boundaries="right")
            if with_replacement:
                raise ValueError(f"{name} cannot be kept with replace_targets=True")
    low, high = check_target_range(n_targets)
    if not with_replacement:
        if low > n_covered and fractions[0] is None:
            raise ValueError(f"n_targets={n_targets!r} exceeds the {n_covered} covered latents")
        low, high = min(low, n_covered), min(high, n_covered)
    return TargetRule(n_latent, n_covered, low, high, with_replacement)
