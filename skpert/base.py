"""The border between scikit-learn (arrays, labels, parameters) and torch (modules)."""

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import check_is_fitted

from . import _prediction
from ._candidates import attempt, begun, check_same_model, compare, warn_of_result
from ._data import Cells, split
from ._html import html_inner, mime_bundle
from ._input.cells import check_cells
from ._input.design import check_received
from ._input.expression import check_same_cells, with_cell_names
from ._input.transaction import all_or_nothing
from ._input.values import as_list, check_weights, is_positive_integer, listed
from ._monitor import CallbackSupportMixin, Monitor, watched, with_callbacks
from ._optimizer import N_STEPS, budget
from ._phases import optimise
from ._prediction import Source, population_of
from ._progress import progress_of
from ._ranks import read_alike
from ._runtime import chosen_device, seeded, without_overflow
from ._scoring import evidence, warn_of_few_particles
from ._training import warn_if_worse
from ._upgrade import upgraded
from ._weights import arrays, fill
from .nn import Decoder, GaussianEncoder
from .parameters import CONSTRAINTS, REAL_VALUED
from .preprocessing import PerturbationEncoder
from .sparsity.dimension import width_to_start
from .sparsity.edges import edges_at_fdr


class PerturbationVAE(
    CallbackSupportMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC
):
    """Base of all models, which add ``__init__`` and ``_make_module`` (see ``skpert.module``)."""

    _parameter_constraints = CONSTRAINTS
    _n_steps = N_STEPS  # of a training of automatic length
    _shown = slice(None)  # latents that ``transform`` gives
    _additive = True  # whether the effect of a combination is the sum of its parts'
    _repr_html_inner, _repr_mimebundle_ = html_inner, mime_bundle
    _optimise = optimise  # (module, cells, validation=None, monitor=None)

    @abstractmethod
    def _make_module(self, cells):
        """Return the untrained module for these cells; ``load`` gives their shape, on "meta"."""

    def _networks(self, cells):
        """Encoder and decoder of the sizes that the parameters say."""
        sizes = {name: getattr(self, name) for name in ("n_hidden", "n_layers", "batch_norm")}
        n_latent = self._width(cells)
        encoder = GaussianEncoder(cells.n_genes, n_latent, dropout=self.dropout, **sizes)
        sizes |= {"likelihood": self.likelihood, "n_environments": cells.environment.shape[1]}
        return encoder, Decoder(n_latent, cells.n_genes, **sizes)

    @property
    def _n_most(self):
        """Number of latents to keep at most; None keeps all that are found."""
        return None if self.n_latent == "auto" else self.n_latent

    def _width(self, cells):
        """Number of latents of the module: those found, or before training how many to try."""
        if hasattr(self, "n_latent_"):
            return self.n_latent_
        axes_are_found = getattr(self, "init", None) == "rotation"
        return width_to_start(self.n_latent, cells.n_genes, reduced=axes_are_found)

    def _make_design(self):
        """Return the unfitted encoder of the design."""
        labels = {"control": self.control, "sep": self.sep, "perturbation": self.perturbation}
        return PerturbationEncoder(**labels, environment=self.environment, additive=self._additive)

    def _prepare(self, cells):
        """Check and learn what ``_make_module`` needs of the training cells; often nothing."""

    def _reaching(self, A):
        """Return the estimator that answers for A; one that can, if A names the unseen."""
        return self

    def _store(self, arguments):
        """Keep the constructor's arguments, its ``locals()``."""
        for name in self._get_param_names():
            setattr(self, name, arguments[name])

    @property
    def _counts(self):
        return self.likelihood not in REAL_VALUED

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y) -> Self:
        """Train on expression and design.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression: raw counts, or real values with a normal likelihood.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A, by position: a label per cell, dosages (a row of zeros is a control
            cell), or a frame with a column of labels such as ``adata.obs``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds negative counts, NaN or infinity; if A is of another length, has missing
            labels, negative dosages, a single condition or one without cells; or if training
            diverges from the start.

        Warns
        -----
        TrainingWarning
            If training was cut short, or made the ELBO of training cells clearly worse.
        """
        self._validate_params()
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: "
                "give the design A as second argument, fit(X, A)"
            )
        before, design = vars(self).copy(), self._make_design().fit(y)
        check_received(design, "Leave them out, and learn them later with adapt")
        cells = Cells.of_design(self._expression(X, y, reset=True, alike=True), design, y)
        device = chosen_device(self.device)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_init).tolist()
        start = vars(self).pop("module_", None) if self.warm_start else None
        progress = progress_of(self, cells, seeds, device, start)
        self._seed = progress.seeds[0]
        for name in ("module_", "n_latent_") if start is None else ():  # of another design
            vars(self).pop(name, None)
        self.design_, self.perturbations_ = design, design.perturbations_
        self._population = population_of(cells, np.random.default_rng(self._seed))
        with seeded(self._seed, device), without_overflow():
            training, validation = split(cells, self.validation_fraction, device)
            self._n_training_cells, self._n_asked = training.n_cells, self._n_most
            self._prepare(training)
            if start is not None:
                check_same_model(self, start, before)
            monitor = Monitor(self, cells, self._budget(training).n_epochs, {"X": X, "y": y})
            for _ in range(progress.number, self.n_init):
                with attempt(progress, monitor):
                    module, phases = begun(self, training, monitor, progress, start)
                    options = {"phases": phases, "progress": progress}
                    result = self._optimise(module, training, validation, monitor, **options)
                    compare(self, progress, (module, *result), training, validation)
                if monitor.stopped:
                    break
            monitor.close()
        module, history, *elbo = progress.kept
        warn_if_worse(*elbo)
        warn_of_result(self, module, training, len(history))
        if not monitor.interrupted:
            progress.finish()
        if start is not None:
            history = before["history_"].to_dict("records") + history
        return self._keep(module, history, "fit")

    def _budget(self, cells):
        """Length of training; what is "auto" follows the number of cells, and their device."""
        where = cells.dosage.device.type
        return budget(cells.n_cells, self.max_epochs, self.batch_size, self._n_steps, where)

    def _keep(self, module, history, phase):
        self.module_, self.n_latent_ = module, module.encoder.n_latent
        self.history_ = pd.DataFrame([{"phase": phase} | row for row in history] or {"phase": []})
        self.n_iter_ = len(history)
        return self

    def adapt(self, X, A) -> Self:
        """Learn perturbations never trained on; all that is known stays bitwise identical.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Cells of the new perturbations; control cells change nothing.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design, in any form that ``fit`` takes.

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
        values, design = self._expression(X, A, alike=True), self.design_.extended(A)
        cells, device = Cells.of_design(values, design, A), self.module_.device
        n_new = len(design.perturbations_) - len(self.perturbations_)
        cells = cells.subset((cells.dosage > 0).any(1).nonzero()[:, 0]).to(device)
        watch = watched(self, "adapt", cells, n_new)
        with seeded(self._seed, device), without_overflow(), watch as monitor:
            module = extend(cells, n_new)
            history, *elbo = self._optimise(module, cells, monitor=monitor)
        warn_if_worse(*elbo)
        adapted = self._copy()
        adapted.design_, adapted.perturbations_ = design, design.perturbations_
        return adapted._keep(module, history, "adapt")

    def refine(self, X, A) -> Self:
        """Train on with masks fixed at ``mask_`` and without their prior (published step 2).

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Training cells.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Their design.

        Returns
        -------
        refined : estimator
            A new fitted estimator; this one stays as it is.
        """
        cells = self._check(X, A, alike=True)
        if cells.n_cells < 2:
            raise ValueError(f"refine needs at least 2 cells to train on, got {cells.n_cells}")
        with seeded(self._seed, self.module_.device), without_overflow():
            training, validation = split(cells, self.validation_fraction, self.module_.device)
            module = self.module_.refined()
            with watched(self, "refine", training) as monitor:
                history, *elbo = self._optimise(module, training, validation, monitor)
        warn_if_worse(*elbo)
        return self._copy()._keep(module, history, "refine")

    def _copy(self):
        """Another estimator with the same attributes, none of which is changed in place."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def transform(self, X) -> np.ndarray:
        """Latent state of each cell: posterior mean, from its expression only.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression of the genes seen in ``fit``.

        Returns
        -------
        Z : ndarray of shape (n_cells, n_latent)
            Latent states, float32.
        """
        return with_cell_names(self, self._encoded(X)[:, self._shown], X)

    def _encoded(self, X):
        """Posterior means of all latents, (n_cells, n_latent)."""
        check_is_fitted(self)
        X = self._expression(X)
        with self._inference():
            return self._full(_prediction.encoded(self.module_, X, self.n_latent_))

    def _full(self, values, empty=0):
        """With columns for the latents that were asked for and not found."""
        n_empty = self._n_features_out - self.n_latent_
        if n_empty <= 0:
            return values
        return np.pad(values, [(0, 0), (0, n_empty)], constant_values=empty)

    def posterior(self, X, A=None) -> Bunch:
        """Latent states with what is known of each cell's perturbation.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), DataFrame or None
            Design; None, the default, reads all cells as untreated.

        Returns
        -------
        posterior : Bunch of ndarrays of shape (n_cells, n_latent)
            ``z``, the mean of the latent state, ``scale``, its standard deviation, and
            ``z_basal``, the mean of the state the cell would have untreated.
        """
        check_is_fitted(self)
        X, model = self._expression(X, A), self if A is None else self._reaching(A)
        cells = Cells.untreated(X) if A is None else Cells.of_design(X, model.design_, A)
        with self._inference():
            moments = _prediction.moments(model.module_, cells)
        empty = {"scale": 1}
        return Bunch(**{name: self._full(v, empty.get(name, 0)) for name, v in moments.items()})

    def score_cells(self, X, A, *, n_particles=None, return_std=False):
        """Importance-weighted ELBO of each cell, nats; higher is better.

        The noise is the same for all cells, and all models with as many latents.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        A : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            Design, of known perturbations.
        n_particles : int or None, default=None
            Samples of the latent state per cell; None is the constructor's. The value rises
            with it, in expectation, towards log p(x | a). A tenth of several come from the
            encoder's posterior, the others, for up to 100 latents, from a normal distribution
            fitted to the cell's own. One gives the ELBO, as an average over 64 samples.
        return_std : bool, default=False
            Whether to return how far off the scores are.

        Returns
        -------
        scores : ndarray of shape (n_cells,)
            Summed over genes, with every constant of the likelihood.
        std : ndarray of shape (n_cells,)
            Only with ``return_std``: standard error of each score, nats, that of averaging over
            uncertain effects included; NaN for one particle. Scores are too low by about
            ``std**2 / 2`` on average, and by any amount near 1, the largest value. Without
            uncertain effects the effective sample size is ``n_particles / (1 + (n_particles - 1)
            * std**2)``. Errors of different cells are not independent.

        Raises
        ------
        ValueError
            If A names an unknown perturbation, or ``n_particles`` is below 1.
        """
        n_particles = self.n_particles if n_particles is None else n_particles
        if not is_positive_integer(n_particles):
            raise ValueError(f"n_particles must be an integer of at least 1, got {n_particles!r}")
        check_is_fitted(self)
        model = self._reaching(A)
        cells = model._check(X, A)
        with self._inference():
            scores, std = evidence(model.module_, cells, n_particles, self.module_.device)
        return (scores.numpy(), std.numpy()) if return_std else scores.numpy()

    def score(self, X, y, sample_weight=None) -> float:
        """Mean importance-weighted ELBO, nats per cell; higher is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes)
            Expression.
        y : array-like of shape (n_cells,) or (n_cells, n_perturbations), or DataFrame
            The design A, of known perturbations.
        sample_weight : array-like of shape (n_cells,), default=None
            Weights of the cells in the mean.

        Returns
        -------
        score : float
            A lower bound of the mean of log p(x | a), comparable between models; where effects
            have a posterior, a predictive density (see the notes of ``SAMSVAE``).

        Warns
        -----
        SamplingWarning
            If the effective sample size of a typical cell is below five, and a tenth of
            ``n_particles``.
        """
        check_same_cells(X, sample_weight, ("X", "sample_weight"))
        scores, std = self.score_cells(X, y, return_std=True)
        if sample_weight is not None:
            sample_weight = check_weights(sample_weight, scores)
        warn_of_few_particles(std, self.n_particles)
        return float(np.average(scores, weights=sample_weight))

    def predict_intervention(self, A, X=None, *, library_size=None) -> np.ndarray:
        """Expected expression under interventions.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells, to be predicted under the one design of A, or each under its own.
        library_size : float or None, default=None
            Total counts; None is the median of training, and with X each cell's own.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes) or (n_cells, n_genes)
            Expected counts, after dropout if there is zero inflation; real values with a normal
            likelihood. Without X the mean over one sample of basal states for all designs, and
            over the environments of training unless A is a frame that names them.

        Raises
        ------
        ValueError
            If A names what the model cannot predict, or its length does not match X.
        """
        check_is_fitted(self)
        model = self._reaching(A)
        designs = model._designs(A, library_size)
        with self._inference():
            if X is None:
                return _prediction.expected(model.module_, designs, self._population)
            X = self._expression(X, A if designs.n_cells > 1 else None)
            _prediction.check_one_or_each(designs, X.shape[0])
            if designs.environment.shape[1] != self.design_.n_environments_:
                names = listed(as_list(self.environment), 5)
                raise ValueError(f"these cells have environments: give A as a frame with {names}")
            return _prediction.counterfactual(model.module_, designs, X, library_size is None)

    def sample_intervention(
        self, A, n_samples, *, X=None, library_size=None, random_state=None
    ) -> np.ndarray:
        """Expression of cells drawn under interventions, noise included.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs; a bare string is one.
        n_samples : int
            Cells per design.
        X : {array-like, sparse matrix, AnnData, path} of shape (n_cells, n_genes), default=None
            Control cells from which basal states and library sizes are drawn; None draws states
            from the prior and library sizes from training controls.
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
        shape, own = (designs.n_cells, n_samples, self.n_features_in_), library_size is None
        source = Source(self._population)
        if X is not None:
            with self._inference():
                source.take(self.module_, self._expression(X), self.n_latent_)
        with self._inference(int(random.integers(2**31))):
            return _prediction.drawn(model.module_, designs, source, shape, own, random)

    def _designs(self, A, library_size):
        """One row of cells, without expression, per design."""
        _prediction.check_library_size(library_size, self.likelihood)
        library = self._population["median"] if library_size is None else library_size
        return _prediction.designs_of(self.design_, A, self.environment, library)

    @property
    def embedding_(self) -> np.ndarray:
        """Effect of each perturbation on each latent it targets, (n_perturbations, n_latent)."""
        return self._learned("embedding")

    @property
    def mask_(self) -> np.ndarray:
        """Which latents each perturbation moves, bool array (n_perturbations, n_latent)."""
        return self._learned("mask")

    @property
    def mask_probability_(self) -> np.ndarray:
        """Probability that a perturbation moves a latent, (n_perturbations, n_latent)."""
        return self._learned("mask_probability")

    @property
    def standard_error_(self) -> np.ndarray:
        """Standard error of the effects in ``embedding_``, (n_perturbations, n_latent)."""
        return self._learned("standard_error")

    @property
    def targets_(self) -> pd.DataFrame:
        """Effects on the targeted latents, zero elsewhere, a DataFrame with names."""
        return self._effects_where(self.mask_)

    def targets(self, *, fdr=0.05) -> pd.DataFrame:
        """Effects of the edges that can be called at a false discovery rate.

        Parameters
        ----------
        fdr : float, default=0.05
            Expected share of false edges among those returned, in [0, 1]: their mean of
            ``1 - mask_probability_``. Up to 0.5, none is more likely false than not.

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
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}_'")
        return self._full(learned[name].detach().cpu().numpy())

    def _check(self, X, A, **options):
        check_is_fitted(self)
        return Cells.of_design(self._expression(X, A, **options), self.design_, A)

    def _expression(self, X, A=None, *, alike=False, **options):
        """Validated expression, float32, of the cells of the design A; ``alike`` to train on."""
        options |= {"counts": self._counts, "layer": self.layer, "design": A}
        return read_alike(check_cells, self, X, memory=self.memory, alike=alike, **options)

    @contextmanager
    def _inference(self, seed=None):
        """Without gradients, and with the same samples at every call."""
        with seeded(self._seed if seed is None else seed, self.module_.device), torch.no_grad():
            yield

    @property
    def _n_features_out(self):
        return self._n_asked or self.n_latent_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "module_")

    def __getstate__(self):
        """State in which the module is a dict of arrays, so that any machine can read it."""
        state = super().__getstate__()
        return state | {"module_": arrays(state["module_"])} if "module_" in state else state

    def __setstate__(self, state):
        super().__setstate__(upgraded(type(self), state))
        weights = vars(self).get("module_")
        if isinstance(weights, dict):
            n_genes, n_environments = self.n_features_in_, self.design_.n_environments_
            with torch.device("meta"):
                cells = Cells.of_shape(self._n_training_cells, n_genes, n_environments)
                module = self._make_module(cells)
            self.module_ = fill(module, weights).eval()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = self._counts
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
