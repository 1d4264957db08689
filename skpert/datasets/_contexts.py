"""Screens in several contexts, such as cell lines, with a known rule of what carries over."""

from functools import partial
from numbers import Integral

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.utils import Bunch, check_random_state, check_scalar

from .._input.values import check_finite
from ._decoders import decoder_drawer
from ._simulation import (
    TargetRule,
    check_sizes,
    check_strengths,
    check_target_range,
    draw_embedding,
    numbered,
    population_mean,
)

RULES = ("latent", "logit", "family", "none")
APART = 3  # how much more families differ than contexts do


def make_context_shift(
    n_contexts: int = 5,
    n_perturbations: int = 8,
    *,
    rule: str = "latent",
    n_cells_per_perturbation: int = 40,
    n_control_cells: int = 100,
    n_latent: int = 10,
    n_genes: int = 100,
    context_size: float = 1.0,
    effect_size: float = 3.0,
    effect_scale: float = 0.5,
    n_targets: int | tuple[int, int] = (1, 3),
    library_size: float = 1e4,
    library_scale: float = 0.3,
    dispersion: float = (1.0, 10.0),
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    r"""Screen of the same perturbations in several contexts, of which a rule says what they share.

    A cell of the context c with the perturbation p has counts of mean ``l * softmax(f(z) + d)``
    at its library size l, with ``z = z_basal + context_c + effect_cp`` and ``z_basal`` from
    ``Normal(0, I)``. The network f is that of :func:`make_sparse_shift`. The rules are:

    * ``"latent"``: ``effect_cp = e_p`` in every context, ``d = 0``. As f is not linear, expression
      responds differently in each.
    * ``"logit"``: ``effect_cp = 0`` and ``d_p = f(e_p) - f(0)``: the same change of log expression
      in every cell.
    * ``"family"``: contexts are of two families, far from each other, and the latent effect of a
      perturbation is that of its family: the nearest context knows.
    * ``"none"``: every context has effects of its own, and nothing carries over.

    Parameters
    ----------
    n_contexts, n_perturbations : int, default=5 and 8
        Number of contexts, at least 2, and of perturbations, which all contexts have.
    rule : {"latent", "logit", "family", "none"}, default="latent"
        What contexts have in common.
    n_cells_per_perturbation, n_control_cells : int, default=40 and 100
        Number of cells of each perturbation, and of control cells, in each context.
    n_latent, n_genes : int, default=10 and 100
        Dimension of the latent state, at most 40, and number of genes, at least 40.
    context_size : float, default=1.0
        Standard deviation of the shift of each latent by a context, in standard deviations of the
        basal state; families differ by three times as much.
    effect_size, effect_scale : float, default=3.0 and 0.5
        Mean and standard deviation of the absolute shift of a target; signs are random.
    n_targets : int or (int, int), default=(1, 3)
        Number of latents that a perturbation moves, fixed or drawn from this range.
    library_size, library_scale, dispersion : float, default=1e4, 0.3 and (1.0, 10.0)
        As in :func:`make_additive_shift`, for negative binomial counts.
    random_state : int, RandomState instance or None, default=None
        Seeds everything that is drawn; an int gives the same data each time.

    Returns
    -------
    data : Bunch
        X : ndarray of shape (n_cells, n_genes), float32
            Counts.
        A : DataFrame of shape (n_cells, 2)
            Design frame: columns ``perturbation``, such as "P3" or "control", and ``context``,
            such as "C1".
        Z, Z_basal : ndarray of shape (n_cells, n_latent)
            True latent states, and what they are without context and perturbation.
        contexts, perturbations : ndarray of object
            Sorted names.
        context_shift : ndarray of shape (n_contexts, n_latent)
            Shift of the latent state by each context.
        effect : ndarray of shape (n_contexts, n_perturbations, n_latent)
            Shift of the latent state by each perturbation in each context.
        log_change : ndarray of shape (n_perturbations, n_genes)
            The change d of logits, zero but for ``rule="logit"``.
        expected_expression : ndarray of shape (n_contexts, n_perturbations, n_genes)
            Expected counts at the mean library size, over a fixed sample of 2,048 basal states.
        control_expression : ndarray of shape (n_contexts, n_genes)
            The same of control cells.
        DESCR : str
            One sentence on what was simulated.

    Raises
    ------
    ValueError
        If an argument is out of its range, or the rule is unknown.

    See Also
    --------
    skpert.model_selection.LeaveContextsOut : Splits of such a screen.

    Examples
    --------
    >>> from skpert.datasets import make_context_shift
    >>> data = make_context_shift(3, 4, rule="logit", random_state=0)
    >>> data.X.shape, data.expected_expression.shape
    ((780, 100), (3, 4, 100))
    >>> data.A.groupby("context").size().to_dict()
    {'C0': 260, 'C1': 260, 'C2': 260}
    """
    check_scalar(n_contexts, "n_contexts", Integral, min_val=2)
    check_sizes(n_perturbations, n_cells_per_perturbation, n_control_cells)
    noise = library_size, library_scale, dispersion, 0.5
    draw_decoder = decoder_drawer("negative_binomial", n_latent, n_genes, noise)
    check_strengths(effect_size, effect_scale)
    rule = _Rule(rule, context_size, (effect_size, effect_scale), _targets(n_targets, n_latent))
    shape, n_each = (n_contexts, n_perturbations), (n_cells_per_perturbation, n_control_cells)
    draw_decoder = partial(draw_decoder, n_genes=n_genes)
    return _drawn(rule, shape, n_each, draw_decoder, check_random_state(random_state))


def _drawn(rule, shape, n_each, draw_decoder, rng):
    """All cells, and what is known of them."""
    shift, effect = rule.draw(shape, rng)
    context, treatment = _draw_rows(shape, n_each, rng)
    moved = rule.moved(effect)
    Z_basal = rng.normal(size=(len(context), shift.shape[1]))
    Z = Z_basal + shift[context] + moved[context, treatment]
    decoder = draw_decoder(Z, rng=rng)
    expression = _Expression(decoder, rule.log_change(decoder, effect[0]))
    contexts = np.array(numbered("C", shape[0]), dtype=object)
    names = np.array([*numbered("P", shape[1]), "control"], dtype=object)
    expected = expression.expected(shift, moved)
    return Bunch(
        X=expression.sample(Z, treatment, rng),
        A=pd.DataFrame({"perturbation": names[treatment], "context": contexts[context]}),
        Z=Z,
        Z_basal=Z_basal,
        contexts=contexts,
        perturbations=names[:-1],
        context_shift=shift,
        effect=moved[:, :-1],
        log_change=expression.log_change[:-1],
        expected_expression=expected[:, :-1],
        control_expression=expected[:, -1],
        DESCR=f"{shape[1]} perturbations in {shape[0]} contexts, rule {rule.name!r}.",
    )


class _Rule:
    """What contexts have in common."""

    def __init__(self, name, context_size, strength, targets):
        if name not in RULES:
            raise ValueError(f"rule must be one of {RULES}, got {name!r}")
        check_finite(context_size, "context_size")
        self.name, self.context_size = name, context_size
        self.strength, self.targets = strength, targets

    def draw(self, shape, rng):
        """Shifts of contexts, (n_contexts, n_latent), and of perturbations in each."""
        n_contexts, n_perturbations = shape
        n_latent = self.targets.n_latent
        shift = self.context_size * rng.normal(size=(n_contexts, n_latent))
        n_kinds = {"family": 2, "none": n_contexts}.get(self.name, 1)
        kind = np.arange(n_contexts) % n_kinds
        if self.name == "family":
            shift += APART * self.context_size * rng.normal(size=(n_kinds, n_latent))[kind]
        mask = self.targets.draw(n_kinds * n_perturbations, rng)
        effect = mask * draw_embedding(*self.strength, mask.shape, rng)
        return shift, effect.reshape(n_kinds, n_perturbations, -1)[kind]

    def moved(self, effect):
        """Shifts of latent states by each treatment, the control's, zero, last."""
        effect = np.zeros_like(effect) if self.name == "logit" else effect
        return np.concatenate([effect, np.zeros_like(effect[:, :1])], 1)

    def log_change(self, decoder, effect):
        """Change of logits by each treatment, the control's last, (n_treatments, n_genes)."""
        logits = decoder.proportions.logits
        base = logits(np.zeros((1, effect.shape[1])))
        change = np.concatenate([logits(effect) - base, np.zeros_like(base)])
        return change if self.name == "logit" else np.zeros_like(change)


class _Expression:
    """Counts whose logits a perturbation may change directly."""

    def __init__(self, decoder, log_change):
        self.decoder, self.log_change = decoder, log_change

    def sample(self, Z, treatment, rng):
        """Counts of each cell, (n_cells, n_genes) float32."""
        rate = self.decoder.library_size[:, None] * self._shares(Z, treatment)
        theta = self.decoder.dispersion
        return rng.poisson(rng.gamma(theta, rate / theta)).astype(np.float32)

    def expected(self, shift, moved):
        """Expected counts of each context and treatment, (n_contexts, n_treatments, n_genes)."""
        size = self.decoder.mean_library_size
        rows = [
            [
                population_mean(lambda Z, t=t: self._shares(Z, t), (s + e)[None])[0]
                for t, e in enumerate(effects)
            ]
            for s, effects in zip(shift, moved, strict=True)
        ]
        return size * np.array(rows)

    def _shares(self, Z, treatment):
        logits = self.decoder.proportions.logits(Z) + self.log_change[treatment]
        return np.exp(log_softmax(logits, axis=1))


def _targets(n_targets, n_latent):
    """How many latents perturbations move."""
    low, high = check_target_range(n_targets)
    if high > n_latent:
        raise ValueError(f"n_targets={n_targets!r} exceeds the {n_latent} latents")
    return TargetRule(n_latent, n_latent, low, high)


def _draw_rows(shape, n_each, rng):
    """Context and treatment of each cell, shuffled; the control is the last treatment."""
    n_contexts, n_perturbations = shape
    n_cells, n_controls = n_each
    one = np.repeat(np.arange(n_perturbations + 1), [n_cells] * n_perturbations + [n_controls])
    order = rng.permutation(n_contexts * len(one))
    return np.repeat(np.arange(n_contexts), len(one))[order], np.tile(one, n_contexts)[order]
