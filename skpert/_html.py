"""What a notebook shows of a fitted estimator: what it found, below scikit-learn's diagram."""

from html import escape

from sklearn.base import BaseEstimator

from ._input.values import listed
from .preprocessing._confounding import confounding_of

FDR = 0.05  # of the edges that are counted
FEW_CELLS = 50  # of a perturbation, with which little is seen
STYLE = """
.skpert-found { font: 0.9em/1.5 system-ui, sans-serif; margin: 0.5em 0; max-width: 46em; }
.skpert-found summary { cursor: pointer; font-weight: 600; }
.skpert-found dl { display: grid; gap: 0 1em; grid-template-columns: max-content 1fr;
  margin: 0.3em 0 0 1em; }
.skpert-found dt { font-weight: 400; opacity: 0.7; }
.skpert-found dd { margin: 0; }
"""


def html_inner(estimator):
    """``BaseEstimator._repr_html_inner``, completed."""
    return BaseEstimator._repr_html_inner(estimator) + found_html(estimator)


def mime_bundle(estimator, **kwargs):
    """``BaseEstimator._repr_mimebundle_``, completed; IPython says what it wants of it."""
    bundle = BaseEstimator._repr_mimebundle_(estimator, **kwargs)
    if "text/html" in bundle:
        bundle["text/html"] += found_html(estimator)
    return bundle


def found_html(estimator):
    """Block of HTML on what a fit found; empty before it."""
    if not hasattr(estimator, "module_"):
        return ""
    rows = [*_data(estimator), *_training(estimator), *_latents(estimator)]
    rows += [("warning", text) for text in doubts(estimator)]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    title = f"{escape(type(estimator).__name__)} found"
    return (
        f'<div class="skpert-found"><style>{STYLE}</style><details open><summary>{title}</summary>'
        f"<dl>{items}</dl></details></div>"
    )


def _data(estimator):
    what = "column of covariates" if hasattr(estimator, "covariates_") else "perturbation"
    plural = "columns of covariates" if hasattr(estimator, "covariates_") else None
    text = f"{_count(estimator._n_training_cells, 'cell')} to train on, "
    text += f"{_count(estimator.n_features_in_, 'gene')}, "
    yield "data", text + _count(len(estimator.perturbations_), what, plural)


def _training(estimator):
    """Length of training, and the best ELBO of its last phase."""
    history = estimator.history_
    text = _count(estimator.n_iter_, "epoch")
    if len(history) and "validation_elbo" in history:
        last = history["phase"] == history["phase"].iloc[-1]
        elbo = history["validation_elbo"][last].max()
        text += f"; best ELBO of held-out cells {elbo:,.1f} nats per cell"
    yield "training", text


def _latents(estimator):
    """How many latents there are, and edges."""
    asked = estimator.n_latent
    most = "as found in the data" if isinstance(asked, str) else f"n_latent={asked}"
    yield "latents", f"{estimator.n_latent_} in use ({most})"
    if not hasattr(estimator, "mask_probability_"):
        return
    edges = estimator.targets(fdr=FDR).to_numpy() != 0
    n_moving, n_targeted = edges.any(1).sum(), edges.any(0).sum()
    text = f"{_count(int(edges.sum()), 'target')} at a false discovery rate of {FDR:g}"
    if edges.any():
        text += f": {n_moving} of {_count(len(edges), 'perturbation')} move "
        text += f"{n_targeted} of {_count(estimator.n_latent_, 'latent')}"
    yield "targets", text


def doubts(estimator):
    """Sentences on what speaks against believing it, of what the fitted estimator knows."""
    n_missing = (getattr(estimator.module_, "n_found", None) or 0) - estimator.n_latent_
    if n_missing > 0:
        yield (
            f"cells vary along {_count(n_missing, 'more latent', 'more latents')} than n_latent "
            "allows: effects on these show in the others"
        )
    confounded = confounding_of(estimator)
    if len(confounded):
        columns = listed(list(confounded["column"].unique()), 3)
        names = listed(list(confounded["perturbation"].unique()), 5)
        yield f"{names} cannot be separated from {columns}: effects may be those of the latter"
    few = [
        name
        for name, n in zip(
            estimator.perturbations_, getattr(estimator.design_, "n_cells_", ()), strict=False
        )
        if 0 < n < FEW_CELLS  # none where it was adapted to
    ]
    if few:
        yield f"fewer than {FEW_CELLS} cells of {listed(few, 5)}: effects may be missed"


def _count(n, word, plural=None):
    return f"{n:,} {word if n == 1 else plural or word + 's'}"
