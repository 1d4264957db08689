"""What each latent does to each gene."""

from numbers import Integral

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from .._data import Cells
from .._input.cells import check_cells
from .._input.values import BOOLS, check_finite, check_has_latents, check_integer, listed
from ..parameters import REAL_VALUED
from ._gradients import decoder_gradients, encoder_gradients, response

N_ON_PATHS = 250  # cells from which integrated gradients start
MEASURES = "log2_fold_change", "decoder_gradient", "encoder_gradient"
LEAST = 1e-30  # expected counts, of which a logarithm is taken


def latent_genes(
    estimator,
    latents: list[str] | int | None = None,
    *,
    X=None,
    genes=None,
    step: float = 1.0,
    pseudocount: float = 0.01,
    gradients: bool = False,
    n_cells: int = 1000,
) -> pd.DataFrame:
    """Effect of each latent on each gene: log2 fold change per unit of the latent.

    States of cells are moved along one latent, all others kept, and decoded: the mean response is
    what the latent means, and what :func:`~skpert.inspection.enrich` takes. The same cells are
    moved along every latent. ``gradients`` adds what the encoder reads the latent from, a second
    opinion, as nothing forces the two to agree.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform``, of any model.
    latents : list of str or int, default=None
        Names, as in ``get_feature_names_out``, or positions; None is all of them.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
        Cells to start from; None draws untreated cells from the model.
    genes : array-like of str of shape (n_genes,), default=None
        Names of the genes; None takes those seen in ``fit``, or their positions.
    step : float, default=1.0
        Distance of the two states that are compared, half of it behind and half of it ahead of
        each cell's, in units of the latent as ``transform`` gives it. Fold changes are divided
        by it.
    pseudocount : float, default=0.01
        Expected counts of a gene, in a cell of the median library size, that are added before
        logarithms are taken. Changes of genes with fewer counts than one in a hundred cells are
        small then, as little is known of them; 0 gives plain fold changes.
    gradients : bool, default=False
        Whether to add integrated gradients of decoder and encoder.
    n_cells : int, default=1000
        Cells over which responses are averaged, spread evenly over the rows of X; integrated
        gradients start from 250 of them at most.

    Returns
    -------
    table : DataFrame of shape (n_latents * n_genes, 5 or 8)
        A row per ``latent`` and ``gene``, in their order. ``log2_fold_change``, per unit of the
        latent as ``transform`` gives it, of expected counts at the median library size, the mean
        over cells; with a normal likelihood the difference of expected expression, in units of X.
        ``rank``, within the latent, 1 for the largest absolute value. ``targeted``, whether a
        perturbation targets the latent in ``targets_``; True where the estimator calls no edges.
        Latents that were asked for and not found have zeros.

        With ``gradients`` also ``decoder_gradient``, in the units of ``log2_fold_change``;
        ``encoder_gradient``, in units of the latent per unit of log(1 + count) of the gene, or of
        X; and ``agreement``, Spearman's correlation of the decoder's response and the encoder's
        gradient over the genes of the latent, in [-1, 1], NaN where one of them is constant.

    Raises
    ------
    ValueError
        If the estimator has no latents, one is unknown, ``genes`` are not as many as the model's,
        or a number is out of range.

    Notes
    -----
    The sign of a latent is arbitrary: what goes up with it and what goes down with it count the
    same. The axis of a latent that nothing targets is arbitrary, too, as any rotation among these
    fits as well [1]_; its genes are those of a mixture. Latents of ``SCCVAE`` are the states u
    that its decoder reads: one is moved, and what the graph makes of that is not followed.

    Integrated gradients [2]_ average derivatives along straight paths, from the mean cell to each
    cell. A path's derivatives times its length are attributions that add up to the difference of
    its ends. What is given is their slope on the length over all cells, which has the sign of the
    effect. Nodes of a Gauss-Legendre rule lie on the paths. Counts are moved on the scale of
    log(1 + count), at which encoders read them. Environments are those of training cells.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, Appendices G and H.3.
    .. [2] Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import latent_genes
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> table = latent_genes(model)
    >>> table.columns.tolist(), len(table)
    (['latent', 'gene', 'log2_fold_change', 'rank', 'targeted'], 150)
    >>> top = table[(table["latent"] == "svaeplus0") & (table["rank"] <= 10)]
    >>> len(top)
    10
    """
    check_has_latents(estimator)
    check_finite(step, "step", "neither")
    check_finite(pseudocount, "pseudocount")
    check_integer(n_cells, "n_cells", 2)
    names, columns = _chosen(estimator, latents)
    gene_names = _gene_names(estimator, genes)
    with estimator._inference():
        cells = _cells(estimator, X, n_cells)
        found = _effects(estimator, cells, columns, step, pseudocount, gradients)
    effect = found["log2_fold_change"]
    order = np.argsort(-np.abs(effect), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(1, effect.shape[1] + 1)[None], axis=1)
    size = effect.shape[1]
    table = {"latent": np.repeat(names, size), "gene": np.tile(gene_names, len(names))}
    table |= {"log2_fold_change": effect.ravel(), "rank": rank.ravel()}
    table["targeted"] = np.repeat(_targeted(estimator, names, columns), size)
    if gradients:
        table |= {name: found[name].ravel() for name in MEASURES[1:]}
        table["agreement"] = np.repeat(_agreement(effect, found["encoder_gradient"]), size)
    return pd.DataFrame(table)


def _chosen(estimator, latents):
    """Names of latents, and which latent of the module each is, -1 for one that is empty."""
    names = estimator.get_feature_names_out()
    of_module = np.arange(max(estimator.n_latent_, len(names)))[estimator._shown]
    of_module[of_module >= estimator.n_latent_] = -1
    if latents is None:
        return names, of_module
    latents = [latents] if isinstance(latents, (str, Integral, *BOOLS)) else list(latents)
    known = {name: i for i, name in enumerate(names)} | {i: i for i in range(len(names))}
    unknown = [latent for latent in latents if not _is_place(latent) or latent not in known]
    if unknown or not latents:
        raise ValueError(
            f"latents must be names among {listed(names, 5)} or positions below {len(names)}; got "
            f"{listed(unknown, 5) or 'none'}"
        )
    rows = [known[latent] for latent in latents]
    return names[rows], of_module[rows]


def _is_place(latent):
    """Whether this is a name or a position; True is none, though it equals 1."""
    return isinstance(latent, str) or (
        isinstance(latent, Integral) and not isinstance(latent, BOOLS)
    )


def _gene_names(estimator, genes):
    if genes is None:
        genes = getattr(estimator, "feature_names_in_", range(estimator.n_features_in_))
    genes = np.asarray(genes)
    if genes.shape != (estimator.n_features_in_,):
        raise ValueError(
            f"genes has shape {genes.shape}, but the model has {estimator.n_features_in_} genes: "
            "give a name for each"
        )
    return genes


def _cells(estimator, X, n_cells):
    """Expression of cells to start from, and their environments, on the device of the module."""
    module, population = estimator.module_, estimator._population
    if X is not None:
        counts = estimator.likelihood not in REAL_VALUED
        values = check_cells(estimator, X, counts=counts, layer=estimator.layer)
        n_rows = values.shape[0]
        rows = np.unique(np.linspace(0, n_rows - 1, min(n_cells, n_rows)).round().astype(int))
        values, n_cells = values[rows], len(rows)
    else:
        values = np.empty((n_cells, 0), dtype=np.float32)
    place = np.arange(n_cells)
    environment = population["environment"][place % len(population["environment"])]
    cells = Cells.untreated(values, environment)
    if X is not None:
        return cells.take(torch.from_numpy(place)).to(module.device)
    library = torch.from_numpy(population["library"])
    drawn = library[torch.randint(len(library), (n_cells,))]
    cells = cells._replace(library=drawn).to(module.device)
    p_x = module.intervene(module.basal_states(n_cells), cells, sampled=True)
    return cells._replace(x=p_x.sample())


def _effects(estimator, cells, columns, step, pseudocount, gradients):
    """Arrays of shape (n_latents, n_genes), zero for latents that are empty."""
    module, counts = estimator.module_, estimator.likelihood not in REAL_VALUED
    latents = [int(column) for column in columns if column >= 0]
    if not latents:
        return dict.fromkeys(MEASURES, np.zeros((len(columns), cells.n_genes)))
    z = module.encode(cells.x)

    def decoder_of(some):
        library = torch.full_like(some.library, estimator._population["median"])
        some = some._replace(library=library.clamp(min=1))

        def decode(z):
            mean = module.decode(z, some).mean
            return (pseudocount + mean.clamp(min=LEAST)).log2() if counts else mean

        return decode

    decode = decoder_of(cells)
    found = {"log2_fold_change": [response(decode, z, latent, step) for latent in latents]}
    if gradients:
        few = cells.take(_spread(cells.n_cells, N_ON_PATHS).to(module.device))
        read = few.x.log1p() if counts else few.x
        found["decoder_gradient"] = decoder_gradients(
            decoder_of(few), module.encode(few.x), latents
        )
        found["encoder_gradient"] = encoder_gradients(
            lambda x: module.encode(x.expm1() if counts else x), read, latents
        )
    return {name: _filled(rows, columns, cells.n_genes) for name, rows in found.items()}


def _spread(n_cells, n_chosen):
    return torch.linspace(0, n_cells - 1, min(n_cells, n_chosen)).round().long()


def _filled(rows, columns, n_genes):
    """Rows of the latents that were found, and zeros for the others."""
    values = np.zeros((len(columns), n_genes))
    values[columns >= 0] = torch.stack(list(rows)).cpu().numpy()
    return values


def _targeted(estimator, names, columns):
    """Whether a perturbation targets each latent; those that were found, if none are called."""
    if not hasattr(estimator, "mask_probability_"):
        return columns >= 0
    return (estimator.targets_ != 0).any()[names].to_numpy()


def _agreement(first, second):
    """Spearman's correlation of rows, NaN for one that is constant."""
    varies = np.ptp(first, axis=1) * np.ptp(second, axis=1) > 0
    pairs = zip(first, second, varies, strict=True)
    return np.array([spearmanr(a, b).statistic if ok else np.nan for a, b, ok in pairs])
