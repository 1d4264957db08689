"""Gene sets of latents or of predicted effects, and names of latents made of them."""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom, norm, rankdata

from .._input.values import check_integer, check_number, listed, text
from ..preprocessing._genesets import _gene_sets

MOST_TOP = 50  # genes, as in the paper
SHARE_TOP = 0.1  # of the measured genes at most, unless so many are asked for
TIDY = {"latent", "gene"}
COLUMNS = ["unit", "set", "n_genes", "overlap", "genes", "direction", "score", "p", "q"]


def enrich(
    scores: pd.DataFrame,
    sets,
    *,
    method: str = "rank",
    column: str = "log2_fold_change",
    n_top: int | None = None,
    min_genes: int = 3,
    max_genes: int = 500,
    untargeted: bool = False,
) -> pd.DataFrame:
    """Gene sets that go up or down with each latent, or under each perturbation.

    A set is tested among the measured genes, against the hypothesis that its genes are any of
    these [1]_. All sets of all units are one family of tests, in which ``q`` controls the false
    discovery rate.

    Parameters
    ----------
    scores : DataFrame
        The table of :func:`~skpert.inspection.latent_genes`, or one with a row for each unit,
        such as a perturbation, and a column for each gene, such as
        :func:`~skpert.inspection.average_treatment_effect` gives.
    sets : str, path-like, dict of str to list of str, or DataFrame
        A .gmt file, the genes of each set by its name, or a table with a row for each gene of
        each set: names of sets in its column "source", of genes in "target", as decoupler has it.
        Genes must be written as in ``scores``, capitals included.
    method : {"rank", "top"}, default="rank"
        "rank" compares the ranks of the set's genes with those of all others. "top" asks whether
        the genes of largest scores hold more of the set than chance (over-representation).
    column : str, default="log2_fold_change"
        What to rank genes by in a table of ``latent_genes``, such as "encoder_gradient".
    n_top : int or None, default=None
        How many genes are at the top, and as many at the bottom. None is a tenth of the genes,
        and 50 at most.
    min_genes, max_genes : int, default=3 and 500
        Sets of which fewer or more genes are measured are not tested.
    untargeted : bool, default=False
        Whether latents that no perturbation targets are tested, too. Their axes are arbitrary, so
        that what is found of one is true of a mixture of them.

    Returns
    -------
    enriched : DataFrame of shape (n_units * n_sets, 9)
        A row for each ``unit``, a latent or a perturbation, and ``set``, the smallest ``p`` of a
        unit first. ``n_genes`` of the set that are measured; ``overlap``, how many of these are at
        the top or, where ``direction`` is "down", at the bottom, and their names, ``genes``,
        largest scores first; ``score``, for "rank" the statistic, which is standard normal without
        enrichment and negative for "down", for "top" the overlap relative to what is expected.
        ``p``, two-sided, and ``q``, that of Benjamini and Hochberg over all rows. Units whose
        scores are all the same are left out.

    Raises
    ------
    ValueError
        If ``scores`` or ``sets`` are not of these forms, scores are not finite, genes come twice,
        or no set has enough measured genes.

    Notes
    -----
    The rank test is van der Waerden's: ranks are replaced by quantiles of a normal distribution,
    and the statistic is their mean in the set, over its standard deviation among all ways to
    assign genes to the set. Sums of normal scores are nearly normal for sets of any size, in the
    tails of sets of three genes slightly narrower, so that permutations of genes are not drawn:
    p-values have no smallest value, and thousands of sets can be tested. For over-representation
    p-values are hypergeometric. Top and bottom are tested separately, and the smaller p-value is
    doubled.

    Both treat genes as independent. Genes that vary together make p-values of their sets too
    small, as in all tests that permute genes [2]_: q ranks programmes, and is no proof of one.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism shift
       modeling, CLeaR 2023, Appendix G.
    .. [2] Goeman and Buehlmann, Analyzing gene expression data in terms of gene sets:
       methodological issues, Bioinformatics 2007.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from skpert.inspection import enrich
    >>> genes = [f"G{i}" for i in range(100)]
    >>> effects = pd.DataFrame([np.linspace(2, -2, 100)], index=["JAK2"], columns=genes)
    >>> enriched = enrich(effects, {"first": genes[:6], "spread": genes[::20]})
    >>> enriched[["unit", "set", "n_genes", "overlap", "direction"]].to_numpy().tolist()
    [['JAK2', 'first', 6, 6, 'up'], ['JAK2', 'spread', 5, 1, 'up']]
    """
    _check_options(method, n_top, min_genes, max_genes)
    units, genes, values = _read(scores, column, untargeted)
    if not units:
        return pd.DataFrame(columns=COLUMNS)
    names, members = _measured(sets, genes, min_genes, max_genes)
    n_top = n_top or max(1, min(MOST_TOP, int(SHARE_TOP * len(genes))))
    test = _by_rank if method == "rank" else _of_top
    tables = [
        test(row, members, _ends(row, n_top), genes).assign(unit=unit, set=names)
        for unit, row in zip(units, values, strict=True)
        if np.ptp(row) > 0
    ]
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(tables, ignore_index=True)
    table["q"] = false_discovery_control(table["p"])
    order = np.lexsort([table["p"], np.repeat(np.arange(len(tables)), len(names))])
    return table.iloc[order].reset_index(drop=True)[COLUMNS]


def latent_names(enriched: pd.DataFrame, *, fdr: float = 0.05) -> dict[str, str]:
    """Names of latents by the programme that is most enriched, as "6: interferon gamma response".

    They go into ``names`` of :class:`~skpert.plotting.TargetsDisplay` and of
    :func:`~skpert.inspection.latent_summary`, and into tables by
    ``estimator.targets().rename(columns=latent_names(enriched))``.

    Parameters
    ----------
    enriched : DataFrame
        The table of :func:`~skpert.inspection.enrich`.
    fdr : float, default=0.05
        Largest ``q`` of a set that is a name, in [0, 1].

    Returns
    -------
    names : dict of str to str
        New name of each latent with such a set: its number, and the set of smallest ``p`` in
        words. What all sets begin with, such as ``HALLMARK_``, is left out.

    Raises
    ------
    ValueError
        If the table lacks columns, or ``fdr`` is out of range.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.inspection import latent_names
    >>> enriched = pd.DataFrame({"unit": ["svaeplus6", "svaeplus7"], "p": [1e-5, 0.2],
    ...                          "set": ["HALLMARK_HYPOXIA", "HALLMARK_APOPTOSIS"],
    ...                          "q": [2e-5, 0.2]})
    >>> latent_names(enriched)
    {'svaeplus6': '6: hypoxia'}
    """
    if not isinstance(enriched, pd.DataFrame):
        raise ValueError(f"enriched must be the table of enrich, got {type(enriched).__name__}")
    _check_columns(enriched, ["unit", "set", "p", "q"], "enriched")
    check_number(fdr, "fdr", 0, 1, "both")
    words = in_words(enriched["set"])
    called = enriched[enriched["q"] <= fdr].sort_values("p", kind="stable")
    first = called.drop_duplicates("unit").set_index("unit")["set"].rename(str)
    units = [str(unit) for unit in enriched["unit"].unique()]
    found = {unit: first[unit] for unit in units if unit in first.index}
    return {unit: f"{_number(unit, units)}: {words[name]}" for unit, name in found.items()}


def names_of(names, latents):
    """New names of some latents, from a dict or the table of ``enrich``; None is empty.

    No two latents have the same name then, the others keeping theirs.
    """
    if isinstance(names, pd.DataFrame):
        names = latent_names(names)
    if names is not None and not isinstance(names, Mapping):
        raise ValueError(
            "names must be a dict of names of latents, or the table of enrich; got "
            f"{type(names).__name__}"
        )
    given = {text(latent): text(name) for latent, name in (names or {}).items()}
    found = {latent: given[str(latent)] for latent in latents if str(latent) in given}
    if given and not found:
        raise ValueError(
            f"names has {listed(list(given), 5)}, and latents are {listed(list(latents), 5)}"
        )
    shown = pd.Series([found.get(latent, str(latent)) for latent in latents], dtype=object)
    if shown.duplicated().any():
        raise ValueError(
            f"names calls several latents {listed(shown[shown.duplicated()].unique(), 5)}: give "
            "each a name of its own"
        )
    return found


def in_words(names):
    """Names of gene sets as text, without what all have in common before a first underscore."""
    names = list(dict.fromkeys(map(str, names)))
    beginnings = {name.split("_", 1)[0] if "_" in name else None for name in names}
    cut = len(beginnings) == 1 and None not in beginnings and len(names) > 1
    return {name: _as_text(name.split("_", 1)[1] if cut else name) for name in names}


def _as_text(name):
    text = name.replace("_", " ").strip()
    return text.lower() if text.isupper() else text


def _number(name, names):
    """Number of a latent, or its name where latents do not differ by numbers alone."""
    parts = [re.fullmatch(r"(\D+)(\d+)", other) for other in names]
    alike = all(parts) and len({part[1] for part in parts}) == 1
    return re.fullmatch(r"\D+(\d+)", name)[1] if alike else name


def _check_columns(table, columns, name):
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"{name} has no column {listed(missing, 5)}; its columns are "
            f"{listed(list(table.columns), 20)}"
        )


def _check_options(method, n_top, min_genes, max_genes):
    if method not in ("rank", "top"):
        raise ValueError(f"method must be 'rank' or 'top', got {method!r}")
    if n_top is not None:
        check_integer(n_top, "n_top", 1)
    check_integer(min_genes, "min_genes", 1)
    check_integer(max_genes, "max_genes", min_genes)


def _read(scores, column, untargeted):
    """Names of units, of genes, and an array of scores, (n_units, n_genes)."""
    if not isinstance(scores, pd.DataFrame) or not len(scores):
        what = "an empty one" if isinstance(scores, pd.DataFrame) else type(scores).__name__
        raise ValueError(
            "scores must be a DataFrame, of latent_genes or with a row per unit and a column per "
            f"gene; got {what}"
        )
    if TIDY <= set(scores.columns):
        scores = _widened(scores, column, untargeted)
    genes = np.array([str(gene) for gene in scores.columns], dtype=object)
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()].unique()
    if len(repeated):
        raise ValueError(f"scores have several columns of the genes {listed(repeated, 5)}")
    try:
        values = scores.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scores must be numbers ({error})") from error
    if not np.isfinite(values).all():
        raise ValueError("scores have NaN or infinite values: leave out these genes")
    return list(scores.index), genes, values


def _widened(table, column, untargeted):
    """A row per latent and a column per gene, in the order of the table."""
    _check_columns(table, [column], "scores")
    if not untargeted and "targeted" in table.columns:
        table = table[table["targeted"].astype(bool)]
    if table.duplicated(["latent", "gene"]).any():
        repeated = table.loc[table.duplicated(["latent", "gene"]), "gene"].unique()
        raise ValueError(f"scores have several rows of the genes {listed(repeated, 5)}")
    latents, genes = table["latent"].unique(), table["gene"].unique()
    wide = table.pivot(index="latent", columns="gene", values=column)
    return wide.reindex(index=latents, columns=genes)


def _measured(sets, genes, min_genes, max_genes):
    """Names of the sets that can be tested, and which genes they hold, (n_sets, n_genes)."""
    place = {gene: i for i, gene in enumerate(genes)}
    given = _gene_sets(sets)
    found = {name: {place[gene] for gene in of if gene in place} for name, of in given.items()}
    most = min(max_genes, len(genes) - 1)
    found = {name: of for name, of in found.items() if min_genes <= len(of) <= most}
    if not found:
        in_sets = list(dict.fromkeys(gene for of in given.values() for gene in of))
        raise ValueError(
            f"None of the {len(given)} gene sets has {min_genes} to {max_genes} of the "
            f"{len(genes)} measured genes. Those are {listed(genes.tolist(), 3)}; genes of the "
            f"sets are {listed(in_sets, 3)}"
        )
    rows = np.repeat(np.arange(len(found)), [*map(len, found.values())])
    columns = np.concatenate([sorted(of) for of in found.values()])
    members = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(found), len(genes)))
    return list(found), members


def _ends(row, n_top):
    """Positions of the largest scores above zero, and of the smallest below, extremes first."""
    order = np.argsort(-row, kind="stable")
    return order[row[order] > 0][:n_top], order[::-1][row[order[::-1]] < 0][:n_top]


def _by_rank(row, members, ends, genes):
    """The test of van der Waerden for each set."""
    n, size = len(row), members.sum(1)
    scores = norm.ppf(rankdata(row) / (n + 1))
    scores -= scores.mean()
    variance = scores @ scores / (n * (n - 1))
    z = (members @ scores) / np.sqrt(size * (n - size) * variance)
    return _table(members, ends, genes, z < 0).assign(score=z, p=2 * norm.sf(np.abs(z)))


def _of_top(row, members, ends, genes):
    """Over-representation of each set at the end where it is more surprising."""
    n, size = len(row), members.sum(1)
    n_drawn = np.array([len(end) for end in ends])[:, None]
    shared = np.stack([members[:, end].sum(1) for end in ends])
    p = hypergeom.sf(shared - 1, n, size, n_drawn)
    down = p[1] < p[0]
    table = _table(members, ends, genes, down)
    expected = size * np.where(down, *n_drawn[::-1]) / n
    return table.assign(score=table["overlap"] / expected, p=np.minimum(1, 2 * p.min(0)))


def _table(members, ends, genes, down):
    """What is at the end that was chosen for each set."""
    top, bottom = ([end[row > 0] for row in members[:, end].toarray()] for end in ends)
    shared = [low if is_low else high for high, low, is_low in zip(top, bottom, down, strict=True)]
    return pd.DataFrame(
        {
            "n_genes": members.sum(1).astype(int),
            "overlap": [len(found) for found in shared],
            "genes": [", ".join(genes[found]) for found in shared],
            "direction": np.where(down, "down", "up"),
        }
    )
