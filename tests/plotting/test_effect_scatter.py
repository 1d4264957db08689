import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from skpert.plotting import EffectsDisplay

plt = pytest.importorskip("matplotlib.pyplot")


def frames(n_perturbations, n_genes):
    random = np.random.default_rng(0)
    names = [f"P{i}" for i in range(n_perturbations)], [f"G{i}" for i in range(n_genes)]
    measured = pd.DataFrame(random.normal(size=(n_perturbations, n_genes)), *names)
    return measured, 0.5 * measured + 0.3 * random.normal(size=measured.shape)


def test_correlations_of_all_genes_and_of_the_largest_effects():
    measured, predicted = frames(4, 60)
    display = EffectsDisplay(measured, predicted, n_top=5).plot()
    largest = {name: row.abs().nlargest(5).index for name, row in measured.iterrows()}
    x = np.concatenate([measured.loc[name, genes] for name, genes in largest.items()])
    y = np.concatenate([predicted.loc[name, genes] for name, genes in largest.items()])
    expected = [pearsonr(measured.to_numpy().ravel(), predicted.to_numpy().ravel())[0]]
    expected.append(pearsonr(x, y)[0])
    np.testing.assert_allclose(display.pearson_, expected)
    for name, genes in largest.items():
        expected = [
            pearsonr(measured.loc[name], predicted.loc[name])[0],
            pearsonr(measured.loc[name, genes], predicted.loc[name, genes])[0],
        ]
        np.testing.assert_allclose(display.by_perturbation_.loc[name], expected)


def test_rows_and_columns_are_matched_by_name():
    measured, predicted = frames(4, 60)
    shuffled = predicted.sample(frac=1, random_state=0).sample(frac=1, axis=1, random_state=0)
    more = pd.concat([shuffled, pd.DataFrame(9.0, ["P9"], shuffled.columns)]).assign(G99=9.0)
    first = EffectsDisplay(measured, predicted).plot().by_perturbation_
    pd.testing.assert_frame_equal(EffectsDisplay(measured, more).plot().by_perturbation_, first)


def test_points_are_pairs_of_perturbation_and_gene():
    measured, predicted = frames(3, 40)
    display = EffectsDisplay(measured, predicted, n_top=7).plot(perturbations=["P2", "P0"])
    points = display.axes_[0].collections[0].get_offsets()
    expected = np.c_[measured.to_numpy().ravel(), predicted.to_numpy().ravel()]
    np.testing.assert_array_equal(points, expected)
    others, top = (collection.get_offsets() for collection in display.axes_[1].collections)
    genes = measured.loc["P2"].abs().nlargest(7).index
    expected = np.c_[measured.loc["P2", genes], predicted.loc["P2", genes]]
    np.testing.assert_array_equal(np.sort(top, axis=0), np.sort(expected, axis=0))
    assert len(others) == 33


def test_titles_give_the_correlations():
    measured, predicted = frames(3, 40)
    display = EffectsDisplay(measured, predicted, n_top=7).plot(perturbations="P1")
    r, r_top = display.pearson_
    assert display.axes_[0].get_title() == (
        f"3 perturbations, 40 genes\nr = {r:.2f}; top 7: {r_top:.2f}"
    )
    r, r_top = display.by_perturbation_.loc["P1"]
    assert display.axes_[1].get_title() == f"P1\nr = {r:.2f}; top 7: {r_top:.2f}"


def test_many_points_are_counted_in_hexagons():
    measured, predicted = frames(30, 200)
    display = EffectsDisplay(measured, predicted).plot()
    [hexagons] = display.axes_[0].collections
    assert hexagons.get_array().sum() == 6000


def test_both_axes_have_the_same_limits_and_hold_all_points():
    measured, predicted = frames(3, 40)
    [ax] = EffectsDisplay(measured, 10 * predicted).plot().axes_
    assert ax.get_xlim() == ax.get_ylim()
    low, high = ax.get_xlim()
    assert low < 10 * predicted.min(axis=None)
    assert high > 10 * predicted.max(axis=None)
    [line] = ax.lines
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())


def test_fewer_genes_than_asked_for_are_all_top():
    measured, predicted = frames(1, 6)
    display = EffectsDisplay(measured, predicted, n_top=20).plot()
    assert display.pearson_["all"] == pytest.approx(display.pearson_["top"])
    title = display.axes_[0].get_title()
    assert title.startswith("1 perturbation, 6 genes")
    assert "top 6:" in title


def test_effects_that_do_not_vary_have_no_correlation():
    measured, predicted = frames(2, 30)
    display = EffectsDisplay(0 * measured, predicted).plot()
    assert display.pearson_.isna().all()
    assert display.axes_[0].get_title().endswith("r = –; top 20: –")
    display.figure_.canvas.draw()


def test_bad_input():
    measured, predicted = frames(3, 40)
    with pytest.raises(ValueError, match="predicted has no rows 'P2'; it has 'P0', 'P1'"):
        EffectsDisplay(measured, predicted[:2]).plot()
    with pytest.raises(ValueError, match="predicted has no columns 'G0'"):
        EffectsDisplay(measured, predicted.drop(columns="G0")).plot()
    with pytest.raises(ValueError, match="measured has no rows 'P7'"):
        EffectsDisplay(measured, predicted).plot(perturbations=["P7"])
    with pytest.raises(ValueError, match="predicted has NaN or infinite values in the rows 'P1'"):
        EffectsDisplay(measured, predicted.replace(predicted.loc["P1", "G1"], np.nan)).plot()
    with pytest.raises(ValueError, match="measured has several columns of one name: 'G0'"):
        EffectsDisplay(measured[["G0", "G1", "G0"]], predicted).plot()
    with pytest.raises(ValueError, match="several rows of one name: 'P0'"):
        EffectsDisplay(measured, predicted.loc[["P0", "P0", "P1", "P2"]]).plot()
    with pytest.raises(ValueError, match="measured is empty"):
        EffectsDisplay(measured[:0], predicted).plot()
    with pytest.raises(ValueError, match="n_top == 0"):
        EffectsDisplay(measured, predicted, n_top=0).plot()


def test_axes_of_ones_own():
    measured, predicted = frames(3, 40)
    _, axes = plt.subplots(1, 2)
    display = EffectsDisplay(measured, predicted)
    assert display.plot(axes, perturbations="P0").axes_.tolist() == axes.tolist()
    assert display.plot(axes[0]).figure_ is axes[0].figure
    with pytest.raises(ValueError, match="axes must be 2; got 1"):
        display.plot(axes[:1], perturbations="P0")
