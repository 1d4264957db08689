# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Guides and responders
#
# Schraivogel et al. (2020) repressed fourteen targets in K562 cells, genes and regulatory
# elements such as the enhancer HS2 of the globins, with four guides for each. Which guides work?
# What does a guide change beyond the gene that it is meant for? Thirty non-targeting guides say
# how often the answers are wrong.

# %%
import os
import time
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skpert import SVAEPlus
from skpert.inspection import direct_effects, guide_efficacy, responders
from skpert.plotting import DirectEffectsDisplay

warnings.formatwarning = lambda message, kind, *_: f"{kind.__name__}: {message}\n"  # no path
start = time.perf_counter()
folder = Path(os.environ.get("SKPERT_DATA", "."))  # see the list of files
adata = anndata.read_h5ad(folder / "schraivogel2020_tapseq_86guides.h5ad")


def short(guide):
    """Name of a guide without what all have in common."""
    for part in ("CROPseq_dCas9_DS_", "-P1P2", ".23"):
        guide = guide.replace(part, "")
    return guide.replace("non-targeting", "NT")


genes = adata.uns["guides"].set_index("guide")["target"].rename(index=short)
adata.obs["guide"] = adata.obs["guide"].astype(str).map(short)
adata = adata[adata.obs["guide"].isin(genes.index)].copy()  # of the others no guide is known
nulls = genes.index[genes == "control"]
print(f"{adata.n_obs} cells, {adata.n_vars} genes, {len(genes)} guides, {len(nulls)} of them NT")

# %% [markdown]
# ## The baseline: a test per gene
#
# It compares cells of one guide with those of ten non-targeting guides, gene by gene, by a
# t-test of log-normalised counts. The other twenty non-targeting guides are treated as if they
# were perturbations.

# %%
control, tested = nulls[:10], nulls[10:]
A = np.where(adata.obs["guide"].isin(control), "control", adata.obs["guide"])
counts = adata.X.toarray()
log = np.log1p(counts / counts.sum(axis=1, keepdims=True) * np.median(counts.sum(axis=1)))
table = pd.DataFrame(log, columns=adata.var_names)
mean, variance, n = (getattr(table.groupby(A), f)() for f in ("mean", "var", "size"))
error = np.sqrt(variance.div(n, axis=0) + variance.loc["control"] / n["control"])
z = (mean - mean.loc["control"]) / error.where(error > 0)
beyond = (z.loc[tested].abs() > 4).to_numpy()
expected = beyond.size * 6.3e-5  # twice the tail of a normal distribution beyond 4
print(f"non-targeting guides: {beyond.sum()} of {beyond.size} beyond 4, {expected:.1f} expected")

# %% [markdown]
# That is far more than expected. The test takes cells as independent, and they are not: cells of
# one guide may share a clone or a batch besides.
#
# ## What the model adds
#
# `SVAEPlus` is fitted to guides, so that each of them stands for itself. `sep=None` says that
# "+" in a name joins nothing. The warning is meant: the other non-targeting guides are
# perturbations here.

# %%
model = SVAEPlus(sep=None, max_epochs=30, random_state=0, verbose=0).fit(adata, A)
targets = model.targets(fdr=0.05)
moved = targets.loc[(targets != 0).any(axis=1), (targets != 0).any()]
print(moved.round(1).to_string())
print(f"non-targeting guides with a target: {moved.index.isin(tested).sum()} of {len(tested)}")

# %% [markdown]
# Guides of one target agree, though the model does not know which belong together: all four of
# HS2, of GATA1, of FAM83A and of RIPK2 move the same latent in the same direction. No
# non-targeting guide moves any.
#
# A knock-down of one gene without consequences for others often has no latent. `direct_effects`
# finds those: it predicts each gene from all the others of the same cells, and tests what is
# left. From `nulls` it learns how far guides differ that do nothing.

# %%
own = genes[genes != "control"]
found = direct_effects(model, adata, A, targets=own, nulls=list(tested))
called = found[found["called"]]
of_own = called[called["target"]]
others = called[~called["target"]]
print(f"own gene lower: {len(of_own)} of {found['target'].sum()} guides for which it is measured")
print(f"other genes: {len(others)}")
print(others[["perturbation", "gene", "log2_fold_change", "q"]].round(2).to_string(index=False))
wrong = others.loc[others["perturbation"].isin(tested), "perturbation"].nunique()
print(f"non-targeting guides with a call: {wrong} of {len(tested)}")

# %% [markdown]
# All guides of HS2 lower HBE1, and two of them HBD and HBB: the globins that this enhancer
# serves. Three guides of LRRCC1 lower E2F5, its neighbour on the chromosome. Calls of a single
# guide that its siblings do not share, such as that of STK3, are not to be believed: a
# non-targeting guide has two of the kind.

# %%
DirectEffectsDisplay.from_estimator(model, found)
plt.show()

# %% [markdown]
# ## Which guides work
#
# Where the gene is measured, `guide_efficacy` looks at its expression, else at how far cells
# move along with those of the other guides of the gene.

# %%
efficacy = guide_efficacy(model, adata, A, dict(genes))
efficacy = efficacy[efficacy["gene"] != "control"]
print(efficacy.groupby("gene")["verdict"].value_counts().unstack(fill_value=0).to_string())
columns = ["guide", "n_cells", "efficacy", "lower", "upper", "log2_fold_change", "verdict"]
print(efficacy.loc[efficacy["verdict"] == "dead", columns].round(2).to_string(index=False))

# %% [markdown]
# Three guides are dead, while siblings of theirs work. All four of MYC are weak.
#
# ## Which cells responded
#
# Within a guide that works some cells may escape. Non-targeting guides are the standard here,
# too.

# %%
shares = responders(model, adata, A, nulls=list(tested)).shares
shares["gene"] = genes.reindex(shares.index)
print(f"detected, non-targeting guides: {shares.loc[tested, 'detected'].sum()} of {len(tested)}")
columns = ["gene", "n_cells", "share", "lower", "upper", "shift"]
print(shares.loc[shares["detected"], columns].round(2).to_string())

# %% [markdown]
# Most cells of these guides respond. One row is a warning: a guide of UBR5 that is dead by the
# expression of UBR5 has responders. What these cells do is not what the guide was meant for.

# %%
names = ["skpert", "torch", "scikit-learn"]
versions = ", ".join(f"{name} {version(name)}" for name in names)
took = f"{time.perf_counter() - start:.0f} s on {date.today()}"
print(f"{took}, with Python {python_version()}, {versions}")
