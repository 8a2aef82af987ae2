"""Errors as values: their copies, which cross processes."""

import copy
import errno
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor import (
    ImageError,
    InvalidBundle,
    LaunchError,
    NotReady,
    RemoteError,
    RunscFailed,
    SandboxCrashed,
    WorkloadTimeout,
)
from pytest_gvisor.base import errors
from pytest_gvisor.base.errors import GvisorError, RemoteAttributeError

DONE: Any = ("a run",)


@pytest.mark.parametrize(
    "error",
    [
        WorkloadTimeout("late", completed=DONE, next_step="Wait."),
        SandboxCrashed("dead", completed=DONE, panic="panic: x"),
        LaunchError("fork", "refused", errno=errno.EAGAIN),
        InvalidBundle(["one", "two"], where="here"),
        ImageError("is gone", image="app.tar"),
        RunscFailed("failed", records=["x"], command="runsc"),
        NotReady("not yet"),
        RemoteError(["ValueError"], "text", "traceback"),
        RemoteAttributeError(["AttributeError"], "text", "traceback"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_an_error_crosses_processes(
    error: GvisorError, copied: Callable[[GvisorError], GvisorError]
) -> None:
    """A pool of processes would wait for ever for an error that cannot be read there."""
    error.add_note("a note")
    again = copied(error)
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_no_text_of_an_error_is_a_command_for_a_ci_system() -> None:
    """The output of a program may be in it. The message by itself stays as it is."""
    error = NotReady("last seen: stdout b'##vso[task]'", next_step="::add-mask::x")
    assert str(error) == "last seen: stdout b'\\x23#vso[task]'\n\\x3a:add-mask::x"
    assert error.message == "last seen: stdout b'##vso[task]'"


def test_what_nobody_reports_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight acts are, of each kind of program: no report shows more."""
    monkeypatch.setattr(errors, "forbidden", [])
    for number in range(20):
        errors.note_forbidden(f"act {number}", ("exec",))
        errors.note_forbidden("another", ("connect",))
    assert len(errors.forbidden) == 16
    assert errors.forbidden[0] == ("act 0", ("exec",))
