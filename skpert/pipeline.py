"""A pipeline whose last step predicts interventions."""

import numpy as np
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

__all__ = ["PerturbationPipeline", "make_perturbation_pipeline"]


def _last_has(method):
    return available_if(lambda pipeline: hasattr(pipeline._final_estimator, method))


class PerturbationPipeline(Pipeline):
    """Pipeline of scikit-learn that passes interventions on to its last step.

    Cells go through the other steps first, in ``fit``, in ``score`` and where cells are given to
    be predicted. Predictions are in the units that these steps make: those of a baseline after
    ``LogNormalize`` are log-normalised expression. Everything else, ``transform``, ``set_params``
    and a search over preprocessing among it, is as in scikit-learn's own.

    Parameters
    ----------
    steps : list of (str, estimator)
        Names and estimators; the last is a model of perturbations, or a baseline.
    transform_input : list of str or None, default=None
        Metadata that goes through the steps as X does; scikit-learn 1.6 or newer.
    memory : str, joblib.Memory or None, default=None
        Where fitted transformers are cached.
    verbose : bool, default=False
        Whether the time of each step is printed.

    See Also
    --------
    make_perturbation_pipeline : The same without names.

    Examples
    --------
    >>> from skpert import AdditiveEffects, PerturbationPipeline
    >>> from skpert.preprocessing import LogNormalize
    >>> X, A = [[1, 3], [2, 6], [8, 8], [4, 4]], ["control", "control", "A", "A"]
    >>> steps = [("log", LogNormalize(target_sum=4)), ("model", AdditiveEffects())]
    >>> model = PerturbationPipeline(steps).fit(X, A)
    >>> model.predict_intervention(["control", "A"]).round(2).tolist()
    [[0.69, 1.39], [1.1, 1.1]]
    """

    @_last_has("predict_intervention")
    def predict_intervention(self, A, X=None, *, library_size: float | None = None) -> np.ndarray:
        """Expected expression under interventions, in the units of the last step.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
            Control cells as ``fit`` takes them, to be predicted under the one design of A, or each
            under its own.
        library_size : float or None, default=None
            Total counts, of models of counts.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_genes) or (n_cells, n_genes)
            As the last step gives it.
        """
        check_is_fitted(self)
        return self[-1].predict_intervention(A, self._through(X), library_size=library_size)

    @_last_has("sample_intervention")
    def sample_intervention(
        self, A, n_samples: int, *, X=None, library_size: float | None = None, random_state=None
    ) -> np.ndarray:
        """Expression of cells drawn under interventions, in the units of the last step.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs; a bare string is one.
        n_samples : int
            Cells per design.
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes), default=None
            Control cells as ``fit`` takes them, from which states are drawn.
        library_size : float or None, default=None
            Total counts, of models of counts.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws.

        Returns
        -------
        expression : ndarray of shape (n_designs, n_samples, n_genes)
            As the last step gives it.
        """
        check_is_fitted(self)
        options = {"library_size": library_size, "random_state": random_state}
        return self[-1].sample_intervention(A, n_samples, X=self._through(X), **options)

    @_last_has("predict_interval")
    def predict_interval(self, A) -> np.ndarray:
        """Bounds of mean expression under interventions, in the units of the last step.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.

        Returns
        -------
        lower, upper : ndarray of shape (n_designs, n_genes)
            As the last step gives them.
        """
        check_is_fitted(self)
        return self[-1].predict_interval(A)

    @_last_has("reliability")
    def reliability(self, A) -> np.ndarray:
        """How sure predictions are.

        Parameters
        ----------
        A : str, array-like of shape (n_designs,) or (n_designs, n_perturbations), or DataFrame
            Designs to predict; a bare string is one.

        Returns
        -------
        reliability : ndarray of shape (n_designs,)
            As the last step gives it, higher is surer.
        """
        check_is_fitted(self)
        return self[-1].reliability(A)

    @_last_has("adapt")
    def adapt(self, X, A) -> "PerturbationPipeline":
        """Learn perturbations never trained on; the other steps stay as they are.

        Parameters
        ----------
        X : {array-like, sparse matrix, AnnData} of shape (n_cells, n_genes)
            Cells of the new perturbations, as ``fit`` takes them.
        A : array-like of shape (n_cells,) or DataFrame
            Their design.

        Returns
        -------
        adapted : PerturbationPipeline
            A new fitted pipeline; this one stays as it is.
        """
        check_is_fitted(self)
        name, last = self.steps[-1]
        steps = [*self.steps[:-1], (name, last.adapt(self._through(X), A))]
        return type(self)(steps, memory=self.memory, verbose=self.verbose)

    @property
    def perturbations_(self) -> np.ndarray:
        """Names of the perturbations, without the control."""
        return self[-1].perturbations_

    def _through(self, X):
        """Cells after all steps but the last."""
        return X if X is None or len(self.steps) == 1 else self[:-1].transform(X)


def make_perturbation_pipeline(
    *steps, memory=None, verbose: bool = False
) -> "PerturbationPipeline":
    """Pipeline of these estimators, named after their classes in lower case.

    Parameters
    ----------
    *steps : estimators
        Transformers, and last a model of perturbations or a baseline.
    memory : str, joblib.Memory or None, default=None
        Where fitted transformers are cached.
    verbose : bool, default=False
        Whether the time of each step is printed.

    Returns
    -------
    pipeline : PerturbationPipeline
        Not fitted.

    Examples
    --------
    >>> from skpert import BilinearRidge, make_perturbation_pipeline
    >>> from skpert.preprocessing import LogNormalize
    >>> pipeline = make_perturbation_pipeline(LogNormalize(), BilinearRidge())
    >>> [name for name, _ in pipeline.steps]
    ['lognormalize', 'bilinearridge']
    """
    return PerturbationPipeline(make_pipeline(*steps).steps, memory=memory, verbose=verbose)
