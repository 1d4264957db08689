"""One table: for each question every method, beside a baseline, from what is in ``results``.

::

    python -m benchmarks.questions    # print it; write results/questions.csv and doc/questions.inc

Nothing is trained: rows come from the CSV files that the other benchmarks wrote, which say with
which versions and settings. A value is the mean over units: held-out perturbations, perturbations
in a context, halves, donors or, of simulations, seeds; where there are several values of a unit,
their mean is taken first. The difference to the baseline has a 95 % interval of Student's t over
the units that both have, which are fewer for some methods.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "questions.csv"
PAGE = Path(__file__).parents[1] / "doc" / "questions.inc"
ASKED = ["question", "data", "measure", "baseline"]


@dataclass(frozen=True)
class Question:
    """What is asked of which data, and in which columns of which file the answers are."""

    question: str
    data: str
    file: str
    value: str
    units: tuple[str, ...]  # columns that name a unit
    baseline: str
    lower_is_better: bool = True
    scale: float = 1.0
    only: dict = field(default_factory=dict)  # column: value
    begins: dict = field(default_factory=dict)  # column: text that its value begins with
    method: str = "estimator"

    def rows(self):
        """A row for each method, the best one first."""
        table = pd.read_csv(RESULTS / f"{self.file}.csv", low_memory=False)
        for column, value in self.only.items():
            table = table[table[column].astype(str) == value]
        for column, value in self.begins.items():
            table = table[table[column].astype(str).str.startswith(value)]
        table = table.dropna(subset=[self.value])
        means = table.groupby([self.method, *self.units])[self.value].mean() * self.scale
        wide = means.unstack(self.method)
        found = [self._row(wide, name) for name in wide]
        return sorted(found, key=lambda row: row["mean"] * (1 if self.lower_is_better else -1))

    def _row(self, wide, name):
        difference = (wide[name] - wide[self.baseline]).dropna()
        measure = f"{self.value}, {'lower' if self.lower_is_better else 'higher'} is better"
        row = {"question": self.question, "data": self.data, "measure": measure, "method": name}
        row |= {"mean": wide[name].mean(), "difference": np.nan, "lower": np.nan, "upper": np.nan}
        row |= {"baseline": self.baseline, "units": int(wide[name].count())}
        if name != self.baseline and len(difference) > 1:
            half = stats.t.ppf(0.975, len(difference) - 1) * difference.sem()
            mean = difference.mean()
            row |= {"difference": mean, "lower": mean - half, "upper": mean + half}
        return row


KNOCK_OUT, PAIR = "unseen knock-out", "unseen pair"
CONTEXT, INTEGRATION, TRANSFER = "unseen context", "integration", "transfer of labels"
ORDER = [KNOCK_OUT, PAIR, CONTEXT, INTEGRATION, TRANSFER]
TYPES, BY_STIMULATION = "cell_type", "cell_type x perturbation"
PERTURBATION, HALVES = ("perturbation",), ("seed", "fold")
IN_CONTEXT = ("context", "perturbation")


def of_contexts(data, question, units=IN_CONTEXT):
    """The mean squared error in a context of which only controls were seen."""
    file, only = "unseen_contexts", {"question": question}
    mean = "floor (other contexts)"
    return Question(CONTEXT, data, file, "response_mse", units, mean, scale=1e4, only=only)


def of_trees(data, screen):
    """The mean squared error of knock-outs that were left out, five folds."""
    file, only = "unseen_intervals", {"screen": screen}
    value, mean = "response_mse", "PerturbedMean"
    return Question(KNOCK_OUT, data, file, value, PERTURBATION, mean, scale=1e4, only=only)


def of_effects(data, likelihood, n_cells):
    """The correlation of effects of pairs with the true ones."""
    file, data = "additive_simulated", f"{data}, {n_cells} cells of each"
    only = {"likelihood": likelihood, "n_cells_per_perturbation": str(n_cells)}
    names = {"only": only, "method": "method"}
    return Question(PAIR, data, file, "effect", ("seed",), "sum of parts", False, **names)


def of_totals(data, file, labels):
    """The total of scIB on halves of the cells that were not trained on."""
    only = {"labels": labels}
    return Question(INTEGRATION, data, file, "total", HALVES, "PCA", False, only=only)


def of_transfers(data, setting, labels):
    """The accuracy of labels in a donor whose labels were hidden."""
    file, names = "integration_transfer", {"only": {"labels": labels}}
    names["begins"] = {"setting": setting}
    return Question(TRANSFER, data, file, "overall", ("left_out",), "PCA", False, **names)


QUESTIONS = (
    Question(
        KNOCK_OUT,
        "Papalexi",
        "unseen_papalexi",
        "response_mse",
        PERTURBATION,
        "PerturbedMean",
        scale=1e4,
        begins={"setting": "papalexi2021_thp1_crispr.h5ad 910f5216, 500 counts, 5 folds"},
    ),
    *(
        of_trees(data, screen)
        for data, screen in (
            ("Papalexi, five partitions", "papalexi"),
            ("Norman, singles", "norman"),
        )
    ),
    Question(
        KNOCK_OUT,
        "nELISA, compounds",
        "unseen_intervals",
        "pds",
        PERTURBATION,
        "same target",
        False,
        only={"screen": "nelisa"},
    ),
    of_effects("simulated counts", "negative_binomial", 100),
    of_effects("simulated counts", "negative_binomial", 500),
    of_effects("simulated, normal", "normal", 100),
    of_effects("simulated, normal", "normal", 500),
    *(
        of_contexts(data, question, units)
        for data, question, units in (
            ("Kang, donors", "donors", IN_CONTEXT),
            ("four cell lines", "cell lines", IN_CONTEXT),
            ("simulated, twelve contexts", "many", ("seed",)),
            ("simulated, five contexts", "latent", ("seed",)),
            ("simulated, same log changes", "logit", ("seed",)),
        )
    ),
    of_totals("Kang, cell types by stimulation", "integration_kang", BY_STIMULATION),
    of_totals("Kang, cell types", "integration_kang", TYPES),
    of_totals("marrow, cell types", "integration_bmmc", TYPES),
    of_transfers("Kang, other donor, cell types by stimulation", "6eb257e0", BY_STIMULATION),
    of_transfers("Kang, other donor, cell types", "6eb257e0", TYPES),
    of_transfers("marrow, other donor, cell types", "9c7515b3", TYPES),
)


NUMBERS = ["mean", "difference", "lower", "upper"]


def pairs_of_norman():
    """Rows of the pairs, of which there is a summary already."""
    table = pd.read_csv(RESULTS / "additive_pairs.csv", index_col=0)
    table.columns = ["mean", "sd", "difference", "lower", "upper"]
    table = table.drop(columns="sd").sort_values("mean").rename_axis("method").reset_index()
    table.loc[table["difference"] == 0, ["difference", "lower", "upper"]] = np.nan
    measure = "error over squared effect, lower is better"
    names = {"question": PAIR, "data": "Norman, pairs", "measure": measure}
    return table.assign(**names, baseline="measured parts, scaled sum", units=131)


def table():
    """All rows, with three digits and no differences that are rounding."""
    rows = pd.DataFrame([row for question in QUESTIONS for row in question.rows()])
    rows = pd.concat([rows, pairs_of_norman()])
    rows = rows.sort_values("question", key=lambda names: names.map(ORDER.index), kind="stable")
    rows[NUMBERS] = rows[NUMBERS].map(lambda value: float(f"{value:.3g}"))
    same = rows["difference"].abs() < 1e-6 * rows["mean"].abs()
    rows.loc[same, ["difference", "lower", "upper"]] = 0.0
    return rows.reset_index(drop=True)


def page(rows):
    """The same as tables of a page, in reStructuredText."""
    lines = [".. Written by benchmarks.questions.", ""]
    for names, group in rows.groupby(ASKED, sort=False):
        title = "{}: {} ({}; beside {})".format(*names)
        lines += [f".. csv-table:: {title}", "   :header-rows: 1", "   :widths: auto", ""]
        lines += ["   method, mean, difference, interval, units"]
        for row in group.itertuples():
            interval = f"{row.lower:.4g} to {row.upper:.4g}" if row.lower < row.upper else ""
            difference = f"{row.difference:.4g}" if interval else ""
            name = f"**{row.method}**" if row.lower > 0 or row.upper < 0 else row.method
            lines += [f'   "{name}", {row.mean:.4g}, {difference}, {interval}, {row.units}']
        lines += [""]
    return "\n".join(lines)


def main():
    """Print and write."""
    rows = table()
    rows.to_csv(TABLE, index=False)
    PAGE.write_text(page(rows), encoding="utf-8")
    for names, group in rows.groupby(ASKED, sort=False):
        print("\n{}: {} ({}; beside {})".format(*names))
        shown = group[["method", *NUMBERS, "units"]]
        print(shown.to_string(index=False, na_rep="-", float_format="{:.4g}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
