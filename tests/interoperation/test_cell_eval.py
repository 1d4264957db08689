"""The same numbers as cell-eval2, where it is installed, on a small simulated screen."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import issparse
from sklearn.utils import Bunch

from skpert.datasets import load_screen
from skpert.metrics import (
    de_recovery,
    de_table,
    delta_pearson,
    expression_error,
    perturbation_discrimination,
    response_mse,
)

pytest.importorskip("cell_eval2")
import anndata
import polars
from cell_eval2.de import prepare_de
from cell_eval2.de_compute import compute_de
from cell_eval2.metrics import de, delta, direction, discrimination
from cell_eval2.prep import pseudobulk_bulk_lognorm_with_moments

GENES = [f"gene {g}" for g in range(60)]
TARGETS = GENES[:6]  # a perturbation has the name of its target
CONTROL = "non-targeting"


@pytest.fixture(scope="module")
def cells():
    """Measured and predicted cells with the measured controls, AnnData each."""
    random = np.random.default_rng(0)
    effects = random.normal(0, 0.5, size=(7, 60))
    effects[0] = 0
    labels = np.repeat([CONTROL, *TARGETS], 40)
    obs = pd.DataFrame({"target": labels}, index=[str(i) for i in range(len(labels))])

    def draw(effects):
        rates = np.exp(np.linspace(-1, 3, 60) + effects)
        counts = random.poisson(np.repeat(rates, 40, axis=0) * random.gamma(5, 0.2, (280, 1)))
        return anndata.AnnData(counts.astype(np.float32), obs, pd.DataFrame(index=GENES))

    real = draw(effects)
    predicted = draw(0.6 * effects + (effects != 0) * random.normal(0, 0.3, size=(7, 60)))
    predicted.X[:40] = real.X[:40]
    return Bunch(real=real, predicted=predicted, labels=labels)


@pytest.fixture(scope="module")
def bulks(cells):
    """Profiles in the form of either package."""
    found = Bunch()
    for side in ("real", "predicted"):
        names, means, moments = pseudobulk_bulk_lognorm_with_moments(
            cells[side], "target", bulk_target_sum=5e4
        )
        found[side] = names, means
        found[f"{side}_moments"] = moments
        frame = pd.DataFrame(means, names, GENES)
        found[f"{side}_frame"] = frame.drop(CONTROL)
        found[f"{side}_control"] = frame.loc[CONTROL]
    return found


@pytest.fixture(scope="module")
def tables(cells):
    return [
        de_table(cells[side], cells.labels, space="counts", control=CONTROL)
        for side in ("real", "predicted")
    ]


@pytest.fixture(scope="module")
def prepared(tables):
    """Tables of differential expression in cell-eval2's form."""
    long = []
    for table in tables:
        columns = {"log2_fold_change": "log2_fold_change", "p_value": "p_value", "fdr": "p_adj"}
        parts = {new: table[old].stack() for old, new in columns.items()}
        frame = pd.DataFrame(parts).rename_axis(["target", "feature"]).reset_index()
        long.append(polars_frame(frame))
    return prepare_de(long[1], long[0], control=CONTROL)


def polars_frame(frame):
    return polars.DataFrame({column: frame[column].tolist() for column in frame})


def assert_same(found, expected, **tolerance):
    np.testing.assert_allclose(found, pd.Series(expected)[found.index], **tolerance)


@pytest.mark.parametrize("distance", ["cosine", "l1", "euclidean"])
@pytest.mark.parametrize("exclude", ["targets", None])
def test_discrimination(bulks, distance, exclude):
    names, means = bulks.predicted
    noisy = means + np.random.default_rng(0).normal(size=means.shape)
    found = perturbation_discrimination(
        bulks.real_frame,
        pd.DataFrame(noisy, names, GENES),
        reference=bulks.real_control,
        distance=distance,
        exclude=exclude,
    )
    expected = discrimination.discrimination_score(
        pred_bulk=(names, noisy),
        real_bulk=bulks.real,
        control=CONTROL,
        distance={"euclidean": "l2"}.get(distance, distance),
        rank_denominator="n-1",
        exclude_target_gene=exclude is not None,
        control_source="real",
        genes=np.array(GENES),
    )
    assert found.nunique() > 1
    assert_same(found, expected)


def test_profiles(bulks):
    frames = bulks.real_frame, bulks.predicted_frame
    both = {"pred_bulk": bulks.predicted, "real_bulk": bulks.real, "control": CONTROL}
    expected = delta.pearson_delta(**both, control_source="real")
    assert_same(delta_pearson(*frames, reference=bulks.real_control), expected)
    assert_same(response_mse(*frames), delta.mse(**both))


def test_expression_error(cells, bulks):
    treated = cells.labels != CONTROL
    real, labels = cells.real[treated], cells.labels[treated]
    found = expression_error(
        real, labels, cells.predicted[treated], labels, cells.real[~treated], space="counts"
    )
    options = {
        "comparator": "bulk_lognorm",
        "pred_bulk": bulks.predicted,
        "real_bulk": bulks.real,
        "pred_moments": bulks.predicted_moments,
        "real_moments": bulks.real_moments,
        "control": CONTROL,
    }
    # Without `pred_bulk_full`, it leaves out the bound on the noise of all predictions together.
    assert_same(found["numerator"], delta.mse_unbiased_capped(**options), rtol=1e-6)
    assert_same(found["denominator"], delta.distance_unbiased(**options), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "metric", "options"),
    [
        ("overlap_at_n", de.de_overlap, {"k": None}),
        ("recall", de.de_sig_recall, {}),
        ("direction_match", de.de_direction_match, {}),
        ("lfc_spearman", de.de_lfc_spearman, {}),
        ("pr_auc", de.de_pr_auc, {}),
        ("roc_auc", de.de_roc_auc, {}),
    ],
)
def test_recovery(tables, prepared, name, metric, options):
    assert_same(de_recovery(*tables)[name], metric(prepared, **options))


@pytest.mark.parametrize(
    ("name", "metric", "options"),
    [
        ("jaccard", de.de_sig_jaccard, {}),
        ("lfc_nmae", de.de_lfc_nmae, {}),
        ("direction_fidelity", direction.de_direction_fidelity_yield_raw, {}),
        (
            "direction_reach",
            direction.de_direction_reach,
            {"universe": "adjudicated", "corrected": False},
        ),
    ],
)
def test_recovery_without_the_own_target(tables, prepared, name, metric, options):
    """These leave it out always."""
    own = {target: [target] for target in TARGETS}
    assert_same(de_recovery(*tables, exclude=own)[name], metric(prepared, **options))


def test_overlap_of_the_top(tables, prepared):
    found = de_recovery(*tables, top=5)["overlap_at_n"]
    assert_same(found, de.de_overlap(prepared, k=5))


def test_differential_expression(cells, tables):
    with np.errstate(all="ignore"):
        table = compute_de(
            cells.real.copy(),
            backend="scanpy",
            groupby="target",
            reference=CONTROL,
            mean_calc="arithmetic",
            epsilon=1.0,  # per million, as is 0.01 per ten thousand
            input_type="counts",
            filter_gene_min_cpm_cell=5,
        )
    frame = pd.DataFrame(table.to_dict(as_series=False))
    for key, column in (("log2_fold_change", "log2_fold_change"), ("p_value", "p_value")):
        expected = frame.pivot(index="target", columns="feature", values=column)
        ours = tables[0][key]
        assert set(ours.columns) == set(expected.columns)
        expected = expected.loc[ours.index, ours.columns]
        if key == "p_value":  # scanpy does not correct for continuity
            ours, expected = np.log10(ours), np.log10(expected)
        tolerance = {"atol": 0.05, "rtol": 0.02} if key == "p_value" else {"rtol": 1e-4}
        np.testing.assert_allclose(ours, expected, **tolerance)


def test_its_metrics_of_written_files_are_ours(page):
    found = page("cell-eval2")
    files = [load_screen(found["folder"] / f"{name}.h5ad") for name in ("measured", "predicted")]
    profiles = [profile_frame(cells.X, cells.obs["perturbation"].to_numpy()) for cells in files]
    control = profiles[0].loc["control"]
    profiles = [frame.drop("control") for frame in profiles]
    scores = pd.DataFrame(found["scores"].to_dict(as_series=False))
    scores = scores.pivot(index="perturbation", columns="metric", values="value")
    ours = {
        "pds_cosine": perturbation_discrimination(*profiles, reference=control),
        "delta_pearson": delta_pearson(*profiles, reference=control),
    }
    for name, values in ours.items():
        assert_same(values, scores[name], rtol=1e-4)


def profile_frame(X, labels):
    """Profile of each label, as cell-eval2 has it: log(1 + total counts, scaled to 50,000)."""
    frame = pd.DataFrame(X.toarray() if issparse(X) else X, columns=GENES).groupby(labels).sum()
    return np.log1p(frame.mul(5e4 / frame.sum(axis=1), axis=0))
