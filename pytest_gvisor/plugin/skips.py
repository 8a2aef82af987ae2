"""The outcomes for errors: a skip with its reason, or a failure, without our own frames."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.base import errors
from pytest_gvisor.base.errors import GvisorError, UsageError
from pytest_gvisor.programs.paths import below

if TYPE_CHECKING:
    from pytest_gvisor.base.settings import Settings

_PACKAGE = __name__.partition(".")[0]
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MISSING = "pytest_gvisor_missing"
_MISUSE = "pytest_gvisor_misuse"


@contextlib.contextmanager
def misuse_ends_session(where: str = "") -> Iterator[None]:
    """Turn a `UsageError` of this package into a `pytest.UsageError`; ``where`` names the place."""
    try:
        yield
    except UsageError as error:
        raise pytest.UsageError(f"pytest-gvisor: {where}{error}") from error


@contextlib.contextmanager
def fail_misuse() -> Iterator[None]:
    """Turn a `UsageError` into a failure without traceback: its message names the place.

    An `UnwantedRelease` likewise.
    """
    try:
        yield
    except (UsageError, errors.UnwantedRelease) as error:
        raised = pytest.fail.Exception(str(error), pytrace=False)
        vars(raised)[_MISUSE] = True
        raise raised from None


@contextlib.contextmanager
def skip_missing(settings: Settings, *, in_gvisor: bool = False) -> Iterator[None]:
    """Skip if runsc, the platform or docker is missing; fail if skips are not allowed.

    Only these may skip. A runsc that is refused, or fails, is an error. So is one that was named
    and is not there. ``in_gvisor`` is whether the user has asked for gVisor by option.
    """
    try:
        yield
    except (errors.RunscNotFound, errors.PlatformUnavailable, errors.DaemonUnavailable) as error:
        raised: BaseException = pytest.skip.Exception(error.message + mending(error))
        explicit, more = isinstance(error, errors.RunscNotFound) and error.explicit, ""
        if settings.strict and not explicit:
            more = "\n(--gvisor-strict: this would be a skip otherwise)"
        elif in_gvisor and not explicit:
            more = "\n(--in-gvisor: with -o in_gvisor=true in its place this would be a skip)"
        if explicit or more:
            raised = pytest.fail.Exception(f"{error}{more}", pytrace=False)
        vars(raised)[_MISSING] = error
        raise raised from None


@contextlib.contextmanager
def prefix_location(item: pytest.Item) -> Iterator[None]:
    """Put the test's id and place before the message of a `UsageError`."""
    try:
        yield
    except UsageError as error:
        text = f"{location(item)}: {error.message}"
        raise UsageError(text, next_step=error.next_step) from error


def location(item: pytest.Item) -> str:
    """Return a test's id and place, for messages about its code."""
    return f"{item.nodeid} ({item.location[0]}:{(item.location[1] or 0) + 1})"


@contextlib.contextmanager
def as_outcome(item: pytest.Item, settings: Settings, *, in_gvisor: bool = False) -> Iterator[None]:
    """Call both for a test: a message about a misuse begins with its id and place."""
    with fail_misuse(), skip_missing(settings, in_gvisor=in_gvisor), prefix_location(item):
        yield


def mending(error: GvisorError) -> str:
    """Return the end of a skip's reason: the one command that mends it, or prints what does."""
    command = "pytest-gvisor doctor"
    if isinstance(error, errors.RunscNotFound):
        command = "pytest-gvisor install"
    elif isinstance(error, errors.DaemonUnavailable):
        command = error.next_step.split("`")[1]
    return f"; to mend it: {command}"


def missing_requirement(raised: BaseException) -> GvisorError | None:
    """Return the error of the missing thing that made a test skip or fail."""
    found: GvisorError | None = vars(raised).get(_MISSING)
    return found


def is_unexpected(call: pytest.CallInfo[Any]) -> bool:
    """Whether a test cannot have failed as expected: something is missing, a setting makes no
    sense, or the set-up failed before any workload: an image, a launch, runsc itself.
    """
    raised = None if call.excinfo is None else call.excinfo.value
    if isinstance(raised, pytest.fail.Exception):
        return missing_requirement(raised) is not None or _MISUSE in vars(raised)
    if isinstance(raised, errors.LaunchError) and raised.stage == "probe":
        return True
    # Those that carry a run are in `completed`, which an idle session has not imported.
    ran = hasattr(raised, "completed") or isinstance(raised, errors.InsideError | errors.NotReady)
    return call.when == "setup" and isinstance(raised, GvisorError) and not ran


def hide_own_frames() -> None:
    """Hide this package's frames in tracebacks of its errors, in those of a chain too, and of the
    check of a trace.

    The message says what is wrong; what a reader looks for is the line that asked for the run.
    pytest looks for this name in the globals of each frame; ``--full-trace`` and ``--tb=native``
    ignore it.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_PACKAGE}."):
            vars(module)["__tracebackhide__"] = _is_own_error


def _is_own_error(excinfo: pytest.ExceptionInfo[BaseException] | None) -> bool:
    return excinfo is not None and isinstance(excinfo.value, GvisorError | AssertionError)


def move_skip(item: pytest.Item, report: pytest.TestReport) -> None:
    """Show a skip that this package has raised at its test."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple) and below(os.path.abspath(longrepr[0]), _FOLDER):
        report.longrepr = (str(item.path), (item.location[1] or 0) + 1, longrepr[2])
