"""Tracebacks and places of errors and skips, without this package's own frames."""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Iterator
from typing import Any

import pluggy
import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.programs.paths import below

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PYTEST = os.path.dirname(inspect.getfile(pytest.Item))
_PLUGGY = os.path.dirname(inspect.getfile(pluggy.HookimplMarker))


def leave_out(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Remove this package's frames from the traceback of its error, unless all are wanted.

    Its message says what is wrong; what a reader looks for is the line that asked for the run.
    """
    if call.excinfo is None or not _is_ours(item, call):
        return
    error = call.excinfo.value
    kept = [tb for tb in _walk(error.__traceback__) if not below(_file(tb), _OURS)]
    if any(map(_of_a_user, kept)):
        rebuilt: types.TracebackType | None = None
        for tb in reversed(kept):
            rebuilt = types.TracebackType(rebuilt, tb.tb_frame, tb.tb_lasti, tb.tb_lineno)
        call.excinfo = pytest.ExceptionInfo.from_exception(error.with_traceback(rebuilt))


def place(item: pytest.Item, call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Show an error without a user's frame as its message alone, and a skip at its test."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        if below(os.path.abspath(longrepr[0]), _OURS):
            line = (item.location[1] or 0) + 1
            report.longrepr = (str(item.path), line, longrepr[2])
    elif (
        call.excinfo is not None
        and _is_ours(item, call)
        and not any(map(_of_a_user, _walk(call.excinfo.value.__traceback__)))
    ):
        report.longrepr = call.excinfo.getrepr(style="value", chain=False)


def _is_ours(item: pytest.Item, call: pytest.CallInfo[Any]) -> bool:
    return (
        call.excinfo is not None
        and isinstance(call.excinfo.value, GvisorError)
        and not item.config.getoption("fulltrace", False)
    )


def _walk(tb: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _file(tb: types.TracebackType) -> str:
    return tb.tb_frame.f_code.co_filename


def _of_a_user(tb: types.TracebackType) -> bool:
    path = _file(tb)
    return os.path.isabs(path) and not any(below(path, f) for f in (_OURS, _PYTEST, _PLUGGY))
