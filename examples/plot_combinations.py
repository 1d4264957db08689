"""
Unmeasured combinations
=======================

Twenty perturbations have 190 pairs, too many to measure. If effects add up in the latent space,
those of a pair follow from its parts. Here a model is trained on some pairs and predicts others.
It is compared with the baseline that needs no model: the sum of the measured effects of the parts.
"""

# %%
# The screen
# ----------
#
# Simulated: each perturbation moves one or two of six processes, and 40 pairs are measured too.
# :func:`~skpert.datasets.make_additive_shift` adds effects up in latent space. A network generates
# counts from it, so that effects do not add up in expression.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skpert import SAMSVAE, ConditionalVAE
from skpert.datasets import make_additive_shift
from skpert.inspection import average_treatment_effect
from skpert.metrics import ate_pearson, ate_r2, differential_expression
from skpert.model_selection import CombinationHoldout
from skpert.plotting import EffectsDisplay

screen = make_additive_shift(
    20,
    n_cells_per_perturbation=50,
    n_combinations=40,
    n_cells_per_combination=30,
    n_control_cells=300,
    n_latent=6,
    n_targets=(1, 2),
    effect_size=3,
    library_size=5000,
    random_state=0,
)
X, A = screen.X, screen.A

# %%
# :class:`~skpert.model_selection.CombinationHoldout` keeps all cells of a quarter of the pairs
# for the test. Controls and single perturbations are always trained on.

train, test = next(CombinationHoldout(n_splits=1, random_state=0).split(X, A))
pairs = np.unique(A[test].astype(str))
print(len(train), "cells to train on; held out:", ", ".join(pairs))

# %%
# What to compare with
# --------------------
#
# An effect on a gene is the difference between perturbed and control cells, in log2 counts per ten
# thousand. The effects of the held-out pairs are measured in their own cells, 30 of each. The
# baseline uses the training cells only, and adds the effects of the parts.

untreated = np.flatnonzero(A == "control")
held_out = np.concatenate([test, untreated])
measured = differential_expression(X[held_out], A[held_out])
parts = differential_expression(X[train], A[train])
predicted = {
    "sum of measured effects": pd.DataFrame(
        {pair: parts.loc[pair.split("+")].sum() for pair in pairs}
    ).T
}

# %%
# Two models
# ----------
#
# ``SAMSVAE`` adds sparse effects in latent space. ``ConditionalVAE`` has networks that read which
# perturbations a cell received, and learns from the data how effects combine.

settings: dict = {"n_latent": 8, "max_epochs": 40, "random_state": 0}
models = {
    cls.__name__: cls(**settings).fit(X[train], A[train]) for cls in (ConditionalVAE, SAMSVAE)
}
for name, model in models.items():
    predicted[name] = average_treatment_effect(model, pairs)

# %%
# A point is a pair and a gene.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), layout="constrained")
for ax, (name, effect) in zip(axes, predicted.items(), strict=True):
    EffectsDisplay(measured, effect).plot(ax)
    ax.set_ylabel(f"predicted by {name}")
plt.show()

# %%
# Measured effects of 30 cells are noisy, so that no prediction agrees with them perfectly. In a
# simulation there is a truth without noise: the expected expression of the pairs, which
# ``predict_intervention`` predicts.


def log_ratio(expected, control, names):
    """Effects on expected counts, a row per name."""
    return pd.DataFrame(np.log2((1 + expected) / (1 + control)), index=names)


truth = log_ratio(screen.expected(pairs), screen.control_expression, pairs)
expected = predicted | {"measured in held-out cells": measured}
for name, model in models.items():
    response = model.predict_intervention([*pairs, "control"], library_size=5000)
    expected[name] = log_ratio(response[:-1], response[-1], pairs)
scores = pd.DataFrame(
    {
        name: {"r": ate_pearson(truth, effect), "R2": ate_r2(truth, effect)}
        for name, effect in expected.items()
    }
).T
print(scores.round(2))

# %%
# The correlation does not depend on the size of effects; R2 does. Sums on the scale of expression
# are mostly too large: a gene that both parts silence does not fall twice. Here effects do add up
# in a latent space; for a real screen this is unknown. So always show the baseline beside a model;
# for many pairs of genes it is hard to beat.

# %%
# How many pairs must be seen?
# ----------------------------
#
# With ``train_fraction`` the training sets grow, each containing the smaller ones, and the test
# pairs stay the same. An additive model predicts pairs from single perturbations alone; a network
# without this assumption has to see pairs.

fractions = [0.0, 0.5, 1.0]
curves: dict[str, list] = {cls.__name__: [] for cls in (ConditionalVAE, SAMSVAE)}
for fraction in fractions:
    splitter = CombinationHoldout(n_splits=1, train_fraction=fraction, random_state=0)
    cells, _ = next(splitter.split(X, A))
    for cls in (ConditionalVAE, SAMSVAE):
        model = models[cls.__name__]
        if fraction < 1:
            model = cls(**settings).fit(X[cells], A[cells])
        curves[cls.__name__].append(ate_r2(measured, average_treatment_effect(model, pairs)))

figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
for name, r2 in curves.items():
    ax.plot(np.multiply(fractions, 40 - len(pairs)), r2, marker="o", label=name)
baseline = ate_r2(measured, predicted["sum of measured effects"])
ax.axhline(baseline, color="0.4", linestyle=":", label="sum of measured effects")
ax.set(xlabel="pairs in training", ylabel="R2 of effects of held-out pairs", xticks=[0, 15, 30])
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
plt.show()

# %%
# All pairs
# ---------
#
# In which of the unmeasured pairs is the effect far from the sum of its parts' effects? These are
# the largest predicted differences, beside the true ones.

names = screen.perturbations
unseen = [f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :]]
unseen = [pair for pair in unseen if pair not in set(A)]


def distance_from_sum(effects):
    """Root mean square over genes of the effect of a pair less those of its parts."""
    sums = [effects.loc[pair.split("+")].sum() for pair in unseen]
    return (effects.loc[unseen] - np.stack(sums)).pow(2).mean(axis=1).pow(0.5)


designs = [*names, *unseen]
response = models["SAMSVAE"].predict_intervention([*designs, "control"], library_size=5000)
effects = log_ratio(response[:-1], response[-1], designs)
true_effects = log_ratio(screen.expected(designs), screen.control_expression, designs)
surprise = pd.DataFrame(
    {"predicted": distance_from_sum(effects), "true": distance_from_sum(true_effects)}
)
print(surprise.sort_values("predicted", ascending=False).head().round(2).to_string())
print(f"rank correlation of all {len(unseen)}: {surprise.corr('spearman').iloc[0, 1]:.2f}")

# %%
# A screen of your own
# --------------------
#
# :func:`~skpert.datasets.fetch_norman` has 131 pairs of activated genes with the splits that the
# paper used; any other screen needs labels such as ``"JAK2+STAT1"``::
#
#     screen = skpert.datasets.fetch_norman(task="ood", fraction=0.5)
#     train = screen.split == "train"
#     model = SAMSVAE(n_latent=50).fit(screen.X[train], screen.A[train])
