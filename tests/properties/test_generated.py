"""Generated inputs end in a right result or a clear error."""

import pytest
from hypothesis import given, settings

from . import estimators, functions
from .conftest import MANY
from .found import CALLS, USES

CLEAR = ("right", "ValueError", "TypeError")


@settings(max_examples=MANY)
@given(use=estimators.uses())
def test_estimators_are_right_or_say_what_is_wrong(use):
    assert estimators.outcome(use) in CLEAR


@settings(max_examples=MANY)
@given(call=functions.calls())
def test_functions_are_right_or_say_what_is_wrong(call):
    assert functions.outcome(call) in CLEAR


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_what_was_wrong_of_estimators_is_not(use):
    assert estimators.outcome(use) in CLEAR


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_what_was_wrong_of_functions_is_not(call):
    assert functions.outcome(call) in CLEAR
