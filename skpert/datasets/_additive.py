r"""Simulated screens in which the effects of perturbations add up in latent space.

.. math:: z = z_\text{basal} + \sum_p a_p (m_p \odot e_p), \qquad z_\text{basal} \sim
          \mathcal{N}(0, I), \qquad x \sim p(x \mid z)

:math:`a_p` is the dosage of perturbation :math:`p`, :math:`m_p` its mask and :math:`e_p` its
embedding; expression is that of a random network, under one of three kinds of noise.
"""

from functools import partial
from math import comb
from numbers import Integral

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch, check_random_state, check_scalar

from .._input.expression import read_matrix
from .._input.parts import dosage_matrix
from .._input.values import check_number
from ._decoders import decoder_drawer
from ._simulation import (
    Population,
    TargetRule,
    check_sizes,
    check_strengths,
    check_target_range,
    draw_combinations,
    draw_embedding,
    draw_expression,
    draw_rows,
    numbered,
)


def make_additive_shift(
    n_perturbations: int = 100,
    *,
    n_cells_per_perturbation: int = 500,
    n_combinations: int = 0,
    n_parts: int = 2,
    n_cells_per_combination: int | None = None,
    n_interactions: int = 0,
    multiplicity: float | None = None,
    n_control_cells: int = 0,
    n_latent: int = 15,
    n_genes: int = 100,
    effect_size: float = 5.0,
    effect_scale: float = 0.5,
    target_probability: float | None = None,
    n_targets: int | tuple[int, int] | None = None,
    effect=None,
    likelihood: str = "negative_binomial",
    library_size: float = 1e4,
    library_scale: float = 0.3,
    dispersion: float | tuple[float, float] = (1.0, 10.0),
    noise_fraction: float = 0.2,
    shuffle: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Screen in which perturbations add up in latent space: the SAMS-VAE paper's simulation.

    A cell with dosages ``a`` has latent state ``z = z_basal + a @ effect``, with ``z_basal`` from
    ``Normal(0, I)`` and ``effect = mask * embedding``. Three kinds of expression follow from it:

    * ``"negative_binomial"`` and ``"poisson"``: counts of mean ``l * softmax(f(z))`` at the
      library size ``l`` of the cell. The network f is that of :func:`make_sparse_shift`.
    * ``"normal"``, the published one: four leaky hidden layers of 50 units without biases, with
      orthogonal weights; each feature is divided by its standard deviation over the cells and
      observed through normal noise. ``make_additive_shift(n_cells_per_perturbation=700,
      likelihood="normal")`` is the published screen, of which 500 cells of each perturbation
      were for training, 100 for validation and 100 for testing.

    Parameters
    ----------
    n_perturbations, n_cells_per_perturbation : int, default=100 and 500
        Number of perturbations, and of cells that have one of them alone, for each.
    n_combinations, n_parts : int, default=0 and 2
        Number of distinct combinations, drawn uniformly from all of their size, and of
        perturbations in each.
    n_cells_per_combination : int or None, default=None
        Number of cells of each combination; None means ``n_cells_per_perturbation``.
    n_interactions : int, default=0
        Number of combinations that shift one latent, each drawn uniformly, beyond the sum of their
        parts, by as much as a perturbation shifts a target. In other dosages the shift is
        multiplied by their product.
    multiplicity : float or None, default=None
        Mean number of perturbations of a cell (multiplicity of infection). If given, each of
        ``n_perturbations * n_cells_per_perturbation`` cells has a Poisson number of distinct
        perturbations, which may be none, and there are no ``n_combinations``.
    n_control_cells : int, default=0
        Number of cells labelled ``"control"``, which have no perturbation. The paper has none.
    n_latent, n_genes : int, default=15 and 100
        Dimension of the latent state, at most 40 for counts and 50 for ``"normal"``, and number
        of genes, at least 40 or 50.
    effect_size, effect_scale : float, default=5.0 and 0.5
        Mean and standard deviation of the absolute shift of a target, in standard deviations of
        the basal state; signs are random.
    target_probability : float in (0, 1] or None, default=None
        Each latent is a target of each perturbation with this probability; None means
        ``2 / n_latent``, as published, which leaves one perturbation in eight without any.
    n_targets : int or (int, int) or None, default=None
        Number of targets of a perturbation instead of ``target_probability``: fixed, or drawn
        uniformly from this range, both ends included.
    effect : array-like of shape (n_perturbations, n_latent) or None, default=None
        Given shifts in place of the above, zero where a latent is not a target, such as those
        of perturbations that share a pathway.
    likelihood : {"negative_binomial", "poisson", "normal"}, default="negative_binomial"
        Kind of expression.
    library_size : float, default=1e4
        Mean over cells of the expected total counts, about the depth of a droplet screen; counts
        only.
    library_scale : float in [0, 3], default=0.3
        Standard deviation of the logarithm of the library size, which is normal; 0 gives all
        cells the same. Counts only.
    dispersion : float or (float, float), default=(1.0, 10.0)
        Inverse dispersion theta of the negative binomial, whose variance is
        ``mean + mean**2 / theta``: the same for all genes, or drawn log-uniformly from this range
        for each. Negative binomial only.
    noise_fraction : float in (0, 1), default=0.2
        Share of noise in the variance of each gene over the cells; ``"normal"`` only.
    shuffle : bool, default=True
        Shuffle the cells; otherwise they come in the order of ``perturbations``, then of
        ``combinations``, controls last.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Counts, or normal expression.
        A : ndarray of shape (n_cells,), object
            Label of each cell, such as ``"P07"``, ``"P07+P31"`` or ``"control"``.
        dosage : CSR array of shape (n_cells, n_perturbations), float32
            The same as dosages: 1 for each perturbation that the cell has.
        Z, Z_basal : ndarray of shape (n_cells, n_latent)
            True latent states, and what they would be without perturbation.
        mask : ndarray of shape (n_perturbations, n_latent), bool
            True latents that each perturbation moves.
        embedding, effect : ndarray of shape (n_perturbations, n_latent)
            Shifts before and after masking; given shifts are both.
        interaction : ndarray of shape (n_combinations, n_latent)
            What each combination shifts beyond the sum of its parts.
        perturbations, combinations : ndarray of object
            Names, sorted, in the order of the rows above; parts of a combination are sorted, too.
        expected_expression : ndarray of shape (n_perturbations, n_genes)
            What ``expected`` gives for each perturbation alone.
        control_expression : ndarray of shape (n_genes,)
            The same without perturbation, with or without control cells in the data.
        expected : callable
            ``expected(A)``: expected expression of cells under any designs, seen or not,
            (n_designs, n_genes). A is labels (one label is one design), or dosages in the order
            of ``perturbations``, not negative, of any size. It is the mean over 2,048 basal
            states, the same for all designs (a fixed Sobol sequence), at the mean library size.
        rate : callable
            ``rate(Z)``: expected expression of any latent states, (n_cells, n_genes); of counts
            at the mean library size, or ``rate(Z, library_size)``, one number or one per cell.
        log_likelihood : callable
            ``log_likelihood(X, Z)``: log probability (density, if normal) of expression given
            latent states, in nats per cell, (n_cells,); every constant is included. Counts are
            taken to be those of all cells of the data set, in order and so at their own library
            sizes; for other cells there is ``log_likelihood(X, Z, library_size)``.
        library_size : ndarray of shape (n_cells,)
            Expected total counts of each cell; counts only.
        dispersion : ndarray of shape (n_genes,)
            Theta of each gene; negative binomial only.
        noise_scale : ndarray of shape (n_genes,)
            Standard deviation of the noise of each gene; ``"normal"`` only.
        DESCR : str
            One sentence on what was simulated.

    Raises
    ------
    ValueError
        If an argument is out of its range, if there are fewer combinations of that size, if more
        than one of ``target_probability``, ``n_targets`` and ``effect`` is given, or if
        ``effect`` is not finite or of another shape.

    See Also
    --------
    make_sparse_shift : A screen of single perturbations only, with strength and targets held out.

    References
    ----------
    Bereket & Karaletsos (2023). Modelling cellular perturbations with the sparse additive
    mechanism shift variational autoencoder. NeurIPS. The authors' released simulation is the
    source of the network, the scaling and the noise of ``"normal"``.

    Examples
    --------
    >>> from skpert.datasets import make_additive_shift
    >>> data = make_additive_shift(
    ...     10, n_cells_per_perturbation=20, n_combinations=3, random_state=0
    ... )
    >>> data.X.shape, data.combinations.tolist()
    ((260, 100), ['P1+P5', 'P4+P8', 'P7+P9'])
    >>> data.expected(["P1+P5", "P0+P9"]).shape
    (2, 100)
    """
    check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells)
    _check_combinations(n_perturbations, n_combinations, n_parts, n_cells_per_combination)
    draw_cells = _cell_drawer(multiplicity, n_perturbations, n_combinations, n_interactions)
    noise = library_size, library_scale, dispersion, noise_fraction
    draw_decoder = decoder_drawer(likelihood, n_latent, n_genes, noise)
    check_strengths(effect_size, effect_scale)
    draw_mask = _check_targets(target_probability, n_targets, n_latent)
    given = _check_effect(effect, target_probability, n_targets, (n_perturbations, n_latent))
    rng = check_random_state(random_state)

    mask = draw_mask(n_perturbations, rng) if given is None else given != 0
    shifts = draw_embedding(effect_size, effect_scale, mask.shape, rng) if given is None else given
    combined = draw_combinations(n_perturbations, n_parts, n_combinations, rng)
    planted, own = _plant(combined, n_latent, n_interactions, effect_size, effect_scale, rng)
    n_each = n_cells_per_perturbation, n_cells_per_combination, n_control_cells
    cells = draw_cells(mask * shifts, combined, n_each, shuffle, rng)
    cells["Z"] = cells["Z"] + own(cells["dosage"])
    expression = _draw_expression(draw_decoder(cells["Z"], n_genes, rng), cells, own, rng)
    kind = f"Additive shifts: {n_perturbations=}, {multiplicity=}, {n_latent=}, {likelihood=}."
    known = {"mask": mask, "embedding": shifts, "interaction": planted, "DESCR": kind}
    return Bunch(**(known | cells | expression))


def _plant(combined, n_latent, n_interactions, size, scale, rng):
    """Shifts of one latent each, by some of the combinations, and those of any dosages."""
    interaction = np.zeros((len(combined), n_latent))
    if n_interactions:
        rows = rng.choice(len(combined), n_interactions, replace=False)
        columns = rng.choice(n_latent, n_interactions)
        interaction[rows, columns] = draw_embedding(size, scale, n_interactions, rng)
    row_of = {tuple(parts): i for i, parts in enumerate(combined) if interaction[i].any()}
    return interaction, partial(_interactions, row_of, interaction)


def _interactions(row_of, interaction, dosage):
    """What cells that have exactly the perturbations of a combination are shifted by."""
    design, shift = csr_array(dosage), np.zeros((dosage.shape[0], interaction.shape[1]))
    for cell in np.flatnonzero(np.diff(design.indptr) > 1) if row_of else ():
        entries = slice(design.indptr[cell], design.indptr[cell + 1])
        row = row_of.get(tuple(np.sort(design.indices[entries]).tolist()))
        if row is not None:
            shift[cell] = np.prod(design.data[entries]) * interaction[row]
    return shift


def _draw_expression(decoder, cells, own, rng):
    """Expression of all cells, and what is known of it."""
    effect = cells["effect"]
    return {
        **draw_expression(decoder, decoder.mean, cells["Z"], effect, rng),
        "expected": Population(decoder.mean, cells["perturbations"], effect, own).expected,
        **decoder.parameters(),
    }


def _draw_cells(effect, combined, n_each, shuffle, rng):
    """Designs and latent states of all cells, with the names of what was done to them."""
    n_single, n_combined, n_control = n_each
    names = numbered("P", len(effect))
    combined_names = ["+".join(names[i] for i in parts) for parts in combined]
    labels = np.array([*names, *combined_names, "control"], dtype=object)
    n_combined = n_single if n_combined is None else n_combined
    n_cells = [n_single] * len(names) + [n_combined] * len(combined) + [n_control]
    design = draw_rows(n_cells, shuffle, rng)
    singles = [(i,) for i in range(len(effect))]
    dosage = dosage_matrix([*singles, *combined, ()], len(effect))[design]
    Z_basal = rng.normal(size=(len(design), effect.shape[1]))
    return {
        "A": labels[design],
        "dosage": dosage,
        "Z": Z_basal + dosage @ effect,
        "Z_basal": Z_basal,
        "effect": effect,
        "perturbations": labels[: len(names)],
        "combinations": labels[len(names) : -1],
    }


def _draw_many(multiplicity, effect, combined, n_each, shuffle, rng):
    """The same of cells with a Poisson number of perturbations each; controls come last."""
    names, (n_cells, _, n_control) = numbered("P", len(effect)), n_each
    n_parts = rng.poisson(multiplicity, len(effect) * n_cells).clip(max=len(effect))
    parts = [np.sort(rng.choice(len(effect), n, replace=False)) for n in n_parts]
    parts += [np.arange(0)] * n_control
    order = rng.permutation(len(parts)) if shuffle else range(len(parts))
    parts = [tuple(parts[i].tolist()) for i in order]
    dosage = dosage_matrix(parts, len(effect))
    Z_basal = rng.normal(size=(len(parts), effect.shape[1]))
    labels = ["+".join(names[i] for i in of_cell) or "control" for of_cell in parts]
    return {
        "A": np.array(labels, dtype=object),
        "dosage": dosage,
        "Z": Z_basal + dosage @ effect,
        "Z_basal": Z_basal,
        "effect": effect,
        "perturbations": np.array(names, dtype=object),
        "combinations": np.array([], dtype=object),
    }


def _cell_drawer(multiplicity, n_perturbations, n_combinations, n_interactions):
    """Return what draws the cells, or say what is wrong with their number of perturbations."""
    check_scalar(n_interactions, "n_interactions", Integral, min_val=0, max_val=n_combinations)
    if multiplicity is None:
        return _draw_cells
    check_number(multiplicity, "multiplicity", 0, n_perturbations, "right")
    if n_combinations:
        raise ValueError("give n_combinations or multiplicity, by which cells draw theirs")
    return partial(_draw_many, multiplicity)


def _check_combinations(n_perturbations, n_combinations, n_parts, n_cells):
    check_scalar(n_combinations, "n_combinations", Integral, min_val=0)
    check_scalar(n_parts, "n_parts", Integral, min_val=2)
    if n_cells is not None:
        check_scalar(n_cells, "n_cells_per_combination", Integral, min_val=1)
    n_all = comb(n_perturbations, n_parts)
    if n_combinations > n_all:
        raise ValueError(
            f"{n_combinations=} asked for, {n_perturbations=} have {n_all} of {n_parts=}"
        )


def _check_targets(target_probability, n_targets, n_latent):
    """Return what draws the mask of a number of perturbations, or say what is wrong with it."""
    if n_targets is None:
        probability = min(1.0, 2 / n_latent) if target_probability is None else target_probability
        check_number(probability, "target_probability", 0, 1, "right")
        return lambda n_rows, rng: rng.random_sample((n_rows, n_latent)) < probability
    if target_probability is not None:
        raise ValueError("give either target_probability or n_targets, not both")
    low, high = check_target_range(n_targets)
    if high > n_latent:
        raise ValueError(f"n_targets={n_targets!r} exceeds the {n_latent} latents")
    return TargetRule(n_latent, n_latent, low, high).draw


def _check_effect(effect, target_probability, n_targets, shape):
    """Return a copy of given shifts as floats, (n_perturbations, n_latent), or None."""
    if effect is None:
        return None
    if target_probability is not None or n_targets is not None:
        raise ValueError("give effect, whose zeros are not targets, or the rule for targets")
    effect = read_matrix(effect, "effect", copy=True)
    if effect.shape != shape:
        raise ValueError(f"effect has shape {effect.shape}; n_perturbations, n_latent are {shape}")
    return effect
