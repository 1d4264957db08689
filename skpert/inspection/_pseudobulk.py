r"""What is left of mean expression once latents, composition and chance have explained theirs.

Cells of equal treatment are summed. For perturbation :math:`p` and gene :math:`g` let
:math:`y_{pg}` be the log ratio of their counts to those that the reference expects of as many
counts (for real values, the difference of means). It is

.. math:: y_{pg} = c_p + \sum_k J_{kg} s_{pk} + d_{pg} + \epsilon_{pg}, \qquad
    \operatorname{Var} \epsilon_{pg} = a_g / \mu_{pg} + \tau_g^2

with composition :math:`c_p`, slopes :math:`J` of a gene along the latents, and along the change
that the model predicts for the perturbation, the state :math:`s_p`, and the direct effect
:math:`d_{pg}`, zero for most genes. :math:`a_g` is the variance between cells, :math:`\tau_g` the
spread between perturbations without an effect on :math:`g`.

**A gene does not explain itself.** A gene that a perturbation lowers moves the latent state, and
a decoder given that state returns it, so that the residual of a cell shows little of it. Here the
prediction of each gene is that of a regression on all the others, which is exact in one step
(leave-one-out), and genes that do not fit have less weight in it (Tukey's biweight): a dominant
gene drags neither the composition nor the state along.

**The null is the screen's own.** :math:`\tau_g`, the centre and the scale of what is left come
from perturbations known to do nothing, or from the bulk of all (Efron 2004), and scales are
shrunk across genes towards their trend over :math:`a_g` (Smyth 2004), which gives t
distributions. Two things widen it for a perturbation: cells that vary more among themselves than
those of others, as where one clone has a gene in plenty, and a model that is wrong about most
genes of the perturbation, whose variance is added to all of them.

References
----------
Efron (2004). Large-scale simultaneous hypothesis testing: the choice of a null hypothesis. JASA.
Lund et al. (2012). Detecting differential expression in RNA-sequence data using quasi-likelihood
with shrunken dispersion estimates. Statistical Applications in Genetics and Molecular Biology.
Smyth (2004). Linear models and empirical Bayes methods for assessing differential expression in
microarray experiments. Statistical Applications in Genetics and Molecular Biology.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import csr_array
from scipy.special import polygamma, xlogy
from scipy.stats import chi2, t
from sklearn.utils import gen_batches

from ..metrics.cells import dense

HALF = 0.5  # count added to both sides of a log ratio
TUKEY = 4.685  # standard errors from which a gene has no weight
FAR = 3.0  # standard errors from which a value is none of the null
KEPT = chi2.cdf(FAR**2, 3) / chi2.cdf(FAR**2, 1)  # variance of a normal value cut at FAR
PRIOR_SHIFT = 0.3  # of latent states, in standard deviations among equally treated cells
PRIOR_PREDICTED = 0.3  # of the coefficient of what the model predicts
N_ROUNDS = 2  # of noise between cells
N_STEPS = 6  # of fits and variances in turn
LEAST_SPREAD = 0.02  # prior guess of tau, so that no gene has none
PRIOR_WEIGHT = 10.0  # perturbations that the common tau weighs in that of each gene
OWN_WEIGHT = 20.0  # genes that a scale of 1 weighs in that of a condition
CHUNK = 2**24  # numbers held at once


class Sums(NamedTuple):
    """Expression summed over the cells of each condition."""

    n_cells: np.ndarray  # (n_conditions,)
    observed: np.ndarray  # (n_conditions, n_genes) counts; means of real values
    expected: np.ndarray  # the same of the reference
    noise: np.ndarray  # a_pg, (n_conditions, n_genes)
    uncertainty: np.ndarray  # variance of the reference, as of the change, (n_genes,)
    counts: bool

    @property
    def change(self):
        """Log ratio of observed to expected counts; difference of real values."""
        if not self.counts:
            return self.observed - self.expected
        return np.log((self.observed + HALF) / (self.expected + HALF))

    @property
    def unit(self):
        """Variance to which spreads between perturbations are relative."""
        return 1.0 if self.counts else self.noise.min(0)

    def shifted(self, change):
        """Expression that the reference has after this change."""
        if not self.counts:
            return self.expected + change
        return np.maximum(self.expected * np.exp(change), 1e-6)

    def sampling(self, mean):
        """Variance of ``change`` between samples of as many cells, around this mean."""
        if not self.counts:
            return self.noise / np.maximum(self.n_cells, 1)[:, None]
        return self.noise / (mean + HALF)


class Left(NamedTuple):
    """What is left, (n_conditions, n_genes) each."""

    effect: np.ndarray  # natural logarithm of a fold change; real values in their unit
    standard_error: np.ndarray
    score: np.ndarray  # approximately normal under the null
    p: np.ndarray
    mean: np.ndarray  # expected without an effect
    extra: np.ndarray  # variance of the effect beyond that of sampling cells
    noise: np.ndarray  # of sampling, over the mean of counts


def sums(X, codes, n_conditions, strata, reference, counts):
    """Sums of cells (CSR or dense X) by condition, and what cells of the reference would have.

    The reference is taken within each stratum, if that has some.
    """
    groups = _members(codes, n_conditions)
    library = np.asarray(X.sum(1, dtype=np.float64)).ravel() if counts else np.ones(len(codes))
    total = dense(groups @ X).astype(np.float64)
    size = groups @ library
    n_strata = strata.max() + 1
    both = codes * n_strata + strata
    in_stratum = np.bincount(both, library, n_conditions * n_strata).reshape(-1, n_strata)
    chosen = _members(np.where(reference, strata, n_strata), n_strata + 1)[:n_strata]
    of_reference, own = dense(chosen @ X).astype(np.float64), (chosen @ library)[:, None]
    overall = (of_reference.sum(0) + HALF * counts) / max(own.sum(), 1e-300)
    known = own > 0
    mean = np.where(known, (of_reference + HALF * counts) / np.where(known, own, 1), overall)
    expected = in_stratum @ mean
    pooled, noise = _noise(X, groups, library, total, size, counts)
    n_cells = np.bincount(codes, minlength=n_conditions)
    if counts:
        uncertainty = pooled / (of_reference.sum(0) + HALF)
        return Sums(n_cells, total, expected, noise, uncertainty, True)
    uncertainty, of_each = pooled / max(reference.sum(), 1), np.maximum(n_cells, 1)[:, None]
    return Sums(n_cells, total / of_each, expected / of_each, noise, uncertainty, False)


def _members(codes, n_groups):
    """Indicators, (n_groups, n_cells)."""
    members = codes, np.arange(len(codes))
    return csr_array((np.ones(len(codes)), members), (n_groups, len(codes)))


def _noise(X, groups, library, total, size, counts):
    """Variance between cells of all conditions, (n_genes,), and of each where that is larger.

    A gene that few cells of a condition have in plenty, as those of one clone, has more there.
    Over the mean of counts, or of real values.
    """
    squares = X.power(2, np.float64) if hasattr(X, "power") else np.square(X, dtype=np.float64)
    share = total / np.where(size > 0, size, 1)[:, None]
    scaled = csr_array(groups.multiply(library[None, :]))
    spread = dense(groups @ squares) - 2 * share * dense(scaled @ X)
    spread = np.maximum(spread + share**2 * (groups @ library**2)[:, None], 0)
    n_cells = np.asarray(groups.sum(1)).ravel()
    n_free = np.maximum(n_cells - 1, 0)
    amount = total if counts else np.repeat(n_cells[:, None], total.shape[1], axis=1)
    pooled = spread.sum(0) / np.maximum(amount.sum(0), 1) * n_cells.sum() / max(n_free.sum(), 1)
    least = 1.0 if counts else 1e-12 + 1e-6 * pooled.max(initial=0)
    pooled = np.maximum(pooled, least)
    own = spread / np.maximum(amount, 1) * (n_cells / np.maximum(n_free, 1))[:, None]
    return pooled, np.maximum(own, pooled)


def slopes(X, Z, codes, n_conditions, counts):
    """Change of each gene along each latent among equally treated cells, (n_latent, n_genes).

    Of the logarithm of a share of counts, or of real values, per standard deviation in the
    directions that are the principal ones of the states.
    """
    groups = _members(codes, n_conditions)
    library = np.asarray(X.sum(1, dtype=np.float64)).ravel() if counts else np.ones(len(codes))
    size = groups @ library
    means = (groups @ (Z * library[:, None])) / np.where(size > 0, size, 1)[:, None]
    centred = Z - means[codes]
    covariance = centred.T @ (centred * library[:, None]) / max(library.sum(), 1e-300)
    values, axes = np.linalg.eigh(covariance)
    used = values > 1e-6 * max(values.max(initial=0), 1e-300)
    projected = centred @ (axes[:, used] / np.sqrt(values[used]))
    return dense(csr_array(projected.T) @ X if hasattr(X, "multiply") else projected.T @ X) / (
        np.maximum(np.asarray(X.sum(0)).ravel(), HALF) if counts else len(codes)
    )


def left_over(data, J, predicted, is_null, tested):
    """What latents and composition leave of each gene, and how surprising that is.

    ``J`` are slopes, (n_latent, n_genes); ``predicted`` what the model expects of ``data.change``
    of each condition; ``is_null`` the conditions of the null, (n_conditions,); ``tested`` the
    entries to be looked at, (n_conditions, n_genes).
    """
    usable = tested & is_null[:, None]
    least = 1.0 if data.counts else 0.0  # counts vary by chance
    for _ in range(N_ROUNDS):  # cells share most of their noise, which composition takes up
        effect, extra, mean, _ = _fit(data, J, predicted, usable, tested)
        pooled = data.noise.min(0)
        usual = _scale(_score(data, effect, mean, extra), usable, pooled)[2]
        lower = np.maximum(pooled * usual, least) - pooled
        data = data._replace(noise=data.noise + lower)
    effect, extra, mean, tau = _fit(data, J, predicted, usable, tested)
    score = _score(data, effect, mean, extra)
    scale, df, _ = _scale(score, usable, data.noise.min(0))
    df = np.minimum(df, max((data.n_cells - 1).clip(0).sum(), 1))  # the cells' variance has
    scale = scale * _own_scale(score / scale, tested)
    score = score / scale
    error = scale * np.sqrt(data.sampling(data.observed) + extra)
    return Left(
        effect,
        error,
        score,
        2 * t.sf(np.abs(score), df),
        mean,
        scale**2 * extra,
        scale**2 * data.noise,
    )


def _fit(data, J, predicted, usable, tested):
    """What is left, its variance beyond that of sampling cells, and the mean under the null."""
    y = data.change
    tau = np.full(y.shape[1], LEAST_SPREAD**2) * data.unit
    centre, weight, mean = np.zeros(y.shape[1]), tested.astype(float), data.expected
    misfit = np.zeros((len(y), 1))
    for _ in range(N_STEPS):
        spread = data.uncertainty + tau + misfit * data.unit
        variance = data.sampling(mean) + spread
        fitted, uncertain = _without_itself(y - centre, variance, weight, J, predicted)
        residual = y - centre - fitted
        sampled = data.sampling(mean) + data.uncertainty + uncertain
        score = residual / np.sqrt(sampled + tau + misfit * data.unit)
        weight = tested * np.clip(1 - (score / TUKEY) ** 2, 0, 1) ** 2
        misfit = _misfit(residual, sampled + tau, misfit, tested, data.unit)
        sampled = sampled + misfit * data.unit
        centre, tau = _centre_and_spread(residual + centre, sampled, tau, usable, data)
        mean = data.shifted(fitted + centre)
    extra = tau + misfit * data.unit + uncertain + data.uncertainty
    return y - centre - fitted, extra, mean, tau


def _misfit(residual, variance, misfit, tested, unit):
    """Variance of what the model has wrong about most genes of a condition, (n_conditions, 1)."""
    for _ in range(3):
        total = variance + misfit * unit
        near = tested & (residual**2 < FAR**2 * total)
        w = near / total**2 * unit**2
        excess = (residual**2 / KEPT - variance) / unit
        n_prior = OWN_WEIGHT * w.sum(1) / np.maximum(near.sum(1), 1)
        misfit = (w * excess).sum(1) / np.maximum(w.sum(1) + n_prior, 1e-300)
        misfit = np.maximum(misfit, 0)[:, None]
    return misfit


def _without_itself(y, variance, weight, J, predicted):
    """Prediction of each gene from all others of its condition, and its variance.

    Regression on a constant, on ``predicted`` and on the slopes, whose coefficients are shrunk
    towards zero: a programme counts as far as other genes show it.
    """
    n_conditions, n_genes = y.shape
    fitted, uncertain = np.empty(y.shape), np.empty(y.shape)
    n_columns = len(J) + 2
    ridge = np.r_[1e-8, PRIOR_PREDICTED**-2, np.full(len(J), PRIOR_SHIFT**-2)]
    for rows in gen_batches(n_conditions, max(CHUNK // (n_genes * n_columns), 1)):
        B = np.empty((rows.stop - rows.start, n_columns, n_genes))
        B[:, 0], B[:, 1], B[:, 2:] = 1, predicted[rows], J
        w, v = weight[rows] / variance[rows], variance[rows]
        BW = B * w[:, None]
        inverse = np.linalg.inv(BW @ B.swapaxes(1, 2) + np.diag(ridge))
        solved = inverse @ BW  # (n_rows, n_columns, n_genes)
        coefficients = solved @ y[rows, :, None]
        leverage = (B * solved).sum(1)
        total = (coefficients.swapaxes(1, 2) @ B)[:, 0]
        spread = (solved * v[:, None]) @ solved.swapaxes(1, 2)
        all_of_it = (B * (spread @ B)).sum(1)
        rest = np.maximum(1 - leverage, 1e-6)
        fitted[rows] = (total - leverage * y[rows]) / rest
        uncertain[rows] = np.maximum(all_of_it - leverage**2 * v, 0) / rest**2
    return fitted, uncertain


def _centre_and_spread(residual, sampled, tau, usable, data):
    """Of what is left of each gene under the null, by values that are not far out."""
    for _ in range(3):
        variance = sampled + tau
        near = usable & (residual**2 < FAR**2 * variance)
        w = near / variance
        centre = (w * residual).sum(0) / (w.sum(0) + 1 / (data.uncertainty + tau))
        near = usable & ((residual - centre) ** 2 < FAR**2 * variance)
        w = near / variance**2 * data.unit**2  # whatever the unit of a gene
        excess = ((residual - centre) ** 2 / KEPT - sampled) / data.unit
        common = max((w * excess).sum() / max(w.sum(), 1e-300), LEAST_SPREAD**2)
        prior = PRIOR_WEIGHT * (w.sum() / near.sum() if near.any() else 1.0)
        tau = ((w * excess).sum(0) + prior * common) / (w.sum(0) + prior)
        tau = np.maximum(tau, 0) * data.unit
    return centre, tau


def _score(data, effect, mean, extra):
    """Signed root of the deviance of a negative binomial, which is nearly normal."""
    if not data.counts:
        return effect / np.sqrt(data.sampling(None) + extra)
    a, x = data.noise, data.observed
    size = a / np.maximum(extra, 1e-9)  # of variance a * (mean + mean**2 / size)
    deviance = xlogy(x, x / mean) - (x + size) * np.log1p((x - mean) / (mean + size))
    return np.sign(x - mean) * np.sqrt(2 * np.maximum(deviance, 0) / a)


def _scale(score, usable, noise):
    """Scale of the scores of each gene under the null, (n_conditions or 1, n_genes), and df.

    A condition of the null is left out of its own scale. Last comes the variance that genes of as
    much noise usually have, (n_genes,).
    """
    squares = np.where(usable, score**2, np.nan)
    typical = np.ones(score.shape[1])
    known = usable.sum(0) > 2
    typical[known] = np.nanmedian(squares[:, known], axis=0) / chi2.median(1)
    for _ in range(N_STEPS):
        near = usable & (squares < FAR**2 * np.maximum(typical, 0.1))
        own, n = np.where(near, score**2 / KEPT, 0), near.sum(0)
        typical = np.where(n > 0, own.sum(0) / np.maximum(n, 1), 1.0)
    n_others, others = n - near, own.sum(0) - own
    prior_df, centre = np.inf, np.ones(len(n))
    known = n > 2
    if known.sum() > 2:
        prior_df, centre = _prior(typical, n, known, np.log(noise))
    if np.isinf(prior_df):
        return np.sqrt(centre)[None], np.inf, centre
    shrunk = (prior_df * centre + others) / (prior_df + n_others)
    return np.sqrt(shrunk), prior_df + n_others, centre


def _own_scale(score, tested):
    """Scale of most scores of each condition, at least 1, (n_conditions, 1)."""
    near = tested & (np.abs(score) < FAR)
    squares = np.where(near, score**2 / KEPT, 0).sum(1) + OWN_WEIGHT
    return np.sqrt(np.maximum(squares / (near.sum(1) + OWN_WEIGHT), 1))[:, None]


def _prior(scale, df, known, trend):
    """Degrees of freedom of scaled inverse chi-squares, and their location along the trend."""
    half = df[known] / 2
    e = np.log(np.maximum(scale[known], 1e-6)) - polygamma(0, half) + np.log(half)
    columns = np.column_stack([np.ones(len(trend)), trend - trend[known].mean()])
    if known.sum() < 10 or np.ptp(trend[known]) < 1e-6:
        columns = columns[:, :1]
    line = np.linalg.lstsq(columns[known], e)[0]
    spread = np.square(e - columns[known] @ line).sum() / max(known.sum() - columns.shape[1], 1)
    excess = spread - polygamma(1, half).mean()
    if excess <= polygamma(1, 500):
        return np.inf, np.exp(columns @ line)
    half = brentq(lambda h: polygamma(1, h) - excess, 1e-3, 1e3)
    return 2 * half, np.exp(columns @ line + polygamma(0, half) - np.log(half))
