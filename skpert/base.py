"""The border between scikit-learn (arrays, labels, parameters) and torch (modules)."""

import logging
import math
import warnings
from abc import ABC, abstractmethod
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Bunch, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ._data import Cells, SparseRows, split
from ._docstrings import with_shared_parameters as with_shared_parameters
from ._input.expression import check_same_cells, with_cell_names
from ._input.transaction import all_or_nothing
from ._input.values import check_weights, is_positive_integer, listed
from ._monitor import CallbackSupportMixin, Monitor, with_callbacks
from ._scoring import evidence
from ._training import (
    N_STEPS,
    budget,
    check_predictions,
    is_worse,
    judged,
    mean_elbo,
    seeded,
    set_seed,
    suitable_threads,
    train,
)
from ._weights import fill
from .edges import edges_at_fdr
from .exceptions import SamplingWarning, TrainingWarning, warn_of_data
from .nn import LIKELIHOODS
from .preprocessing import PerturbationEncoder, check_cells

REAL_VALUED = {name for name, head in LIKELIHOODS.items() if not head.counts}
logger = logging.getLogger("skpert")

ENCODE_SIZE = 4096  # cells that are encoded at once
N_BASAL = 1000  # basal states over which a predicted response is averaged
LARGEST = 1e15  # library size, of which counts can be drawn and responses be summed
N_CHOOSING = 10  # particles at most that score a training when the best of several is kept
FEW_PARTICLES = 5  # below which, in effect, a score is too low by more than a tenth of a nat
SMALL_SHARE = 0.1  # of those asked for: a handful of them may have been asked for on purpose


class PerturbationVAE(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC
):
    """Base of all models; a subclass adds ``__init__`` and ``_make_module``.

    The module that ``_make_module`` returns keeps the protocol
    ``skpert._training.PerturbationModule``; nothing else of it is used here.
    """

    _parameter_constraints = {
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "n_hidden": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "control": [object],
        "sep": [str, None],
        "perturbation": [str],
        "environment": ["array-like", None],
        "layer": [str, None],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "schedule": [StrOptions({"one_cycle", "constant"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "n_epochs_kl_warmup": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "n_particles": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _n_steps = N_STEPS  # of a training of automatic length
    _additive = True  # whether the effect of a combination is the sum of its parts'

    @abstractmethod
    def _make_module(self, cells):
        """Return the untrained module for these training cells."""

    def _make_design(self):
        """Return the unfitted encoder of the design."""
        return PerturbationEncoder(
            control=self.control,
            sep=self.sep,
            perturbation=self.perturbation,
            environment=self.environment,
            additive=self._additive,
        )

    def _prepare(self, cells):
        """Learn from the training cells what ``_make_module`` needs; most models need nothing."""

    def _reaching(self, A):
        """Return the estimator that answers for A: one that knows more, if it can, than this."""
        return self

    def _store(self, arguments):
        """Keep the constructor's arguments, its ``locals()``, under their own names."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    @property
    def _counts(self):
        return self.likelihood not in REAL_VALUED

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y):
        """Train on expression and design.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression: raw counts, or real values with a normal likelihood.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A: a label per cell, dosages (a row of zeros is a control cell), or a
            frame with a column of labels such as ``adata.obs``. Pass it by position.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds negative counts, NaN or infinity, if A is missing, of another length,
            with missing labels or negative dosages, names a single condition, or has a column
            of a perturbation that no cell received; or if training gives nothing but numbers
            that are not finite.

        Warns
        -----
        TrainingWarning
            If training was cut short by such numbers or by Ctrl-C, or if it made the model
            worse than it was before, by the ELBO of training cells.
        """
        self._validate_params()
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: "
                "give the design A as second argument, fit(X, A)"
            )
        design = self._make_design().fit(y)
        unseen = design.perturbations_[design.n_cells_ == 0]
        if len(unseen):
            raise ValueError(
                f"A has columns of perturbations that no cell received: {listed(unseen, 10)}. "
                "Nothing can be learned of them: leave them out, and learn them later with adapt"
            )
        values = self._expression(X, y, reset=True)
        cells = _cells(values, design, y)
        device = _device(self.device)
        random = check_random_state(self.random_state)
        self._seed, *restarts = (int(random.randint(2**31 - 1)) for _ in range(self.n_init))
        vars(self).pop("module_", None)  # it does not fit the new design
        self.design_, self.perturbations_ = design, design.perturbations_
        self._population = _population(cells, np.random.default_rng(self._seed))
        with seeded(self._seed, device), _without_overflow():
            training, validation = split(cells, self.validation_fraction, device)
            self._n_training_cells = training.n_cells
            self._prepare(training)
            n_epochs, batch_size, _ = self._budget(training.n_cells)
            monitor = Monitor(self, X, y, n_epochs)
            with suitable_threads(batch_size * training.n_genes):
                module, history = self._best_of([None, *restarts], training, validation, monitor)
            monitor.close()
        return self._keep(module, history, "fit")

    def _best_of(self, seeds, cells, validation, monitor):
        """Module and history of the best of several trainings; seed None goes on from here.

        A training that breaks down, or is interrupted, does not take the others with it.
        """
        kept, best = None, -math.inf  # module, history, and ELBO before and after
        for number, seed in enumerate(seeds, 1):
            if seed is not None:
                set_seed(seed, cells.dosage.device)
            try:
                module = self._make_module(cells).to(cells.dosage.device)
                monitor.begin({"module_": module, "n_iter_": 1})
                result = self._trained(module, cells, validation, monitor)
                kept = kept or (module, *result)
                if len(seeds) > 1:
                    elbo = self._elbo(module, cells if validation is None else validation)
                    if elbo > best:
                        kept, best = (module, *result), elbo
            except (KeyboardInterrupt, FloatingPointError, torch.linalg.LinAlgError) as reason:
                interrupted = isinstance(reason, KeyboardInterrupt)
                if kept is None and (interrupted or number == len(seeds)):
                    raise
                message = f"training {number} of {len(seeds)} is left out: "
                message += str(reason) or "interrupted"
                warnings.warn(message, TrainingWarning, stacklevel=2)
                monitor.stopped |= interrupted
            if monitor.stopped:
                break
        module, history, *elbo = kept
        _warn_if_worse(*elbo)
        return module, history

    def _trained(self, module, cells, validation=None, monitor=None, *, warm=False):
        """Optimise; return the history and the ELBO of some training cells before and after."""
        some, history = judged(cells), []
        before = mean_elbo(module, some)
        if module.parameter_groups():
            history = self._optimise(module, cells, validation, monitor, warm=warm)
        after = mean_elbo(module, some)
        check_predictions(module, some)
        return history, before, after

    def _elbo(self, module, cells):
        """Mean IWELBO with a few particles, the same noise for every module."""
        n_particles = min(self.n_particles, N_CHOOSING)
        with seeded(self._seed, cells.dosage.device), torch.no_grad():
            scores = evidence(module, cells, n_particles, cells.dosage.device).log_evidence
        return float(scores.mean())

    def _budget(self, n_cells):
        """Epochs, minibatch size and warm-up; what is "auto" follows the number of cells."""
        chosen = self.max_epochs, self.batch_size, self.n_epochs_kl_warmup
        return budget(n_cells, *chosen, n_steps=self._n_steps)

    def _optimise(
        self,
        module,
        cells,
        validation=None,
        monitor=None,
        *,
        warm=False,
        max_epochs=None,
        minibatches=None,
    ):
        """Fit the module and return the history; models of several phases override this."""
        n_epochs, batch_size, n_epochs_kl_warmup = self._budget(cells.n_cells)
        with suitable_threads(batch_size * cells.n_genes):
            return train(
                module,
                cells,
                validation=validation,
                max_epochs=n_epochs if max_epochs is None else max_epochs,
                batch_size=batch_size,
                learning_rate=self.learning_rate,
                schedule=self.schedule,
                weight_decay=self.weight_decay,
                n_epochs_kl_warmup=0 if warm else n_epochs_kl_warmup,
                patience=self.patience,
                minibatches=minibatches,
                on_epoch=monitor,
            )

    def _keep(self, module, history, phase):
        self.module_ = module
        rows = [{"phase": phase} | row for row in history]
        self.history_ = pd.DataFrame(rows, columns=None if rows else ["phase"])
        self.n_iter_ = len(history)
        return self

    def adapt(self, X, A):
        """Learn perturbations never trained on, with all else kept as it is.

        Encoder and decoder are frozen; the new perturbations get rows of their own after the
        known ones, whose values do not change by a bit.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Cells of the new perturbations.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design, in any form that ``fit`` takes. Control cells change nothing.

        Returns
        -------
        adapted : estimator
            A new fitted estimator; this one stays as it is.

        Raises
        ------
        ValueError
            If a perturbation is known already, or X or A are not as ``fit`` wants them.
        """
        check_is_fitted(self)
        return self._adapted(X, A, self.module_.extended)

    def _adapted(self, X, A, extend):
        values = self._expression(X, A)
        design = self.design_.extended(A)
        cells = _cells(values, design, A)
        n_new = len(design.perturbations_) - len(self.perturbations_)
        with seeded(self._seed, self._device), _without_overflow():
            treated = (cells.dosage > 0).any(1).nonzero()[:, 0]
            cells = cells.subset(treated).to(self._device)
            module = extend(cells, n_new)
            history, *elbo = self._trained(module, cells, warm=True)
        _warn_if_worse(*elbo)
        adapted = self._copy()
        adapted.design_, adapted.perturbations_ = design, design.perturbations_
        return adapted._keep(module, history, "adapt")

    def refine(self, X, A):
        """Train on with the discrete structure fixed, as step 2 of the published protocol does.

        Masks are set to ``mask_`` and their prior is dropped; everything else is trained again
        from where it stands.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Training cells.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design.

        Returns
        -------
        refined : estimator
            A new fitted estimator; this one stays as it is.
        """
        cells = self._check(X, A)
        if cells.n_cells < 2:
            raise ValueError(f"refine needs at least 2 cells to train on, got {cells.n_cells}")
        with seeded(self._seed, self._device), _without_overflow():
            training, validation = split(cells, self.validation_fraction, self._device)
            module = self.module_.refined()
            history, *elbo = self._trained(module, training, validation, warm=True)
        _warn_if_worse(*elbo)
        return self._copy()._keep(module, history, "refine")

    def _copy(self):
        """Another estimator with the same attributes, none of which is changed in place."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def transform(self, X):
        """Latent state of each cell: posterior mean, from its expression only.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression of the genes seen in ``fit``.

        Returns
        -------
        Z : ndarray of shape (n_cells, n_latent)
            Latent states, float32.
        """
        return with_cell_names(self, self._encoded(X), X)

    def _encoded(self, X):
        """Posterior means of all latents, (n_cells, n_latent)."""
        check_is_fitted(self)
        X = self._expression(X)
        Z = np.empty((X.shape[0], self.n_latent), dtype=np.float32)
        x = Cells.rows(X)
        with self._inference():
            for index in torch.arange(len(Z)).split(ENCODE_SIZE):
                Z[index] = self.module_.encode(x.index_select(0, index).to(self._device)).cpu()
        return Z

    def posterior(self, X, A=None):
        """Latent states with what is known of each cell's perturbation.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame, \
                default=None
            Design; None reads all cells as untreated.

        Returns
        -------
        posterior : Bunch of ndarrays of shape (n_cells, n_latent)
            ``z``, the mean of the latent state, ``scale``, its standard deviation, and
            ``z_basal``, the mean of the state the cell would have untreated.
        """
        check_is_fitted(self)
        X = self._expression(X, A)
        dosage = csr_array((X.shape[0], len(self.perturbations_)), dtype=np.float32)
        cells = Cells.from_arrays(X, dosage, np.empty((X.shape[0], 0)))
        model = self if A is None else self._reaching(A)
        if A is not None:
            cells = _cells(X, model.design_, A)
        parts = []
        with self._inference():
            for batch in cells.minibatches(ENCODE_SIZE, shuffle=False):
                parts.append(model.module_.posterior(batch.to(self._device)))
        return Bunch(**{k: torch.cat([part[k] for part in parts]).cpu().numpy() for k in parts[0]})

    def score_cells(self, X, A, *, n_particles=None, return_std=False):
        """Importance-weighted ELBO of each cell, nats; higher is better.

        A cell's score depends on the cell and the model alone, not on the cells beside it: the
        noise is the same for all cells, and for all models with as many latents.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Design, of known perturbations.
        n_particles : int or None, default=None
            Samples of the latent state per cell; None is the constructor's. The value rises
            with it, in expectation, towards log p(x | a). Of several, all but a tenth come from
            a normal distribution that is fitted to the posterior of the cell first, as long as
            latents are at most 100, the others from that of the encoder. One gives the ELBO of
            the encoder, as an average over 64 samples.
        return_std : bool, default=False
            Whether to return how far off the scores are.

        Returns
        -------
        scores : ndarray of shape (n_cells,)
            Summed over genes, with every constant of the likelihood.
        std : ndarray of shape (n_cells,)
            Only with ``return_std``: standard error of each score, nats, from the spread of its
            weights; NaN for a single particle. A score is too low by about ``std**2 / 2`` on
            average. Near 1, its largest value, one particle has all the weight, and the score
            may be too low by any amount. The effective sample size is ``n_particles / (1 +
            (n_particles - 1) * std**2)``, where cells share no uncertain effects; where they do,
            the error of averaging over these is included. Errors of different cells are not
            independent.

        Raises
        ------
        ValueError
            If A names a perturbation not seen in ``fit``, or ``n_particles`` is below 1.
        """
        n_particles = self.n_particles if n_particles is None else n_particles
        if not is_positive_integer(n_particles):
            raise ValueError(f"n_particles must be an integer of at least 1, got {n_particles!r}")
        check_is_fitted(self)
        model = self._reaching(A)
        cells = model._check(X, A)
        with self._inference():
            scores, std = evidence(model.module_, cells, n_particles, self._device)
        return (scores.numpy(), std.numpy()) if return_std else scores.numpy()

    def score(self, X, y, sample_weight=None):
        """Mean importance-weighted ELBO, nats per cell; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A, of known perturbations.
        sample_weight : array-like of shape (n_cells,), default=None
            Weights of the cells in the mean.

        Returns
        -------
        score : float
            A lower bound of the mean of log p(x | a), comparable between models. Effects that
            have a posterior of their own are averaged over it and cost nothing here, which is
            then a predictive density (see the notes of ``SAMSVAE``).

        Warns
        -----
        SamplingWarning
            If the effective sample size of a typical cell is below five, and below a tenth of
            ``n_particles``: a comparison of models may then measure particles.
        """
        check_same_cells(X, sample_weight, ("X", "sample_weight"))
        scores, std = self.score_cells(X, y, return_std=True)
        if sample_weight is not None:
            sample_weight = check_weights(sample_weight, scores)
        _warn_of_few_particles(std, self.n_particles)
        return float(np.average(scores, weights=sample_weight))

    def predict_intervention(self, A, X=None, *, library_size=None):
        """Expected expression under interventions.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
            Control cells. If given, the answer is how these very cells would express under
            the one design of A, or each under its own row of A.
        library_size : float or None, default=None
            Total counts of the predicted cells; None is the median of training, and with X
            each cell's own.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes) or (n_cells, n_genes)
            Expected counts; real values with a normal likelihood. Without X the mean over
            a fixed sample of basal states, the same for all designs, and over the
            environments of training unless A is a frame that names them. Zero inflation takes
            its share: what is expected is what is left after dropout.

        Raises
        ------
        ValueError
            If A names what the model cannot predict, or its length does not match X.
        """
        check_is_fitted(self)
        model = self._reaching(A)
        designs = model._designs(A, library_size)
        if X is not None:
            return model._counterfactual(designs, X, A, library_size)
        with self._inference():
            z_basal = model.module_.basal_states(N_BASAL)
            responses = [
                model.module_.intervene(z_basal, population).mean.mean(0)
                for population in model._populations(designs, N_BASAL)
            ]
        return torch.stack(responses).cpu().numpy()

    def _counterfactual(self, designs, X, A, library_size):
        n_designs = designs.n_cells
        X = self._expression(X, A if n_designs > 1 else None)
        n_cells = X.shape[0]
        if n_designs not in (1, n_cells):
            raise ValueError(
                f"A has {n_designs} designs for {n_cells} cells: give one design, or one per cell"
            )
        if designs.environment.shape[1] != self.design_.n_environments_:
            raise ValueError(
                f"these cells have environments: give A as a frame with {self.environment}"
            )
        x, responses = Cells.rows(X), np.empty((n_cells, self.n_features_in_), dtype=np.float32)
        with self._inference():
            for index in torch.arange(n_cells).split(ENCODE_SIZE):
                rows = x.index_select(0, index).to(self._device)
                cells = designs.take(index if n_designs > 1 else torch.zeros_like(index))
                cells = cells.to(self._device)._replace(x=rows)
                if library_size is None:
                    cells = cells._replace(library=rows.sum(1, keepdim=True))
                p_x = self.module_.intervene(self.module_.encode(rows), cells)
                responses[index] = p_x.mean.cpu()
        return responses

    def sample_intervention(self, A, n_samples, *, X=None, library_size=None, random_state=None):
        """Expression of cells drawn under interventions, noise included.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs; a bare string is one.
        n_samples : int
            Cells per design.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
            Control cells whose basal states and library sizes are drawn with replacement;
            None draws the states from the prior and library sizes from training controls.
        library_size : float or None, default=None
            Total counts of every drawn cell.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_samples, n_genes)
            Counts; real values with a normal likelihood.
        """
        check_is_fitted(self)
        if not is_positive_integer(n_samples):
            raise ValueError(f"n_samples must be an integer of at least 1, got {n_samples!r}")
        model = self._reaching(A)
        designs = model._designs(A, library_size)
        random = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
        samples = np.empty((designs.n_cells, n_samples, self.n_features_in_), dtype=np.float32)
        states, library = None, self._population["library"]
        if X is not None:
            states = self._encoded(X)
            X = self._expression(X)
            library = np.asarray(X.sum(1), dtype=np.float32).reshape(-1, 1)
            x = Cells.rows(X)
        with self._inference(int(random.integers(2**31))):
            for i, population in enumerate(self._populations(designs, n_samples)):
                drawn = random.integers(len(library), size=n_samples)
                if library_size is None:
                    sizes = torch.from_numpy(library[drawn]).to(self._device)
                    population = population._replace(library=sizes)
                if states is None:
                    z_basal = model.module_.basal_states(n_samples)
                else:
                    z_basal = torch.from_numpy(states[drawn]).to(self._device)
                    rows = x.index_select(0, torch.from_numpy(drawn)).to(self._device)
                    population = population._replace(x=rows)
                p_x = model.module_.intervene(z_basal, population, sampled=True)
                samples[i] = p_x.sample().cpu()
        return samples

    def _designs(self, A, library_size):
        """One row of cells, without expression, per design."""
        if library_size is not None and not self._counts:
            raise ValueError(
                f"library_size has no meaning with likelihood={self.likelihood!r}: leave it out"
            )
        if library_size is not None and not _is_library_size(library_size):
            raise ValueError(
                f"library_size must be a positive number, such as 1e4, and at most {LARGEST:.0e}, "
                f"got {library_size!r}"
            )
        dosage = self.design_.transform(A)
        if dosage.shape[0] == 0:
            raise ValueError("A holds no design: give at least one, such as a perturbation's name")
        columns = getattr(A, "columns", ())
        known = self.environment is not None and not set(self.environment).isdisjoint(columns)
        environment = self.design_.environments(A) if known else np.empty((dosage.shape[0], 0))
        designs = Cells.from_arrays(np.empty((dosage.shape[0], 0)), dosage, environment)
        library = self._population["median"] if library_size is None else library_size
        return designs._replace(library=torch.full_like(designs.library, float(library)))

    def _populations(self, designs, n_cells):
        """``n_cells`` cells of each design in turn, in the environments of training if unsaid."""
        rows = self._population["environment"]
        environment = torch.from_numpy(rows[np.arange(n_cells) % len(rows)])
        for i in range(designs.n_cells):
            cells = designs.take(torch.full((n_cells,), i))
            if designs.environment.shape[1] < environment.shape[1]:
                cells = cells._replace(environment=environment)
            yield cells.to(self._device)

    @property
    def embedding_(self):
        """Effect of each perturbation on each latent it targets, (n_perturbations, n_latent)."""
        return self._learned("embedding")

    @property
    def mask_(self):
        """Which latents each perturbation moves, bool array (n_perturbations, n_latent)."""
        return self._learned("mask")

    @property
    def mask_probability_(self):
        """Probability that a perturbation moves a latent, (n_perturbations, n_latent)."""
        return self._learned("mask_probability")

    @property
    def targets_(self):
        """Effects on the targeted latents, zero elsewhere, a DataFrame with names."""
        return self._effects_where(self.mask_)

    def targets(self, *, fdr=0.05):
        """Effects of the edges that can be called at a false discovery rate.

        Parameters
        ----------
        fdr : float, default=0.05
            Share of false ones, in [0, 1], that is expected among the edges returned: the mean
            of ``1 - mask_probability_`` over them. An edge that is more likely false than not
            is never among them, unless ``fdr`` is above 0.5.

        Returns
        -------
        targets : DataFrame of shape (n_perturbations, n_latent)
            ``embedding_`` where there is an edge, zero elsewhere, with names.
        """
        return self._effects_where(edges_at_fdr(self.mask_probability_, fdr))

    def _effects_where(self, mask):
        return pd.DataFrame(
            np.where(mask, self.embedding_, np.float32(0)),
            index=pd.Index(self.perturbations_, name="perturbation"),
            columns=self.get_feature_names_out(),
        )

    def _learned(self, name):
        check_is_fitted(self)
        learned = self.module_.learned()
        if name not in learned:
            raise AttributeError(f"{type(self).__name__} learns no {name!r}")
        return learned[name].detach().cpu().numpy()

    def _check(self, X, A):
        """Cells of validated expression and design."""
        check_is_fitted(self)
        return _cells(self._expression(X, A), self.design_, A)

    def _expression(self, X, A=None, *, reset=False):
        """Validated expression, float32, of the cells of the design A."""
        return check_cells(self, X, counts=self._counts, layer=self.layer, reset=reset, design=A)

    @contextmanager
    def _inference(self, seed=None):
        """Without gradients, and with the same samples at every call."""
        with seeded(self._seed if seed is None else seed, self._device), torch.no_grad():
            yield

    @property
    def _device(self):
        return next(self.module_.parameters()).device

    @property
    def _n_features_out(self):
        return self.n_latent

    def __sklearn_is_fitted__(self):
        """Whether training has ended."""
        return hasattr(self, "module_")

    def __getstate__(self):
        """State in which the module is a dict of arrays, so that any machine can read it."""
        state = super().__getstate__()
        if "module_" in state:
            weights = state["module_"].state_dict()
            state = state | {"module_": {k: v.cpu().numpy() for k, v in weights.items()}}
        return state

    def __setstate__(self, state):
        """Rebuild the module from its arrays."""
        super().__setstate__(state)
        weights = state.get("module_")
        if isinstance(weights, dict):
            with torch.device("meta"):
                module = self._make_module(self._training_shape())
            self.module_ = fill(module, weights).eval()

    def _training_shape(self):
        """Cells of the training data's shape, to be made where tensors hold nothing."""
        n_cells = self._n_training_cells
        nothing = torch.zeros(0)
        start = torch.zeros(n_cells + 1, dtype=torch.long)
        x = SparseRows(start, start[:0], nothing, (n_cells, self.n_features_in_))
        part = torch.zeros((n_cells, 1), dtype=torch.long)
        environment = torch.zeros(n_cells, self.design_.n_environments_)
        return Cells(x, environment.new_zeros(n_cells, 1), part, part.float(), environment)

    def __sklearn_tags__(self):
        """Capabilities, as scikit-learn asks for them."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self._counts
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _is_library_size(value):
    if not isinstance(value, Real) or isinstance(value, (bool, np.bool_)):
        return False
    return torch.finfo(torch.float32).tiny <= value <= LARGEST


def _cells(X, design, A):
    dosage = design.transform(A)
    check_consistent_length(X, dosage)
    return Cells.from_arrays(X, dosage, design.environments(A))


def _warn_of_few_particles(std, n_particles):
    """Warn by the effective sample size of a typical cell; for one particle it is unknown."""
    typical = np.median(std)
    effective = n_particles / (1 + (n_particles - 1) * typical**2)
    if effective < min(FEW_PARTICLES, SMALL_SHARE * n_particles):
        warn_of_data(
            f"of n_particles={n_particles}, {effective:.1f} decide the score of a typical cell "
            f"(effective sample size): its standard error is {typical:.2f} nats, and it is too "
            f"low by {typical**2 / 2:.2f} nats or more. Raise n_particles until score_cells(X, A, "
            "return_std=True) shows errors below what you want to tell apart",
            SamplingWarning,
        )


def _device(name):
    """The device of this name; "auto" is a GPU, or the CPU where there is none that works."""
    auto = name == "auto"
    if auto:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:  # there and back, in the precision of effects
        number = torch.zeros((), dtype=torch.float64, device=name)
        number.cpu()
    except (RuntimeError, AssertionError, TypeError) as reason:
        said = str(reason).splitlines()[0]
        if not auto:
            raise ValueError(
                f"device={name!r} cannot be used here ({said}): choose another, or 'auto' for a "
                "GPU where there is one"
            ) from reason
        message = f"there is a GPU that cannot be used ({said}): training is on the CPU"
        warnings.warn(message, TrainingWarning, stacklevel=3)
        return torch.device("cpu")
    if auto:
        logger.info("device='auto' is %s", number.device)
    return number.device


@contextmanager
def _without_overflow():
    """Have it leave as a ValueError that numbers of a training are not finite."""
    try:
        yield
    except (FloatingPointError, torch.linalg.LinAlgError) as reason:
        raise ValueError(str(reason)) from reason


def _warn_if_worse(before, after):
    if is_worse(before, after):
        warnings.warn(
            f"training made the model worse: the ELBO of training cells is {after:.5g} nats per "
            f"cell, {before - after:.3g} below what it was before. Do not use it: lower "
            "learning_rate, train for longer, or look for extreme values in X",
            TrainingWarning,
            stacklevel=4,
        )


def _population(cells, random):
    """What predictions draw on: library sizes of untreated cells, environments of all."""
    library, control = cells.library.numpy(), (cells.dosage == 0).all(1).numpy()
    drawn = random.integers(cells.n_cells, size=N_BASAL)
    return {
        "median": float(np.median(library)),
        "library": library[control] if control.any() else library,
        "environment": cells.environment.numpy()[drawn],
    }
