"""
Dose-response curves
====================

Eight compounds at eight doses: which part of the cell does each move, along what curve, and from
which dose on? Simulated cells have a truth to compare with. Six compounds saturate, along Hill
curves, and the effects of the last two are in proportion to the dose.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skpert import SAMSVAE
from skpert.datasets import make_additive_shift
from skpert.inspection import dose_response
from skpert.plotting import DoseResponseDisplay
from skpert.preprocessing import DosageTransform

random = np.random.default_rng(0)
compounds = [f"compound {j}" for j in range(1, 9)]
doses = np.geomspace(0.01, 100, 8)
ec50 = np.array([0.08, 0.3, 0.8, 2.0, 5.0, 12.0])


def response(j, dose):
    """Share of the largest effect of a compound."""
    return dose / (dose + ec50[j]) if j < len(ec50) else dose / doses[-1]


A = np.zeros((400 + 8 * 8 * 30, 8))  # 400 control cells, and 30 of each compound and dose
A[400:] = np.kron(np.eye(8), np.repeat(doses, 30)[:, None])
Z = random.normal(size=(len(A), 4))  # latent states of untreated cells
for j in range(8):
    Z[:, j % 4] += (-1) ** (j // 4) * 3 * response(j, A[:, j])
cells = make_additive_shift(1, n_cells_per_perturbation=1, n_latent=4, random_state=0)
X = random.poisson(cells.rate(Z))
A = pd.DataFrame(A, columns=compounds)

# %%
# Curves of latents
# -----------------
#
# Additive models take dosages as they are, and an effect is then in proportion to the dose. With
# doses over four decades a logarithmic scale is a better start. The latent state of a cell depends
# on its expression only, so that curves of latents can have another shape than the model assumed.

log = DosageTransform("log")
model = SAMSVAE(n_latent=4, learning_rate=0.005, max_epochs=40, random_state=0)
model.fit(X, log.fit_transform(A))
found = dose_response(model, X, A)
DoseResponseDisplay(found).plot()
plt.show()

# %%
# Estimates beside the truth
# --------------------------
#
# Each compound moves one latent, the one whose response is clearest. ``shape`` is the curve that
# fits best, and ``p_linear`` the p-value of a response in proportion to the dose.

best = found.curves.loc[found.curves.groupby("perturbation")["q"].idxmin()]
best = best.set_index("perturbation").loc[compounds]
best["true_shape"] = ["hill"] * 6 + ["linear"] * 2
best["true_ec50"] = [*ec50, np.nan, np.nan]
columns = ["true_shape", "shape", "p_linear", "true_ec50", "ec50", "ec50_lower", "ec50_upper"]
print(best[columns].to_string(float_format="{:.3g}".format))

saturating = best[best["true_shape"] == "hill"]
figure, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
ends = saturating[["ec50_lower", "ec50_upper"]].to_numpy().T
error = np.abs(ends - saturating["ec50"].to_numpy())
ax.errorbar(saturating["true_ec50"], saturating["ec50"], error, fmt="o", color="C0", markersize=4)
ax.plot([0.02, 40], [0.02, 40], color="0.6", linewidth=0.8, zorder=0)
ax.set(xscale="log", yscale="log", xlabel="true EC50", ylabel="EC50 and 95 % interval")
ax.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# A fit on Hill scales
# --------------------
#
# ``DosageTransform("hill")`` learns one curve per compound, for all latents together. A model that
# is fitted on its scale can be asked for doses that were not measured. Here are three genes under
# the first compound, beside the truth.

hill = DosageTransform("hill").fit(A, model.transform(X))
model.fit(X, hill.transform(A))
asked = pd.DataFrame(0.0, index=range(40), columns=compounds)
asked["compound 1"] = np.geomspace(0.01, 100, 40)
predicted = model.predict_intervention(hill.transform(asked), library_size=10_000)

basal = random.normal(size=(2000, 4))
shifts = 3 * response(0, asked["compound 1"].to_numpy())
truth = np.array([cells.rate(basal + [shift, 0, 0, 0]).mean(axis=0) for shift in shifts])
genes = np.argsort(-np.abs(np.log(truth[-1] / truth[0])))[:3]
figure, ax = plt.subplots(figsize=(4.8, 3.4), layout="constrained")
for i, gene in enumerate(genes):
    ax.plot(asked["compound 1"], truth[:, gene], ":", color=f"C{i}")
    ax.plot(asked["compound 1"], predicted[:, gene], color=f"C{i}", label=f"gene {gene}")
ax.set(xscale="log", xlabel="dose of compound 1", ylabel="expected counts (dotted: truth)")
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)
plt.show()
