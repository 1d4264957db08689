"""Write small files of all estimators, with what their methods return, for later versions to read.

``python -m tests.data.make_saved`` in the root of the repository replaces those of the format that
the package now writes, in ``tests/data/format_<version>``. Files of older formats stay.
"""

import inspect
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

import skpert
from skpert import CPAVAE, NFIVAE, SAMSVAE, SCCVAE, SVAE, BilinearRidge, InVAE, SVAEPlus
from skpert.persistence import FORMAT_VERSION, save
from skpert.preprocessing import (
    CovariateEncoder,
    GeneSetFeatures,
    PerturbationEncoder,
    TargetFeatures,
)

FOLDER = Path(__file__).parent
GENES = [f"G{g}" for g in range(6)]
TARGETS = ["G0", "G1", "G2"]
TABLE = pd.DataFrame(np.eye(4, 2) + 0.5, index=[*TARGETS, "G3"])
SETS = {"one": ["G0", "G1", "G4"], "two": ["G1", "G2", "G5"]}


def cells(seed=0):
    """Expression, a frame, and the design, a frame with covariates of three kinds."""
    random = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "perturbation": np.repeat(["control", *TARGETS], 8),
            "donor": ["D0", "D1"] * 16,
            "age": random.normal(size=32),
        }
    )
    X = random.poisson(3, size=(32, 6)).astype(np.float32)
    return pd.DataFrame(X, columns=GENES), obs


def small(cls, *arguments, **parameters):
    """Unfitted estimator of a size that makes a small file."""
    parameters = {
        "n_latent": 2,
        "n_hidden": 3,
        "n_layers": 1,
        "max_epochs": 2,
        "n_particles": 2,
        "random_state": 0,
    } | parameters
    known = {k: v for k, v in parameters.items() if k in cls._get_param_names()}
    return cls(*arguments, **known)


def models():
    """Every estimator with its defaults, and what else has another structure, unfitted."""
    public = [getattr(skpert, name) for name in skpert.__all__]
    classes = [c for c in public if inspect.isclass(c) and issubclass(c, BaseEstimator)]
    classes = [c for c in classes if not issubclass(c, Pipeline)]  # which holds what it is given
    found = {cls.__name__: small(cls, invariant=["perturbation"]) for cls in classes}
    graph = [[0, 1], [1, 0]]
    return found | {
        "SVAE-learned": small(SVAE, edges="learned", sparsity=2.0, environment=["donor", "age"]),
        "SVAEPlus-exact": small(
            SVAEPlus, edges="learned", bound="exact", init="random", dropout=0.1
        ),
        "SVAEPlus-normal": small(SVAEPlus, likelihood="normal", n_layers=2),
        "CPAVAE-standardised": small(CPAVAE, input_transform="log_standardize"),
        "SAMSVAE-beta": small(
            SAMSVAE,
            edges="learned",
            mask_prior=(1.0, 2.0),
            mask_posterior="beta",
            correlated_embedding=(3,),
        ),
        "SAMSVAE-bernoulli": small(
            SAMSVAE,
            edges="learned",
            mask_prior=0.1,
            reweight={"kl_scale": {"mask": 2.0}},
            correlated_basal=False,
        ),
        "SCCVAE-conditional": small(SCCVAE, graph=None, features=TABLE),
        "SCCVAE-network": small(SCCVAE, graph=graph, cyclic=True, shift_encoder="network"),
        "InVAE-factorized": small(
            InVAE, prior="factorized", invariant=["perturbation", "age"], spurious="donor"
        ),
        "BilinearRidge-genes": BilinearRidge(n_gene_components=2),
        "BilinearRidge-sets": BilinearRidge(
            FrozenEstimator(GeneSetFeatures(SETS, weight="idf").fit(GENES))
        ),
    }


def encoders():
    """Fitted encoders, with what they encode."""
    _, obs = cells()
    design = PerturbationEncoder(environment=["donor", "age"])
    covariates = CovariateEncoder(invariant=["perturbation", "age"], spurious=["donor"])
    return {
        "PerturbationEncoder": (design.fit(obs), obs),
        "CovariateEncoder": (covariates.fit(obs), obs),
        "TargetFeatures": (TargetFeatures(TABLE).fit(TARGETS), ["G3", "G0"]),
        "GeneSetFeatures": (GeneSetFeatures(SETS).fit(TARGETS), ["G4", "G1"]),
    }


def fitted():
    """Fitted estimators by name; adapted ones too."""
    X, obs = cells()
    estimators = {name: model.fit(X, obs) for name, model in models().items()}
    new = obs.assign(perturbation="G3")[:8]
    for name in ("SVAEPlus-exact", "SAMSVAE", "CPAVAE", "ConditionalVAE", "SCCVAE-conditional"):
        estimators[f"{name}-adapted"] = estimators[name].adapt(X[:8], new)
    return estimators


def answers(estimator):
    """What does not depend on random numbers, arrays by name."""
    X, obs = cells()
    if isinstance(estimator, InVAE | NFIVAE):
        posterior = estimator.posterior(X, obs)
        return {"transform": estimator.transform(X), **posterior}
    found = {"predict": estimator.predict_intervention(obs, X)}
    if not hasattr(estimator, "transform"):
        found["population"] = estimator.predict_intervention(estimator.perturbations_)
        return found
    found["transform"] = estimator.transform(X)
    for name in ("embedding_", "mask_probability_", "graph_"):
        if hasattr(estimator, name):
            found[name] = getattr(estimator, name)
    return found


def encoded(encoder, values):
    """Dense arrays that an encoder makes, by name."""
    matrix = encoder.transform(values)
    found = {"transform": matrix if isinstance(matrix, np.ndarray) else matrix.toarray()}
    if hasattr(encoder, "environments"):
        found["environments"] = encoder.environments(values)
    return found


def write(folder):
    """Files of this version, and of what they answer."""
    folder.mkdir(exist_ok=True)
    for name, estimator in fitted().items():
        save(estimator, folder / f"{name}.skpert")
        np.savez(folder / f"{name}.npz", **answers(estimator))
    for name, (encoder, values) in encoders().items():
        save(encoder, folder / f"{name}.skpert")
        np.savez(folder / f"{name}.npz", **encoded(encoder, values))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of tiny data
    write(FOLDER / f"format_{FORMAT_VERSION}")
