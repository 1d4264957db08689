"""
Pathways from targets
=====================

Knock-outs of genes of one pathway have similar effects. If a model finds which latent processes
each perturbation moves, these few bits should predict the pathway of a gene. This is the test of
the SAMS-VAE paper: a random forest predicts the pathway of a perturbation from its mask.
"""

# %%
# The screen
# ----------
#
# Simulated: six pathways of ten genes. A pathway moves two or three of eight processes, each in
# one direction. A gene fails to move each of them with probability one sixth, so that a few genes
# move nothing. :func:`~skpert.datasets.make_additive_shift` simulates cells with these effects.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skpert import SAMSVAE
from skpert.datasets import make_additive_shift
from skpert.metrics import differential_expression
from skpert.plotting import PathwayTargetsDisplay

programs = np.array(
    [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, -1, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, -1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 0, 1, 0],
        [0, -1, 0, 0, 0, 0, 0, 1],
    ]
)
rng = np.random.default_rng(0)
pathway = np.repeat(np.arange(6), 10)
strength = rng.normal(2.0, 0.5, size=(60, 8)) * (rng.random((60, 8)) > 1 / 6)
screen = make_additive_shift(
    60,
    n_cells_per_perturbation=40,
    n_control_cells=600,
    n_latent=8,
    effect=programs[pathway] * strength,
    library_size=5000,
    random_state=0,
)

# %%
# The names of the genes in each pathway, as :func:`~skpert.preprocessing.read_gmt` reads them from
# the .gmt file of a collection such as Hallmark, Reactome or CORUM. In practice not all genes are
# annotated: here the pathways of a fifth are hidden until the end.

genes = pd.Series([f"pathway {'ABCDEF'[i]}" for i in pathway], index=screen.perturbations)
unknown = genes.sample(12, random_state=0)
known = genes.drop(unknown.index)
gene_sets = {name: list(members.index) for name, members in known.groupby(known)}

# %%
# Masks
# -----
#
# The model is given neither the pathways nor the number of processes.

model = SAMSVAE(n_latent=12, random_state=0).fit(screen.X, screen.A)
display = PathwayTargetsDisplay.from_estimator(model, gene_sets)
plt.show()

# %%
# From masks to pathways
# ----------------------
#
# Samples are now genes, by name. The first step of a pipeline looks up the features of a gene, the
# last is the forest of the paper; ten random splits hold out 30 % of the annotated genes. Masks
# are compared with the effects on the latents, which have direction and strength, and with
# features that need no model: the measured mean effect on the expression of each gene, and as many
# principal components of it as there are latents.


def look_up(table):
    """Step that maps names of perturbations to rows of this table."""
    return FunctionTransformer(table.loc.__getitem__)


masks = model.targets_ != 0
measured = differential_expression(screen.X, screen.A)
steps = {
    "masks": [look_up(masks)],
    "latent effects": [look_up(model.targets_)],
    "measured effects": [look_up(measured)],
    "their components": [look_up(measured), PCA(12, random_state=0)],
}
splits = ShuffleSplit(10, test_size=0.3, random_state=0)
accuracy = {}
for name, first in steps.items():
    pipeline = make_pipeline(*first, RandomForestClassifier(random_state=0))
    accuracy[name] = cross_val_score(pipeline, known.index, known, cv=splits)
    print(f"{name:>17}: {accuracy[name].mean():.1%} ± {accuracy[name].std():.1%} right")

# %%
# Measured effects are hard to beat if only a label is needed. Masks predict it nearly as well with
# a dozen bits, and show which process two pathways share; latent effects add the direction.

figure, ax = plt.subplots(figsize=(5.5, 2.8), layout="constrained")
for i, values in enumerate(accuracy.values()):
    ax.plot(np.sort(values), i + np.linspace(-0.2, 0.2, len(values)), "o", color="0.25", ms=3)
ax.barh(list(accuracy), [a.mean() for a in accuracy.values()], color="#8fb3d9", height=0.7)
ax.axvline(1 / 6, color="0.4", linestyle=":", label="guessing")
ax.set(xlim=(0, 1.02), xlabel="accuracy on held-out genes")
ax.invert_yaxis()
ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Genes without annotation
# ------------------------
#
# The application: candidate pathways for genes without annotation, with a probability to rank
# them.

forest = make_pipeline(look_up(masks), RandomForestClassifier(random_state=0))
forest.fit(known.index, known)
guesses = pd.DataFrame(
    {
        "guess": forest.predict(unknown.index),
        "probability": forest.predict_proba(unknown.index).max(axis=1).round(2),
        "truth": unknown,
    }
).sort_values("probability", ascending=False)
print(guesses.to_string())

# %%
# A screen of your own
# --------------------
#
# If perturbations are named by their genes, only the sources of the data change::
#
#     screen = skpert.datasets.load_screen("screen.h5ad")
#     model = SAMSVAE(n_latent=50).fit(screen.X, screen.A)
#     gene_sets = skpert.preprocessing.read_gmt("pathways.gmt")
#     known = pd.Series({g: name for name, members in gene_sets.items() for g in members})
#     known = known[known.index.isin(model.perturbations_)]
#
# A gene in several sets has the last one here; leave such genes out, or use a collection without
# overlap. Pathways with few perturbations cannot be learned. To use gene sets as features rather
# than labels, for example to predict effects of genes that were never perturbed,
# :class:`~skpert.preprocessing.GeneSetFeatures` makes features from the same file.
