"""The parts of class docstrings that all estimators share, written once."""

import inspect
import re

SHARED = {
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
    "shared_parameters": """control : str, default="control"
        Label of the untreated cells; its shift is pinned to zero.
    sep : str or None, default="+"
        What joins the names of a combination; None reads labels as they stand.
    perturbation : str, default="perturbation"
        Column of the labels, where the design is a DataFrame.
    environment : list of str or None, default=None
        Columns of the design that hold nuisance covariates, which enter the decoder only.
        Columns of floats are continuous, all others categories.
    layer : str or None, default=None
        Layer of an AnnData that holds the expression; None is its ``X``.
    max_epochs : int or "auto", default="@max_epochs"
        Largest number of passes over the training cells, of all phases together; "auto" takes
        as many as give 5,000 gradient steps, from 20 to 200.
    batch_size : int or "auto", default="@batch_size"
        Cells of one gradient step; "auto" takes an 80th of the training cells, rounded to a
        power of two from 64 to 512.
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
        otherwise; "auto" is a third of all.
        Only the first phase of training has a warm-up.
    validation_fraction : float, default=@validation_fraction
        Share of the cells, in [0, 1), held out of training to choose the best epoch by its
        ELBO. Every perturbation keeps a training cell; tiny data keep them all.
    patience : int or None, default=@patience
        Epochs without a better validation ELBO after which training stops; None never stops.
    n_init : int, default=@n_init
        Number of trainings, each from a seed of its own but with the same cells held out. The
        one with the best ELBO on those is kept, on the training cells if none are held out.
    n_particles : int, default=100
        Samples of the latent state per cell in ``score``.
    device : str, default="auto"
        Where to train, such as "cpu" or "cuda:0"; "auto" takes a GPU if one works.
    random_state : int, RandomState instance or None, default=None
        Seeds initial weights, minibatches and samples. An int makes results repeatable.
    verbose : int, default=0
        1 shows the progress of training on the standard error stream.""",
    "mask_attributes": """embedding_ : ndarray of shape (n_perturbations, n_latent)
        Shift of each latent by each perturbation that targets it.
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
