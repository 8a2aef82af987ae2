"""Tracebacks and places of errors and skips, without this package's own frames."""

from __future__ import annotations

import os
import sys

import pytest

from pytest_gvisor.errors import GvisorError
from pytest_gvisor.programs.paths import below

_PACKAGE = __name__.partition(".")[0]
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def hide_own_frames() -> None:
    """Hide this package's frames in tracebacks of its errors, in those of a chain too.

    The message says what is wrong; what a reader looks for is the line that asked for the run.
    pytest looks for this name in the globals of each frame; ``--full-trace`` and ``--tb=native``
    ignore it.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_PACKAGE}."):
            vars(module)["__tracebackhide__"] = _is_own_error


def _is_own_error(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    return excinfo is not None and isinstance(excinfo.value, GvisorError)


def move_skip(item: pytest.Item, report: pytest.TestReport) -> None:
    """Show a skip that this package has raised at its test."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple) and below(os.path.abspath(longrepr[0]), _FOLDER):
        report.longrepr = (str(item.path), (item.location[1] or 0) + 1, longrepr[2])
