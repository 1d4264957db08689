r"""Simulated screens in which perturbations shift the variables of a latent causal model.

.. math:: u = u B + z + \sum_p a_p c_p S_p, \qquad z \sim \mathcal{N}(0, I), \qquad
          S_p = \mathrm{softmax}(F_p V), \qquad x \sim p(x \mid u)

:math:`B_{ij} \ne 0` is an edge :math:`i \to j` of an acyclic graph, :math:`a_p` the dosage of
perturbation :math:`p`, :math:`c_p` its penetrance and :math:`S_p \ge 0` its shift, which sums to
one and follows from its features :math:`F_p`, those of an unseen perturbation, too.
"""

from functools import partial
from numbers import Integral, Real

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.utils import Bunch, check_random_state, check_scalar

from ._additive import _check_noise
from ._designs import Population
from ._mixing import (
    N_HIDDEN,
    check_number,
    check_sizes,
    check_strengths,
    check_widths,
    draw_haar_layer,
    perturbation_names,
)
from ._noise import N_HIDDEN_NORMAL, NormalDecoder
from ._structural import CausalDecoder, causal_states, check_graph, draw_weights

_SPREAD = 0.1  # share of the variance of features that lies within clusters
_MAX_SHARPNESS = 1e3  # shifts then have a single target


def make_causal_shift(
    n_perturbations=40,
    *,
    n_unseen=None,
    n_cells_per_perturbation=100,
    n_control_cells=1000,
    n_latent=10,
    n_genes=100,
    graph=None,
    edge_probability=0.3,
    edge_weight=(0.25, 0.75),
    penetrance=(0.5, 3.0),
    n_features=5,
    n_clusters=None,
    sharpness=3.0,
    likelihood="normal",
    linear=False,
    library_size=1e4,
    library_scale=0.3,
    dispersion=(1.0, 10.0),
    noise_fraction=0.2,
    shuffle=True,
    random_state=None,
):
    r"""Screen in which perturbations shift a latent causal model, as the SCCVAE paper assumes.

    A cell under perturbation ``p`` has basal state ``z ~ Normal(0, I)`` and causal state
    ``u = u @ weights + z + penetrance[p] * shift[p]``, so that what moves a latent moves its
    descendants in the graph. Expression follows from ``u`` in one of the three kinds of
    :func:`make_additive_shift`. Shifts are a function of features, from which those of unseen
    perturbations can be predicted; penetrances are not.

    Parameters
    ----------
    n_perturbations : int, default=40
        Number of perturbations, unseen ones included.
    n_unseen : int or None, default=None
        The last ``n_unseen`` perturbations are for testing: their cells are in the data, and not
        in ``train``. None means a quarter, rounded down.
    n_cells_per_perturbation : int, default=100
        Number of cells of each perturbation.
    n_control_cells : int, default=1000
        Number of cells labelled ``"control"``, which have no shift.
    n_latent : int, default=10
        Number of latent variables, the modules; at most 50 for ``"normal"``, ``n_genes`` if
        ``linear``, and 40 for counts.
    n_genes : int, default=100
        Number of genes; at least 50 for ``"normal"``, ``n_latent`` if ``linear``, and 40 for
        counts.
    graph : array-like of shape (n_latent, n_latent) or None, default=None
        Graph of your own, without cycles: 1 in row i and column j is an edge i -> j, 0 is none.
        None draws one.
    edge_probability : float in [0, 1], default=0.3
        Each latent is a cause of each later one with this probability, unless ``graph`` is given;
        0 makes the latents independent, and the screen additive.
    edge_weight : float or (float, float), default=(0.25, 0.75)
        Absolute weight of an edge, positive: the same for all, or drawn uniformly from this
        range. Signs are random.
    penetrance : float or (float, float), default=(0.5, 3.0)
        Total shift of a perturbation, in standard deviations of a basal latent: the same for all,
        or drawn uniformly from this range, which may include negative numbers.
    n_features : int, default=5
        Number of features of a perturbation, normal with unit variance.
    n_clusters : int or None, default=None
        Number of clusters of perturbations, of equal size up to one, whose features correlate by
        0.9 within a cluster and not between them. None leaves all perturbations independent.
    sharpness : float in [0, 1000], default=3.0
        Standard deviation of the logits of a shift: at 0, shifts are spread evenly over all
        latents; large ones fall on one.
    likelihood : {"normal", "negative_binomial", "poisson"}, default="normal"
        Kind of expression; ``"normal"`` is for models of normalised expression.
    linear : bool, default=False
        Expression is linear in the causal states, for ``"normal"`` only: its expectation under
        perturbation ``p`` is ``effect[p] @ inv(I - weights) @ loadings``.
    library_size : float, default=1e4
        Mean over cells of the expected total counts; counts only.
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
        Shuffle the cells; otherwise they come in the order of ``perturbations``, controls last.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Normal expression, or counts.
        A : ndarray of shape (n_cells,), object
            Label of each cell: a name in ``perturbations`` or ``"control"``.
        Z : ndarray of shape (n_cells, n_latent)
            True basal states.
        U : ndarray of shape (n_cells, n_latent)
            True causal states.
        train, test : ndarray of int
            Rows of the cells of seen perturbations and of controls; of unseen perturbations.
        graph : ndarray of shape (n_latent, n_latent), bool
            Edges: True in row i and column j is i -> j; i < j unless you gave the graph.
        weights : ndarray of shape (n_latent, n_latent)
            B, the weights of the edges, zero elsewhere.
        features : DataFrame of shape (n_perturbations, n_features)
            F, with the names of the perturbations as index.
        feature_weights : ndarray of shape (n_features, n_latent)
            V, sharpness included: ``shift`` is the softmax of ``features @ feature_weights``.
        clusters : ndarray of shape (n_perturbations,), int
            Cluster of each perturbation; all differ without ``n_clusters``.
        shift : ndarray of shape (n_perturbations, n_latent)
            S, not negative, rows summing to one.
        penetrance : ndarray of shape (n_perturbations,)
            c, the total shift of each perturbation.
        effect : ndarray of shape (n_perturbations, n_latent)
            Penetrance times shift.
        perturbations : ndarray of shape (n_perturbations,), object
            Names, sorted, in the order of the rows above.
        seen : ndarray of shape (n_perturbations,), bool
            Whether cells of the perturbation are in ``train``.
        expected_expression : ndarray of shape (n_perturbations, n_genes)
            What ``expected`` gives for each perturbation alone.
        control_expression : ndarray of shape (n_genes,)
            The same without perturbation, with or without control cells in the data.
        expected : callable
            ``expected(A)``: expected expression of cells under any designs, (n_designs, n_genes).
            A is labels, combinations such as ``"P01+P07"`` included, or dosages in the order of
            ``perturbations``, not negative, which scale penetrances. It is the mean over 2,048
            basal states, the same for all designs (a fixed Sobol sequence), at the mean library
            size, and exact if ``linear``.
        rate : callable
            ``rate(U)``: expected expression of any causal states, (n_cells, n_genes); of counts
            at the mean library size, or ``rate(U, library_size)``, one number or one per cell.
        log_likelihood : callable
            ``log_likelihood(X, U)``: log density (probability, if counts) of expression given
            causal states, in nats per cell, (n_cells,); every constant is included. Counts are
            taken to be those of all cells of the data set, in order and so at their own library
            sizes; for other cells there is ``log_likelihood(X, U, library_size)``.
        loadings : ndarray of shape (n_latent, n_genes)
            Expected expression per unit of each causal state; ``linear`` only.
        noise_scale : ndarray of shape (n_genes,)
            Standard deviation of the noise of each gene; ``"normal"`` only.
        library_size : ndarray of shape (n_cells,)
            Expected total counts of each cell; counts only.
        dispersion : ndarray of shape (n_genes,)
            Theta of each gene; negative binomial only.
        DESCR : str
            One sentence on what was simulated.

    Raises
    ------
    ValueError
        If an argument is out of its range, if ``graph`` has a cycle (which is named), another
        shape or other entries than 0 and 1, or if ``linear`` counts are asked for.

    See Also
    --------
    make_additive_shift : Latents without a graph, perturbations without features.

    References
    ----------
    Liu, Zhang & Uhler (2025). Learning genetic perturbation effects with variational causal
    inference. bioRxiv 2025.06.05.657988. Its structural causal model and its shifts on the
    simplex; the paper simulates no screens, so that the defaults here are our own.

    Examples
    --------
    >>> from skpert.datasets import make_causal_shift
    >>> data = make_causal_shift(8, n_cells_per_perturbation=20, random_state=0)
    >>> data.X.shape, data.U.shape, data.features.shape
    ((1160, 100), (1160, 10), (8, 5))
    >>> data.perturbations[~data.seen].tolist(), len(data.train), len(data.test)
    (['P6', 'P7'], 1120, 40)
    """
    check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells)
    noise = library_size, library_scale, dispersion, noise_fraction
    draw_decoder = _check_decoder(likelihood, linear, n_latent, n_genes, noise)
    graph = check_graph(graph, edge_probability, n_latent)
    edge_weight = _check_range(edge_weight, "edge_weight", 0)
    penetrance = _check_range(penetrance, "penetrance", -np.inf)
    n_unseen = _check_unseen(n_unseen, n_perturbations)
    n_clusters = _check_features(n_features, n_clusters, sharpness, n_perturbations)
    rng = check_random_state(random_state)

    weights = draw_weights(graph, edge_probability, edge_weight, n_latent, rng)
    names = perturbation_names(n_perturbations)
    shifts = _draw_shifts(names, n_clusters, n_features, n_latent, sharpness, rng)
    penetrance = rng.uniform(*penetrance, size=n_perturbations)
    effect = penetrance[:, None] * shifts["shift"]
    seen = np.arange(n_perturbations) < n_perturbations - n_unseen
    n_cells = [n_cells_per_perturbation] * n_perturbations + [n_control_cells]
    cells = _draw_cells(effect, names, seen, n_cells, weights, shuffle, rng)
    decoder = draw_decoder(cells["U"], n_genes, rng)
    return Bunch(
        X=decoder.sample(cells["U"], rng),
        graph=weights != 0,
        weights=weights,
        penetrance=penetrance,
        effect=effect,
        seen=seen,
        DESCR=f"Causal shifts: {n_perturbations} perturbations, {n_unseen} of them unseen, "
        f"{n_latent} latents, {(weights != 0).sum()} edges, {likelihood=}, {linear=}.",
        **shifts,
        **cells,
        **_truth(decoder, weights, cells["perturbations"], effect),
        **({"loadings": decoder.weights[0]} if linear else {}),
    )


def _truth(decoder, weights, perturbations, effect):
    """Return what is known of expression, as entries of the data set."""
    population = Population(CausalDecoder(decoder, weights), perturbations, effect)
    expected = population.expected(np.eye(len(effect) + 1)[:, :-1])  # last row: control
    return {
        "expected_expression": expected[:-1],
        "control_expression": expected[-1],
        "expected": population.expected,
        "rate": decoder.rate,
        "log_likelihood": decoder.log_likelihood,
        **decoder.parameters(),
    }


def _draw_shifts(names, n_clusters, n_features, n_latent, sharpness, rng):
    """Features of perturbations and the shifts that follow from them."""
    clusters = rng.permutation(np.arange(len(names)) % n_clusters)
    centres = rng.normal(size=(n_clusters, n_features))
    own = rng.normal(size=(len(names), n_features))
    features = np.sqrt(1 - _SPREAD) * centres[clusters] + np.sqrt(_SPREAD) * own
    scale = sharpness / np.sqrt(n_features)  # logits then have this standard deviation
    feature_weights = scale * rng.normal(size=(n_features, n_latent))
    columns = [f"F{k}" for k in range(n_features)]
    return {
        "features": pd.DataFrame(features, index=names, columns=columns),
        "feature_weights": feature_weights,
        "clusters": clusters,
        "shift": softmax(features @ feature_weights, axis=1),
    }


def _draw_cells(effect, names, seen, n_cells, weights, shuffle, rng):
    """Labels and states of all cells, controls last in ``n_cells``, and what they are for."""
    row = np.repeat(np.arange(len(n_cells)), n_cells)  # of each cell in effect
    if shuffle:
        row = rng.permutation(row)
    Z = rng.normal(size=(len(row), effect.shape[1]))
    labels = np.array([*names, "control"], dtype=object)
    shift = np.vstack([effect, np.zeros(effect.shape[1])])[row]
    in_train = np.append(seen, True)[row]
    return {
        "A": labels[row],
        "Z": Z,
        "U": causal_states(Z, shift, weights),
        "perturbations": labels[:-1],
        "train": np.flatnonzero(in_train),
        "test": np.flatnonzero(~in_train),
    }


def _draw_linear_decoder(U, n_genes, rng, noise_fraction):
    """Random linear decoder that gives genes unit variance over the causal states U."""
    loadings = draw_haar_layer(U.shape[1], n_genes, rng)
    scale = (U @ loadings).std(axis=0)
    loadings = loadings / np.where(scale > 0, scale, 1.0)
    noise_scale = np.full(n_genes, np.sqrt(noise_fraction / (1 - noise_fraction)))
    return NormalDecoder((loadings,), np.ones(n_genes), noise_scale)


def _check_decoder(likelihood, linear, n_latent, n_genes, noise):
    """Return what draws a decoder of this kind, or say what is wrong with it."""
    check_strengths(0.0, 0.0, noise[0])
    draw_decoder = _check_noise(likelihood, *noise)
    if not linear:
        check_widths(n_latent, N_HIDDEN_NORMAL if likelihood == "normal" else N_HIDDEN, n_genes)
        return draw_decoder
    if likelihood != "normal":
        raise ValueError(f"linear=True needs likelihood='normal', got {likelihood!r}")
    check_widths(n_latent, n_latent, n_genes)
    return partial(_draw_linear_decoder, noise_fraction=noise[-1])


def _check_range(value, name, above):
    """Return the smallest and largest of the numbers to be drawn."""
    limits = [value] * 2 if np.ndim(value) == 0 else list(value)
    numbers = len(limits) == 2 and all(isinstance(limit, Real) for limit in limits)
    if not numbers or not above < limits[0] <= limits[1] < np.inf:
        raise ValueError(
            f"{name} must be a number above {above} and below inf, or two as (lowest, highest), "
            f"got {value!r}"
        )
    return limits


def _check_unseen(n_unseen, n_perturbations):
    """Return the number of perturbations that are not for training."""
    n_unseen = n_perturbations // 4 if n_unseen is None else n_unseen
    check_scalar(n_unseen, "n_unseen", Integral, min_val=0)
    if n_unseen >= n_perturbations:
        raise ValueError(f"{n_unseen=} must leave some of the {n_perturbations=}")
    return n_unseen


def _check_features(n_features, n_clusters, sharpness, n_perturbations):
    """Return the number of clusters of features."""
    check_scalar(n_features, "n_features", Integral, min_val=1)
    check_number(sharpness, "sharpness", 0, _MAX_SHARPNESS, "both")
    n_clusters = n_perturbations if n_clusters is None else n_clusters
    check_scalar(n_clusters, "n_clusters", Integral, min_val=1, max_val=n_perturbations)
    return n_clusters
