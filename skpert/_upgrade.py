"""States of estimators that earlier versions wrote, as this version has them."""

import inspect

import numpy as np

RENAMED = {  # weights of the sVAE family, before format 3
    "mask_logit.": "masks.logit.",
    "penalty.": "masks.penalty.",
    "standard_error.": "masks.standard_error.",
}
FIXED = "masks.logit.rows"  # of IVAE since format 3
OF_LEARNED = {  # parameters that had masks learned unless they were these, before format 3
    "SVAE": {"sparsity": None},
    "SVAEPlus": {"sparsity": None, "bound": "practical", "pseudo_sample_size": None},
    "SAMSVAE": {"mask_prior": None},
}


def upgraded(cls, state):
    """State with the parameters and weights that ``cls`` has now; one that has them stays.

    What is not in the state has its default; ``edges`` were what other parameters said.
    """
    name, weights = cls.__name__, state.get("module_")
    if name in OF_LEARNED and "edges" not in state:
        unset = OF_LEARNED[name].items()
        called = state["init"] == "rotation" and all(state[k] == v for k, v in unset)
        state = state | {"edges": "called" if called else "learned"}
        outdated = True
    else:
        outdated = name == "IVAE" and isinstance(weights, dict) and FIXED not in weights
    if outdated and isinstance(weights, dict):
        state = state | {"module_": _renamed(name, weights, state.get("edges"))}
    if "module_" in state and "n_latent_" not in state:  # before format 4 all were in use
        state = state | {"n_latent_": state["n_latent"]}
        weights = state["module_"]
        if isinstance(weights, dict) and "masks.difference.rows" in weights:
            shape = weights["masks.logit.rows"].shape[1:]
            known = {"masks.whole": np.zeros(shape, dtype=bool)}
            known |= {"masks.stability": np.ones(shape, dtype=np.float32)}
            state["module_"] = weights | known
    if "module_" in state and "_n_asked" not in state:
        n_latent = state["n_latent"]
        state = state | {"_n_asked": None if n_latent == "auto" else n_latent}
    if name == "AdditiveEffects" and "design_" in state and "scale_" not in state:
        state = state | {"scale_": 1.0}  # before it could be learned
    if name == "SCCVAE" and "penetrance" not in state:
        state = _without_lengths(state)
    state = _without_responses(name, _reading_as_untreated(name, state))
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty} | state


def _without_lengths(state):
    """State of ``SCCVAE`` from before lengths of shifts were measured: penetrances are sums."""
    weights = state.get("module_")
    if isinstance(weights, dict):
        n_known = state["_features_of_targets"].shape[0]
        weights = weights | {"longer": np.ones(n_known, dtype=np.float32)}
        state = state | {"module_": weights}
    return state | {"penetrance": "sum"}


def _reading_as_untreated(name, state):
    """State from before cells were read under the perturbations that they may have had."""
    weights = state.get("module_")
    if name not in ("SAMSVAE", "CPAVAE") or not isinstance(weights, dict):
        return state
    return state | {"module_": {"n_known": np.array(0)} | weights}


def _without_responses(name, state):
    """State of ``InVAE`` from before responses were measured: treated cells are drawn."""
    weights = state.get("module_")
    if name not in ("InVAE", "NFIVAE") or not isinstance(weights, dict):
        return state
    n_invariant = state["n_latent"] - state.get("n_spurious", 0)
    none = {"responses.moved": np.zeros((0, 1, n_invariant), dtype=np.float32)}
    none |= {"responses.measured": np.zeros(0, dtype=bool)}
    return state | {"module_": none | weights}


def _renamed(name, weights, edges):
    if name == "SAMSVAE":  # a prior of all masks had a place where each has its own
        of_each = "masks.concentrations" in weights
        return {k: v for k, v in weights.items() if not (of_each and k == "masks.prior_logit")}
    weights = weights.copy()
    for key in list(weights):
        for old, new in RENAMED.items():
            if key.startswith(old):
                weights[new + key.removeprefix(old)] = weights.pop(key)
    for part in ("frozen", "rows"):
        embedding = weights[f"embedding.{part}"]
        if name == "IVAE":
            weights[f"masks.logit.{part}"] = np.full_like(embedding, np.inf)
        elif edges == "called":
            weights[f"masks.difference.{part}"] = embedding.copy()
    return weights
