"""Dose-response curves of the latent states of cells."""

import numpy as np
import pandas as pd
from scipy.stats import chi2, f, false_discovery_control, t
from sklearn.utils import Bunch, check_consistent_length

from .._input.expression import check_same_cells, of_each_cell
from .._input.values import check_has_latents, check_number, listed
from ..exceptions import warn_of_data
from ..preprocessing._curves import (
    HILL_DOSES,
    fit_hill,
    hill,
    least_squares,
    log_dose,
    means_of,
    response_p,
    standard_error,
)
from ..preprocessing._dosages import alone, read_dosages

N_PARAMETERS = {"linear": 1, "log": 1, "hill": 3}  # beside the mean of control cells
PARAMETERS = "slope", "maximum", "ec50", "hill"
COLUMNS = ["perturbation", "latent", "n_cells", "n_doses", "p", "q", "shape"]
COLUMNS += [f"{name}{end}" for name in PARAMETERS for end in ("", "_error", "_lower", "_upper")]
COLUMNS += ["aic_linear", "aic_log", "aic_hill", "p_linear", "p_fit"]


def dose_response(
    estimator, X, A, *, replicate=None, fdr: float = 0.05, level: float = 0.95
) -> Bunch:
    r"""What each dose does to each latent, and a curve through it.

    Three curves are fitted to the mean latent states at the doses of each perturbation, with those
    of control cells as dose 0: linear, logarithmic, :math:`\log(1 + d / d_1)` with the smallest
    dose :math:`d_1`, and the Hill function :math:`d^h / (\mathrm{EC}_{50}^h + d^h)`. The Akaike
    information criterion says which.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform``. Its own design need not have had doses: labels such as
        "drug 0.1" make every dose a perturbation of its own, about which nothing is assumed.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        Expression of treated cells and of at least two control cells.
    A : {array-like, sparse matrix, DataFrame} of shape (n_cells, n_perturbations)
        Dosages of these cells in any unit, a column per perturbation; a row of zeros is a control
        cell. From labels and doses:
        ``pd.get_dummies(drug).drop(columns="control").mul(dose, axis=0)``. Cells with several
        perturbations are left out.
    replicate : array-like of shape (n_cells,), default=None
        Well, or other independent unit, of each cell, several to a dose. Curves then go through
        the mean states of wells, and errors are those of wells and not of cells.
    fdr : float, default=0.05
        False discovery rate, over all perturbations and latents, at which a response is called,
        in [0, 1].
    level : float, default=0.95
        Coverage of the intervals, strictly between 0 and 1.

    Returns
    -------
    response : Bunch
        ``doses``, a DataFrame with a row per perturbation, latent and ``dose``: ``n_cells``, or
        how many replicates; ``shift``, the mean latent state less that of control cells, in units
        of the latent, its ``standard_error`` and the ends of its interval, ``lower`` and
        ``upper``; and ``fitted``, the shift by the best curve, which does not go through the mean
        of control cells exactly; 0 without a response.

        ``curves``, a DataFrame with a row per perturbation and latent: ``n_cells``, or replicates,
        that are treated, and ``n_doses``; ``p`` of no response to any dose, an F test, and ``q``,
        the smallest ``fdr`` at which there is one; ``shape``, "none" where none is called, else
        the best of "linear", "log" and "hill". Parameters, NaN without a response: ``slope`` of
        the linear curve, in units of the latent per unit of dosage; ``maximum``, the largest
        effect of the Hill curve, ``ec50``, the dose of half of it, and ``hill``, the exponent h.
        Each has ``slope_error`` and so on, its standard error (of the decimal logarithm for
        ``ec50`` and ``hill``), and an interval, ``slope_lower`` and ``slope_upper``. Intervals of
        Hill curves are those of the profile likelihood, and end at 0 or infinity where doses do
        not bound them, which have no standard error. ``aic_linear``, ``aic_log`` and ``aic_hill``:
        information criteria less that of no response, lower is better; ``p_linear``, the p-value
        of a linear curve against a Hill curve: small where the response saturates, or has a
        threshold; ``p_fit``, that of the best curve: if small, none of the three fits, or cells of
        a dose are not independent.

    Raises
    ------
    ValueError
        If A holds labels, dosages are negative or not finite, lengths differ, there are fewer
        than two control cells, no perturbation has two doses, or a number is out of range.

    Warns
    -----
    DataWarning
        If perturbations have a single dose and so no curve, or too few cells at each.

    See Also
    --------
    skpert.preprocessing.DosageTransform : Dosages for a fit, by curves that all latents share.
    skpert.plotting.DoseResponseDisplay : Draws both tables.

    Notes
    -----
    Without ``replicate`` errors are those of independent cells. Cells of one well are often alike:
    intervals are then too short, and ``p_fit`` is small for many. A latent state is a posterior
    mean, shrunk where counts are few, and the model decides how far apart it puts the cells of two
    doses. One that was fitted with effects in proportion to doses over decades bends curves: fit
    on labels of doses, or on the logarithmic or Hill scale. Intervals do not include this. Doses
    100 times beyond the smallest and largest one are as far as an EC50 is looked for, and
    exponents from 0.3 to 6.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from skpert import VAE
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import dose_response
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=5, n_control_cells=5, n_latent=3,
    ...                            n_genes=50, library_size=5000, random_state=0)
    >>> random = np.random.default_rng(0)
    >>> dose = np.repeat([0, 0.01, 0.1, 1, 10, 100], 60)
    >>> Z = random.normal(size=(360, 3))
    >>> Z[:, 0] += 6 * dose / (dose + 2)  # the dose of half the effect is 2
    >>> X = random.poisson(screen.rate(Z))
    >>> model = VAE(n_latent=3, max_epochs=60, random_state=0)
    >>> model = model.fit(X, np.where(dose > 0, "drug", "control"))
    >>> curves = dose_response(model, X, pd.DataFrame({"drug": dose})).curves
    >>> best = curves.loc[curves["maximum"].abs().idxmax()]
    >>> best["shape"], bool(1 < best["ec50"] < 4)
    ('hill', True)
    """
    check_has_latents(estimator)
    check_number(fdr, "fdr", 0, 1, "both")
    check_number(level, "level", 0, 1, "neither")
    check_same_cells(X, A)
    names, dosage = read_dosages(A, estimator.control)
    names = _of_estimator(names, A, estimator)
    Z = np.asarray(estimator.transform(X), dtype=np.float64)
    check_consistent_length(Z, dosage)
    latents = [str(name) for name in estimator.get_feature_names_out()]
    groups = _grouped(names, dosage, Z, _codes(replicate, A, len(Z)))
    p = np.array([response_p(means)[0] for means in groups.values()])
    q = false_discovery_control(p.ravel()).reshape(p.shape)
    curves, doses = [], []
    for i, (name, means) in enumerate(groups.items()):
        counts = {"n_cells": means.n_cells[1:].sum(), "n_doses": len(means.dose) - 1}
        for k, latent in enumerate(latents):
            of_pair = {"perturbation": name, "latent": latent}
            row, fitted = _curve(means.of(k), q[i, k] <= fdr, level)
            curves.append(of_pair | counts | {"p": p[i, k], "q": q[i, k]} | row)
            doses.append(pd.DataFrame(of_pair | _shifts(means.of(k), level) | {"fitted": fitted}))
    return Bunch(
        curves=pd.DataFrame(curves).reindex(columns=COLUMNS),
        doses=pd.concat(doses, ignore_index=True),
    )


def _of_estimator(names, A, estimator):
    """Names of the columns of A; those of the estimator for an array of the same width."""
    if hasattr(A, "columns") or len(names) != len(estimator.perturbations_):
        return names
    return estimator.perturbations_


def _codes(replicate, A, n_cells):
    """Number of the replicate of each cell, which is its own without any."""
    if replicate is None:
        return np.arange(n_cells)
    codes, _ = pd.factorize(of_each_cell(replicate, A, n_cells, "replicate"))
    if (codes < 0).any():
        raise ValueError(f"{(codes < 0).sum()} cells have no replicate: leave them out")
    return codes


def _grouped(names, dosage, Z, replicate):
    """Means of each perturbation that has a curve."""
    controls, parts = alone(dosage)
    if len(controls) < 2:
        raise ValueError(
            f"A has {len(controls)} control cells, whose rows are zero: two or more are needed, "
            "as the dose 0 of every curve"
        )
    found, single, few = {}, [], []
    for name, (rows, dose) in zip(names, parts, strict=True):
        if len(np.unique(dose)) < 2:
            single.append(name)
            continue
        own = np.concatenate([controls, rows])
        both = np.concatenate([np.zeros(len(controls)), dose.astype(np.float64)])
        table = pd.DataFrame(Z[own]).groupby([both, replicate[own]]).mean()
        treated = table.index.get_level_values(0)
        means = means_of(treated.to_numpy(), table.to_numpy())
        if means is None or (means.n_cells[1:] == 1).all():
            few.append(name)
        else:
            found[name] = means
    why = [f"have a single dose, or none, alone: {listed(single, 5)}"] if single else []
    why += [f"have one cell or replicate at each dose: {listed(few, 5)}"] if few else []
    if not found:
        raise ValueError(f"no perturbation has a curve; they {' and '.join(why)}")
    if why:
        warn_of_data(f"Perturbations without a curve {' and '.join(why)}")
    return found


def _shifts(means, level):
    """Columns of the table of doses."""
    shift = (means.mean[1:] - means.mean[0])[:, 0]
    error = np.sqrt(means.variance[1:] + means.variance[0])[:, 0]
    room = t.ppf((1 + level) / 2, means.df) * error
    return {
        "dose": means.dose[1:],
        "n_cells": means.n_cells[1:],
        "shift": shift,
        "standard_error": error,
        "lower": shift - room,
        "upper": shift + room,
    }


def _curve(means, called, level):
    """Columns of the table of curves, and the shift at each dose by the best one."""
    dose = means.dose[1:]
    if not called:
        return {"shape": "none"}, np.zeros(len(dose))
    flat = least_squares(np.zeros(len(means.dose)), means)[0][0]
    bases = {"linear": means.dose, "log": log_dose(means.dose, dose[0])}
    lines = {name: [part[0] for part in least_squares(g, means)] for name, g in bases.items()}
    left = {name: error for name, (error, _, _) in lines.items()}
    slopes = {name: slope for name, (_, slope, _) in lines.items()}
    _, slope, information = lines["linear"]
    error = 1 / np.sqrt(information)
    room = t.ppf((1 + level) / 2, means.df) * error
    row = {"slope": slope, "slope_error": error}
    row |= {"slope_lower": slope - room, "slope_upper": slope + room}
    if len(dose) >= HILL_DOSES:
        found = fit_hill(means, level)
        left["hill"], slopes["hill"] = found.error, found.maximum[0, 0]
        bases["hill"] = np.append(0, hill(dose, found.ec50[0], found.exponent[0]))
        row |= _of_hill(found, level, means.df)
        row["p_linear"] = chi2.sf(max(left["linear"] - found.error, 0), 2)
    criterion = {name: left[name] - flat + 2 * N_PARAMETERS[name] for name in left}
    shape = min(criterion, key=criterion.get)
    df = len(dose) - N_PARAMETERS[shape]
    row["p_fit"] = f.sf(left[shape] / df, df, means.df) if df else np.nan
    row |= {f"aic_{name}": value for name, value in criterion.items()}
    response, weight = slopes[shape] * bases[shape], 1 / means.variance[:, 0]
    baseline = np.average(means.mean[:, 0] - response, weights=weight)
    return {"shape": shape} | row, response[1:] + baseline - means.mean[0, 0]


def _of_hill(found, level, df):
    """Columns of the three parameters of a Hill curve."""
    row, values = {}, (found.maximum[:, 0], found.ec50, found.exponent)
    for name, ends in zip(PARAMETERS[1:], values, strict=True):
        row |= dict(zip((name, f"{name}_lower", f"{name}_upper"), ends, strict=True))
        with np.errstate(divide="ignore"):
            scaled = ends if name == "maximum" else np.log10(ends)
        row[f"{name}_error"] = standard_error(*scaled[1:], level, df)
    return row
