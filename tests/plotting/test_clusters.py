from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from skpert import IVAE
from skpert.plotting import EmbeddingClustersDisplay

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def embedding():
    """Three programmes of 4, 3 and 2 members in turn, and two without effect."""
    random = np.random.default_rng(0)
    programme = np.array([0, 1, 2, 0, 1, 2, 0, 1, 0])
    values = 5 * np.eye(3, 8)[programme] * random.uniform(0.3, 2, size=(9, 1))
    values += 0.1 * random.normal(size=values.shape)
    names = [f"{'ABC'[p]}{i}" for i, p in enumerate(programme)]
    frame = pd.DataFrame(values, index=names)
    return pd.concat([frame, pd.DataFrame(0.0, ["none", "nothing"], frame.columns)]).iloc[::-1]


def test_the_map_is_the_correlation_in_the_order_of_its_labels(embedding):
    display = EmbeddingClustersDisplay(embedding).plot()
    rows = [label.get_text() for label in display.ax_.yaxis.get_ticklabels()]
    assert sorted(rows) == sorted(embedding.index[2:])
    expected = np.corrcoef(embedding.loc[rows])
    np.testing.assert_allclose(display.im_.get_array(), expected, atol=1e-12)
    assert display.similarity_.index.tolist() == display.similarity_.columns.tolist() == rows
    assert display.im_.get_clim() == (-1, 1)
    assert display.ax_.get_xlabel() == "2 more perturbations have no direction"


def test_cosine_similarity_of_scaled_rows_is_one():
    frame = pd.DataFrame([[1.0, 1], [-2, -2], [3, 3], [1, -1]], index=list("abcd"))
    display = EmbeddingClustersDisplay(frame, metric="cosine").plot()
    similarity = display.similarity_.loc[list("abcd"), list("abcd")]
    np.testing.assert_allclose(similarity.iloc[0], [1, -1, 1, 0], atol=1e-12)
    assert display.colorbar_.ax.get_xlabel() == "cosine similarity"


def test_clusters_are_the_programmes_numbered_from_the_top(embedding):
    display = EmbeddingClustersDisplay(embedding, n_clusters=3).plot()
    clusters = display.clusters_
    assert clusters.index.equals(display.similarity_.index)
    assert clusters.is_monotonic_increasing
    assert clusters.unique().tolist() == [1, 2, 3]
    programmes = clusters.index.str[0]
    assert all(clusters[programmes == p].nunique() == 1 for p in "ABC")
    squares = [(patch.get_x(), patch.get_width()) for patch in display.ax_.patches]
    sizes = clusters.value_counts(sort=False).to_numpy()
    assert squares == [*zip(np.cumsum(sizes) - sizes - 0.5, sizes, strict=True)]


@pytest.mark.parametrize("n_clusters", [1, 9])
def test_one_cluster_or_one_each(embedding, n_clusters):
    display = EmbeddingClustersDisplay(embedding, n_clusters=n_clusters).plot()
    assert display.clusters_.nunique() == n_clusters


def test_order_of_rows_and_scale_of_effects_do_not_matter(embedding):
    first = EmbeddingClustersDisplay(embedding, n_clusters=3).plot().similarity_
    other = EmbeddingClustersDisplay(7 * embedding.sample(frac=1, random_state=0)).plot()
    again = other.similarity_.loc[first.index, first.columns]
    pd.testing.assert_frame_equal(again, first, check_exact=False)


def test_pathways_follow_the_rows(embedding):
    pathways = {"ribosome": ["B1", "B4", "unknown"], "NER": ["A0"], "empty": ["nobody"]}
    display = EmbeddingClustersDisplay(embedding, pathways=pathways).plot()
    shown = display.pathways_
    assert shown.index.equals(display.similarity_.index)
    assert shown.dropna().to_dict() == {"A0": "NER", "B1": "ribosome", "B4": "ribosome"}
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert legend == ["ribosome", "NER", "no pathway"]


@pytest.mark.parametrize(("n_pathways", "n_own"), [(6, 6), (9, 9), (30, 9)])
def test_colours_of_pathways_are_distinct_and_others_are_counted(n_pathways, n_own):
    names = [f"P{i}" for i in range(n_pathways)]
    frame = pd.DataFrame(np.eye(n_pathways), index=names)
    display = EmbeddingClustersDisplay(frame, pathways=pd.Series(names, names)).plot()
    legend = display.ax_.get_legend()
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[n_own:] == [f"{n_pathways - n_own} other pathways"] * (n_pathways > n_own)
    colours = {handle.get_facecolor() for handle in legend.get_patches()}
    assert len(colours) == n_own + (n_pathways > n_own)


def test_names_of_rows_do_not_overlap_above_a_long_legend():
    names = [f"P{i}" for i in range(60)]
    frame = pd.DataFrame(np.eye(60), index=names)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    pathways = pd.Series([f"pathway {i % 9}" for i in range(60)], names)
    display = EmbeddingClustersDisplay(frame, pathways=pathways).plot(axes[0])
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in display.ax_.yaxis.get_ticklabels()]
    assert len(boxes) > 10
    assert not any(box.overlaps(after) for box, after in pairwise(boxes))


def test_one_perturbation():
    frame = pd.DataFrame([[1.0, 2.0]], index=["JAK2"])
    display = EmbeddingClustersDisplay(frame, n_clusters=1, pathways={"JAK": "JAK2"}).plot()
    assert display.similarity_.to_numpy() == pytest.approx(1)
    assert display.clusters_.to_dict() == {"JAK2": 1}
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": pd.DataFrame([[0.0, 0]], index=["A"])}, "no perturbation has a direction"),
        ({"embedding": pd.DataFrame([[0.3], [2]])}, "or the same on all latents"),
        ({"n_clusters": 10}, "between 1 and 9, .* got 10"),
        ({"n_clusters": 0}, "between 1 and 9"),
        ({"metric": "euclidean"}, "metric must be one of"),
        ({"pathways": {"NER": ["none"]}}, "no member of pathways is a perturbation"),
    ],
)
def test_bad_input(embedding, change, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingClustersDisplay(**{"embedding": embedding} | change).plot()


def test_effects_of_an_estimator_and_axes_of_ones_own(screen):
    model = IVAE(n_latent=3, max_epochs=5, random_state=0).fit(screen.X, screen.A)
    _, ax = plt.subplots()
    display = EmbeddingClustersDisplay.from_estimator(model, metric="cosine", ax=ax)
    assert display.ax_ is ax
    rows = model.targets_.loc[display.similarity_.index].to_numpy()
    norm = np.linalg.norm(rows, axis=1)
    expected = rows @ rows.T / np.outer(norm, norm)
    np.testing.assert_allclose(display.similarity_, expected, atol=1e-6)
