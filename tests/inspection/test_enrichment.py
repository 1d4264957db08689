"""Gene sets of latents: closed forms, permutations, other programs; names of latents."""

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy.stats import (
    combine_pvalues,
    false_discovery_control,
    fisher_exact,
    hypergeom,
    kstest,
    mannwhitneyu,
)

from skpert.inspection import enrich, latent_names
from skpert.inspection._enrichment import names_of

GENES = [f"G{i}" for i in range(200)]
SETS = {
    "HALLMARK_UP": GENES[:10],
    "HALLMARK_MANY": GENES[::4],
    "HALLMARK_SPREAD": GENES[5::25],
    "HALLMARK_LOW_END": [*GENES[190:], "not measured"],
}
RANDOM = np.random.default_rng(0)


@pytest.fixture
def scores():
    values = RANDOM.permuted(RANDOM.normal(size=(3, 200)), axis=1)
    values[0, :10] += 3
    values[1, 190:] -= 2
    return pd.DataFrame(values, index=["model0", "model1", "model2"], columns=GENES)


def tidy(scores, targeted=(True, True, True)):
    rows = scores.rename_axis(index="latent", columns="gene").stack().rename("log2_fold_change")
    table = rows.reset_index()
    return table.assign(
        targeted=table["latent"].map(dict(zip(scores.index, targeted, strict=True)))
    )


# Against closed forms and permutations


def test_over_representation_is_fishers_test_of_the_top_or_the_bottom(scores):
    table = enrich(scores, SETS, method="top", n_top=15).set_index(["unit", "set"])
    for (unit, name), row in table.iterrows():
        of, ends = set(SETS[name]) & set(GENES), []
        for sign in (1, -1):
            top = set((sign * scores.loc[unit]).nlargest(15).index)
            both = len(top & of)
            counts = [[both, 15 - both], [len(of) - both, 185 - len(of) + both]]
            ends.append((fisher_exact(counts, "greater").pvalue, both))
        p, both = min(ends, key=lambda end: end[0])
        assert row["p"] == pytest.approx(min(1, 2 * p), rel=1e-9)
        assert row["direction"] == ("up", "down")[int(ends[1][0] < ends[0][0])]
        assert (row["overlap"], row["n_genes"]) == (both, len(of))
        assert row["score"] == pytest.approx(both / (15 * len(of) / 200))
    assert table.loc[("model0", "HALLMARK_UP"), "direction"] == "up"
    assert table.loc[("model1", "HALLMARK_LOW_END"), "direction"] == "down"


def test_genes_are_those_of_the_set_at_its_end_largest_first(scores):
    for method in ("rank", "top"):
        table = enrich(scores, SETS, method=method).set_index(["unit", "set"])
        up = table.loc[("model0", "HALLMARK_UP"), "genes"].split(", ")
        assert up == [g for g in scores.loc["model0"].nlargest(20).index if g in GENES[:10]]
        down = table.loc[("model1", "HALLMARK_LOW_END"), "genes"].split(", ")
        assert down == [g for g in scores.loc["model1"].nsmallest(20).index if g in GENES[190:]]
        lengths = table["genes"].map(lambda text: len([g for g in text.split(", ") if g]))
        assert lengths.tolist() == table["overlap"].tolist()


@pytest.mark.parametrize("n_genes", [3, 10, 80])
def test_ranks_have_the_null_of_permuted_genes(n_genes):
    """Tails, too: at p = 0.001, where 20,000 permutations still say something."""
    values = np.arange(200.0)
    of = {f"{i}": list(RANDOM.choice(GENES, n_genes, replace=False)) for i in range(5_000)}
    table = enrich(pd.DataFrame([values], ["a"], GENES), of)
    for level in (0.2, 0.01, 0.001):
        share, error = (table["p"] <= level).mean(), np.sqrt(level / 5_000)
        assert share < level + 4 * error
        assert share > 0.6 * level - 4 * error


def test_ranks_agree_with_wilcoxon_and_do_not_depend_on_scale(scores):
    table = enrich(scores, SETS).set_index(["unit", "set"]).sort_index()
    other = enrich(scores**3, SETS).set_index(["unit", "set"]).sort_index()
    pd.testing.assert_frame_equal(table, other, rtol=1e-9)
    for (unit, name), row in table.iterrows():
        inside = scores.columns.isin(SETS[name])
        test = mannwhitneyu(scores.loc[unit, inside], scores.loc[unit, ~inside])
        assert abs(np.log10(row["p"]) - np.log10(test.pvalue)) < 0.6 + 0.4 * abs(
            np.log10(test.pvalue)
        )


def test_the_sign_of_a_latent_is_arbitrary(scores):
    for method in ("rank", "top"):
        table = enrich(scores, SETS, method=method)
        other = enrich(-scores, SETS, method=method)
        merged = table.merge(other, on=["unit", "set"], suffixes=("", "_other"))
        clear = merged[merged["p"] < 0.5]
        np.testing.assert_allclose(clear["p"], clear["p_other"], rtol=1e-9)
        assert (clear["direction"] != clear["direction_other"]).all()
        assert (clear["genes"] == clear["genes_other"]).all()


# Null


def test_p_values_of_ranks_are_uniform_where_genes_are_shuffled():
    values = RANDOM.standard_t(2, size=200)
    shuffled = np.stack([RANDOM.permutation(values) for _ in range(300)])
    frame = pd.DataFrame(shuffled, columns=GENES)
    for name, of in SETS.items():
        assert kstest(enrich(frame, {name: of})["p"], "uniform").pvalue > 0.01


def test_p_values_of_the_top_are_uniform_but_for_steps():
    """They have few values: what is uniform is p, moved at random within its step."""
    shuffled = np.stack([RANDOM.permutation(200) + 1.0 for _ in range(300)])
    frame = pd.DataFrame(shuffled, columns=GENES)  # nothing at the bottom, where nothing is lower
    for of in SETS.values():
        table = enrich(frame, {"set": of}, method="top", n_top=40)
        half = table["p"].to_numpy() / 2
        exact = hypergeom.sf(table["overlap"] - 1, 200, table["n_genes"], 40)
        inside = half < 0.5
        np.testing.assert_allclose(half[inside], exact[inside], rtol=1e-9)
        step = hypergeom.pmf(table["overlap"], 200, table["n_genes"], 40)
        moved = exact - step * RANDOM.uniform(size=len(exact))
        assert kstest(moved, "uniform").pvalue > 0.01
        for level in (0.01, 0.05, 0.5):
            assert (table["p"] <= level).mean() < level + 3 * np.sqrt(level / 300)


def test_q_is_of_all_units_and_sets_together(scores):
    table = enrich(scores, SETS)
    assert len(table) == 12
    np.testing.assert_allclose(table["q"], false_discovery_control(table["p"]))
    assert table.groupby("unit", sort=False)["p"].is_monotonic_increasing.all()
    assert table["unit"].unique().tolist() == scores.index.tolist()
    found = table[table["q"] < 0.05][["unit", "set"]].to_numpy().tolist()
    assert ["model0", "HALLMARK_UP"] in found
    assert ["model1", "HALLMARK_LOW_END"] in found
    quiet = table[table["unit"] == "model2"]
    assert combine_pvalues(quiet["p"]).pvalue > 1e-3


# Forms of input


def test_forms_of_sets_are_the_same(scores, tmp_path):
    lines = "".join("\t".join([name, "-", *of]) + "\n" for name, of in SETS.items())
    plain, zipped = tmp_path / "sets.gmt", tmp_path / "sets.gmt.gz"
    plain.write_text(lines)
    zipped.write_bytes(gzip.compress(lines.encode()))
    pairs = [(name, gene) for name, of in SETS.items() for gene in of]
    network = pd.DataFrame(pairs, columns=["source", "target"]).assign(weight=1.0)
    expected = enrich(scores, SETS)
    for form in (plain, str(zipped), network):
        pd.testing.assert_frame_equal(enrich(scores, form), expected)


def test_tidy_scores_are_the_same_and_untargeted_latents_are_not_tested(scores):
    table = tidy(scores)
    pd.testing.assert_frame_equal(enrich(table, SETS), enrich(scores, SETS))
    named = table.rename(columns={"log2_fold_change": "encoder_gradient"})
    pd.testing.assert_frame_equal(
        enrich(named, SETS, column="encoder_gradient"), enrich(scores, SETS)
    )
    some = tidy(scores, (True, False, True))
    pd.testing.assert_frame_equal(enrich(some, SETS), enrich(scores.iloc[[0, 2]], SETS))
    pd.testing.assert_frame_equal(enrich(some, SETS, untargeted=True), enrich(scores, SETS))
    none = enrich(tidy(scores, (False,) * 3), SETS)
    assert none.columns.tolist() == enrich(scores, SETS).columns.tolist()
    assert none.empty


def test_units_without_differences_are_left_out_and_zeros_are_at_no_end(scores):
    scores.loc["model1"] = 0.0
    table = enrich(scores, SETS)
    assert table["unit"].unique().tolist() == ["model0", "model2"]
    np.testing.assert_allclose(table["q"], false_discovery_control(table["p"]))
    scores.loc["model1", "G0"] = 1.0
    row = enrich(scores.loc[["model1"]], SETS, method="top").set_index("set").loc["HALLMARK_UP"]
    assert (row["overlap"], row["genes"]) == (1, "G0")
    assert row["p"] == pytest.approx(2 * 10 / 200)


def test_sizes_of_sets_are_those_measured(scores):
    sizes = {f"{n}": GENES[:n] for n in (1, 2, 3, 60, 200)} | {"unmeasured": ["A", "B", "C", "D"]}
    assert sorted(enrich(scores, sizes)["set"].unique()) == ["3", "60"]
    few = enrich(scores, sizes, min_genes=2, max_genes=10)
    assert sorted(few["set"].unique()) == ["2", "3"]
    twice = {"set": GENES[:5] * 2}
    assert (enrich(scores, twice)["n_genes"] == 5).all()


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda s: s.to_numpy(), {}, "must be a DataFrame"),
        (lambda s: s.iloc[:0], {}, "an empty one"),
        (lambda s: s.replace(s.iloc[0, 0], np.nan), {}, "NaN"),
        (lambda s: s.astype(str) + "x", {}, "must be numbers"),
        (lambda s: s.rename(columns={"G1": "G0"}), {}, "several columns of the genes 'G0'"),
        (lambda s: pd.concat([tidy(s)] * 2), {}, "several rows of the genes"),
        (lambda s: tidy(s), {"column": "gradient"}, "no column 'gradient'"),
        (lambda s: s, {"method": "gsea"}, "'rank' or 'top'"),
        (lambda s: s, {"n_top": 0}, "n_top"),
        (lambda s: s, {"min_genes": 0}, "min_genes"),
        (lambda s: s, {"min_genes": 5, "max_genes": 4}, "max_genes"),
        (lambda s: s.rename(columns=str.lower), {}, "None of the 4 gene sets"),
    ],
)
def test_bad_input_is_a_clear_error(scores, change, settings, message):
    with pytest.raises(ValueError, match=message):
        enrich(change(scores), SETS, **settings)


# Other programs


def test_over_representation_is_that_of_gseapy(scores):
    gseapy = pytest.importorskip("gseapy")
    table = enrich(scores.iloc[[0]], SETS, method="top", n_top=20).set_index("set")
    top = scores.loc["model0"].nlargest(20).index.tolist()
    other = gseapy.enrich(top, SETS, background=GENES, outdir=None, no_plot=True).results
    other = other.set_index("Term")
    up = table[table["direction"] == "up"].index.intersection(other.index)
    assert len(up)
    np.testing.assert_allclose(table.loc[up, "p"], (2 * other.loc[up, "P-value"]).clip(upper=1))


def test_the_first_set_is_that_of_gseapy(scores):
    gseapy = pytest.importorskip("gseapy")
    for unit in ("model0", "model1"):
        ranked = scores.loc[unit].sort_values(ascending=False)
        other = gseapy.prerank(
            ranked, SETS, min_size=3, permutation_num=500, seed=0, outdir=None, no_plot=True
        ).res2d.set_index("Term")["NES"]
        table = enrich(scores.loc[[unit]], SETS).set_index("set")
        first = table.index[0]
        assert first == other.astype(float).abs().idxmax()
        assert (table.loc[first, "direction"] == "up") == (other[first] > 0)


# Names


def test_names_are_the_first_sets_in_words(scores):
    table = enrich(scores, SETS)
    expected = {"model0": "0: up", "model1": "1: low end"}
    assert latent_names(table) == names_of(table, ["model0", "model1"]) == expected
    assert latent_names(table, fdr=0) == {}
    assert latent_names(enrich(-scores, SETS)) == expected
    other = table.assign(unit=table["unit"].replace("model0", "invariant0"))
    assert latent_names(other) == {"invariant0": "invariant0: up", "model1": "model1: low end"}
    reactome = table.assign(set=table["set"].replace("HALLMARK_UP", "Signaling by IFN (1)"))
    assert latent_names(reactome)["model0"] == "0: Signaling by IFN (1)"
    assert latent_names(reactome)["model1"] == "1: hallmark low end"


def test_names_of_other_forms_are_errors():
    assert names_of(None, ["a"]) == {}
    assert names_of({"a": "b"}, ["a", "c"]) == {"a": "b"}
    with pytest.raises(ValueError, match="names must be a dict"):
        names_of(["a"], ["a"])
    with pytest.raises(ValueError, match="no column 'q'"):
        latent_names(pd.DataFrame({"unit": [], "set": [], "p": []}))
    with pytest.raises(ValueError, match="must be the table of enrich"):
        latent_names({"a": "b"})
