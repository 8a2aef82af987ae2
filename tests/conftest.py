"""The set-up of these tests that examples do without: the schema needs a package of its own."""

import contextlib
import gc
import importlib
import os
import pkgutil
import shutil
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

import pytest_gvisor
from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.runsc import answers, locate
from pytest_gvisor.sessions import private
from tests.bundlecheck import bundles_are_as_the_schema_says, bundles_written  # noqa: F401
from tests.releases import OF_DEBIAN_13, each_release, each_runsc  # noqa: F401

# Hypothesis measures by the clock, and other work keeps all processors busy. It generates the same
# inputs each time, so that a failure is of the change and not of the day.
slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile("beside", deadline=None, suppress_health_check=slow, derandomize=True)
settings.load_profile("beside")


def pytest_configure() -> None:
    """Handle the signals that a shell's job or nohup ignores: children would ignore them too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    # What is handled is the default in each child, and nohup's promise to this process is kept;
    # xdist's workers are such children.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or "PYTEST_XDIST_WORKER" in os.environ:
        signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the thousands of collected tests out of the garbage collector.

    Each of its full rounds would visit them all, which takes a sixth of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def kept_answers() -> list[str]:
    """Where this user's answers of the tested runsc are: `pytester` sets another HOME.

    Each copy of runsc that another test has made is in that folder too, until the next boot.
    """
    found = []
    for path in (None, str(OF_DEBIAN_13)):
        with (
            contextlib.suppress(GvisorError, OSError),
            contextlib.closing(locate.find(path)) as judged,
        ):
            found.append(answers._path(judged.identity))
    return found


_OF_OTHER_PROCESSES = tuple(
    f"pytest_gvisor.{name}" for name in ("__main__", "guest.", "harness.inspect", "programs.")
)


@pytest.fixture(scope="session")
def whole_package() -> None:
    """Import all of it before `pytester`, which forgets later imports, and imports them twice."""
    for found in pkgutil.walk_packages(pytest_gvisor.__path__, "pytest_gvisor."):
        if not found.name.startswith(_OF_OTHER_PROCESSES):
            importlib.import_module(found.name)


@pytest.fixture
def pytester(
    kept_answers: list[str], whole_package: None, pytester: pytest.Pytester
) -> pytest.Pytester:
    """Give pytester's new HOME the answers of the runsc that this user has asked already.

    Without them each pytest, and each of xdist's workers, digests a hundred megabytes and runs
    runsc. That is a fifth of a second of processor time. An answer holds for this very file alone.
    """
    own = pytester.path / ".cache/pytest-gvisor/answers"
    private.make_above(str(own))
    own.mkdir(mode=0o700)
    for note in kept_answers:
        # Nobody may have asked yet.
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(note, own)
    # Its import is a third of a small pytest's processor time. A test about it clears the list.
    pytester.plugins.append("no:hypothesispytest")
    return pytester
