"""The settings of the papers, as estimators."""

from typing import Any

from ._input.values import listed
from .models.invae import NFIVAE, InVAE
from .models.sams import CPAVAE, SAMSVAE, ConditionalVAE
from .models.sccvae import SCCVAE
from .models.svae import IVAE, SVAE, VAE, BetaVAE, SVAEPlus

OF_SVAE = {  # Lopez et al. 2023, appendix C and the released scripts
    "n_hidden": 128,
    "n_layers": 2,
    "dropout": 0.1,
    "batch_size": 128,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "weight_decay": 1e-6,
    "adam_epsilon": 0.01,
    "validation_fraction": 0.1,
    "patience": 45,
}
SVAE_EXPERIMENTS = {
    "simulation": {"n_latent": 15, "max_epochs": 300, "n_epochs_kl_warmup": 50},
    "norman": {"n_latent": 50, "max_epochs": 300, "n_epochs_kl_warmup": 50},
    "replogle": {"n_latent": 50, "max_epochs": 100, "n_epochs_kl_warmup": 10},
}
OF_SAMS = {  # Bereket and Karaletsos 2023, the released configurations
    "n_hidden": 400,
    "n_layers": 1,
    "dropout": 0.0,
    "batch_norm": False,
    "objective": "monte_carlo",
    "n_train_particles": 5,
    "input_transform": "log_standardize",
    "batch_size": 512,
    "learning_rate": 3e-4,
    "schedule": "constant",
    "weight_decay": 1e-6,
    "n_epochs_kl_warmup": 0,
    "validation_fraction": 0.2,
    "patience": None,
}
SAMS_EXPERIMENTS = {  # epochs are 150,000 and 30,000 steps over the paper's training cells
    "replogle": {"n_latent": 100, "max_epochs": 1007, "max_gradient_norm": None},
    "norman": {"n_latent": 200, "max_epochs": 215, "max_gradient_norm": 100.0},
}
OF_INVAE = {  # Aliee et al. 2023, the defaults and the README of the released code
    "n_latent": 10,
    "n_hidden": 128,
    "n_layers": 2,
    "n_prior_layers": 1,
    "dropout": 0.1,
    "hide": 0.0,
    "thinning": 0.0,
    "whiten": False,
    "batch_size": 256,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "weight_decay": 1e-4,
    "n_epochs_kl_warmup": 0,
    "max_epochs": 500,
    "validation_fraction": 0.0,
}
OF_SCCVAE = {  # Liu, Zhang and Uhler 2025, the released training script
    "n_latent": 512,
    "n_hidden": 1024,
    "n_layers": 2,
    "dropout": 0.0,
    "batch_norm": False,
    "shift_encoder": "network",
    "n_components": 50,
    "objective": "published",
    "mmd_weight": 10.0,
    "refit_penetrance": False,
    "penetrance": "sum",
    "batch_size": 32,
    "learning_rate": 5e-4,
    "schedule": "constant",
    "weight_decay": 1e-6,
    "adam_epsilon": 0.01,
    "max_gradient_norm": 1.0,
    "max_epochs": 100,
    "n_epochs_kl_warmup": 100,
}
LEARNED = {"edges": "learned", "init": "random"}
ADDITIVE = {"embedding_scale": 1.0, "correlated_basal": True}
OWN = {  # what a model adds to the settings of its paper
    VAE: {},
    BetaVAE: {"beta": 10.0},
    IVAE: {},
    SVAE: LEARNED | {"sparsity": 10.0, "norm": "mean"},
    # The released loss of sVAE+ is that of all cells together, for which epsilon is nothing.
    SVAEPlus: LEARNED | {"sparsity": None, "bound": "practical", "adam_epsilon": 1e-8},
    ConditionalVAE: {},
    CPAVAE: ADDITIVE,
    SAMSVAE: LEARNED | ADDITIVE,
    InVAE: {"n_spurious": 1, "total_correlation": 0.0, "conditioning": "none"},
    NFIVAE: {},
    SCCVAE: {"graph": "learned"},
}
SAMS_MASKS = {
    "replogle": {"mask_prior": 0.001, "correlated_embedding": (200, 200)},
    "norman": {"mask_prior": 0.01, "correlated_embedding": (400, 400, 400, 400)},
}
PAPERS = {
    (VAE, BetaVAE, IVAE, SVAE, SVAEPlus): (OF_SVAE, SVAE_EXPERIMENTS),
    (ConditionalVAE, CPAVAE, SAMSVAE): (OF_SAMS, SAMS_EXPERIMENTS),
    (InVAE, NFIVAE): (OF_INVAE, {"integration": {}}),
    (SCCVAE,): (OF_SCCVAE, {"replogle": {}}),
}


def published(model, experiment: str | None = None) -> Any:
    """Estimator with the settings of its paper, where the defaults are those that work best.

    Parameters
    ----------
    model : class
        One of the eleven models, such as ``SVAEPlus``. The baselines of a paper have the settings
        of that paper.
    experiment : str or None, default=None
        Which experiment of the paper; None is the first. The sVAE+ paper has "simulation",
        "norman" and "replogle", the SAMS-VAE paper "replogle" and "norman", the inVAE paper
        "integration", and the SCCVAE paper "replogle".

    Returns
    -------
    estimator : estimator
        Unfitted. Columns of the design, features of targets, the device and the seed are to be
        set with ``set_params``.

    Raises
    ------
    ValueError
        If ``model`` is no class of a paper, or its paper has no such experiment.

    Notes
    -----
    What still differs from the released programs: networks have ReLUs for leaky ones, and masks,
    embeddings, shifts and dispersions learn at rates of their own and do not decay. The gradient
    clipping of SCCVAE is that of all parameters together, where theirs is of each. SAMS-VAE's
    numbers of epochs are its numbers of steps on the screens of the paper. Hidden layers of the
    priors of inVAE have 64 units, where theirs have 128. The penalty of sVAE is
    the mean edge probability, as released; ``norm="sum"`` is the L1 norm as printed.

    References
    ----------
    .. [1] Lopez et al., Learning causal representations of single cells via sparse mechanism
       shift modeling, CLeaR 2023, appendix C.
    .. [2] Bereket and Karaletsos, Modelling cellular perturbations with the sparse additive
       mechanism shift variational autoencoder, NeurIPS 2023.
    .. [3] Aliee, Kapl, Hediyeh-Zadeh and Theis, Conditionally invariant representation learning
       for disentangling cellular heterogeneity, 2023, arXiv 2307.00558.
    .. [4] Liu, Zhang and Uhler, Learning genetic perturbation effects with variational causal
       inference, bioRxiv 2025.06.05.657988.

    Examples
    --------
    >>> from skpert import SAMSVAE, published
    >>> model = published(SAMSVAE, "norman")
    >>> model.mask_prior, model.max_gradient_norm, model.batch_norm
    (0.01, 100.0, False)
    """
    found = [paper for models, paper in PAPERS.items() if model in models]
    if not found:
        names = [known.__name__ for models in PAPERS for known in models]
        raise ValueError(f"model must be one of {listed(names, 11)}, got {model!r}")
    [(settings, experiments)] = found
    experiment = next(iter(experiments)) if experiment is None else experiment
    if experiment not in list(experiments):
        raise ValueError(
            f"the paper of {model.__name__} has the experiments "
            f"{listed(list(experiments), 5)}, got {experiment!r}"
        )
    masks = SAMS_MASKS[experiment] if model is SAMSVAE else {}
    return model(**settings | experiments[experiment] | OWN[model] | masks)
