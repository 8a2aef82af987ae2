"""What the plugin keeps in pytest's stashes, and how an error becomes a skip or a failure."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.glance import FIXTURES

if TYPE_CHECKING:
    from pytest_gvisor.engine import Engine
    from pytest_gvisor.errors import GvisorError
    from pytest_gvisor.harness import Gvisor
    from pytest_gvisor.images.progress import Tell
    from pytest_gvisor.settings import Settings

_engine_key = pytest.StashKey["Engine"]()
_harnesses_key = pytest.StashKey[list["Gvisor"]]()
_failed_key = pytest.StashKey[bool]()
_starts_key = pytest.StashKey[list[float]]()
UNTRUSTED = "gvisor_untrusted"
"""An attribute of reports that hold workloads' output, from when they are made until they are
logged: whether pytest has coloured their text."""

_LACK = "pytest_gvisor_lack"
_MISUSE = "pytest_gvisor_misuse"


def engine_of(config: pytest.Config) -> Engine:
    """This process's engine, made when it is first asked for and closed with the session."""
    if _engine_key not in config.stash:
        from pytest_gvisor.engine import Engine  # noqa: PLC0415 -- idle costs nothing
        from pytest_gvisor.xdist import shared_name  # noqa: PLC0415

        engine = Engine(shared_name(config))
        engine.tell = functools.partial(_watcher, config)
        config.stash[_engine_key] = engine
        config.add_cleanup(engine.close)
    return config.stash[_engine_key]


def _watcher(config: pytest.Config) -> Tell | None:
    """Shows what a docker daemon does, where pytest's own output is watched at a terminal."""
    from pytest_gvisor.images import progress  # noqa: PLC0415 -- only for who has an image

    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    # Asked of the reporter: while a test runs, standard output is pytest's own file.
    if not progress.is_wanted(terminal=getattr(reporter, "isatty", False)):
        return None
    capture = config.pluginmanager.get_plugin("capturemanager")
    last = ""

    def tell(line: str) -> None:
        nonlocal last
        undone = capture.global_and_fixture_disabled() if capture else contextlib.nullcontext()
        with undone:
            if not last:
                reporter.ensure_newline()
            progress.on(sys.__stdout__ or sys.stdout)(line)
        last = line

    return tell


def remember(item: pytest.Item, harness: Gvisor) -> None:
    """Note that a test has this harness, for its report."""
    item.stash.setdefault(_harnesses_key, []).append(harness)


def harnesses(item: pytest.Item) -> list[Gvisor]:
    """What a test has run workloads with."""
    return item.stash.get(_harnesses_key, [])


def is_untrusted(item: pytest.Item) -> bool:
    """Whether a report of a test may hold what workloads wrote: it has one of our fixtures."""
    if not FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) or harnesses(item):
        return True
    if engine_if_any(item.config) is None:
        return False
    # A request also knows the names that were asked for while the test was set up, or ran.
    request = getattr(item, "_request", None)
    return not FIXTURES.isdisjoint(getattr(request, "fixturenames", ()))


def started(item: pytest.Item, seconds: float | None) -> None:
    """Note the start of a sandbox of a test, if it was measured."""
    if seconds is not None:
        item.stash.setdefault(_starts_key, []).append(seconds)


def take_starts(item: pytest.Item) -> list[float]:
    """The seconds that each sandbox of a test took to start, since this was last asked."""
    found = item.stash.get(_starts_key, [])
    item.stash[_starts_key] = []
    return found


def engine_if_any(config: pytest.Config) -> Engine | None:
    """This process's engine, if there is one."""
    return config.stash.get(_engine_key, None)


def note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Note how a phase of a test has ended."""
    item.stash[_failed_key] = failed(item) or report.failed


def failed(item: pytest.Item) -> bool:
    """Whether a phase of the test has failed so far."""
    return item.stash.get(_failed_key, False)


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Turn a `UsageError` into a plain failure: its message says where, a traceback would not.

    An `UnwantedRelease` likewise.
    """
    from pytest_gvisor.errors import UnwantedRelease, UsageError  # noqa: PLC0415 -- idle: no cost

    try:
        yield
    except (UsageError, UnwantedRelease) as error:
        raised = pytest.fail.Exception(str(error), pytrace=False)
        vars(raised)[_MISUSE] = True
        raise raised from None


@contextlib.contextmanager
def required(settings: Settings) -> Iterator[None]:
    """Skip for want of runsc, of a platform or of docker, or fail where that is not allowed.

    Only these may skip: a runsc that is refused, or fails, is an error, and so is one that was
    named and is not there.
    """
    from pytest_gvisor import errors  # noqa: PLC0415 -- as above

    try:
        yield
    except (errors.RunscNotFound, errors.PlatformUnavailable, errors.DaemonUnavailable) as error:
        raised: BaseException = pytest.skip.Exception(error.message)
        if isinstance(error, errors.RunscNotFound) and error.explicit:
            raised = pytest.fail.Exception(str(error), pytrace=False)
        elif settings.strict:
            text = f"{error}\n(--gvisor-strict: this would be a skip otherwise)"
            raised = pytest.fail.Exception(text, pytrace=False)
        vars(raised)[_LACK] = error
        raise raised from None


def lack(raised: BaseException) -> GvisorError | None:
    """What was not there, if that is why a test was skipped, or failed."""
    found: GvisorError | None = vars(raised).get(_LACK)
    return found


def insist(call: pytest.CallInfo[Any], report: pytest.TestReport) -> None:
    """Undo what an xfail has made of a test that did not come to run, and so cannot have failed.

    For want of something, for a setting that cannot be meant, or for what went wrong in set-up
    before any workload: an image, a launch, runsc itself.
    """
    if hasattr(report, "wasxfail") and call.excinfo is not None and _came_to_nothing(call):
        report.outcome = "failed"
        del report.wasxfail


def _came_to_nothing(call: pytest.CallInfo[Any]) -> bool:
    from pytest_gvisor import errors  # noqa: PLC0415 -- as above

    raised = None if call.excinfo is None else call.excinfo.value
    if isinstance(raised, pytest.fail.Exception):
        return lack(raised) is not None or _MISUSE in vars(raised)
    of_workloads = (
        errors.WorkloadFailed,
        errors.WorkloadTimeout,
        errors.SandboxCrashed,
        errors.InsideError,
        errors.NotReady,
    )
    return (
        call.when == "setup"
        and isinstance(raised, errors.GvisorError)
        and not isinstance(raised, of_workloads)
    )
