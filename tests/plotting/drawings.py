"""Every display on data written by hand, so that pictures depend on no fit and no processor."""

import numpy as np
import pandas as pd

from skpert import plotting

PATHWAYS = ["JAK-STAT", "TGF-beta", "nucleotide excision repair", "Mediator", "ribosome 40S"]


def names(n, letter="GENE"):
    return [f"{letter}{i}" for i in range(n)]


def waves(n_rows, n_columns, step=1.0):
    """Numbers without pattern in [-1, 1], (n_rows, n_columns)."""
    place = np.arange(1, n_rows * n_columns + 1).reshape(n_rows, n_columns)
    return np.sin(place * place * 0.37 * step)


def targets(n, n_latent=8):
    """Effects: rows move two latents, and every fifth, or most of many, none."""
    rows = np.arange(n)
    values = waves(n, n_latent)
    latent = np.arange(n_latent)
    moved = (latent == (rows % 3)[:, None]) | (latent == 3 + (rows % 4)[:, None])
    silent = rows % 5 == 4 if n < 100 else rows % 4 != 0
    values = np.where(moved & ~silent[:, None], 1.5 * np.sign(values) + values, 0.0)
    index = pd.Index(names(n), name="perturbation")
    return pd.DataFrame(values, index, [f"svaeplus{i}" for i in range(n_latent)])


def edges(frame):
    """Intervals and probabilities of all effects."""
    rows = frame.rename_axis(index="perturbation", columns="latent").stack().rename("effect")
    rows = rows.reset_index()
    probability = np.where(np.arange(len(rows)) % 3 == 0, 0.7, 0.99)
    return rows.assign(
        lower=rows["effect"] - 0.4, upper=rows["effect"] + 0.6, probability=probability
    )


def pathways(n):
    return pd.Series([PATHWAYS[i % 6] if i % 6 < 5 else None for i in range(n)], names(n))


def draw_targets(n, **where):
    frame = targets(n)
    confounded = pd.DataFrame({"perturbation": ["GENE1"], "column": ["batch"]})
    programmes = {"svaeplus0": "interferon gamma response"}
    display = plotting.TargetsDisplay(frame, confounded, edges(frame))
    return display.plot(names=programmes, **where)


def draw_intervals(n, **where):
    frame = targets(n)
    return plotting.TargetsDisplay(frame, None, edges(frame)).plot(kind="intervals", **where)


def draw_pathways(n, **where):
    frame = targets(n)
    probability = (frame != 0) * 0.9 + np.abs(waves(n, 8, 2.0)) * 0.09
    return plotting.PathwayTargetsDisplay(probability, frame, pathways(n)).plot(**where)


def draw_clusters(n, **where):
    frame = pd.DataFrame(waves(n, 6) + 2 * np.eye(3, 6)[np.arange(n) % 3], names(n))
    options = {"pathways": pathways(n), "n_clusters": 3, "metric": "cosine"}
    return plotting.EmbeddingClustersDisplay(frame, **options).plot(**where)


def draw_combinations(n, **where):
    n_single = max(n // 3, 3)
    single = targets(n_single)
    pairs = [(i, (i * 7 + 1 + i // n_single) % n_single) for i in range(n - n_single)]
    combined = {
        f"GENE{min(i % n_single, j)}+GENE{max(i % n_single, j)}": k
        for k, (i, j) in enumerate(pairs)
        if i % n_single != j
    }
    values = targets(n).iloc[list(combined.values())].set_axis(list(combined))
    return plotting.CombinationTargetsDisplay(pd.concat([single, values])).plot(**where)


def draw_history(_n, **where):
    epoch = np.arange(25.0)
    phase = np.where(epoch < 8, "dense", np.where(epoch < 11, "decoder", "sparse"))
    fall = np.exp(-epoch / 5)
    jump = np.exp(-np.abs(epoch - 9))
    columns = {
        "reconstruction": 200 + 40 * fall,
        "kl_z": 4 - fall + 2 * jump,
        "validation_reconstruction": 201 + 42 * fall,
        "validation_kl_z": 4.2 - fall + 2.1 * jump,
        "validation_elbo": -205 - 40 * fall - jump,
    }
    return plotting.HistoryDisplay(pd.DataFrame({"phase": phase} | columns)).plot(**where)


def draw_evaluation(n, **where):
    metrics = ["response_mse", "delta_pearson_perturbed", "perturbation_discrimination"]
    parts = []
    for k, estimator in enumerate(["SAMS-VAE", "additive effects", "floor", "ceiling"]):
        values = 0.5 + 0.15 * waves(n, 3, 1 + k) + 0.1 * k * np.array([-1, 1, 1])
        part = pd.DataFrame(values, columns=metrics)
        parts.append(part.assign(estimator=estimator, perturbation=names(n)))
    display = plotting.EvaluationDisplay(pd.concat(parts), floor="floor", ceiling="ceiling")
    return display.plot(**where)


def draw_effects(n, **where):
    measured = pd.DataFrame(waves(n, 40) ** 5, names(n), names(40, "IL"))
    predicted = 0.6 * measured + 0.1 * waves(n, 40, 3.0)
    options = {"n_top": 10, "unit": "log1p counts per 10,000"}
    return plotting.EffectsDisplay(measured, predicted, **options).plot(
        perturbations=["GENE1", "GENE2"], **where
    )


def draw_programmes(n, **where):
    latents, sets = [f"svaeplus{i}" for i in range(6)], [f"HALLMARK_SET_{i}" for i in range(n)]
    q = 10.0 ** -(6 * np.abs(waves(6, n)) ** 3)
    table = pd.DataFrame(
        {
            "unit": np.repeat(latents, n),
            "set": sets * 6,
            "q": q.ravel(),
            "direction": np.where(waves(6, n, 2.0).ravel() > 0, "up", "down"),
            "p": q.ravel() / 2,
        }
    )
    genes = pd.DataFrame(
        {
            "latent": np.repeat(latents, 20),
            "gene": names(20, "CXCL") * 6,
            "log2_fold_change": waves(6, 20, 3.0).ravel(),
        }
    )
    return plotting.LatentProgrammesDisplay(table, genes).plot(**where)


def draw_predictive(n, **where):
    table = pd.DataFrame(
        {
            "statistic": np.repeat(["mean", "variance", "zero_fraction"], n),
            "perturbation": names(n) * 3,
            "observed": 1 + 0.3 * waves(3, n).ravel(),
            "expected": 1.0,
        }
    )
    table["lower"], table["upper"] = 0.8, 1.2
    table["q"] = np.where((table["observed"] - 1).abs() > 0.25, 0.01, 0.5)
    return plotting.PosteriorPredictiveDisplay(table).plot(**where)


def draw_interactions(n, **where):
    kinds = np.array(["synergy", "suppression", "epistasis", "emergent"])
    rows = [
        (f"GENE{i}+IL{i}", f"samsvae{k}", waves(n, 6)[i, k], (i + k) % 5 == 0 and i % 4 > 0)
        for i in range(n)
        for k in range(6)
    ]
    table = pd.DataFrame(rows, columns=["combination", "latent", "interaction", "called"])
    kind = kinds[np.arange(len(table)) % 4]
    table["kind"] = np.where(table["called"], kind, "additive")
    return plotting.InteractionsDisplay(table).plot(**where)


def draw_direct(n, **where):
    n_genes = min(n, 40)
    rows = [
        (f"GENE{i}", f"GENE{k}", 2 * waves(n, n_genes)[i, k], i == k and i % 5 < 3, i == k)
        for i in range(n)
        for k in range(n_genes)
    ]
    columns = ["perturbation", "gene", "log2_fold_change", "called", "target"]
    table = pd.DataFrame(rows, columns=columns)
    return plotting.DirectEffectsDisplay(table, targets(n)).plot(**where)


def draw_dose_response(n, *, kind="curves", **where):
    doses = np.geomspace(0.01, 100, 6)
    curves = pd.DataFrame({"perturbation": names(n, "compound "), "shape": "hill", "hill": 1.0})
    curves["latent"] = [f"samsvae{i % 4}" for i in range(n)]
    curves["q"] = np.geomspace(1e-9, 1e-3, n)
    curves["maximum"] = 2 * waves(n, 1).ravel()
    curves["ec50"] = np.geomspace(0.05, 20, n)
    curves["ec50_lower"], curves["ec50_upper"] = curves["ec50"] / 2, curves["ec50"] * 3
    points = curves.merge(pd.DataFrame({"dose": doses}), "cross")
    share = points["dose"] / (points["dose"] + points["ec50"])
    points["shift"] = points["fitted"] = points["maximum"] * share
    points["lower"], points["upper"] = points["shift"] - 0.2, points["shift"] + 0.2
    response = {"curves": curves, "doses": points}
    return plotting.DoseResponseDisplay(response).plot(kind=kind, n_panels=8, **where)


def draw_ec50(n, **where):
    return draw_dose_response(n, kind="ec50", **where)


def draw_power(_n, **where):
    sizes, cells = [0.25, 0.5, 1.0, 2.0], np.array([25, 50, 100, 250])
    parts = [
        pd.DataFrame(
            {"latent": f"l{k}", "n_cells": cells, "effect": size}
            | {"power": 1 - np.exp(-(size**2) * cells / (40 + 40 * k))}
        )
        for k in range(2)
        for size in sizes
    ]
    return plotting.PowerDisplay(pd.concat(parts)).plot(**where)


DRAWINGS = {
    "targets": draw_targets,
    "intervals": draw_intervals,
    "pathways": draw_pathways,
    "clusters": draw_clusters,
    "combinations": draw_combinations,
    "history": draw_history,
    "evaluation": draw_evaluation,
    "effects": draw_effects,
    "programmes": draw_programmes,
    "predictive": draw_predictive,
    "interactions": draw_interactions,
    "direct": draw_direct,
    "dose_response": draw_dose_response,
    "ec50": draw_ec50,
    "power": draw_power,
}
