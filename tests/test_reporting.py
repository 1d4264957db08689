"""One HTML page on a screen and a model: what it says, and that it can be sent as it is."""

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError

from skpert import (
    CPAVAE,
    IVAE,
    NFIVAE,
    SAMSVAE,
    SCCVAE,
    VAE,
    BetaVAE,
    ConditionalVAE,
    ControlMean,
    InVAE,
    SVAEPlus,
    report,
)
from skpert.datasets import make_sparse_shift
from skpert.inspection import direct_effects, effects, guide_efficacy, responders
from skpert.model_selection import PerturbationKFold

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib").use("Agg")

DATA = make_sparse_shift(
    6,
    n_cells_per_perturbation=60,
    n_control_cells=60,
    n_latent=3,
    n_genes=50,
    n_targets=1,
    effect_size=3.0,
    library_size=3000,
    random_state=0,
)
GENES = [f"g{i}" for i in range(50)]
X = pd.DataFrame(DATA.X, columns=GENES)
OBS = pd.DataFrame({"perturbation": DATA.A, "batch": np.tile(["a", "b"], len(DATA.A) // 2)})
FAST = {"n_latent": 3, "max_epochs": 4, "random_state": 0}
VOID = {"meta", "img", "line"}


class Page(HTMLParser):
    """Text, headings, rows of tables and attributes of a page; every tag must be closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.headings, self.rows, self.links = [], [], {}, []
        self.text, self.images, self.folded = "", [], 0
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag in ("h2", "td"):
            self.headings += [""] * (tag == "h2")
            if tag == "td":
                self.rows[self.headings[-1]][-1].append("")
        if tag == "tr":
            self.rows.setdefault(self.headings[-1], []).append([])
        self.folded += tag == "tr" and "details" in self.open
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if "h2" in self.open:
            self.headings[-1] += data
        if "td" in self.open:
            self.rows[self.headings[-1]][-1][-1] += data

    def cells(self, heading):
        """Rows of a section, without those of headers."""
        return [row for row in self.rows.get(heading, []) if row]


@pytest.fixture(scope="module")
def model():
    return SVAEPlus(n_latent=3, max_epochs=40, random_state=0).fit(X, OBS)


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "screen.html"
    guide = OBS["perturbation"] + "_" + np.where(np.arange(len(OBS)) % 3 == 0, "1", "2")
    sets = {"FIRST_SET": GENES[:10], "LAST_SET": GENES[40:]}
    options = {"sets": sets, "guides": guide.to_numpy(), "nulls": "P5"}
    assert report(model, X, OBS, path, compare=False, **options) == path
    return Page(path)


def test_the_page_needs_nothing_else(page):
    assert page.images
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert all(image["alt"] for image in page.images)
    assert all(re.match(r"data:image/|#", link) for link in page.links)
    assert "None" not in page.text


def test_every_section_says_what_its_function_says(page, model):
    table = effects(model)
    called = table[table["called"]]
    assert len(called)
    found = page.cells("Targets of perturbations")
    assert {tuple(row[:1]) for row in found} == {(name,) for name in called["perturbation"]}
    assert len(found) == len(called)
    n_guides = 2 * len(responders(model, X, OBS).shares)
    assert f"of {n_guides} guides differ from control cells" in page.text
    direct = direct_effects(model, X, OBS, nulls="P5")
    assert len(page.cells("Direct effects on genes")) == direct["called"].sum()
    guide = OBS["perturbation"] + "_" + np.where(np.arange(len(OBS)) % 3 == 0, "1", "2")
    verdicts = guide_efficacy(model, X, OBS, guide.to_numpy(), nulls="P5")
    shown = {row[0]: row[2] for row in page.cells("Guides")}
    assert shown == dict(zip(verdicts["guide"], verdicts["verdict"], strict=True))
    assert "420 cells and 50 genes. 60 cells are of the control “control”." in page.text
    assert "Of 1 perturbation said to do nothing" in page.text


def test_parameters_that_differ_from_the_default_are_named(page):
    assert page.cells("Model") == [["max_epochs", "40"], ["n_latent", "3"], ["random_state", "0"]]


CLASSES = {
    **dict.fromkeys((VAE, BetaVAE, IVAE, SAMSVAE, CPAVAE, ConditionalVAE, SCCVAE), {}),
    InVAE: {"invariant": "perturbation", "spurious": "batch"},
    NFIVAE: {"invariant": "perturbation"},
}


@pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot")
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_model_has_a_page(cls, tmp_path):
    values = np.log1p(X) if cls is SCCVAE else X
    model = cls(**FAST, **CLASSES[cls]).fit(values, OBS)
    page = Page(report(model, values, OBS, tmp_path / "page.html", compare=False))
    of_covariates = cls in (InVAE, NFIVAE)
    assert ("Direct effects on genes" in page.headings) != of_covariates
    assert ("Responders" in page.headings) != of_covariates
    assert ("Targets of perturbations" in page.headings) == (cls is SAMSVAE)
    assert ("Effects of perturbations" in page.headings) == (cls in (IVAE, CPAVAE, SCCVAE))
    assert ("Which latents are identified" in page.headings) == (cls is SAMSVAE)
    left_out = page.text[page.text.index("Not in this report") :]
    assert "Guides: " in left_out
    n_latents = min(model.n_latent_, len(model.get_feature_names_out()))
    assert len(page.cells("Latents: genes and programmes")) == n_latents


def test_the_model_is_compared_with_simpler_ones(tmp_path):
    model = SVAEPlus(**FAST, n_particles=10).fit(X, OBS)
    page = Page(report(model, X, OBS, tmp_path / "page.html"))
    rows = page.cells("Is the model better than simpler ones?")
    assert [row[0] for row in rows[:2]] == ["SVAEPlus", "VAE"]
    assert [row[0] for row in rows[2:5]] == ["SVAEPlus", "no effect", "additive effects"]
    train, test = next(PerturbationKFold(5, sep=None, random_state=0).split(X, OBS))
    refit = SVAEPlus(**FAST, n_particles=10).fit(X.iloc[train], OBS.iloc[train])
    score = refit.score(X.iloc[test], OBS.iloc[test])
    assert float(rows[0][1].replace("−", "-")) == pytest.approx(score, abs=0.006)


def test_labels_that_say_nothing_are_not_praised(tmp_path):
    shuffled = np.random.default_rng(0).permutation(DATA.A)
    model = SVAEPlus(n_latent=3, max_epochs=20, random_state=0).fit(X, shuffled)
    rows = np.arange(len(shuffled)) % 4 == 0
    text = Page(report(model, X, shuffled, tmp_path / "page.html", compare=(~rows, rows))).text
    assert "more likely under SVAEPlus" not in text
    assert "SVAEPlus is not better than a VAE on held-out cells" in text
    assert "No target is called for any of 6 perturbations" in text


@pytest.mark.parametrize("cls", [VAE, InVAE, SCCVAE], ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:Perturbations are described by one-hot")
def test_comparisons_follow_the_model(cls, tmp_path):
    values = np.log1p(X) if cls is SCCVAE else X
    model = cls(**FAST, **CLASSES[cls]).fit(values, OBS)
    page = Page(report(model, values, OBS, tmp_path / "page.html"))
    rows = [row[0] for row in page.cells("Is the model better than simpler ones?")]
    name = cls.__name__
    assert rows.count(name) == (1 if cls in (VAE, InVAE) else 2)
    assert ("no effect" in rows) == (cls is not InVAE)


@pytest.mark.parametrize("form", [pd.DataFrame, np.asarray, csr_array])
def test_doses_are_compared_with_a_model_of_labels(form, tmp_path):
    doses = np.random.default_rng(0).choice([0.5, 1.0], len(DATA.A))
    A = form(pd.get_dummies(DATA.A).drop(columns="control").mul(doses, axis=0))
    page = Page(report(SAMSVAE(**FAST).fit(X, A), X, A, tmp_path / "page.html"))
    rows = [row[0] for row in page.cells("Is the model better than simpler ones?")]
    assert rows[:2] == ["SAMSVAE", "VAE"]
    assert "additive effects" in rows


def test_letters_that_figures_lack_are_no_warnings(tmp_path):
    A = np.where(DATA.A == "P1", "日本", DATA.A)
    model = SVAEPlus(**FAST).fit(X, A)
    page = Page(report(model, X, A, tmp_path / "page.html", compare=False))
    assert "No warning came up." in page.text
    assert "日本" in page.text


def test_names_cannot_break_the_page(tmp_path):
    evil = "<script>alert('x')</script>"
    A = np.where(DATA.A == "P1", evil, DATA.A)
    values = X.rename(columns={"g3": "<b>g3"})
    model = SVAEPlus(**FAST, control="control").fit(values, A)
    path = report(model, values, A, tmp_path / "page.html", compare=False, title="<i>&")
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>" not in html
    assert "<h1>&lt;i&gt;&amp;</h1>" in html
    assert evil in Page(path).text


def test_many_rows_are_folded(tmp_path):
    labels = np.array([f"P{i}" for i in range(40)] + ["control"])
    A = np.resize(labels, len(DATA.A))
    model = VAE(**FAST).fit(X, A)
    page = Page(report(model, X, A, tmp_path / "page.html", compare=False))
    assert len(page.cells("What was read")) == 41
    assert page.folded > 30
    assert "fewer than 50 cells" in page.text


def test_warnings_are_in_the_page_and_not_given(tmp_path):
    values = X + 0.25
    with pytest.warns(UserWarning, match="not whole"):
        model = VAE(**FAST).fit(values, OBS)
    page = Page(report(model, values, OBS, tmp_path / "page.html", compare=False))
    assert "Warning while reading" in page.text
    assert "1 warning came up" in page.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "missing/page.html"}, "there is no folder"),
        ({"path": "page.pdf"}, "path must end in .html"),
        ({"nulls": ["P9"]}, "nulls names 'P9', which have no cells in A"),
        ({"fdr": 2}, "fdr == 2"),
        ({"sets": {"NONE": ["a", "b", "c"]}}, "None of the 1 gene sets"),
        ({"guides": "guide"}, "guides='guide' is no column of A"),
        ({"guides": ["g"] * 3}, "guides must have one value for each of the 420 cells"),
        ({"batch": "site"}, "site"),
        ({"compare": "half"}, "compare must be True, False or a pair of rows"),
        ({"compare": ([0, 1, 2], [2, 3])}, "got 3 and 2 rows, 1 in both"),
        ({"A": OBS.iloc[:20]}, "inconsistent numbers of samples"),
        ({"A": ["control"] * len(OBS)}, "A has control cells only"),
        ({"A": ["P9"] * len(OBS)}, "P9"),
        ({"X": X.iloc[:, :9]}, "g9"),
    ],
)
def test_after_bad_input_nothing_is_written(model, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"X": X, "A": OBS, "path": "page.html", "compare": False} | options
    with pytest.raises(ValueError, match=re.escape(message)):
        report(model, given.pop("X"), given.pop("A"), given.pop("path"), **given)
    assert not list(tmp_path.iterdir())


def test_what_is_no_fitted_model_is_an_error(tmp_path):
    path = tmp_path / "page.html"
    with pytest.raises(NotFittedError):
        report(SVAEPlus(), X, OBS, path)
    baseline = ControlMean().fit(np.log1p(X), OBS)
    with pytest.raises(ValueError, match="ControlMean has no latents"):
        report(baseline, X, OBS, path)
    with pytest.raises(TypeError, match="path must be the name of a file"):
        report(SVAEPlus(), X, OBS, None)


def test_an_existing_file_is_replaced_as_a_whole_or_not_at_all(model, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="nulls"):
        report(model, X, OBS, path, compare=False, nulls="P9")
    assert path.read_text() == "old"
    report(model, X, OBS, path, compare=False)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_library_names_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"report needs jinja2: pip install 'skpert\[report\]'"):
        report(model, X, OBS, tmp_path / "page.html")


def test_labels_of_one_cell_and_combinations_are_compared(tmp_path):
    A = DATA.A.astype(object)
    A[np.flatnonzero(DATA.A == "P1")[::2]] = "P1+P2"
    A[np.flatnonzero(DATA.A == "P3")[0]] = "LONE"
    with pytest.warns(UserWarning, match="'LONE'"):
        model = SAMSVAE(**FAST).fit(X, A)
    page = Page(report(model, X, A, tmp_path / "page.html"))
    assert page.text.count("with one cell only (1): 'LONE'") == 1
    assert page.cells("What was read")[0][:2] == ["LONE", "1"]
    assert "additive effects" in [row[0] for row in page.cells(page.headings[3])]
