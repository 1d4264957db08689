"""Inputs that generation found to be answered wrongly, each once; they are right now."""

from .estimators import Use
from .functions import Call
from .screens import Screen

PLAIN = Screen(cells=12, genes=4, values="counts", names="plain", control=True, seed=0)
EMPTY = PLAIN._replace(values="nothing at all")
ASTRONOMIC = PLAIN._replace(values="astronomic")

USES = {
    "nothing stored": Use("SVAEPlus", EMPTY, {}, "fit", "dia matrix"),
    "nothing stored in transform": Use("InVAE", EMPTY, {}, "transform", "csr bool"),
    "duplicates": Use("SAMSVAE", PLAIN, {}, "adapt", "csr duplicates", plainly=True),
    "negative strides": Use("InVAE", PLAIN, {}, "score", "backwards"),
    "beyond float32": Use("ControlMean", PLAIN, {}, fault=("X", "beyond float32")),
    "gene twice": Use("PerturbedMean", PLAIN, {}, fault=("X", "adata gene twice")),
    "masked": Use("VAE", PLAIN, {}, "transform", fault=("X", "masked")),
    "index beyond": Use("AdditiveEffects", PLAIN, {}, "score", fault=("X", "index beyond")),
    "pointers": Use("NFIVAE", PLAIN, {}, "refine", fault=("X", "pointers that decrease")),
    "other cells": Use("SAMSVAE", PLAIN, {}, "score_cells", fault=("pair", "other cells")),
    "repeated cells": Use("CPAVAE", PLAIN, {}, "refine", fault=("pair", "repeated cells")),
    "masked label": Use("BilinearRidge", PLAIN, {}, fault=("A", "masked label")),
    "labels twice": Use("CPAVAE", PLAIN, {}, fault=("A", "labels twice")),
    "tuple of labels": Use("IVAE", PLAIN, {}, "score", "array", "tuple"),
    "column None": Use("PerturbedMean", PLAIN, {}, fault=("parameter", ("perturbation", None))),
    "values that no float32 can hold": Use("NFIVAE", ASTRONOMIC, {}),
    "too large a step": Use("CPAVAE", PLAIN._replace(genes=1), {"learning_rate": 1e3}, "score"),
    "state without a rate": Use(
        "InVAE",
        Screen(30, 4, "the same in all cells", "plain", True, 491),
        {"learning_rate": 1e3},
        "sample_intervention",
        "adata raw",
    ),
}
CALLS = {
    "column of a mapping": Call("kbet", 12, 4, "counts", "one", fault=("A", "dict among labels")),
    "names in a list": Call(
        "kmeans_agreement", 12, 4, "counts", "one", fault=("A", "label in a list")
    ),
    "masked name": Call("silhouette_label", 12, 4, "counts", "plain", fault=("A", "masked label")),
    "masked cells": Call("graph_connectivity", 12, 4, "counts", "plain", fault=("X", "masked")),
    "masked nodes": Call("causal_graph", 12, 4, "counts", "plain", fault=("X", "masked")),
    "squares": Call("delta_pearson", 12, 4, "counts", "plain", fault=("X", "beyond float32")),
    "eigenvectors": Call("TargetFeatures", 12, 4, "counts", "one", fault=("X", "beyond float32")),
    "exponent": Call("de_table", 12, 4, "deep counts", "plain", seed=1),
    "logarithm below zero": Call("de_table", 30, 4, "centred", "like numbers", seed=178),
    "no mean of nothing": Call("delta_pearson", 3, 1, "constant", "plain"),
    "cells without controls": Call("evaluate_perturbations", 5, 4, "log-normalised", "plain"),
}
