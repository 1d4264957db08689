"""The table of all questions."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import questions


@pytest.fixture(scope="module")
def table():
    return questions.table()


def test_table_that_is_kept_is_that_of_the_results(table):
    pd.testing.assert_frame_equal(pd.read_csv(questions.TABLE), table)
    assert questions.PAGE.read_text(encoding="utf-8") == questions.page(table)


def test_each_question_has_a_baseline_and_differences_in_line_with_means(table):
    asked = table.groupby(["question", "data"])
    assert set(table["question"]) == set(questions.ORDER)
    for names, group in asked:
        assert group["baseline"].nunique() == 1, names
        baseline = group.set_index("method").loc[group["baseline"].iloc[0]]
        complete = group[(group["units"] == baseline["units"]) & group["difference"].notna()]
        difference = complete["mean"] - baseline["mean"]
        size = group["mean"].abs().max()
        np.testing.assert_allclose(complete["difference"], difference, atol=0.01 * size)
        assert (complete["lower"] <= complete["difference"]).all()


def test_interval_is_that_of_a_paired_t_test(tmp_path, monkeypatch):
    rows = pd.DataFrame(
        {
            "estimator": list("aaabbb"),
            "unit": [0, 1, 2] * 2,
            "kept": ["yes"] * 5 + ["yes, but"],
            "value": [1.0, 2.0, 4.0, 3.0, 3.0, 9.0],
        }
    )
    rows.to_csv(tmp_path / "some.csv")
    monkeypatch.setattr(questions, "RESULTS", tmp_path)
    asked = questions.Question("q", "d", "some", "value", ("unit",), "a", only={"kept": "yes"})
    first, second = asked.rows()
    assert (first["method"], second["method"]) == ("a", "b")  # the lower mean first
    assert np.isnan(first["difference"])
    assert (second["mean"], second["units"], second["difference"]) == (3.0, 2, 1.5)
    assert np.isclose(second["upper"] - second["difference"], 12.706 * 0.5, rtol=1e-3)
    asked = questions.Question("q", "d", "some", "value", ("unit",), "a", begins={"kept": "yes"})
    assert [row["units"] for row in asked.rows()] == [3, 3]
