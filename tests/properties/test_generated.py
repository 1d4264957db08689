"""Generated inputs end in a right result or a clear error."""

from hypothesis import given

from . import estimators, functions


@given(use=estimators.uses())
def test_estimators_are_right_or_say_what_is_wrong(use):
    assert estimators.outcome(use) in ("right", "ValueError", "TypeError")


@given(call=functions.calls())
def test_functions_are_right_or_say_what_is_wrong(call):
    assert functions.outcome(call) in ("right", "ValueError", "TypeError")
