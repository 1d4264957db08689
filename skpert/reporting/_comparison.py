"""The model beside a ``VAE`` and predictions without a network, on cells it was not fitted to."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from scipy.stats import norm
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing

from ..metrics.calibration import GREATER_IS_BETTER
from ..model_selection import (
    PerturbationKFold,
    evaluate_perturbations,
    paired_differences,
)
from ..models.baselines import AdditiveEffects, ControlMean
from ..models.svae import VAE
from ..parameters import REAL_VALUED
from ..plotting import EvaluationDisplay
from ..preprocessing import LogNormalize
from ._pieces import Section, Table, count, interval, number, picture

N_FOLDS = 5  # a fifth of the cells is held out
LEVEL = 0.95
FLOOR_MODEL = "VAE"
METRICS = {  # in words
    "response_mse": "squared error of the mean response",
    "delta_pearson": "correlation of the response over genes",
    "perturbation_discrimination": "ranking of the right perturbation among all",
}
IN_WORDS = {
    "no effect": "the mean of control cells",
    "floor (perturbed mean)": "the mean of all perturbed cells",
    "additive effects": "sums of what training cells of each perturbation show",
}


class Screen(NamedTuple):
    """The cells of a report as a model reads them."""

    model: object
    values: object  # (n_cells, n_genes) as validated
    A: object  # the design as given
    labels: np.ndarray  # (n_cells,) one per cell

    @property
    def covariates(self):
        """Whether the design is one of covariates instead of perturbations."""
        return hasattr(self.model, "covariates_")

    def some(self, rows):
        """Expression and design of some cells."""
        return self.named(self.values[rows]), _safe_indexing(self.A, rows)

    def named(self, values):
        """Expression with the names of genes that the model knows."""
        names = getattr(self.model, "feature_names_in_", None)
        if names is None:
            return values
        make = pd.DataFrame.sparse.from_spmatrix if issparse(values) else pd.DataFrame
        return make(values, columns=names)


def compared(screen, compare, random_state):
    """Section, and what the held-out cells say: "better", "worse" or "equal" by likelihood."""
    name = type(screen.model).__name__
    train, test = _split(screen, compare, random_state)
    lead = [
        f"{name} was fitted again, with the same parameters, to {count(len(train), 'cell')}, and "
        f"compared on {count(len(test), 'cell')} that it had not seen. The numbers are those of "
        "the refit. The model of the other sections is the one that was given."
    ]
    fitted = _fitted(screen, train)
    parts, points, verdict = [], [], None
    if len(fitted) > 1:
        table, sentence, verdict = _likelihood(screen, fitted, test)
        parts.append(table)
        points.append(sentence)
    if screen.covariates:
        lead.append(
            f"{name} has covariates in place of perturbations, so that its predictions are not "
            "compared with means of perturbations."
        )
    else:
        try:
            of_means = _predictions(screen, fitted[0], train, test, random_state)
        except ValueError as error:  # such as of expression that is no log-normalised one
            lead.append(f"Predicted means could not be compared: {error}")
        else:
            points += of_means.points
            parts += of_means.parts
    points = points or ["Nothing could be compared."]
    return Section("Is the model better than simpler ones?", lead, parts, points), verdict


def check_compare(screen, compare):
    """ValueError unless it is a bool, or a pair of rows to train and to test on."""
    if compare is True or compare is False:
        return
    what = "compare must be True, False or a pair of rows to train on and of others to test on"
    try:
        train, test = _given(screen, compare)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"{what} ({error})") from error
    n_both = np.isin(test, train).sum()
    if len(train) < 2 or len(test) < 2 or n_both:
        raise ValueError(f"{what}: got {len(train)} and {len(test)} rows, {n_both} in both")


def _given(screen, compare):
    """Numbers of the cells of both."""
    train, test = (np.arange(len(screen.labels))[np.asarray(rows)] for rows in compare)
    return train, test


def _split(screen, compare, random_state):
    """Rows to fit and rows to test."""
    if compare is not True:
        return _given(screen, compare)
    n_cells = len(screen.labels)
    control = getattr(screen.model, "control", "control")
    folds = PerturbationKFold(N_FOLDS, control=control, sep=None, random_state=random_state)
    train, test = next(folds.split(np.empty((n_cells, 1)), screen.labels))
    seen = np.isin(screen.labels[test], screen.labels[train])  # all but labels of a single cell
    return np.sort(np.append(train, test[~seen])), test[seen]


def _fitted(screen, train):
    """The model, and a VAE unless it is one, fitted to the training cells."""
    X, A = screen.some(train)
    model = clone(screen.model).set_params(layer=None)
    if type(model) is VAE:
        return [model.fit(X, A)]
    shared = set(VAE().get_params()) & set(model.get_params())
    floor = VAE(**{key: model.get_params()[key] for key in shared})
    floor.set_params(sep=None)
    return [model.fit(X, A), floor.fit(X, _relabelled(screen, train, floor))]


def _relabelled(screen, rows, floor):
    """Design of some cells by labels, which a VAE can read where covariates or doses are given."""
    A, name = screen.some(rows)[1], floor.perturbation
    frame = A if hasattr(A, "assign") else pd.DataFrame(index=range(len(rows)))
    return frame.assign(**{name: screen.labels[rows]})


def _likelihood(screen, fitted, test):
    """Table and sentence on the likelihood of held-out cells, and the verdict."""
    X, A = screen.some(test)
    model, floor = fitted
    known = _relabelled(screen, test, floor)
    scores = model.score_cells(X, A), floor.score_cells(X, known)
    name, difference = type(model).__name__, scores[0] - scores[1]
    gain, error = difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))
    half = norm.isf((1 - LEVEL) / 2) * error
    verdict = "better" if gain > half else "worse" if gain < -half else "equal"
    rows = [
        [label, number(s.mean()), number(s.std(ddof=1) / np.sqrt(len(s)))]
        for label, s in zip((name, FLOOR_MODEL), scores, strict=True)
    ]
    columns = [("model", False), ("nats per cell", True), ("standard error", True)]
    caption = (
        "Log-likelihood of held-out cells given their perturbation (IWELBO; higher is better)."
    )
    found = f"by {number(gain)} nats per cell (95 % interval {interval(gain - half, gain + half)})"
    sentence = {
        "better": f"Held-out cells are more likely under {name} than under a VAE, which knows "
        f"nothing of perturbations, {found}.",
        "worse": f"Held-out cells are less likely under {name} than under a VAE, which knows "
        f"nothing of perturbations, {found}: do not believe its effects.",
        "equal": f"{name} is not better than a VAE, which knows nothing of perturbations: its "
        f"advantage is {number(gain)} nats per cell "
        f"(95 % interval {interval(gain - half, gain + half)}).",
    }
    return Table(caption, columns, rows), sentence[verdict], verdict


def _predictions(screen, model, train, test, random_state):
    """Predicted mean responses beside those of baselines; a section without a title."""
    counts = model.likelihood not in REAL_VALUED
    names = {key: getattr(model, key) for key in ("control", "sep", "perturbation")}
    baselines = {"no effect": ControlMean(**names), "additive effects": AdditiveEffects(**names)}
    if counts:
        baselines = {key: make_pipeline(LogNormalize(), b) for key, b in baselines.items()}
    own = type(model).__name__
    result = evaluate_perturbations(
        {own: FrozenEstimator(model), **baselines},
        screen.named(screen.values),
        screen.A,
        cv=[(train, test)],
        space="counts" if counts else "lognorm",
        metrics=list(METRICS),
        random_state=random_state,
        **names,
    )
    columns = [("prediction", False), *((words, True) for words in METRICS.values())]
    rows = [
        [name, *(number(value, 4 if metric == "response_mse" else 2) for metric, value in row)]
        for name, row in ((name, row.items()) for name, row in result.summary.iterrows())
    ]
    caption = (
        "Predicted responses of perturbations against those measured in held-out cells, means "
        "over perturbations, in log-normalised expression. Lower is better for the error, higher "
        "for the other two; 0.5 is chance for the ranking. The ceiling is one half of the "
        "held-out cells as the prediction of the other, which with few cells is a noisy one."
    )
    alt = "Scores of each prediction by metric: the numbers are in the table above."
    parts = [
        Table(caption, columns, rows),
        picture(
            lambda: EvaluationDisplay.from_evaluation(result),
            alt,
            "The columns of the table, from the left; each point is a perturbation.",
        ),
    ]
    return Section("", [], parts, _verdicts(result, own))


def _verdicts(result, own):
    """A sentence for each baseline: in what the model is better, and in what it is not."""
    sentences = []
    for baseline, words in IN_WORDS.items():
        found = {"better": [], "not better": [], "worse": []}
        for metric, what in METRICS.items():
            row = paired_differences(result.per_perturbation, metric, baseline).loc[own]
            ends = row[["lower", "upper"]] * (1 if GREATER_IS_BETTER[metric] else -1)
            kind = "better" if ends.min() > 0 else "worse" if ends.max() < 0 else "not better"
            found[kind].append(what)
        told = [f"{kind} in {_joined(of)}" for kind, of in found.items() if of]
        sentences.append(
            f"Compared with “{baseline}”, {words}, predictions are {'; '.join(told)}."
        )
    return sentences


def _joined(names):
    return " and ".join(([", ".join(names[:-1])] if len(names) > 1 else []) + names[-1:])
