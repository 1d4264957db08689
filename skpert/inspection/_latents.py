"""What a fitted model says about its latents."""

import pandas as pd
from sklearn.utils.validation import check_is_fitted


def latent_summary(estimator, *, fdr=0.05):
    """Which perturbations target each latent, and so which latents mean something.

    Sparse shifts single out the axes of those latents that some perturbation moves. Latents that
    none targets are known as a group only: any rotation among them fits as well, so that one of
    them has no meaning by itself (a single one is what the others leave over). A latent
    that few perturbations target, and always together with the same other one, is hardly
    better off.

    Parameters
    ----------
    estimator : estimator
        Fitted, with ``mask_probability_``, such as ``SVAEPlus``.
    fdr : float, default=0.05
        False discovery rate at which edges are called, in [0, 1], as in ``estimator.targets``.

    Returns
    -------
    summary : DataFrame of shape (n_latent, 5)
        A row per latent, those with most perturbations first: ``n_perturbations`` that target
        it, ``expected`` number of them, the sum of their probabilities; ``strongest``, the
        perturbation with the largest effect on it, None without any, and that ``effect``, in
        standard deviations of the latent; ``targeted``, whether there is one.

    References
    ----------
    Lopez et al., Learning causal representations of single cells via sparse mechanism shift
    modeling, CLeaR 2023, Appendix H.3, on latents that are never targeted.

    Examples
    --------
    >>> from skpert import SVAEPlus
    >>> from skpert.datasets import make_sparse_shift
    >>> from skpert.inspection import latent_summary
    >>> screen = make_sparse_shift(12, n_cells_per_perturbation=100, n_control_cells=100,
    ...                            n_latent=3, n_genes=50, n_covered=2, n_targets=1,
    ...                            effect_size=3.0, library_size=5000, random_state=0)
    >>> model = SVAEPlus(n_latent=3, max_epochs=40, random_state=0).fit(screen.X, screen.A)
    >>> latent_summary(model)["targeted"].tolist()
    [True, True, False]
    """
    check_is_fitted(estimator)
    effects = estimator.targets(fdr=fdr)
    size = effects.abs()
    targeted = (size > 0).any()
    strongest = size.idxmax()
    summary = pd.DataFrame(
        {
            "n_perturbations": (size > 0).sum(),
            "expected": estimator.mask_probability_.sum(0),
            "strongest": strongest.where(targeted, None),
            "effect": [effects.loc[row, column] for column, row in strongest.items()],
            "targeted": targeted,
        },
        index=pd.Index(effects.columns, name="latent"),
    )
    return summary.sort_values(["n_perturbations", "expected"], ascending=False, kind="stable")
