"""What each section of a page says, from the functions of ``skpert.inspection``."""

import inspect
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._effects import effects
from ..inspection import (
    direct_effects,
    enrich,
    guide_efficacy,
    identifiability,
    latent_names,
    latent_summary,
    responders,
)
from ..inspection._enrichment import in_words
from ..parameters import REAL_VALUED
from ..plotting import (
    DirectEffectsDisplay,
    HistoryDisplay,
    LatentProgrammesDisplay,
    TargetsDisplay,
)
from ..preprocessing._confounding import confounding_of
from ._pieces import Section, Table, bar, count, interval, number, picture, shortened, small

N_GENES = 8  # named of each latent, up and down
N_SETS = 3  # named of each latent
N_GUIDES, N_RESPONSES = 20, 16  # rows before the rest is folded
ORDER = ["dead", "differs", "weak", "unknown", "works"]  # of verdicts on guides


class Question(NamedTuple):
    """What the user asked for."""

    sets: object
    guides: object
    targets: object
    nulls: list
    batch: object
    fdr: float


def read(screen):
    """What was read: cells, genes, perturbations, depth."""
    model, labels, values = screen.model, pd.Series(screen.labels), screen.values
    total = np.asarray(values.sum(axis=1)).ravel()
    detected = np.asarray((values != 0).sum(axis=1)).ravel()
    table = pd.DataFrame({"n": labels.groupby(labels).size()})
    table["total"] = pd.Series(total).groupby(labels).median()
    table["detected"] = pd.Series(detected).groupby(labels).median()
    control = str(getattr(model, "control", None))
    treated = table["n"].drop([] if screen.covariates else [control], errors="ignore")
    what = "combination of covariates" if screen.covariates else "perturbation"
    plural = "combinations of covariates" if screen.covariates else None
    lead = [f"{count(len(labels), 'cell')} and {count(values.shape[1], 'gene')}."]
    if not screen.covariates:
        n_controls = int(table["n"].get(control, 0))
        verb = "is" if n_controls == 1 else "are"
        lead[0] += f" {count(n_controls, 'cell')} {verb} of the control “{control}”."
    lead[0] += f" {count(len(treated), what, plural)}, with {_range(treated)}."
    unit, n_seen = "counts", f"{number(np.median(detected), 0)} of these genes"
    depth = f"has {number(np.median(total), 0)} counts, in {n_seen}"
    if model.likelihood in REAL_VALUED:
        unit = "sum of expression"
        depth = f"adds up to {number(np.median(total), 1)}, and {n_seen} are not zero"
    lead.append(f"At the median a cell {depth}.")
    columns = [(what, False), ("cells", True), (f"median {unit}", True), ("genes seen", True)]
    rows = [
        [shortened(name), f"{row.n:,.0f}", number(row.total, 0), number(row.detected, 0)]
        for name, row in table.sort_values("n", kind="stable").iterrows()
    ]
    caption = "Cells per label, the fewest first."
    return Section("What was read", lead, [Table(caption, columns, rows, 6)])


def _range(n):
    """Numbers of cells in words."""
    if n.min() == n.max():
        return f"{n.min():,} cells each"
    return f"{n.min():,} to {n.max():,} cells each, {number(n.median(), 0)} at the median"


def fitted(screen, version, day):
    """Model, parameters, version and date."""
    model = screen.model
    defaults = inspect.signature(type(model)).parameters
    changed = {
        name: value
        for name, value in model.get_params(deep=False).items()
        if not _same(value, defaults[name].default)
    }
    rows = [[name, shortened(f"{value!r}")] for name, value in changed.items()]
    lead = [
        f"{type(model).__name__} of skpert {version}, with {count(model.n_latent_, 'latent')}, "
        f"trained for {count(model.n_iter_, 'epoch')}. The report is of {day}."
    ]
    if not rows:
        lead.append("All parameters are those by default.")
        return Section("Model", lead)
    caption = "Parameters that are not those by default."
    return Section("Model", lead, [Table(caption, [("parameter", False), ("value", False)], rows)])


def _same(value, default):
    return value is default or (type(value) is type(default) and bool(np.all(value == default)))


def called_targets(screen, names, fdr):
    """Latents that each perturbation moves, with intervals."""
    model = screen.model
    targets, table = model.targets(fdr=fdr), effects(model, fdr=fdr)
    moved = (targets != 0).any(axis=1)
    lead = [_of_targets(int(moved.sum()), len(moved), int((targets != 0).any().sum()), fdr)]
    if not moved.any():
        return Section("Targets of perturbations", lead, key=True), set()
    shown = table[table["called"]]
    order = np.lexsort([-shown["effect"].abs(), -shown["probability"].round(3)])
    shown = shown.iloc[order]
    limit = shown[["effect", "lower", "upper"]].abs().max(axis=None)
    columns = [("perturbation", False), ("latent", False), ("", False), ("effect", True)]
    columns += [("95 % interval", True), ("probability", True)]
    rows = [
        [
            shortened(row.perturbation),
            named(row.latent, names),
            bar(row.lower, row.effect, row.upper, -limit, limit),
            number(row.effect),
            interval(row.lower, row.upper),
            number(row.probability, 3),
        ]
        for row in shown.itertuples()
    ]
    caption = "Effects in standard deviations of the latent, the most certain first."
    display = TargetsDisplay(targets, confounding_of(model), table)
    alt = (
        f"Map of perturbations (rows) by latents (columns). {_strongest(model, names, fdr)} All "
        "effects that are called are in the table below."
    )
    figure = picture(lambda: display.plot(names=names), alt, "Which latents each one moves.")
    parts = [figure, Table(caption, columns, rows)]
    return Section("Targets of perturbations", lead, parts, key=True), set(moved.index[moved])


def _of_targets(n_moved, n, n_latents, fdr):
    """How many perturbations move a latent."""
    rate, why = f"at a false discovery rate of {100 * fdr:g} %", "of single genes (see below)"
    why = f"the effect is too small for so few cells, is one {why}, or is none"
    if not n_moved:
        return f"No target is called for any of {count(n, 'perturbation')}, {rate}: {why}."
    moved = (
        f"{n_moved} of {count(n, 'perturbation')} {'moves' if n_moved == 1 else 'move'} a latent"
    )
    others = f" Where none is called, {why}." if n_moved < n else ""
    return f"{moved}, {count(n_latents, 'latent')} in all, {rate}.{others}"


def uncalled_targets(screen, names):
    """Effects of a model that does not call them."""
    kind = type(screen.model).__name__
    lead = [
        f"{kind} calls no edges: what it learned is shown, without saying which of these effects "
        "differ from none."
    ]
    alt = "Map of perturbations (rows) by latents (columns), coloured by effect."
    figure = picture(lambda: TargetsDisplay.from_estimator(screen.model, names=names), alt)
    return Section("Effects of perturbations", lead, [figure])


def _strongest(model, names, fdr):
    summary = latent_summary(model, fdr=fdr).iloc[:5]
    parts = [
        f"{named(name, names)}: {row['n_perturbations']}, strongest {row['strongest']}"
        for name, row in summary[summary["targeted"]].iterrows()
    ]
    return f"Perturbations per latent: {'; '.join(parts)}."


def named(latent, names):
    """What a latent is called in the page."""
    return shortened(names.get(latent, latent))


def programmes(genes, question):
    """Enriched sets of latents, and the names that they give; nothing without sets."""
    if question.sets is None:
        return None, {}
    enriched = enrich(genes, question.sets)
    return enriched, latent_names(enriched, fdr=question.fdr) if len(enriched) else {}


def latents(screen, genes, enriched, names, question):
    """Genes and programmes of each latent."""
    counts = screen.model.likelihood not in REAL_VALUED
    unit = "log2 fold change" if counts else "difference of expression"
    targeted = genes.groupby("latent", sort=False)["targeted"].first()
    calls = hasattr(screen.model, "mask_probability_")
    lead = [
        "Genes that go up and down with each latent, largest change first. The sign of a latent "
        f"is arbitrary. In brackets the largest {unit} per unit of the latent."
    ]
    known = genes.groupby("latent")["log2_fold_change"].any()  # the others are empty
    order = sorted(targeted.index[known[targeted.index]], key=lambda latent: not targeted[latent])
    sets = _sets(enriched, question.fdr)
    columns = [("latent", False), ("up", False), ("down", False)]
    columns += [("programmes (q)", False)] if enriched is not None else []
    of_latent = dict(tuple(genes.groupby("latent", sort=False)))
    rows = []
    for latent in order:
        cells = [named(latent, names), *_top(of_latent[latent])]
        cells += [sets.get(latent, "–")] if enriched is not None else []
        rows.append(cells)
    n_targeted = int(targeted.sum())
    caption = "Latents" + (", all of which some perturbation moves." if calls else ".")
    if calls and n_targeted < len(order):
        caption = (
            f"Latents, the {n_targeted} with a target first. Of the others any rotation fits as "
            "well, so that their genes are those of a mixture."
        )
    parts = [Table(caption, columns, rows, max(n_targeted, 1) if calls else 12)]
    if enriched is not None and len(enriched):
        alt = (
            "Dots for gene sets (columns) of each latent (rows): the called ones are in the table."
        )
        shown = genes[genes["latent"].isin(enriched["unit"])]
        caption = "Gene sets of each latent; a black edge marks what is called."
        display = LatentProgrammesDisplay(enriched, shown)
        parts.insert(0, picture(lambda: display.plot(fdr=question.fdr), alt, caption))
    if enriched is not None and not sets:
        lead.append(
            f"No gene set is called at a false discovery rate of {100 * question.fdr:g} %."
        )
    return Section("Latents: genes and programmes", lead, parts)


def _top(of):
    """Genes of one latent, up and down, as text."""
    column, texts = "log2_fold_change", []
    up, down = of[of[column] > 0], of[of[column] < 0]
    for part in (up.nlargest(N_GENES, column), down.nsmallest(N_GENES, column)):
        names = ", ".join(shortened(gene) for gene in part["gene"])
        texts.append(f"{names} ({number(part[column].iloc[0])})" if len(part) else "–")
    return texts


def _sets(enriched, fdr):
    """Called sets of each latent, as text."""
    if enriched is None or not len(enriched):
        return {}
    words = in_words(enriched["set"])
    called = enriched[enriched["q"] <= fdr]
    found = {}
    for latent, of in called.groupby("unit", sort=False):
        parts = [
            f"{shortened(words[str(row.set)])} ({row.direction}, {small(row.q)})"
            for row in of.head(N_SETS).itertuples()
        ]
        more = f"; {len(of) - N_SETS} more" if len(of) > N_SETS else ""
        found[latent] = "; ".join(parts) + more
    return found


def direct(screen, X, question):
    """Genes that change beyond what latents explain; and of the nulls, which have any."""
    model, fdr = screen.model, question.fdr
    asked = {"targets": question.targets, "nulls": question.nulls or None, "batch": question.batch}
    table = direct_effects(model, X, screen.A, fdr=fdr, **asked)
    called = table[table["called"]].sort_values("p", kind="stable")
    lead = [_of_direct(called, table, fdr)]
    false = called.loc[called["perturbation"].isin(question.nulls), "perturbation"].unique()
    if question.nulls:
        lead.append(
            f"Of {count(len(question.nulls), 'perturbation')} said to do nothing, {len(false)} "
            f"{'has' if len(false) == 1 else 'have'} such a gene."
        )
    if not len(called):
        return Section("Direct effects on genes", lead, key=True), false
    counts = model.likelihood not in REAL_VALUED
    unit = "log2 fold change" if counts else "difference"
    columns = [("perturbation", False), ("gene", False), (unit, True), ("95 % interval", True)]
    columns += [("q", True), ("", False)]
    rows = [
        [
            shortened(row.perturbation),
            shortened(row.gene),
            number(row.log2_fold_change),
            interval(row.lower, row.upper),
            small(row.q),
            "its target" if row.target else "said to do nothing" * (row.perturbation in false),
        ]
        for row in called.head(1000).itertuples()
    ]
    caption = "Called genes, the most certain first" + (
        f"; 1,000 of {len(called):,}." if len(called) > len(rows) else "."
    )
    parts = [_direct_map(model, table), Table(caption, columns, rows)]
    return Section("Direct effects on genes", lead, parts, key=True), false


def _of_direct(called, table, fdr):
    """How many genes change directly, and how many targets among them."""
    n, what = called["perturbation"].nunique(), "what composition and latents make of"
    rate = f"a false discovery rate of {100 * fdr:g} %"
    if not n:
        text = f"No gene differs from {what} it in the cells of any perturbation, at {rate}."
    else:
        text = (
            f"In {count(n, 'perturbation')} of {table['perturbation'].nunique()} there are genes "
            f"that differ from {what} them, {len(called):,} in all, at {rate}."
        )
    own = table[table["target"] & table["p"].notna()]
    if len(own):
        n = int(own["called"].sum())
        verb = "does" if n == 1 else "do"
        text += f" Of {count(len(own), 'targeted gene')} tested, {n} {verb} so."
    return text


def _direct_map(model, table):
    targets = getattr(model, "targets_", None)
    if targets is not None and not table["perturbation"].isin(targets.index).all():
        targets = None  # combinations have no row of their own
    display = DirectEffectsDisplay(table, targets)
    alt = "Map of perturbations (rows) by the genes that they change directly: as in the table."
    beside = "Latents at the left, genes" if targets is not None else "Genes"
    return picture(display.plot, alt, f"{beside} that change directly, a dot for the target.")


def guides(screen, X, question):
    """Which guides work."""
    nulls = list(question.nulls)
    if isinstance(question.guides, (dict, pd.Series)):
        nulls += [question.guides[name] for name in question.nulls if name in question.guides]
    asked = {"nulls": nulls or None, "batch": question.batch, "fdr": question.fdr}
    table = guide_efficacy(screen.model, X, screen.A, question.guides, **asked)
    untargeted = table["gene"].isin([str(screen.model.control), *map(str, nulls)])
    lead = [
        f"{_told(table[~untargeted], 'guide')}. Efficacy is the share of the gene's "
        "expression that the guide takes away where the gene is measured, else the shift of the "
        "latent state relative to that of the gene's other guides."
    ]
    if untargeted.any():
        lead.append(f"{_told(table[untargeted], 'non-targeting guide')}; they should be dead.")
    rank = table["verdict"].map({verdict: i for i, verdict in enumerate(ORDER)})
    rank += len(ORDER) * (untargeted & (table["verdict"] == "dead"))
    table = table.assign(rank=rank).sort_values(["rank", "gene", "guide"], kind="stable")
    low = min(0.0, table["lower"].min(), -0.1)
    high = max(1.0, table["upper"].max())
    columns = [("guide", False), ("gene", False), ("verdict", False), ("", False)]
    columns += [("efficacy", True), ("95 % interval", True), ("cells", True), ("seen in", False)]
    rows = [
        [
            shortened(row.guide),
            shortened(row.gene),
            row.verdict,
            bar(row.lower, row.efficacy, row.upper, low, high),
            number(row.efficacy),
            interval(row.lower, row.upper),
            f"{row.n_cells:,}",
            row.evidence or "–",
        ]
        for row in table.itertuples()
    ]
    caption = "Guides, those that do not work first, non-targeting ones that are dead last."
    return Section("Guides", lead, [Table(caption, columns, rows, N_GUIDES)], key=True)


def _told(table, noun):
    """How many guides have which verdict."""
    n = table["verdict"].value_counts()
    told = [f"{n[name]} {_verb(name, n[name])}" for name in ORDER[::-1] if name in n]
    return f"{count(len(table), noun)}: {', '.join(told)}"


def _verb(verdict, n):
    if verdict in ("works", "differs"):
        return verdict if n == 1 else verdict[:-1]
    return f"{'is' if n == 1 else 'are'} {verdict}"


def response(screen, X, question, of_cells):
    """Shares of cells that responded."""
    asked = {"guides": of_cells, "nulls": question.nulls or None}
    shares = responders(screen.model, X, screen.A, **asked).shares
    shares = shares.sort_values(["detected", "share"], ascending=False, kind="stable")
    n_detected = int(shares["detected"].sum())
    what = "perturbation" if shares.index.nlevels == 1 else "guide"
    lead = [
        f"The cells of {n_detected} of {count(len(shares), what)} differ from control cells along "
        "the latents. The share of those that responded follows from a mixture of shifted and "
        "unshifted cells. Where nothing is detected, no cell can be told from one that escaped."
    ]
    keys = [(name, False) for name in shares.index.names]
    columns = [*keys, ("", False), ("share", True), ("95 % interval", True)]
    columns += [("shift (s.d.)", True), ("cells", True)]
    rows = []
    for row in shares.reset_index().itertuples():
        cells = [shortened(getattr(row, name)) for name in shares.index.names]
        cells += [bar(row.lower, row.share, row.upper, 0, 1) if row.detected else ""]
        cells += [number(row.share) if row.detected else "not detected"]
        cells += [interval(row.lower, row.upper) if row.detected else "–", number(row.shift)]
        rows.append([*cells, f"{row.n_cells:,}"])
    caption = "Share of responders, from 0 to 1, the largest first."
    part = Table(caption, columns, rows, max(1, min(n_detected, N_RESPONSES)))
    detected = shares.index.get_level_values(0)[shares["detected"].to_numpy()]
    return Section("Responders", lead, [part], key=True), set(detected)


def identified(screen, names, fdr):
    """Which latents the edges identify; the section, and the result itself."""
    found = identifiability(screen.model, fdr=fdr)
    summary = found.summary.replace(
        " What labels explain beyond a VAE was not measured.", ""
    )  # it is elsewhere in the page
    columns = [("latent", False), ("identified", False), ("stability", True)]
    columns += [("perturbations", True), ("confounded", True), ("not separable from", False)]
    table = found.table.sort_values("n_perturbations", ascending=False, kind="stable")
    rows = [
        [
            named(latent, names),
            "yes" if row["identified"] else "no",
            number(row["stability"]),
            str(row["n_perturbations"]),
            str(row["n_confounded"]),
            _others(latent, row, names),
        ]
        for latent, row in table.iterrows()
    ]
    caption = (
        "Latents, those of most perturbations first. Stability is how close to it an axis is "
        "found without a fifth of the perturbations, from 0 to 1."
    )
    part = Table(caption, columns, rows, max(1, int((table["n_perturbations"] > 0).sum())))
    return Section("Which latents are identified", [summary], [part], key=True), found


def _others(latent, row, names):
    others = [named(other, names) for other in row["group"] if other != latent]
    if not row["n_perturbations"]:
        return "any without a target" if others else "–"
    return ", ".join(others) or "–"


def history(screen):
    """Course of the training."""
    columns = [c for c in screen.model.history_ if c != "phase"]
    alt = f"Curves over {screen.model.n_iter_} epochs of {', '.join(columns)}."
    caption = (
        "Terms of the loss by epoch. Curves that still fall, or those of held-out cells that "
        "rise, say that training was too short or too long."
    )
    draw = HistoryDisplay(screen.model.history_).plot
    return Section("Training", [], [picture(draw, alt, caption)])
