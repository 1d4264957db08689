import numpy as np
import pandas as pd
import pytest

from skpert import SVAEPlus
from skpert.inspection import enrich
from skpert.plotting import LatentProgrammesDisplay, TargetsDisplay

plt = pytest.importorskip("matplotlib.pyplot")

GENES = [f"G{i}" for i in range(100)]
SETS = {"SET_A": GENES[:8], "SET_B": GENES[90:], "SET_EVEN": GENES[::2]}


@pytest.fixture
def scores():
    """Genes of one set go up with the first latent, those of another down with the last."""
    values = np.random.default_rng(0).normal(size=(20, 100))
    values[0, :8] += 4
    values[19, 90:] -= 4
    return pd.DataFrame(values, [f"model{i}" for i in range(20)], GENES)


@pytest.fixture
def genes(scores):
    rows = scores.rename_axis(index="latent", columns="gene").stack().rename("log2_fold_change")
    return rows.reset_index()


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_dots_are_called_sets_and_genes_are_beside_them(scores, genes):
    display = LatentProgrammesDisplay(enrich(scores, SETS), genes).plot(n_genes=3)
    assert labels(display.ax_.yaxis) == [f"{i}" for i in range(20)]
    assert labels(display.ax_.xaxis) == ["a", "b"]
    q = display.q_
    assert 0 < q.loc["model0", "SET_A"] < 0.05
    assert -0.05 < q.loc["model19", "SET_B"] < 0
    assert display.ax_.get_xlabel() == "gene set"
    dots = display.ax_.collections[0].get_offsets()
    assert {tuple(dot) for dot in dots.tolist()} >= {(0, 0), (1, 19)}
    top = scores.loc["model0"].nlargest(3).index.tolist()
    assert display.top_genes_.loc["model0", "up"] == ", ".join(top)
    bottom = scores.loc["model19"].nsmallest(3).index.tolist()
    assert display.top_genes_.loc["model19", "down"] == ", ".join(bottom)
    written = {text.get_text() for text in display.ax_.texts}
    assert {", ".join(top), ", ".join(bottom)} <= written


def test_texts_do_not_overlap_with_twenty_latents(scores, genes):
    display = LatentProgrammesDisplay(enrich(scores, SETS), genes).plot()
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.texts if text.get_text()]
    boxes += [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert not [
        (a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.shrunk(0.98, 0.9).overlaps(b)
    ]
    width = display.figure_.bbox.width
    assert all(0 <= box.x0 <= box.x1 <= width for box in boxes)


def test_where_no_set_is_called_the_best_are_shown_and_some_of_many(scores):
    quiet = scores.iloc[5:8]
    few = {f"SET_{i}": GENES[i : i + 5] for i in range(40)}
    display = LatentProgrammesDisplay(enrich(quiet, few)).plot(fdr=0.0)
    assert display.q_.shape == (3, 5)
    assert display.top_genes_ is None
    display = LatentProgrammesDisplay(enrich(scores, few)).plot(fdr=1.0, n_sets=3)
    assert display.q_.shape == (20, 3)
    assert display.ax_.get_xlabel() == "gene set (37 more are called)"
    ax = plt.figure().add_subplot()
    assert LatentProgrammesDisplay(enrich(scores, few)).plot(ax).ax_ is ax


def test_bad_input_is_a_clear_error(scores, genes):
    enriched = enrich(scores, SETS)
    with pytest.raises(ValueError, match="untargeted=True"):
        LatentProgrammesDisplay(enriched.iloc[:0]).plot()
    with pytest.raises(ValueError, match="no rows of the latents 'model0'"):
        LatentProgrammesDisplay(enriched, genes[genes["latent"] != "model0"]).plot()
    for settings in ({"fdr": 2}, {"n_sets": 0}, {"n_genes": 0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            LatentProgrammesDisplay(enriched, genes).plot(**settings)


# Names of latents


@pytest.mark.parametrize("kind", ["map", "intervals"])
def test_targets_are_shown_with_names_of_latents(screen, kind):
    model = SVAEPlus(n_latent=3, max_epochs=20, random_state=0).fit(screen.X, screen.A)
    latents = model.targets_.columns
    one = {latents[i]: f"{i}: programme {i}" for i in (0, 2)}
    targets = pd.DataFrame(np.ones((5, 3)), model.perturbations_, latents)
    edges = targets.rename_axis("perturbation").stack().rename_axis(["perturbation", "latent"])
    edges = edges.rename("lower").reset_index().assign(upper=2.0, probability=1.0)
    display = TargetsDisplay(targets, edges=edges).plot(kind=kind, names=one)
    if kind == "map":
        shown = labels(display.ax_.xaxis)
        assert sorted(shown) == ["0: programme 0", "1", "2: programme 2"]
    else:
        written = {text.get_text() for text in display.ax_.texts}
        assert {"latent 0: programme 0", "latent 1", "latent 2: programme 2"} <= written
    table = pd.DataFrame({"unit": [latents[1]], "set": ["X"], "p": [0.01], "q": [0.01]})
    display = TargetsDisplay(targets).plot(names=table)
    assert "1: x" in labels(display.ax_.xaxis)
    with pytest.raises(ValueError, match="names must be a dict"):
        TargetsDisplay(targets).plot(names=["a"])
    with pytest.raises(ValueError, match="names calls several latents 'a'"):
        TargetsDisplay(targets).plot(names=dict.fromkeys(targets.columns[:2], "a"))
    with pytest.raises(ValueError, match="names has 'svae7', and latents are"):
        TargetsDisplay(targets).plot(names={"svae7": "a"})
