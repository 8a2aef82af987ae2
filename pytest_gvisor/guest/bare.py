"""Setups and teardowns of tests in which pytest alone runs, and no code of the project.

All that is set up has a finalizer. pytest is alone if all that come and go are its own: for the
test, and for values of ``parametrize``.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_EVALUATED = ("skipif", "xfail")
"""Marks whose conditions may be code."""

_VALUE = "get_direct_param_fixture_func"
"""pytest's function for a value of ``parametrize``."""


class Bare:
    """A setup or teardown of one test, from the moment before it."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._before = _counts(item)
        self._may_be = _is_plain(item) and (item not in self._before or _are_known(item))

    def was(self) -> bool:
        """Whether pytest was alone, now that the phase has passed."""
        if not self._may_be:
            return False
        after = _counts(self._item)
        is_setup = self._item in after
        (after if is_setup else self._before).pop(self._item, None)
        return after == self._before and (not is_setup or _are_known(self._item))


def _counts(item: pytest.Item) -> dict[Any, int]:
    """Return how many finalizers each node has that is set up."""
    return {node: len(held[0]) for node, held in item.session._setupstate.stack.items()}


def _is_plain(item: pytest.Item) -> bool:
    """Whether a test is a function, or a method of a usual class, whose marks have no code."""
    from pytest import Function  # noqa: PLC0415, PT013 -- see above

    if type(item) is not Function or any(name in item.keywords for name in _EVALUATED):
        return False
    return item.cls is None or type(item.cls) is type


def _are_known(item: pytest.Item) -> bool:
    """Whether a test has no finalizers but pytest's own."""
    finalizers: list[Any] = item.session._setupstate.stack[item][0]
    return all(each == item.teardown or _is_of_value(each) for each in finalizers)


def _is_of_value(finalizer: Any) -> bool:
    """Whether it ends a value of ``parametrize``, on which nothing else depends."""
    fixture = getattr(getattr(finalizer, "func", None), "__self__", None)
    if not isinstance(finalizer, functools.partial) or fixture is None:
        return False
    return getattr(fixture.func, "__name__", "") == _VALUE and len(fixture._finalizers) < 2
