"""A rule takes data up to its bound, and raises for the next."""

from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor.inside.wire import rules


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"name": value}])
def test_data_may_be_nested_a_hundred_times(wrap: Callable[[Any], Any]) -> None:
    """In lists and in objects."""
    value: Any = 1
    for _ in range(100):
        value = wrap(value)
    assert rules.plain(value) == value
    with pytest.raises(ValueError, match="more than 100 deep"):
        rules.plain(wrap(value))


@pytest.mark.parametrize(
    ("rule", "taken", "refused"),
    [
        (rules.number, [0, 2**31 - 1, -(2**31) + 1, True], [2**31, -(2**31), 1.0, "1", None]),
        (rules.whole, [0, 2**53 - 1], [2**53, -1, True, 1.0, "1", None]),
        (rules.seconds, [-1, 0.5, 253402300799.0], [2.6e11, float("nan"), float("inf"), "1", None]),
        (rules.list_of(rules.whole, 2), [[], [1, 2]], [[1, 2, 3], {}, "ab", [-1]]),
        (rules.each(rules.whole, 2), [{}, {"a": 1, "b": 2}], [{"a": 1, "b": 2, "c": 3}, [], "a"]),
    ],
    ids=["number", "whole", "seconds", "list", "object"],
)
def test_a_value_at_the_bound_is_taken_and_the_next_is_not(
    rule: rules.Rule, taken: list[Any], refused: list[Any]
) -> None:
    """A value is returned as it is."""
    for value in taken:
        assert rule(value) == value
    for value in refused:
        with pytest.raises(rules.WRONG):
            rule(value)
