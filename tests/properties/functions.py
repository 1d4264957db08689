"""Generated calls of functions, encoders and splitters, and what each ends in."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy.sparse import csr_array

from skpert import (
    SAMSVAE,
    SCCVAE,
    VAE,
    ControlMean,
    InVAE,
    PerturbedMean,
    SVAEPlus,
    datasets,
    inspection,
    load,
    metrics,
    model_selection,
    preprocessing,
    report,
    save,
)

from . import faults, files, forms
from .estimators import CHEAP
from .oracle import Wrong, agree, check_clear, check_finite, named, well_behaved
from .screens import NAMES, VALUES, Screen

FOLDER = Path(forms.FOLDER.name)
GENE_SETS = {"first": ["A", "B", "C"], "second": ["B", "C", "D", "A"], "third": ["X", "Y", "Z"]}


class Call(NamedTuple):
    """A function, and what its arguments are like."""

    function: str
    rows: int
    columns: int
    values: str
    names: str
    x_form: str = "array"
    a_form: str = "labels"
    fault: tuple = ()  # of "X" or "A", and which
    seed: int = 0


class Arguments:
    """Draws the arguments of a call, in its form or plainly; the same numbers either way."""

    def __init__(self, call, *, plainly=False):
        self.call, self.rng, self.inputs = call, np.random.default_rng(call.seed), []
        self.plainly, self.faulty, self.more = plainly, False, {}

    @property
    def rows(self):
        """Number of cells, or of perturbations."""
        return self.call.rows

    @property
    def columns(self):
        """Number of genes, or of latents."""
        return self.call.columns

    def one_of(self, *options):
        """Any of these."""
        return options[self.rng.integers(len(options))]

    def matrix(self, rows=None, columns=None, make=None):
        """Numbers, (rows, columns), in the form of the call."""
        shape = rows or self.rows, columns or self.columns
        make = make or VALUES[self.call.values]
        X = forms.held(make(shape, self.rng).astype(np.float32), self.call.x_form)
        if self.plainly:
            return X
        if self.call.fault[:1] == ("X",) and not self.faulty:
            given, self.faulty = faults.EXPRESSION[self.call.fault[1]](X), True
        else:
            given, more = forms.expression(X, self.call.x_form)
            self.more |= more
        self.inputs.append(given)
        return given

    def probabilities(self, *shape):
        """Numbers in [0, 1]."""
        shape = shape or (self.rows, self.columns)
        return self.rng.choice([0.0, 1e-9, 0.01, 0.05, 0.5, 1.0], shape)

    def labels(self, names=None):
        """Design of the cells in the form of the call."""
        screen = Screen(self.rows, 1, "counts", names or self.call.names, True, self.call.seed)
        A = screen.labels()
        if self.plainly:
            return A
        if self.call.fault[:1] == ("A",) and not self.faulty:
            given, self.faulty = faults.DESIGNS[self.call.fault[1]](A), True
        else:
            given, more = forms.design(A, self.call.a_form)
            self.more |= more
        self.inputs.append(given)
        return given

    def groups(self):
        """Names of groups of cells, 1-D, in the form of the call."""
        return self.labels(self.one_of("plain", "one", "many"))

    def file(self, content, name):
        """Path of a file with this content, or with what became of it."""
        if self.call.fault[:1] == ("file",) and not self.plainly:
            content, self.faulty = files.DAMAGE[self.call.fault[1]](content, self.rng), True
        path = FOLDER / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        return path

    def screen(self, **options):
        """Expression and design, and the parameters that their forms need."""
        return (self.matrix(), self.labels()), options | self.more


def _profiles(d):
    """Measured and predicted profiles, and a reference."""
    reference = d.one_of(0.0, np.zeros(d.columns), np.ones((d.rows, d.columns)))
    options = {"reference": reference, "aggregate": d.one_of(None, "mean", "median")}
    return d.matrix(), d.matrix(), options


def _with_reference(function):
    def call(d):
        true, predicted, options = _profiles(d)
        return function(true, predicted, **options)

    return call


def _latents(function):
    return lambda d: function(d.matrix(), d.matrix(columns=d.one_of(1, 2, 5)))


def _embedding(function, **options):
    return lambda d: function(d.matrix(), d.groups(), d.groups(), **options)


def _table(d):
    index, genes = [f"P{j}" for j in range(d.rows)], forms.gene_names(d.columns)
    change = d.rng.normal(size=(d.rows, d.columns)) * d.one_of(0, 1, 1e3)
    parts = {"log2_fold_change": change, "fdr": d.probabilities()}
    return {name: pd.DataFrame(values, index, genes) for name, values in parts.items()}


def _of_screen(function, **options):
    def call(d):
        arguments, more = d.screen(**options)
        return function(*arguments, **more)

    return call


def _expression_error(d):
    true, predicted = (d.matrix(), d.labels()), (d.matrix(), d.labels())
    options = {"aggregate": d.one_of(None, "pooled"), "control": d.more.get("control", "control")}
    return metrics.expression_error(*true, *predicted, d.matrix(), space="counts", **options)


def _splits(cls, **options):
    def call(d):
        (X, A), more = d.screen()
        more.pop("layer", None)
        splitter = cls(d.one_of(1, 2, 3), random_state=0, **options, **more)
        return list(splitter.split(X, A))

    return call


def _transformer(cls, *options):
    def call(d):
        chosen, X = d.one_of(*options), d.matrix()
        return cls(**chosen, **d.more).fit(X).transform(X)

    return call


def _encoder(d):
    A = d.labels()
    encoder = preprocessing.PerturbationEncoder(additive=d.one_of(True, False), **d.more).fit(A)
    return encoder.transform(A), encoder.labels(A), encoder.perturbations_, encoder.n_cells_


def _covariates(d):
    A = d.groups()
    encoder = preprocessing.CovariateEncoder().fit(A)
    return encoder.transform(A), encoder.labels(A)


def _target_features(d):
    features, genes = preprocessing.TargetFeatures("genes"), forms.gene_names(d.columns)
    return features.fit(genes[:2], d.matrix(), genes).transform(genes[:1])


def _gene_set_features(d):
    names = np.array(["A", "B", "C"], dtype=object)
    options = {"weight": d.one_of(None, "idf"), "min_genes": d.one_of(1, 3)}
    return preprocessing.GeneSetFeatures(GENE_SETS, **options).fit(names).transform(names)


def _evaluate(d):
    X, A = d.matrix(), d.labels()
    result = model_selection.evaluate_perturbations(
        {"control": ControlMean(**d.more), "mean": PerturbedMean(**d.more)},
        X,
        A,
        cv=d.one_of(2, model_selection.PerturbationKFold(2, random_state=0)),
        space="lognorm",
        random_state=0,
        **d.more,
    )
    return result.summary


def _fitted(d, cls=SVAEPlus, **parameters):
    """A model of the plain screen of this call."""
    plain = Arguments(d.call, plainly=True)
    X, A = plain.matrix(), plain.labels()
    options = CHEAP | parameters
    if "likelihood" not in parameters and cls is not SCCVAE:
        options |= {"likelihood": "normal"}
    return cls(**options | {"features": "one_hot"} if cls is SCCVAE else options).fit(X, A)


def _inspected(function, cls=SVAEPlus, **options):
    def call(d):
        model = _fitted(d, cls)
        return function(model, *(d.matrix(), d.labels()), **options)

    return call


def _treatment_effect(d):
    model, A = _fitted(d), d.labels()
    return inspection.average_treatment_effect(model, A, method="mean")


def _stability(d):
    model = _fitted(d)
    return inspection.stability(model, d.matrix(), d.labels(), n_refits=1, random_state=0).latents


def _search(d):
    model, X = _fitted(d, InVAE), d.matrix()
    return inspection.posterior_search(model, X, X, random_state=0).Z


def _titrate(d):
    return inspection.titrate(_fitted(d, SCCVAE), NAMES[d.call.names][0], [0.0, 1.0]).expression


def _penetrance(d):
    name, means = NAMES[d.call.names][0], np.zeros((1, d.columns))
    return model_selection.select_penetrance(_fitted(d, SCCVAE), name, means).errors


def _check(d):
    statistic = d.one_of("mean", "zero_fraction", "ate", ["variance", "coefficient_of_variation"])
    cells, model = d.one_of("new", "same"), _fitted(d, d.one_of(SVAEPlus, SAMSVAE))
    options = {"cells": cells, "n_replicates": 2, "random_state": 0}
    X, A = d.matrix(), d.labels()
    check = inspection.posterior_predictive_check(model, X, A, statistic, **options)
    return check.table[["n_cells", "observed", "expected"]], check.pooled.drop(columns="p")


def _doses(d):
    """Doses of the cells of this call, three of each treatment, the control having none."""
    A = Arguments(d.call, plainly=True).labels()
    doses = pd.get_dummies(pd.Series(A)).drop(columns="control", errors="ignore")
    return doses.mul(d.rng.choice([0.1, 1.0, 10.0], len(A)), axis=0)


def _dose_response(d):
    response = inspection.dose_response(_fitted(d), d.matrix(), _doses(d).to_numpy())
    return response.curves[["n_cells", "n_doses"]], response.doses.drop(columns="fitted")


def _dosage_transform(d):
    doses, kind = _doses(d), d.one_of("linear", "log", "hill")
    make = d.one_of(np.asarray, csr_array, pd.DataFrame)
    responses = d.matrix() if kind == "hill" else None
    transform = preprocessing.DosageTransform(kind).fit(make(doses), responses)
    return transform.transform(make(doses)), transform.smallest_, transform.largest_


def _direct(d):
    table = inspection.direct_effects(_fitted(d), d.matrix(), d.labels())
    table = table.sort_values(["perturbation", "gene"])  # not by p, of which rounding decides
    return table[["perturbation", "log2_fold_change", "standard_error", "p", "q"]]


def _guides(d):
    genes = {name: f"G{i % 2}" for i, name in enumerate(NAMES[d.call.names])}
    return inspection.guide_efficacy(_fitted(d), d.matrix(), d.labels(), genes)


def _responders(d):
    d.call = d.call._replace(rows=max(d.rows, 12) * 9)  # 20 control cells and more
    X, A = d.matrix(), d.labels()
    nulls = d.one_of(None, NAMES[d.call.names][:1])
    return inspection.responders(_fitted(d), X, A, nulls=nulls).cells


def _report(d):
    model, A, path = _fitted(d, d.one_of(SVAEPlus, SAMSVAE, VAE)), d.labels(), FOLDER / "page.html"
    page = report(model, d.matrix(), A, path, compare=False).read_text(encoding="utf-8")
    return page.count("<section"), page.count("<table")


def _udr(d):
    models = [_fitted(d, random_state=seed) for seed in (0, 1)]
    return model_selection.udr_score(models, d.matrix())


def _fit_many(d):
    X, A = d.matrix(), d.labels()
    (model,) = model_selection.fit_many([ControlMean(**d.more)], X, A, n_jobs=1)
    return model.control_mean_


def _unseen_nll(d):
    model, X, unseen = _fitted(d), d.matrix(), d.labels("many")
    return model_selection.interventional_nll(model, X, unseen, n_particles=2, min_cells=1).nll


def _delimited(d):
    plain = Arguments(d.call, plainly=True)
    name, separator = d.one_of(("s.csv", ","), ("s.tsv", "\t"), ("s.txt", ";"))
    content = files.table(plain.matrix(), plain.labels("plain"), separator, d.one_of(True, False))
    screen = datasets.load_screen(d.file(content, name))
    return screen.X, screen.A, screen.feature_names


def _h5ad(d):
    plain = Arguments(d.call, plainly=True)
    content = files.h5ad(plain.matrix(), plain.labels("plain"), FOLDER)
    screen = datasets.load_screen(d.file(content, "s.h5ad"))
    return screen.X, screen.A, screen.feature_names


def _loaded(d):
    model, path = _fitted(d), FOLDER / "written.npz"
    path.unlink(missing_ok=True)
    save(model, path)
    copy = load(d.file(path.read_bytes(), "model.npz"))
    return copy.transform(Arguments(d.call, plainly=True).matrix())


def _read_sets(d):
    sets = preprocessing.read_gmt(d.file(files.gene_sets(d.rng), "sets.gmt"))
    return [[name, *genes] for name, genes in sets.items()]


def _simulated(make, **ranges):
    def call(d):
        chosen = d.rng.choice(sorted(ranges), size=3, replace=False)
        data = make(**{name: d.one_of(*ranges[name]) for name in chosen}, random_state=0)
        return data.X, data.A if "A" in data else [], data.get("expected_expression", [])

    return call


SIZES = {
    "n_perturbations": (1, 2, 5, 0, -1, 2.5),
    "n_genes": (40, 50, 60, 1, 0, "many"),
    "n_latent": (1, 3, 40, 0, None),
    "n_cells_per_perturbation": (1, 2, 7, 0, -3),
    "n_control_cells": (0, 1, 9, -1),
    "library_size": (1.0, 1e3, 0, -1, np.inf, np.nan),
}
SHIFTS = SIZES | {"effect_size": (0.0, 5.0, -5.0, np.nan), "n_targets": (1, 2, 99, 0)}

FUNCTIONS = {
    "ate_pearson": lambda d: metrics.ate_pearson(
        d.matrix(), d.matrix(), average=d.one_of("pooled", "perturbation"), top=d.one_of(None, 1)
    ),
    "ate_r2": lambda d: metrics.ate_r2(
        d.matrix(), d.matrix(), average=d.one_of("pooled", "perturbation")
    ),
    "calibrate": lambda d: metrics.calibrate(d.matrix(), d.matrix(), d.matrix()),
    "de_recovery": lambda d: metrics.de_recovery(
        _table(d), _table(d), aggregate=d.one_of(None, "mean")
    ),
    "de_table": _of_screen(metrics.de_table, space="lognorm"),
    "delta_pearson": _with_reference(metrics.delta_pearson),
    "differential_expression": _of_screen(metrics.differential_expression, method="mean"),
    "direction_agreement": _with_reference(metrics.direction_agreement),
    "energy_distance": lambda d: metrics.energy_distance(
        d.matrix(), d.matrix(d.one_of(2, 5)), unbiased=d.one_of(True, False)
    ),
    "expression_error": _expression_error,
    "graph_connectivity": lambda d: metrics.graph_connectivity(
        d.matrix(), d.groups(), n_neighbors=3
    ),
    "graph_scores": lambda d: metrics.graph_scores(
        d.probabilities() > 0.1, d.probabilities(d.rows, d.one_of(1, 2, 5)) > 0.1
    ),
    "integration_scores": _embedding(metrics.integration_scores, n_neighbors=3, random_state=0),
    "isolated_label_score": _embedding(metrics.isolated_label_score, random_state=0),
    "kbet": _embedding(metrics.kbet),
    "kmeans_agreement": lambda d: metrics.kmeans_agreement(d.matrix(), d.groups(), random_state=0),
    "latent_r2": _latents(metrics.latent_r2),
    "match_latents": _latents(metrics.match_latents),
    "maximum_mean_discrepancy": lambda d: metrics.maximum_mean_discrepancy(
        d.matrix(), d.matrix(d.one_of(2, 5)), bandwidths=d.one_of(None, "training", [1.0])
    ),
    "mean_correlation_coefficient": _latents(metrics.mean_correlation_coefficient),
    "pcr_comparison": lambda d: metrics.pcr_comparison(d.matrix(), d.matrix(), d.groups()),
    "perturbation_discrimination": _with_reference(metrics.perturbation_discrimination),
    "principal_component_regression": lambda d: metrics.principal_component_regression(
        d.matrix(), d.groups()
    ),
    "profile_pearson": lambda d: metrics.profile_pearson(d.matrix(), d.matrix()),
    "released_energy_distance": lambda d: metrics.released_energy_distance(
        d.matrix(), d.matrix(), block_size=d.one_of(None, 2), random_state=0
    ),
    "response_mse": lambda d: metrics.response_mse(
        d.matrix(), d.matrix(), aggregate=d.one_of(None, "mean")
    ),
    "response_weights": _of_screen(metrics.response_weights, space="lognorm"),
    "silhouette_batch": _embedding(metrics.silhouette_batch),
    "silhouette_label": lambda d: metrics.silhouette_label(d.matrix(), d.groups()),
    "top_k_mask": lambda d: metrics.top_k_mask(d.matrix(), d.one_of(1, 2, 9)),
    "weighted_mse": lambda d: metrics.weighted_mse(
        d.matrix(), d.matrix(), d.probabilities(d.columns)
    ),
    "weighted_r2": lambda d: metrics.weighted_r2(
        d.matrix(), d.matrix(), d.probabilities(), reference=d.one_of(0.0, np.ones(d.columns))
    ),
    "CovariateEncoder": _covariates,
    "GeneSetFeatures": _gene_set_features,
    "HighlyVariableGenes": _transformer(
        preprocessing.HighlyVariableGenes, {"n_top_genes": 2}, {"span": 1.0}, {"n_top_genes": 0}
    ),
    "LogNormalize": _transformer(
        preprocessing.LogNormalize, {}, {"target_sum": None}, {"target_sum": 1}, {"target_sum": -1}
    ),
    "PerturbationEncoder": _encoder,
    "TargetFeatures": _target_features,
    "causal_graph": lambda d: preprocessing.causal_graph(d.matrix(), n_init=1, random_state=0),
    "detectable_perturbations": _of_screen(
        preprocessing.detectable_perturbations, min_cells=2, n_splits=2, random_state=0
    ),
    "perturbation_labels": lambda d: preprocessing.perturbation_labels(d.labels(), **d.more),
    "CombinationHoldout": _splits(model_selection.CombinationHoldout),
    "LeavePerturbationsOut": _splits(model_selection.LeavePerturbationsOut),
    "PerturbationKFold": _splits(model_selection.PerturbationKFold),
    "evaluate_perturbations": _evaluate,
    "fit_many": _fit_many,
    "interventional_nll": _unseen_nll,
    "select_penetrance": _penetrance,
    "udr_score": _udr,
    "make_additive_shift": _simulated(datasets.make_additive_shift, **SHIFTS),
    "make_causal_shift": _simulated(datasets.make_causal_shift, **SIZES),
    "make_sparse_shift": _simulated(datasets.make_sparse_shift, **SHIFTS),
    "make_invariant": _simulated(
        datasets.make_invariant,
        n_cells_per_combination=(1, 5, 0),
        n_invariant=(1, 9, 0),
        n_spurious=(1, 0, 3),
        n_genes=(40, 60, 1),
        library_size=(1.0, 1e3, 0, np.nan),
    ),
    "load": _loaded,
    "load_screen of a table": _delimited,
    "load_screen of AnnData": _h5ad,
    "read_gmt": _read_sets,
    "norman_split": lambda d: datasets.norman_split(d.labels(names="combinations")),
    "DosageTransform": _dosage_transform,
    "average_treatment_effect": _treatment_effect,
    "direct_effects": _direct,
    "dose_response": _dose_response,
    "guide_efficacy": _guides,
    "posterior_predictive_check": _check,
    "report": _report,
    "responders": _responders,
    "latent_distances": _inspected(inspection.latent_distances),
    "latent_genes": lambda d: inspection.latent_genes(_fitted(d)),
    "latent_shifts": lambda d: inspection.latent_shifts(_fitted(d), d.labels()),
    "latent_summary": lambda d: inspection.latent_summary(_fitted(d)),
    "posterior_search": _search,
    "stability": _stability,
    "titrate": _titrate,
}

OF_FILES = ["load", "load_screen of a table", "load_screen of AnnData", "read_gmt"]
OF_GROUPS = [  # which take names of groups, and no design
    "CovariateEncoder",
    "expression_error",
    "graph_connectivity",
    "integration_scores",
    "isolated_label_score",
    "kbet",
    "kmeans_agreement",
    "norman_split",
    "pcr_comparison",
    "principal_component_regression",
    "silhouette_batch",
    "silhouette_label",
]
BY_NAME = [  # where numbers are other names, or sorted otherwise
    "CombinationHoldout",
    "CovariateEncoder",
    "LeavePerturbationsOut",
    "PerturbationKFold",
    "evaluate_perturbations",
    "norman_split",
]
GROUP_FAULTS = [
    *("none", "shorter", "longer", "no cells", "number", "dict", "set", "generator"),
    *("three dimensions", "None among labels", "nan among labels", "NA among labels"),
    *("masked label", "label in a list", "dict among labels"),
]
OF_A_MODEL = [  # fitted on plain input
    "average_treatment_effect",
    "direct_effects",
    "dose_response",
    "guide_efficacy",
    "interventional_nll",
    "latent_distances",
    "latent_genes",
    "latent_shifts",
    "latent_summary",
    "posterior_predictive_check",
    "posterior_search",
    "report",
    "responders",
    "stability",
    "udr_score",
]
OF_ONE_SCREEN = [  # which take sparse matrices and AnnData
    *OF_A_MODEL,
    "HighlyVariableGenes",
    "LogNormalize",
    "de_table",
    "detectable_perturbations",
    "differential_expression",
    "evaluate_perturbations",
    "fit_many",
    "response_weights",
]
MAY_BE_NAN = [  # where the documentation says so
    "load_screen of a table",
    "ate_pearson",
    "ate_r2",
    "calibrate",
    "de_recovery",
    "delta_pearson",
    "detectable_perturbations",
    "direct_effects",
    "evaluate_perturbations",
    "expression_error",
    "guide_efficacy",
    "posterior_predictive_check",
    "responders",
    "latent_distances",
    "profile_pearson",
    "weighted_r2",
]
MAY_BE_ANYTHING = [
    *OF_FILES,  # missing values and all shapes are welcome, or nothing is read but the length
    "CombinationHoldout",
    "CovariateEncoder",
    "LeavePerturbationsOut",
    "PerturbationKFold",
    "calibrate",
]
KEEPS_NAMES = [*forms.LABELS, *forms.FRAMES, *(f for f in forms.DOSAGES if "frame" in f)]


def _a_forms(call):
    """Forms of the labels that mean the same to the function."""
    forms_of_a = _meant_alike(call.function, call.names)
    if call.x_form in forms.HAS_CELLS:
        return [form for form in forms_of_a if form != "series backwards index"]
    return forms_of_a


def _meant_alike(name, label_names):
    if name in OF_A_MODEL:
        return [*forms.LABELS, "design frame"]
    if name in OF_GROUPS:
        return [*forms.LABELS, *([] if name in BY_NAME else forms.NUMBERS)]
    if name in BY_NAME or any("+" in label for label in NAMES[label_names]):
        return [form for form in forms.DESIGNS if form not in forms.NUMBERS]
    return list(forms.DESIGNS)


@st.composite
def calls(draw):
    """One call, right or wrong."""
    name = draw(st.sampled_from(sorted(FUNCTIONS)))
    call = Call(
        name,
        rows=draw(st.sampled_from([12, 3, 5, 30])),
        columns=draw(st.sampled_from([4, 1, 2, 8])),
        values=draw(st.sampled_from(sorted(VALUES))),
        names=draw(st.sampled_from(sorted(NAMES))),
        seed=draw(st.integers(0, 999)),
    )
    if name in OF_FILES:
        damage = draw(st.sampled_from([(), *(("file", which) for which in files.DAMAGE)]))
        return call._replace(values="counts", fault=damage)
    if draw(st.integers(0, 3)) == 0:
        of_a = GROUP_FAULTS if name in OF_GROUPS else faults.DESIGNS
        kinds = [("X", which) for which in faults.EXPRESSION], [("A", which) for which in of_a]
        fault = draw(st.sampled_from(kinds).flatmap(st.sampled_from))
        return call._replace(rows=12, columns=4, values="counts", fault=fault)
    by_layer = name in OF_ONE_SCREEN and name not in OF_A_MODEL
    x_forms = set(forms.EXPRESSION) - (set() if by_layer else set(forms.LAYERS))
    call = call._replace(x_form=draw(st.sampled_from(sorted(x_forms))))
    return call._replace(a_form=draw(st.sampled_from(_a_forms(call))))


def _attempt(call, d):
    with well_behaved():
        try:
            result = FUNCTIONS[call.function](d)
        except Exception as error:
            check_clear(error)
            return error
    check_finite(result, nan=call.function in MAY_BE_NAN)
    return result


def outcome(call):
    """Name of what the call ends in: "right" or the type of a clear error; else Wrong."""
    try:
        return _outcome(call)
    except Wrong as wrong:
        raise Wrong(f"{call.function}: {wrong}") from wrong


def _outcome(call):
    d = Arguments(call)
    given = _attempt(call, d)
    if d.faulty and call.function == "load" and not isinstance(given, Exception):
        return named(agree(given, _attempt(call, Arguments(call, plainly=True)), "a damaged file"))
    if d.faulty:
        excused = call.function in MAY_BE_ANYTHING or call.fault[1] == "beyond float32"
        if not isinstance(given, Exception) and not excused:
            raise Wrong(f"accepts a fault of {call.fault[0]}: {call.fault[1]}")
        return named(given)
    plain = _attempt(call, Arguments(call, plainly=True))
    takes = call.x_form in forms.DENSE and call.x_form != "frame sparse"
    takes |= call.function in OF_ONE_SCREEN
    if takes or not isinstance(given, Exception):
        what = f"{call.x_form!r} and {call.a_form!r}"
        agree(given, plain, what, texts=call.a_form in KEEPS_NAMES)
    return named(given)
