"""pytest's capture of descriptors 1 and 2, which stays in place between two phases that pass.

pytest points both away and back around each phase. These are twelve system calls a test, which take
long while the host has the other processor. Between the phases only plugins run. If all of them
print nothing there, nobody sees where the descriptors point.

Used by worker.py alone; imports pytest only after ``sys.path`` is the host's.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from pytest_gvisor.guest.bare import Bare
else:
    from bare import Bare

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

_BETWEEN = (
    "pytest_report_teststatus", "pytest_report_to_serializable", "pytest_runtest_logfinish",
    "pytest_runtest_logreport", "pytest_runtest_logstart", "pytest_runtest_makereport",
    "pytest_runtest_protocol", "pytest_warning_recorded",
)  # fmt: skip
"""Hooks that pytest calls between two phases, if the first one has not failed."""

_AROUND = ("pytest_runtest_call", "pytest_runtest_setup", "pytest_runtest_teardown")
"""Hooks whose wrappers may run outside of pytest's capture."""

_SILENT = ("_hypothesis_pytestplugin", "_pytest.", "pytest_cov.", "pytest_gvisor.", "xdist.")
"""Modules of plugins that print nothing in these hooks."""

_OURS = "gvisor-"

_WITHIN = (
    "pytest_fixture_post_finalizer", "pytest_fixture_setup", "pytest_runtest_setup",
    "pytest_runtest_teardown",
)  # fmt: skip
"""Hooks that pytest calls within a setup or teardown."""

# Tests replace functions of modules.
_dup2, _fstat = os.dup2, os.fstat


class Captures:
    """A plugin of the pytest inside: it begins and ends the capture of each phase."""

    def __init__(self, config: pytest.Config, manager: Any) -> None:
        self._config = config
        self._manager = manager
        self._resting: Any = None
        """The capture that is suspended, while both descriptors are still on its files."""

        self._suspend = manager.suspend_global_capture
        self._is_known = False
        self._is_silent = False
        self._is_silent_within = False

    def suspend_global_capture(self, in_: bool = False) -> None:
        """Take the place of the method of pytest's: a debugger may call it between phases."""
        self.end()
        self._suspend(in_=in_)

    def pytest_plugin_registered(self) -> None:
        """Look at the plugins again: a test may register one."""
        self._is_known = False

    def item_capture(self, when: str, item: pytest.Item) -> _Phase:
        """Capture the output of a phase, in place of the method of pytest's that has this name."""
        return _Phase(self, self._manager, when, item)

    def resume(self) -> None:
        """Let the output go to the capture's files."""
        capture, self._resting = self._resting, None
        if capture is None or not _is_suspended(capture):
            self._manager.resume_global_capture()
            return
        for end in (capture.out, capture.err):
            end.syscapture.resume()
            end._state = "started"
        capture._state = "started"

    def suspend(self, *, passed: bool, bare: bool) -> bool:
        """Let the output go where it went before the phase; return whether there is any to read.

        ``bare`` says that no code of the project has run in the phase, so there is nothing to read.
        """
        capture = self._manager._global_capturing
        # If a test has replaced a function that pytest needs here, it fails as on the host.
        usual = os.dup2 is _dup2 and os.fstat is _fstat
        sizes = None
        if passed and usual and capture and self._may_rest():
            bare = bare and self._is_silent_within and _is_started(capture)
            sizes = [0] if bare else _sizes(capture)
        if sizes is not None:
            for end in (capture.out, capture.err):
                end.syscapture.suspend()
                end._state = "suspended"
            capture._state = "suspended"
            self._resting = capture
            return any(sizes)
        self._suspend(in_=False)
        return capture is not None

    def end(self) -> None:
        """Point both descriptors to where they pointed before the tests."""
        capture, self._resting = self._resting, None
        if capture is not None and _is_suspended(capture):
            for end in (capture.out, capture.err):
                _dup2(end.targetfd_save, end.targetfd)

    def _may_rest(self) -> bool:
        """Whether all plugins print nothing between phases."""
        if not self._is_known:
            hooks = self._config.hook
            between = [i for name in _BETWEEN for i in getattr(hooks, name).get_hookimpls()]
            around = [i for name in _AROUND for i in getattr(hooks, name).get_hookimpls()]
            between += [i for i in around if i.wrapper or i.hookwrapper]
            within = [i for name in _WITHIN for i in getattr(hooks, name).get_hookimpls()]
            self._is_silent_within = all(self._prints_nothing(i.plugin) for i in within)
            self._is_silent = all(self._prints_nothing(i.plugin) for i in between)
            self._is_known = True
        return self._is_silent

    def _prints_nothing(self, plugin: Any) -> bool:
        module = str(getattr(plugin, "__name__", type(plugin).__module__))
        name = self._config.pluginmanager.get_name(plugin) or ""
        return module.startswith(_SILENT) or name.startswith(_OURS)


class _Phase:
    """The capture of one phase, as a context."""

    def __init__(self, captures: Captures, manager: Any, when: str, item: pytest.Item) -> None:
        self._captures = captures
        self._manager = manager
        self._when = when
        self._item = item

        self._bare = None if when == "call" else Bare(item)

    def __enter__(self) -> None:
        self._captures.resume()
        self._manager.activate_fixture()

    def __exit__(self, kind: object, *_error: object) -> None:
        self._manager.deactivate_fixture()
        # A test of unittest keeps its errors for the report.
        passed = kind is None and not getattr(self._item, "_excinfo", None)
        bare = passed and self._bare is not None and self._bare.was()
        if self._captures.suspend(passed=passed, bare=bare):
            out, err = self._manager.read_global_capture()
            self._item.add_report_section(self._when, "stdout", out)
            self._item.add_report_section(self._when, "stderr", err)


def _is_started(capture: Any) -> bool:
    return {capture._state, capture.out._state, capture.err._state} == {"started"}


def _is_suspended(capture: Any) -> bool:
    """Whether nothing has resumed or ended the capture since it was suspended."""
    return {capture._state, capture.out._state, capture.err._state} == {"suspended"}


def _sizes(capture: Any) -> list[int] | None:
    """Return the sizes of the files of a capture; None if a test has left it changed.

    pytest's own way of suspending repairs that.
    """
    sizes = []
    for end in (capture.out, capture.err):
        try:
            here, there = _fstat(end.targetfd), end.gvisor_file
        except (AttributeError, OSError):
            return None
        if end._state != "started" or (here.st_dev, here.st_ino) != there:
            return None
        sizes.append(here.st_size)
    return sizes


@contextlib.contextmanager
def in_place(config: pytest.Config) -> Iterator[None]:
    """Take the place of pytest's way to begin and end a phase, if it captures descriptors."""
    captures = _register(config)
    try:
        yield
    finally:
        if captures is not None:
            captures.end()


def _register(config: pytest.Config) -> Captures | None:
    from _pytest.capture import CaptureManager, FDCapture, MultiCapture  # noqa: PLC0415 -- see above

    manager: Any = config.pluginmanager.get_plugin("capturemanager")
    capture: Any = getattr(manager, "_global_capturing", None)
    if type(manager) is not CaptureManager or type(capture) is not MultiCapture:
        return None
    for end in (capture.out, capture.err):
        if type(end) is not FDCapture:
            return None
        held = _fstat(end.tmpfile.fileno())
        end.gvisor_file = held.st_dev, held.st_ino  # type: ignore[attr-defined]
    captures = Captures(config, manager)
    manager.suspend_global_capture = captures.suspend_global_capture  # type: ignore[method-assign]
    manager.item_capture = captures.item_capture  # type: ignore[method-assign, assignment]
    config.pluginmanager.register(captures, "gvisor-captures")
    return captures
