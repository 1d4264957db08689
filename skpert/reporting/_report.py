"""Gathers what is known of a screen and a fitted model, and writes it as one HTML file."""

import datetime
import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_consistent_length

from .._archive import file_name, replaced
from .._input.expression import check_same_cells
from .._input.values import as_list, check_has_latents, check_number, listed, text
from ..inspection import latent_genes
from ..inspection._direct import gene_names
from ..inspection._responders import LEAST_CONTROLS
from ..preprocessing._genesets import _gene_sets
from . import _sections
from ._comparison import Screen, check_compare, compared
from ._doubts import doubts
from ._pieces import count
from ._sections import Question

TEMPLATE = "page.html"


def report(
    estimator,
    X,
    A,
    path,
    *,
    compare=True,
    sets=None,
    guides=None,
    targets=None,
    nulls: str | list[str] | None = None,
    batch=None,
    fdr: float = 0.05,
    title: str | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> Path:
    """Write one HTML page on a screen and a fitted model, for a colleague.

    The page says what was read and warned of, whether the model is better than simpler ones on
    held-out cells, which latents perturbations move, what these latents are made of, which genes
    change directly, which guides work, which cells responded, and when not to believe all that. It
    is one file with its figures inside, and needs neither network nor server. What a model does
    not have is left out, and the page says why.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``transform``, of any model; it stays as it is.
    X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
        The cells of its training, or others of the same perturbations.
    A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
        Their design, such as ``adata.obs``.
    path : str or path-like
        File to write, ``.html``. A file of that name is replaced as a whole.
    compare : bool or pair of arrays of rows, default=True
        Whether to fit the model again, and a ``VAE`` beside it, to four fifths of the cells, and
        to score both on the others, beside baselines. That takes as long as both fits, by far
        most of the time. A pair (train, test) of rows or masks says which cells.
    sets : str, path-like, dict of str to list of str, or DataFrame, default=None
        Gene sets for the latents, as in :func:`skpert.inspection.enrich`.
    guides : str, array-like of shape (n_cells,), mapping or Series, default=None
        Guide of each cell or gene of each guide, as in :func:`skpert.inspection.guide_efficacy`.
    targets : mapping or Series of str, default=None
        Gene that each perturbation is meant to act on, as in
        :func:`skpert.inspection.direct_effects`. None: what ``guides`` says where it is a table
        of genes, else perturbations that are called like a gene act on that.
    nulls : str or list of str, default=None
        Labels in A that are known to do nothing, such as non-targeting guides.
    batch : str or array-like of shape (n_cells,), default=None
        Batch of each cell, or its column in A, for direct effects and guides.
    fdr : float, default=0.05
        False discovery rate of all that is called, in [0, 1].
    title : str, default=None
        Heading; None names the model and the number of perturbations.
    random_state : int, RandomState instance or None, default=0
        Seeds the split and the draws of the comparison.

    Returns
    -------
    path : pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If X and A do not fit together or the estimator, it has no latents, the file cannot be
        written or is not called .html, or an argument is not of its form; nothing is written then.
    ImportError
        If jinja2 or matplotlib is not installed.

    Notes
    -----
    Warnings that come up are written in the page and not given. Those of the fit of ``estimator``
    are gone by then; its refit gives the same kind.

    Examples
    --------
    >>> import tempfile
    >>> from skpert import SVAEPlus, report
    >>> from skpert.datasets import make_sparse_shift
    >>> screen = make_sparse_shift(5, n_cells_per_perturbation=40, n_control_cells=40, n_latent=3,
    ...                            n_genes=50, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=2, random_state=0).fit(screen.X, screen.A)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = report(model, screen.X, screen.A, f"{folder}/screen.html", compare=False)
    ...     page.name, page.read_text(encoding="utf-8")[:15]
    ('screen.html', '<!DOCTYPE html>')
    """
    template, path = _template(), _checked_path(path)
    caught = []
    with _gathered(caught, "while reading"):
        screen = _screen(estimator, X, A)
        question = _question(screen, sets, guides, targets, nulls, batch, fdr)
        check_compare(screen, compare)
        first = [_sections.read(screen), _fit_of(screen)]
        found = _found(screen, X, question)
    comparison, verdict = None, None
    if compare is False:
        found.left_out.append(("Comparison with simpler models", "It was not asked for."))
    else:
        with _gathered(caught, "in the refits"):
            comparison, verdict = compared(screen, compare, random_state)
    caught = _distinct(caught)
    doubtful = doubts(screen, found, verdict=verdict, nulls=question.nulls, caught=caught)
    first[0] = _warned(first[0], caught)
    html = template.render(
        title=title or f"{type(estimator).__name__}: {_size(screen)}",
        short=_short(first[0], comparison, found, doubtful),
        sections=[*first, *([comparison] if comparison else []), *found.sections, doubtful],
        left_out=found.left_out,
    )
    with replaced(path) as file:
        file.write(html.encode("utf-8"))
    return Path(path)


class Found(NamedTuple):
    """Sections on the model that was given, and what is left out of the page."""

    sections: list
    left_out: list  # pairs of a title and a sentence why
    names: dict  # what latents are called
    identified: object  # what ``identifiability`` returned, None without edges
    false: dict  # by what was found of them, perturbations that should do nothing


def _template():
    """Template of the page; ImportError that names the extra."""
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        message = f"report needs {error.name}: pip install 'skpert[report]'"
        raise ImportError(message) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skpert.reporting", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE)


def _checked_path(path):
    """Path of the file, before any of the work is done."""
    path = os.path.expanduser(file_name(path))
    if not path.lower().endswith((".html", ".htm")):
        raise ValueError(f"path must end in .html, which browsers open, got {path!r}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder!r} to write the report to: make it first")
    if os.path.isdir(path):
        raise ValueError(f"path must be a file, and {path!r} is a folder")
    return path


@contextmanager
def _gathered(caught, when):
    """Keep warnings for users, whatever filters say, as pairs of ``when`` and a text."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    caught.extend((when, str(w.message)) for w in found if issubclass(w.category, UserWarning))


def _distinct(caught):
    """Each warning once; refits repeat some and add whose they are."""
    kept = {}
    for when, message in caught:
        if not any(message.startswith(other) for other in kept):
            kept[message] = when
    return [(when, message) for message, when in kept.items()]


def _screen(estimator, X, A):
    """Cells as the estimator reads them; ValueError if it cannot."""
    check_has_latents(estimator)
    check_same_cells(X, A)
    labels = np.asarray(estimator.design_.labels(A), dtype=object)
    values = estimator._expression(X, A)
    check_consistent_length(values, labels)
    estimator.design_.transform(A)  # refuses what the estimator does not know
    with suppress(ValueError):  # what is doubtful in a design is said when one is fitted
        estimator._make_design().fit(A)
    screen = Screen(estimator, values, A, labels)
    if not screen.covariates and (labels == text(estimator.control)).all():
        raise ValueError("A has control cells only: there is no perturbation to report on")
    return screen


def _question(screen, sets, guides, targets, nulls, batch, fdr):
    """What was asked for, checked before any of the work is done."""
    check_number(fdr, "fdr", 0, 1, "both")
    nulls = [text(name) for name in as_list(nulls)]
    absent = [name for name in nulls if name not in set(screen.labels)]
    if absent:
        raise ValueError(
            f"nulls names {listed(absent, 5)}, which have no cells in A: its labels are "
            f"{listed(sorted(set(screen.labels)), 5)}"
        )
    if screen.covariates and guides is not None:
        raise ValueError(
            f"guides are compared with those of a gene, and {type(screen.model).__name__} has "
            "covariates in place of perturbations: leave them out"
        )
    if isinstance(guides, str) and guides not in getattr(screen.A, "columns", ()):
        raise ValueError(f"guides={guides!r} is no column of A")
    if targets is None and isinstance(guides, (Mapping, pd.Series)) and is_table(screen, guides):
        targets = guides
    sets = None if sets is None else _gene_sets(sets)
    return Question(sets, guides, targets, nulls, batch, fdr)


def _found(screen, X, question):
    """Sections that apply to the model, and why others do not."""
    model, fdr, kind = screen.model, question.fdr, type(screen.model).__name__
    genes = latent_genes(model, genes=[str(name) for name in gene_names(model, X)])
    calls = hasattr(model, "mask_probability_")
    if calls:  # as everywhere in the page
        genes["targeted"] = genes["latent"].map((model.targets(fdr=fdr) != 0).any())
    enriched, names = _sections.programmes(genes, question)
    made, left_out, found, false = [], [], None, {}
    if calls:
        section, moved = _sections.called_targets(screen, names, fdr)
        made.append(section)
        false["a target"] = [name for name in question.nulls if name in moved]
        identified, found = _sections.identified(screen, names, fdr)
    elif hasattr(model, "embedding_"):
        made.append(_sections.uncalled_targets(screen, names))
    else:
        why = f"{kind} does not say which latents a perturbation moves."
        left_out.append(("Targets of perturbations", why))
    made.append(_sections.latents(screen, genes, enriched, names, question))
    if screen.covariates:
        why = f"{kind} has covariates in place of perturbations."
        left_out += [(name, why) for name in ("Direct effects on genes", "Guides", "Responders")]
    else:
        section, false["a gene called"] = _sections.direct(screen, X, question)
        made += [section, *_of_cells(screen, X, question, left_out, false)]
    if calls:
        made.append(identified)
    else:
        why = f"{kind} calls no edges, from which that would follow."
        left_out.append(("Which latents are identified", why))
    if model.n_iter_:
        made.append(_sections.history(screen))
    else:
        left_out.append(("Training", "No epoch was run."))
    return Found(made, left_out, names, found, false)


def _of_cells(screen, X, question, left_out, false):
    """Sections on guides and responders, where there are any."""
    if question.guides is None:
        left_out.append(("Guides", "No guides were named."))
    else:
        yield _sections.guides(screen, X, question)
    n_controls = int((screen.labels == text(screen.model.control)).sum())
    if n_controls < LEAST_CONTROLS:
        why = f"{LEAST_CONTROLS} control cells are needed, and there are {n_controls}."
        left_out.append(("Responders", why))
    else:
        guides = _guide_of_each(screen, question.guides)
        section, detected = _sections.response(screen, X, question, guides)
        false["cells that responded"] = [name for name in question.nulls if name in detected]
        yield section


def is_table(screen, guides):
    """Whether guides are a table of genes and not one guide per cell."""
    return isinstance(guides, Mapping) or len(guides) != len(screen.labels)


def _guide_of_each(screen, guides):
    """Guide of each cell, None where the labels are guides or there are none."""
    if isinstance(guides, str):
        return screen.A[guides].to_numpy()
    if guides is None or (isinstance(guides, (Mapping, pd.Series)) and is_table(screen, guides)):
        return None
    return np.asarray(guides)


def _fit_of(screen):
    from .. import __version__

    return _sections.fitted(screen, __version__, datetime.date.today().isoformat())


def _size(screen):
    n_labels = len(set(screen.labels) - {text(getattr(screen.model, "control", None))})
    what = "combination of covariates" if screen.covariates else "perturbation"
    plural = "combinations of covariates" if screen.covariates else None
    return f"{count(n_labels, what, plural)}, {count(len(screen.labels), 'cell')}"


def _warned(section, caught):
    """The section on what was read, with the warnings that came up."""
    points = [f"Warning {when}: {message}" for when, message in caught]
    return section._replace(points=points or ["No warning came up."])


def _short(read, comparison, found, doubtful):
    """What matters most, as pairs of a sentence and the section that says more."""
    short = [(read.lead[0], read)]
    if comparison:  # the first and the last baseline, which is the hardest to beat
        ends = dict.fromkeys([comparison.points[0], comparison.points[-1]])
        short += [(point, comparison) for point in ends]
    short += [(f"{s.lead[0].partition('. ')[0].rstrip('.')}.", s) for s in found.sections if s.key]
    return [*short, (doubtful.lead[0], doubtful)]
