"""When not to believe a report, in plain words."""

import numpy as np

from ..preprocessing._confounding import confounding_of
from ..sparsity.effects import LEAST_STABILITY
from ._pieces import Section, count, shortened

FEW_CELLS = 50  # of a perturbation, with which little is seen
FEW_CONTROLS = 100
MOST_NAMED = 8
ALWAYS = (
    "Always: cells count as independent. Cells of one batch, donor or clone are not, and then "
    "intervals are too short and more is called than should be. With few batches or donors, look "
    "whether effects agree between them.",
    "Always: an effect is one on the cells that were measured. Perturbations that kill cells, or "
    "change which ones are caught, look like effects on the survivors.",
    "Always: intervals are those of an effect given that it is there. Of many effects the largest "
    "tend to be too large.",
    "Always: small q of gene sets rank programmes and prove none, as genes that vary together "
    "count as independent.",
)


def doubts(screen, found, *, verdict, nulls, caught):
    """What speaks against believing these results, first what was seen, then what never is."""
    seen = [
        *_of_model(screen, verdict),
        *_of_latents(screen, found),
        *_of_cells(screen),
        *_of_nulls(screen, found.false, nulls),
    ]
    if caught:
        seen.append(f"{count(len(caught), 'warning')} came up: see what was read.")
    lead = "Nothing in these data speaks against the results. Some things never show."
    if seen:
        n = len(seen)
        lead = f"{count(n, 'thing')} {'asks' if n == 1 else 'ask'} for caution in these data."
    return Section("When not to believe it", [lead], (), [*seen, *ALWAYS])


def _of_model(screen, verdict):
    name, model = type(screen.model).__name__, screen.model
    if verdict in ("worse", "equal"):
        yield (
            f"{name} is not better than a VAE on held-out cells: what labels explain cannot be "
            "distinguished from nothing."
        )
    if verdict is None and name != "VAE":
        yield "The model was not compared with simpler ones."
    if hasattr(model, "targets_") and not hasattr(model, "mask_probability_"):
        yield f"{name} does not say which of its effects differ from none."
    elif getattr(model, "edges", None) == "learned":
        yield (
            "Edges were learned under a prior: their probabilities depend on its strength, and "
            "effects have no intervals."
        )


def _of_latents(screen, found):
    n_missing = getattr(screen.model.module_, "n_found", None) or 0
    n_missing -= screen.model.n_latent_
    if n_missing > 0:
        yield (
            f"The cells vary along {n_missing} more latents than were allowed: what perturbations "
            "do to these shows in the others."
        )
    if found.identified is None:
        return
    table = found.identified.table.iloc[: screen.model.n_latent_]  # further ones are empty
    table = table.rename(index=found.names)
    unstable = table.index[(table["stability"] < LEAST_STABILITY).to_numpy()]
    if len(unstable):
        yield (
            f"{_named(unstable)}: the axis hangs on single perturbations or on few cells, so that "
            "no effect on it is called, however large."
        )
    moved = table["n_perturbations"] > 0
    mixed = table.index[moved & ~table["identified"].astype(bool)]
    if len(mixed):
        yield (
            f"{_named(mixed)}: known only as part of a group. What is said of the group holds, "
            "what is said of one of them need not."
        )
    if (~moved).any():
        yield (
            f"{count(int((~moved).sum()), 'latent')} without a target: none of them means "
            "anything by itself."
        )


def _of_cells(screen):
    labels, n = np.unique(np.asarray(screen.labels, dtype=str), return_counts=True)
    if not screen.covariates:
        control = str(screen.model.control)
        n_controls = int(n[labels == control].sum())
        if n_controls < FEW_CONTROLS:
            yield (
                f"There {'is' if n_controls == 1 else 'are'} {count(n_controls, 'control cell')}: "
                "effects are relative to something that is itself uncertain."
            )
        n, labels = n[labels != control], labels[labels != control]
    few = labels[n < FEW_CELLS]
    if len(few):
        yield (
            f"{_named(few)} {'has' if len(few) == 1 else 'have'} fewer than {FEW_CELLS} cells: "
            "what is not called for them may be there all the same."
        )
    confounded = confounding_of(screen.model)
    if len(confounded):
        yield (
            f"{_named(confounded['perturbation'].unique())} may show the effect of "
            f"{_named(confounded['column'].unique())} instead of their own: the two go together."
        )


def _of_nulls(screen, false, nulls):
    if screen.covariates:
        return
    for what, names in false.items():
        if len(names):
            yield (
                f"{_named(names)}: said to do nothing, but with {what}. Those of that size come "
                "up without a cause."
            )
    if not nulls:
        yield (
            "No perturbation was named that should do nothing, such as non-targeting guides "
            "(nulls): how often an effect comes up without a cause was not looked at."
        )


def _named(names):
    names = [shortened(name) for name in names]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
