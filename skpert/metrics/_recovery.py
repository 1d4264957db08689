"""How much of measured differential expression a prediction recovers."""

from numbers import Integral
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from ._profiles import Profiles, aggregated, kept_genes, read_profiles

MIN_GENES = 10  # significant genes that an error of fold changes needs
PURITY = 0.9  # share of right directions that a prefix needs


class _Genes(NamedTuple):
    """Differential expression of one perturbation, (n_genes,) each."""

    change: np.ndarray  # log2 fold change
    fdr: np.ndarray
    p_value: np.ndarray
    significant: np.ndarray  # bool


def de_recovery(
    true_table,
    predicted_table,
    *,
    top: int | None = None,
    fdr: float = 0.05,
    exclude=None,
    aggregate: str | None = None,
) -> pd.DataFrame:
    """Recovery of measured differential expression, by several scores per perturbation [1]_.

    Parameters
    ----------
    true_table, predicted_table : Bunch or mapping
        Measured and predicted "log2_fold_change" and "fdr", DataFrames of shape
        (n_perturbations, n_genes), and "p_value" if known, as :func:`de_table` gives them for
        cells with the same measured controls. Rows and columns of the measured are looked up in
        the predicted by name.
    top : int or None, default=None
        Largest number of genes that "overlap_at_n" compares; None: all that are significant.
    fdr : float, default=0.05
        Genes with a smaller false discovery rate are significant.
    exclude : mapping, "targets" or None, default=None
        Genes that do not count, as in :func:`response_mse`. The own target of a knock-down is no
        prediction.
    aggregate : {"mean", "median"} or None, default=None
        One number for each score over the perturbations that have it; None: all of them.

    Returns
    -------
    scores : DataFrame of shape (n_perturbations, n_scores)
        Higher is better and 1 the best, but for "lfc_nmae". NaN where undefined.

        "n_true", "n_predicted": numbers of significant genes, no scores; their rank correlation
        over perturbations says whether strong perturbations are known.
        "overlap_at_n": of the N measured significant genes of largest ``|log2 fold change|``,
        the share among the N largest of the predicted significant.
        "recall": share of measured significant genes that are predicted significant.
        "jaccard": significant on both sides over significant on either; 1 if on neither.
        "direction_match": share of measured significant genes with the right predicted sign.
        "direction_fidelity": predicted significant genes with the right sign, over the larger of
        the two numbers of significant genes (of the predicted, those with a measured sign).
        "direction_reach": measured significant genes are ranked by predicted FDR, p-value and
        ``|log2 fold change|``; the deepest prefix with 90 % right signs, over their number.
        "lfc_spearman": rank correlation of fold changes over measured significant genes.
        "lfc_nmae": sum of absolute errors of fold changes over measured significant genes, over
        the sum of their absolute values; lower is better, 1 is a prediction of no change. NaN for
        fewer than ten genes.
        "pr_auc", "roc_auc": average precision and area under the ROC curve of the predicted FDR
        for the measured significant genes; chance is their share of genes, and 0.5.

        With ``aggregate``, rows are scores, and columns the aggregate and "n_perturbations", how
        many have the score.

    Raises
    ------
    ValueError
        If a table lacks an entry, a perturbation or a gene, if an FDR is not in [0, 1], or if
        ``top`` or ``fdr`` is out of range.

    References
    ----------
    .. [1] Virtual Cell Challenge 2026, specification of metrics, Arc Institute.

    Examples
    --------
    >>> import pandas as pd
    >>> from skpert.metrics import de_recovery
    >>> genes = ["A", "B", "C", "D"]
    >>> change = pd.DataFrame([[2.0, -1.0, 0.5, 0.1]], ["JAK2"], genes)
    >>> rate = pd.DataFrame([[0.01, 0.02, 0.03, 0.9]], ["JAK2"], genes)
    >>> true = {"log2_fold_change": change, "fdr": rate}
    >>> scores = de_recovery(true, {"log2_fold_change": -change, "fdr": rate})
    >>> scores.loc["JAK2", ["overlap_at_n", "direction_match"]].tolist()
    [1.0, 0.0]
    """
    if top is not None and not (isinstance(top, Integral) and top >= 1):
        raise ValueError(f"top must be None or an integer of at least 1, got {top!r}")
    if not 0 < fdr <= 1:
        raise ValueError(f"fdr must be in (0, 1], got {fdr!r}")
    profiles = read_profiles(
        _entry(true_table, "log2_fold_change"), _entry(predicted_table, "log2_fold_change")
    )
    kept = kept_genes(exclude, profiles)
    true = _rows(true_table, profiles.true, profiles, kept, fdr)
    predicted = _rows(predicted_table, profiles.predicted, profiles, kept, fdr)
    scores = [_scores(*pair, top) for pair in zip(true, predicted, strict=True)]
    scores = pd.DataFrame(scores, index=profiles.names)
    if aggregate is None:
        return scores
    return pd.DataFrame(
        {aggregate: aggregated(scores, aggregate), "n_perturbations": scores.count()}
    )


def _entry(table, key):
    frame = table.get(key)
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"a table needs DataFrames 'log2_fold_change' and 'fdr', and its {key!r} is a "
            f"{type(frame).__name__}"
        )
    return frame


def _rows(table, change, profiles: Profiles, kept, fdr):
    """Genes of each perturbation that count."""
    wanted = pd.DataFrame(change, profiles.names, profiles.genes)
    rate = read_profiles(wanted, _entry(table, "fdr")).predicted
    if rate.min() < 0 or rate.max() > 1:
        raise ValueError(f"fdr must be from 0 to 1, got {rate.min():g} to {rate.max():g}")
    p_value = rate
    if table.get("p_value") is not None:
        p_value = read_profiles(wanted, _entry(table, "p_value")).predicted
    for genes, *values in zip(kept, change, rate, p_value, rate < fdr, strict=True):
        yield _Genes(*(value[genes] for value in values))


def _scores(true, predicted, top):
    both = np.sum(true.significant & predicted.significant)
    either = np.sum(true.significant | predicted.significant)
    n_true, n_predicted = true.significant.sum(), predicted.significant.sum()
    sets = {
        "n_true": n_true,
        "n_predicted": n_predicted,
        "overlap_at_n": _overlap(true, predicted, min(n_true, top or n_true)),
        "recall": _share(both, n_true),
        "jaccard": both / either if either else 1.0,
    }
    sides = true, predicted
    return sets | _directions(*sides) | _changes(*sides) | _areas(*sides)


def _overlap(true, predicted, n):
    largest = [_largest(side, n) for side in (true, predicted)]
    return _share(len(np.intersect1d(*largest)), n)


def _largest(genes, n):
    """Significant genes with the largest changes, at most n."""
    order = np.argsort(-np.abs(genes.change), kind="stable")
    return order[genes.significant[order]][:n]


def _directions(true, predicted):
    """Scores of signs; a gene without a measured sign decides nothing."""
    signed = true.change != 0
    right = signed & (np.sign(true.change) == np.sign(predicted.change))
    n_true = true.significant.sum()
    called = predicted.significant & signed
    order = np.lexsort((-np.abs(predicted.change), predicted.p_value, predicted.fdr))
    ranked = order[(true.significant & signed)[order]]
    depth = np.arange(1, len(ranked) + 1)
    pure = depth[np.cumsum(right[ranked]) / depth >= PURITY]
    equal = np.sign(true.change) == np.sign(predicted.change)
    return {
        "direction_match": _share(equal[true.significant].sum(), n_true),
        "direction_fidelity": _share(np.sum(right & called), max(called.sum(), n_true)),
        "direction_reach": _share(pure.max(initial=0), n_true),
    }


def _changes(true, predicted):
    """Scores of fold changes over measured significant genes."""
    a, b = (side.change[true.significant] for side in (true, predicted))
    size = np.abs(a).sum()
    enough = len(a) >= MIN_GENES and size > 0
    varied = len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0
    return {
        "lfc_spearman": float(spearmanr(a, b).statistic) if varied else np.nan,
        "lfc_nmae": np.abs(b - a).sum() / size if enough else np.nan,
    }


def _areas(true, predicted):
    """Areas under curves; the order of FDRs is all that counts."""
    if true.significant.all() or not true.significant.any():
        return {"pr_auc": np.nan, "roc_auc": np.nan}
    return {
        "pr_auc": average_precision_score(true.significant, -predicted.fdr),
        "roc_auc": roc_auc_score(true.significant, -predicted.fdr),
    }


def _share(part, whole):
    return part / whole if whole else np.nan
