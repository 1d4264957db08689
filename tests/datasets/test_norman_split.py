import numpy as np
import pytest

from skpert.datasets import norman_split

PARTS = ("train", "val", "test", None)
SINGLES = ["control"] * 50 + ["A"] * 25 + ["B"] * 25
COMBINED = [f"A+{name}" for name in "CDEFGHIJ" for _ in range(20)]
LABELS = np.random.default_rng(0).permutation(SINGLES + COMBINED)
FRACTIONS = (0, 0.25, 0.5, 0.75, 1)


def positions(split, part):
    return set(np.flatnonzero(split == part))


@pytest.mark.parametrize("task", ["ood", "data_efficiency"])
def test_training_cells_accumulate_and_test_cells_stay(task):
    splits = [norman_split(LABELS, task=task, fraction=fraction) for fraction in FRACTIONS]
    for small, large in zip(splits[:-1], splits[1:], strict=True):
        assert positions(small, "train") < positions(large, "train")
        assert positions(small, "val") <= positions(large, "val")
        assert positions(small, "test") == positions(large, "test")
    combined = np.char.find(LABELS, "+") >= 0
    assert combined[list(positions(splits[0], "test"))].all()
    assert not combined[list(positions(splits[0], "train"))].any()


def test_held_out_combinations_are_a_quarter_and_unseen_up_to_three_quarters():
    for seed in range(5):
        split = norman_split(LABELS, fraction=0.75, seed=seed)
        tested, trained = set(LABELS[split == "test"]), set(LABELS[split == "train"])
        assert len(tested) == 2
        assert not tested & trained
        assert len(trained) == 3 + 6


def test_split_of_all_cells_by_hand():
    counts = [
        (norman_split(LABELS, task="data_efficiency", fraction=fraction) == part).sum()
        for fraction in (1, 0.5)
        for part in PARTS
    ]
    # 100 others: 80, 20; 160 combined: 32 tested, of 128 one fifth, rounded up, for validation
    assert counts == [80 + 102, 20 + 26, 32, 0, 80 + 51, 20 + 26, 32, 51]


def test_seeds_differ_and_names_of_control_and_separator_can_be_chosen():
    split = norman_split(LABELS, fraction=0.5)
    assert split.tolist() != norman_split(LABELS, fraction=0.5, seed=1).tolist()
    renamed = [label.replace("+", " & ").replace("control", "NT") for label in LABELS]
    other = norman_split(renamed, fraction=0.5, control="NT", sep=" & ")
    assert split.tolist() == other.tolist()


def test_a_name_joined_to_the_control_is_no_combination():
    padded = [f"{label}+control" if "+" not in label else label for label in LABELS]
    assert norman_split(padded).tolist() == norman_split(LABELS).tolist()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"task": "odd"}, "task must be 'ood' or 'data_efficiency', got 'odd'"),
        ({"fraction": 1.5}, "fraction must be a number from 0 to 1, got 1.5"),
        ({"fraction": -0.1}, "fraction must be a number from 0 to 1"),
        ({"fraction": float("nan")}, "fraction must be a number from 0 to 1"),
        ({"fraction": "half"}, "fraction must be a number from 0 to 1"),
        ({"fraction": True}, "fraction must be a number from 0 to 1"),
        ({"seed": 0.5}, "seed must be an integer of at least 0"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_bad_choices(bad, message):
    with pytest.raises(ValueError, match=message):
        norman_split(LABELS, **bad)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (SINGLES, "at least 3 cells must have a combination .*; got 0 and 100"),
        (COMBINED, "got 160 and 0"),
        ([["A", "A+B"]], "one label per cell, got an array of shape"),
    ],
)
def test_labels_that_cannot_be_split(A, message):
    with pytest.raises(ValueError, match=message):
        norman_split(A)
