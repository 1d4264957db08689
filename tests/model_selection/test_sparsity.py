"""The choice of a sparsity prior by hand, and through ``GridSearchCV``."""

from functools import partial

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from skpert import VAE, SVAEPlus
from skpert.datasets import make_sparse_shift
from skpert.exceptions import DataWarning
from skpert.model_selection import PerturbationKFold, sparsest, sparsity_scores

SCREEN = make_sparse_shift(
    4, n_cells_per_perturbation=20, n_control_cells=20, n_latent=2, n_genes=40, random_state=0
)
MODEL = SVAEPlus(
    2, edges="learned", n_hidden=8, n_layers=1, max_epochs=2, n_particles=5, random_state=0
)


def results_of(score, n_edges):
    """Results of a search: scores of each candidate in each fold, and numbers of edges."""
    score = np.atleast_2d(np.transpose(score)).astype(float)  # a row per fold
    folds = {f"split{i}_test_score": fold for i, fold in enumerate(score)}
    return folds | {"mean_test_score": score.mean(0), "mean_test_n_edges": n_edges}


@pytest.mark.parametrize(
    ("share", "chosen"), [(1.0, 0), (0.95, 1), (0.9, 1), (0.8, 2), (0.5, 2), (0.1, 3)]
)
def test_the_fewest_edges_that_keep_a_share_are_chosen(share, chosen):
    results = results_of([0.0, -1.0, -4.0, -17.0, -20.0], [50, 40, 30, 10, 0])
    assert sparsest(results, share=share) == chosen
    back = {name: values[::-1] for name, values in results.items()}
    assert sparsest(back, share=share) == 4 - chosen  # whatever the order of the grid


def test_the_level_and_the_unit_of_scores_do_not_matter():
    results = results_of([0.0, -1.0, -4.0, -17.0, -20.0], [50, 40, 30, 10, 0])
    moved = {n: v if n.endswith("edges") else 3 * v - 500 for n, v in results.items()}
    assert sparsest(moved) == sparsest(results) == 2


def test_differences_within_the_noise_of_folds_do_not_count():
    level = np.array([0.0, 10.0, -10.0])  # of the folds, which pairing removes
    noisy = [level, level - [0.3, -0.1, 0.1], level - [0.2, -0.2, 0.1]]
    assert sparsest(results_of(noisy, [9, 3, 0])) == 2  # nothing is explained: no edges
    clear = [level, level - [0.3, 0.2, 0.3], level - [0.4, 0.4, 0.4]]
    assert sparsest(results_of(clear, [9, 3, 0])) == 0


def test_of_equally_many_edges_the_better_is_chosen():
    assert sparsest(results_of([0.0, -0.2, -0.1, -9.0], [9, 5, 5, 0])) == 2
    assert sparsest(results_of([0.0, -0.1, -9.0, -8.0], [9, 5, 0, 0])) == 1


def test_candidates_that_failed_are_left_out():
    nan = np.nan
    results = results_of([0.0, nan, -1.0, -20.0, nan], [50, nan, 40, 0, nan])
    assert sparsest(results) == 2
    with pytest.raises(ValueError, match="every fit failed"):
        sparsest(results_of([nan, nan], [nan, nan]))


def test_a_grid_without_a_strong_prior_is_warned_of():
    with pytest.warns(DataWarning, match="sparsest candidate has 9 edges and the densest 50"):
        assert sparsest(results_of([0.0, -1.0, -9.0], [50, 20, 9])) == 1


def test_results_of_other_scorers_are_refused():
    for results in ({"mean_test_score": [0.0]}, {}, None):
        with pytest.raises(ValueError, match="scoring=sparsity_scores"):
            sparsest(results)
    for share in (0, 1.1, -1):
        with pytest.raises(ValueError, match="share"):
            sparsest(results_of([0.0, -1.0], [3, 0]), share=share)


def test_scores_are_those_of_the_model():
    model = MODEL.set_params(sparsity=1.0).fit(SCREEN.X, SCREEN.A)
    scores = sparsity_scores(model, SCREEN.X, SCREEN.A)
    assert scores == {"score": model.score(SCREEN.X, SCREEN.A), "n_edges": model.mask_.sum()}
    with pytest.raises(NotFittedError):
        sparsity_scores(SVAEPlus(), SCREEN.X, SCREEN.A)
    dense = VAE(2, n_hidden=4, max_epochs=1).fit(SCREEN.X, SCREEN.A)
    with pytest.raises(TypeError, match="VAE has no mask_"):
        sparsity_scores(dense, SCREEN.X, SCREEN.A)


@pytest.mark.filterwarnings("ignore::skpert.exceptions.DataWarning")  # so few epochs and cells
def test_a_grid_search_is_refitted_with_the_choice():
    search = GridSearchCV(
        MODEL,
        {"sparsity": [1, 20, 5000]},
        scoring=sparsity_scores,
        refit=partial(sparsest, share=0.6),
        cv=PerturbationKFold(2, random_state=0),
    ).fit(SCREEN.X, SCREEN.A)
    index = sparsest(search.cv_results_, share=0.6)
    assert search.best_index_ == index
    assert (
        search.best_estimator_.sparsity == search.best_params_["sparsity"] == [1, 20, 5000][index]
    )
    assert len(search.cv_results_["split1_test_n_edges"]) == 3
