"""The parameters that all estimators share: what they may be, and what docstrings say of them."""

import inspect
import os
import re
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from .nn import LIKELIHOODS

REAL_VALUED = {name for name, head in LIKELIHOODS.items() if not head.counts}
CONSTRAINTS = {
    "n_latent": [Interval(Integral, 1, None, closed="left")],
    "n_hidden": [Interval(Integral, 1, None, closed="left")],
    "n_layers": [Interval(Integral, 1, None, closed="left")],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "batch_norm": ["boolean"],
    "likelihood": [StrOptions(set(LIKELIHOODS))],
    "control": [object],
    "sep": [str, None],
    "perturbation": [str],
    "environment": [str, list, tuple, np.ndarray, None],
    "layer": [str, None],
    "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
    "batch_size": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
    "learning_rate": [Interval(Real, 0, None, closed="neither")],
    "schedule": [StrOptions({"one_cycle", "constant"})],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "adam_epsilon": [Interval(Real, 0, None, closed="neither")],
    "max_gradient_norm": [Interval(Real, 0, None, closed="neither"), None],
    "n_epochs_kl_warmup": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "patience": [Interval(Integral, 1, None, closed="left"), None],
    "n_init": [Interval(Integral, 1, None, closed="left")],
    "n_particles": [Interval(Integral, 1, None, closed="left")],
    "device": [str],
    "memory": [StrOptions({"auto", "load", "stream"})],
    "checkpoint": [str, os.PathLike, None],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose", StrOptions({"auto"})],
}

N_LATENT = {"n_latent": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})]}

SHARED = {
    "n_latent_found": """n_latent : int or "auto", default="@n_latent"
        Dimension of the latent space. "auto" begins with 32 latents, or as many as genes, and
        keeps those that are no functions of the others (``skpert.sparsity.dimension``), which
        takes a training of some hundred steps: a shorter one finds too few. Where axes are found
        by rotation, a number is the most that are kept, and latents that are not found in the
        data stay empty, zero for every cell; elsewhere all are used.""",
    "n_latent": """n_latent : int, default=@n_latent
        Dimension of the latent space.""",
    "network_parameters": """n_hidden : int, default=@n_hidden
        Width of the hidden layers of encoder and decoder.
    n_layers : int, default=@n_layers
        Number of hidden layers of encoder and of decoder.
    dropout : float, default=@dropout
        Dropout rate of the encoder, in [0, 1).
    batch_norm : bool, default=@batch_norm
        Whether hidden layers have batch normalisation.
    likelihood : {"negative_binomial", "poisson", "zero_inflated_negative_binomial", "normal", \
            "heteroscedastic_normal"}, default="@likelihood"
        Distribution of expression given the latent state. The normal ones are for real values,
        such as log-normalised expression; their variances belong to genes, or follow from the
        latent state, too.""",
    "objective_parameters": """objective : {"elbo", "monte_carlo", "iwelbo"}, default="@objective"
        What is maximised: the ELBO with KL terms in closed form, with all of them estimated at
        the samples, as published, or the importance-weighted ELBO over ``n_train_particles``.
    n_train_particles : int, default=@n_train_particles
        Samples of the latent variables per cell and step of training; 5 as published.
    input_transform : {"auto", "log", "standardize", "log_standardize"} or None, \
            default="@input_transform"
        What the encoder reads: log(1 + counts), the values less the mean over training cells
        in units of their standard deviation, both, or the values as they are. "auto" is "log"
        for counts and None for real values.""",
    "embedding_parameters": """embedding_scale : float, default=@embedding_scale
        Standard deviation of the prior of embeddings, in those of a basal state.
    correlated_basal : bool, default=@correlated_basal
        Whether the encoder reads the effects of a cell's perturbations beside its expression.
        Without, it infers the basal state, which is then also what ``transform`` gives.""",
    "edges": """edges : {"called", "learned"}, default="called"
        How masks are found. "called" trains with effects on the axes on which they are sparse,
        and calls edges afterwards, by an empirical-null test of mean latent states that needs no
        prior (``skpert.sparsity.edges``). "learned" trains masks under their prior.""",
    "interactions": """interactions : bool, default=False
        Whether combinations may do something else than the sum of their parts. Sums are then
        multiplied by a scale that is common to all combinations of so many parts, unseen ones
        too, and each combination of at least 5 training cells, whose parts were all measured
        alone, has a sparse effect of its own on top, called like edges
        (:func:`skpert.inspection.interactions`). It needs ``edges="called"``.""",
    "init": """init : {"rotation", "random"}, default="rotation"
        "rotation" trains without sparsity for three tenths of the epochs, solves for the rotation
        of the latent space in which effects are sparse, and goes on from there. "random" begins
        with random weights and masks to be learned, as published, and needs several times as
        long.""",
    "escape": """escape : bool, default=False
        Whether cells may escape their perturbation: some share of them, found for each
        perturbation, has the prior of control cells. Effects, and predictions, are then those of
        cells that responded, in place of a mean over all; ``sample_intervention`` draws both.""",
    "prior_parameters": """hide : float, default=@hide
        Share of training cells whose covariates are hidden from the encoder at each step, in
        [0, 1). What ``transform`` gives, which never sees covariates, is learned from these. From
        a tenth of all cells they are hidden altogether, so that priors know such cells, too.
    thinning : float, default=@thinning
        Largest share of the counts of a training cell that are kept from the encoder, in [0, 1);
        the share is drawn anew for each cell and step, uniformly between 0 and this. An encoder
        that reads shallow cells goes by what many genes have in common. Of each cell at least 100
        counts are read, if it has as many. No effect on values that are no counts.
    score_regularization : float, default=@score_regularization
        Weight of the squared curvatures in score matching.
    n_prior_layers : int, default=@n_prior_layers
        Number of hidden layers of the networks from covariates to priors.""",
    "whiten": """whiten : bool, default=@whiten
        Whether latents are shown in units of their spread within conditions: around what is linear
        in the covariates of a block, its latents are then uncorrelated and have unit variance.
        Otherwise they have the scales that training happened to give them.""",
    "shared_parameters": """control : str, default="control"
        Label of the untreated cells; its shift is pinned to zero.
    sep : str or None, default="+"
        What joins the names of a combination; None reads labels as they stand.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    environment : str, list of str or None, default=None
        Columns of the design that hold nuisance covariates, which enter the decoder only.
        Columns of floats are continuous, all others categories. A donor or cell line that is to
        be predicted from its control cells alone should not be one: the decoder would attribute
        to the others what perturbations do there.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.
    max_epochs : int or "auto", default="@max_epochs"
        Largest number of passes over the training cells, of all phases together; "auto" takes
        as many as give 5,000 gradient steps, from 20 to 200. On a GPU with larger minibatches
        these are 2,500, of at most 400 epochs.
    batch_size : int or "auto", default="@batch_size"
        Cells of one gradient step; "auto" takes an 80th of the training cells, rounded to a
        power of two from 64 to 512. On a GPU it takes four times as many, up to an 8th of the
        cells, and doubles the learning rate; ``learning_rate`` is that of the smaller ones.
    learning_rate : float, default=@learning_rate
        Learning rate of Adam, the peak of it for ``schedule="one_cycle"``.
    schedule : {"one_cycle", "constant"}, default="@schedule"
        Course of the learning rate over a phase of training.
    weight_decay : float, default=@weight_decay
        L2 penalty on the weights of the networks.
    adam_epsilon : float, default=@adam_epsilon
        Term of Adam that is added to the root of the mean squared gradient.
    max_gradient_norm : float or None, default=@max_gradient_norm
        Norm to which the gradient of all parameters together is scaled down where it is larger;
        None leaves it.
    n_epochs_kl_warmup : int or "auto", default="@n_epochs_kl_warmup"
        Epochs over which the weight of the KL terms goes to 1, from 0 if the notes do not say
        otherwise; "auto" is a third of the first phase of training, the only one with a
        warm-up; if others follow, and for 12,000 cells or more, all of it, but where axes are
        found at most until 400,000 cells were seen.
    validation_fraction : float, default=@validation_fraction
        Share of the cells, in [0, 1), held out of training to choose the best epoch by its
        ELBO. Every perturbation keeps a training cell; tiny data keep them all.
    patience : int or None, default=@patience
        Epochs without a better validation ELBO after which training stops; None never stops.
    n_init : int, default=@n_init
        Number of trainings, each from a seed of its own but with the same cells held out. The
        one with the best ELBO on those is kept, on the training cells if none are held out;
        ``InVAE`` keeps the one with the best total of ``metrics.integration_scores``.
    n_particles : int, default=100
        Samples of the latent state per cell in ``score``.
    device : str, default="auto"
        Where to train, such as "cpu" or "cuda:0"; "auto" takes a GPU if one works.
    memory : {"auto", "load", "stream"}, default="auto"
        What is done with expression on disk, such as an AnnData with ``backed="r"``. "load" reads
        it into memory, "stream" reads blocks of cells whenever they are needed, and "auto" loads
        what fits into half of the memory that is free; the log ("skpert", level INFO) says which.
    checkpoint : str, path-like or None, default=None
        Folder in which a training that takes longer than a minute writes where it stands. A
        training that was killed goes on from there when ``fit`` is called again with the same
        parameters and data, and ends as if nothing had happened; then its file is removed. Fits
        of different data or parameters have different files, so that a search may share a folder.
        It needs a ``random_state``, by which fits to the same data are distinguished. Files are
        pickles: name no folder that others can write to.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the fit before, of the same genes and
        perturbations, for ``max_epochs`` more, rather than from random ones.
    random_state : int, RandomState instance or None, default=None
        Seeds initial weights, minibatches and samples. An int makes results repeatable.
    verbose : int or "auto", default="auto"
        "auto" shows in a terminal or in Jupyter how far a fit that takes longer than some seconds
        is, in one line on the standard error stream, and is silent elsewhere: in a log, in a
        search and in workers. 0 is always silent; 1 also writes a first and a last line there.""",
    "mask_attributes": """embedding_ : ndarray of shape (n_perturbations, n_latent)
        Shift of each latent by each perturbation that targets it.
    standard_error_ : ndarray of shape (n_perturbations, n_latent)
        Sampling error of ``embedding_`` if edges are called; scale of its posterior in ``SAMSVAE``
        if they are learned. Learned masks of ``SVAE`` and ``SVAEPlus`` have none.
    mask_probability_ : ndarray of shape (n_perturbations, n_latent)
        Probability that a perturbation targets a latent, in [0, 1].
    mask_ : ndarray of bool of shape (n_perturbations, n_latent)
        Where that probability is above 0.5.
    targets_ : DataFrame of shape (n_perturbations, n_latent)
        ``mask_ * embedding_`` with names.""",
    "shared_attributes": """perturbations_ : ndarray of shape (n_perturbations,)
        Sorted names, without the control; for a dosage matrix in the order of its columns.
    design_ : PerturbationEncoder
        The fitted encoder of the design.
    history_ : DataFrame
        A row per epoch: ``phase``, the mean of each term of the loss as optimised, nats per
        cell, and ``validation_*``, the same and the ELBO on the cells held out.
    n_latent_ : int
        Number of latents in use.
    n_iter_ : int
        Number of epochs run.
    n_features_in_ : int
        Number of genes.
    feature_names_in_ : ndarray of shape (n_genes,)
        Names of genes, where X has names.
    module_ : torch.nn.Module
        The trained networks.""",
}


def with_shared_parameters(cls):
    """Complete a class docstring with the parameters and attributes that estimators share.

    ``{name}`` is replaced by the text ``SHARED[name]``, in which ``@parameter`` stands for the
    parameter's default in this class.
    """
    defaults = {
        name: str(parameter.default)
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
    }
    for name, text in SHARED.items():
        if f"{{{name}}}" not in cls.__doc__:
            continue
        text = re.sub(r"@(\w+)", lambda match: defaults[match[1]], text)
        cls.__doc__ = cls.__doc__.replace(f"{{{name}}}", text)
    return cls
