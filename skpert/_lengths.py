"""How far perturbations move cells, in units that do not depend on the axes of latents."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ._data import Cells

N_COMPONENTS = 50  # of expression, beside the latents
LEAST = 0.25  # of a squared distance that is left when sampling error is taken off
LEAST_VARIANCE = 1e-6  # of a combination of features, of that of the widest


def components(levels: Tensor) -> Tensor:
    """Leading principal axes of these cells, (n_genes, at most N_COMPONENTS)."""
    centred = levels.double() - levels.double().mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)
    n = min(int((values > 1e-9 * values.max()).sum()), N_COMPONENTS)
    axes: Tensor = centred.T @ vectors[:, len(values) - n :] / values[len(values) - n :].sqrt()
    return axes


def shift_lengths(
    batches: Iterable[Cells], features: Callable[[Cells], Tensor], n_perturbations: int
) -> Tensor:
    r"""Distance of the cells of each perturbation from control cells, by their means.

    .. math:: \lambda_p^2 = (\bar m_p - \bar m_0)^\top W^{-1} (\bar m_p - \bar m_0)

    with the covariance :math:`W` within perturbations, less what is expected of sampling error. It
    is the same after any invertible linear map of the features, and the length of the shift of a
    latent state that is standard normal in control cells and a linear function of the features.

    Parameters
    ----------
    batches : iterable of Cells
        Cells of several perturbations, or of others than the first ones, are left out.
    features : callable
        What is compared, (n_cells, n_features), float64, of a batch.
    n_perturbations : int
        Number of perturbations.

    Returns
    -------
    length : Tensor of shape (n_perturbations,)
        In standard deviations, for a dosage of one; NaN for a perturbation that fewer than two
        cells received alone, and for all if there are no controls, or too few cells for W.
    """
    parts = [_moments(batch, features(batch), n_perturbations) for batch in batches]
    size, amount, total, square = (sum(of[1:], of[0]) for of in zip(*parts, strict=True))
    unknown = torch.full_like(size[:-1], torch.nan)
    if size[-1] < 2:
        return unknown
    mean = total / size.clamp(min=1)[:, None]
    square = square - total.T @ mean
    n_left = float(size.sum() - (size > 0).sum())
    change = _whitened(mean[:-1] - mean[-1], square / max(n_left, 1))
    n_features = change.shape[1]
    if n_left <= 2 * n_features + 1:
        return unknown
    found = change.square().sum(1) * (n_left - n_features - 1) / n_left
    error = n_features * (1 / size[:-1].clamp(min=1) + 1 / size[-1])
    length = torch.maximum(found - error, LEAST * found).sqrt() * size[:-1] / amount[:-1]
    return torch.where(size[:-1] > 1, length, torch.nan)


def _moments(cells: Cells, features: Tensor, n_perturbations: int) -> list[Tensor]:
    """Numbers of cells of perturbations and controls, sums of dosages and features, squares."""
    n_parts = (cells.dosage > 0).sum(1)
    dosage, place = cells.dosage.max(1)
    part = cells.part.gather(1, place[:, None])[:, 0]
    group = torch.where(n_parts == 0, n_perturbations, part)
    kept = (n_parts == 0) | ((n_parts == 1) & (part < n_perturbations))
    group, dosage, features = group[kept], dosage[kept].double(), features[kept]
    values = torch.cat([torch.ones_like(dosage)[:, None], dosage[:, None], features], 1)
    sums = values.new_zeros(n_perturbations + 1, values.shape[1]).index_add_(0, group, values)
    return [sums[:, 0], sums[:, 1], sums[:, 2:], features.T @ features]


def _whitened(change: Tensor, covariance: Tensor) -> Tensor:
    """Changes in units of the standard deviations of uncorrelated combinations of features."""
    scale = covariance.diagonal().clamp(min=1e-30).sqrt()
    values, axes = torch.linalg.eigh(covariance / scale / scale[:, None])
    kept = values > LEAST_VARIANCE * values.max()
    whitened: Tensor = (change / scale) @ axes[:, kept] / values[kept].sqrt()
    return whitened
