"""Names that hold the separator, and combinations."""

import random
import warnings

import numpy as np
import pandas as pd
import pytest

from skpert import SAMSVAE, AdditiveEffects
from skpert.exceptions import DataWarning
from skpert.metrics import expression_error
from skpert.model_selection import CombinationHoldout, evaluate_perturbations
from skpert.preprocessing import PerturbationEncoder, perturbation_labels

CONTROL = ["control"] * 3


def fitted(labels, **parameters):
    """An encoder, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder = PerturbationEncoder(**parameters).fit(labels * 2)
    return encoder, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["(+)-JQ1", "(+)-Camptothecin", "Vorinostat"], "(+)-Camptothecin (+)-JQ1 Vorinostat"),
        (["CCNE2_+_9590", "CCNE2_+_9591"], "CCNE2_+_9590 CCNE2_+_9591"),
        (["MYC+12345", "MYC"], "MYC MYC+12345"),
        (["p53+/-", "WT"], "WT p53+/-"),
    ],
)
def test_names_that_hold_the_separator_stay_whole_and_one_warning_lists_them(labels, names):
    encoder, messages = fitted(CONTROL + labels)
    assert encoder.perturbations_.tolist() == names.split()
    [message] = messages
    whole = [name for name in names.split() if "+" in name]
    assert all(repr(name) in message for name in whole)
    assert "sep=None" in message
    assert encoder.labels(labels).tolist() == labels
    assert fitted(CONTROL + labels, sep=None)[1] == []


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["A", "B", "A+B"], "A B"),
        (["A", "A+B"], "A B"),
        (["A+control", "B+A"], "A B"),
        (["(R)-Ibuprofen+Vorinostat", "Vorinostat"], "(R)-Ibuprofen Vorinostat"),
        (["1", "1+2"], "1 2"),
    ],
)
def test_combinations_of_which_a_part_is_seen_alone_are_cut_without_a_word(labels, names):
    encoder, messages = fitted(CONTROL + labels)
    assert (encoder.perturbations_.tolist(), messages) == (names.split(), [])


def test_a_combination_of_which_no_part_is_seen_alone_is_cut_with_a_warning():
    encoder, [message] = fitted([*CONTROL, "IFNg+TNF", "TNF + IFNg"])
    assert encoder.perturbations_.tolist() == ["IFNg", "TNF"]
    assert "(2): 'IFNg+TNF', 'TNF + IFNg'" in message
    assert "sep=None" in message
    encoder, [message] = fitted([*CONTROL, "IFNg+TNF", "TNF + IFNg"], additive=False)
    assert encoder.perturbations_.tolist() == ["IFNg+TNF"]
    assert "none of their parts is a label of its own" in message


@pytest.mark.parametrize("additive", [True, False])
def test_names_that_hold_the_separator_are_parts_of_combinations(additive):
    labels = ["(+)-JQ1", "Vorinostat + (+)-JQ1", "(+)-JQ1+Vorinostat", "Vorinostat"]
    encoder, [message] = fitted(CONTROL + labels, additive=additive)
    assert encoder.columns_.tolist() == ["(+)-JQ1", "Vorinostat"]
    assert "(1): '(+)-JQ1'" in message
    pair = "(+)-JQ1+Vorinostat"
    assert encoder.labels(labels).tolist() == ["(+)-JQ1", pair, pair, "Vorinostat"]
    single, *pairs, _ = encoder.transform(labels).toarray().tolist()
    assert pairs[0] == pairs[1] != single


def test_what_fit_has_decided_holds_for_single_labels_later():
    encoder, _ = fitted([*CONTROL, "(+)-JQ1", "A+B", "A"])
    assert encoder.transform(["(+)-JQ1"]).toarray().tolist() == [[1, 0, 0]]
    assert encoder.transform("B+A").toarray().tolist() == [[0, 1, 1]]
    assert encoder.transform("A+(+)-JQ1").toarray().tolist() == [[1, 1, 0]]
    assert encoder.unknown(["(+)-JQ1", "(+)-New+A", "C+A"]).tolist() == ["(+)-New+A", "C"]


def test_columns_of_dosages_are_names_whatever_they_hold():
    frame = pd.DataFrame(np.repeat(np.eye(4), 2, 0)[:, :3], columns=["Ca2+", "(+)-JQ1", "C+D"])
    encoder = PerturbationEncoder().fit(frame)
    dosage = encoder.transform(["Ca2+", "C+D", "Ca2++(+)-JQ1"])
    assert dosage.toarray().tolist() == [[1, 0, 0], [0, 0, 1], [1, 1, 0]]


def test_extended_knows_the_names_of_before_and_decides_on_the_new():
    encoder, _ = fitted([*CONTROL, "(+)-JQ1", "A"])
    with pytest.warns(DataWarning, match=r"not split there \(1\): '\(-\)\+JQ2'"):
        extended = encoder.extended(["(-)+JQ2"] * 2 + ["control"])
    assert extended.perturbations_.tolist() == ["(+)-JQ1", "A", "(-)+JQ2"]


def test_a_control_may_hold_the_separator():
    encoder, messages = fitted(["n+c"] * 3 + ["A", "A+n+c"], control="n+c")
    assert (encoder.perturbations_.tolist(), messages) == (["A"], [])


@pytest.mark.parametrize("label", ["A+", "A++B", "+"])
def test_an_empty_part_is_an_error_that_names_the_remedy(label):
    with pytest.raises(ValueError, match="empty part .* use sep=None"):
        PerturbationEncoder().fit([*CONTROL, "A", label])


def test_canonical_labels_survive_being_read_again_whatever_the_order_of_cells():
    pool = "A B (+)-JQ1 (+)-Camp G_+_1 MYC+12 MYC (R)-Ibu control 1 2".split()
    for seed in range(300):
        draw = random.Random(seed)
        parts = [draw.choices(pool, k=draw.choice([1, 1, 2, 3])) for _ in range(6)]
        labels = ["control", "A", *("+".join(part) for part in parts)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encoder = PerturbationEncoder().fit(labels)
            canonical = perturbation_labels(labels)
            assert encoder.labels(labels).tolist() == canonical.tolist()
            assert perturbation_labels(canonical).tolist() == canonical.tolist()
            again = PerturbationEncoder().fit(labels[::-1])
        assert [encoder.labels([label])[0] for label in canonical] == canonical.tolist()
        assert again.perturbations_.tolist() == encoder.perturbations_.tolist()


COMPOUNDS = np.array(["control", "(+)-JQ1", "Vorinostat", "Vorinostat+(+)-JQ1"] * 10)
X = np.random.default_rng(0).poisson(3, (40, 5))


@pytest.mark.filterwarnings("ignore:Labels in A contain:skpert.exceptions.DataWarning")
def test_models_add_up_names_that_hold_the_separator():
    designs = ["Vorinostat+(+)-JQ1", "(+)-JQ1 + Vorinostat", "(+)-JQ1", "Vorinostat"]
    model = AdditiveEffects().fit(np.log1p(X), COMPOUNDS)
    both, same, first, second = model.predict_intervention(designs) - model.control_mean_
    np.testing.assert_allclose(both, first + second)
    assert np.array_equal(both, same)
    model = SAMSVAE(n_latent=2, max_epochs=2, random_state=0).fit(X, COMPOUNDS)
    assert model.targets_.index.tolist() == ["(+)-JQ1", "Vorinostat"]
    both, same, *_ = model.predict_intervention(designs)
    assert np.array_equal(both, same)
    assert np.isfinite(model.score(X, COMPOUNDS))


@pytest.mark.filterwarnings("ignore:Labels in A contain:skpert.exceptions.DataWarning")
def test_splits_and_metrics_read_them_alike():
    [(train, test)] = CombinationHoldout(1, test_fraction=1.0).split(X, COMPOUNDS)
    assert set(COMPOUNDS[test]) == {"Vorinostat+(+)-JQ1"}
    assert set(COMPOUNDS[train]) == {"control", "(+)-JQ1", "Vorinostat"}
    claimed = np.where(COMPOUNDS == "Vorinostat+(+)-JQ1", "(+)-JQ1 + Vorinostat", COMPOUNDS)
    error = expression_error(X, COMPOUNDS, X[4:], claimed[4:], X[::4], space="counts")
    assert error.index.tolist() == ["(+)-JQ1", "(+)-JQ1+Vorinostat", "Vorinostat"]
    log = np.log1p(X)
    result = evaluate_perturbations(
        {"sum": AdditiveEffects()}, log, COMPOUNDS, space="lognorm", cv=[(train, test)]
    )
    assert set(result.per_perturbation["perturbation"]) == {"(+)-JQ1+Vorinostat"}
