"""Small plugins of the pytest inside: the ends of bridges, and what it has from the host.

For worker.py, which loads this file by its path. A plugin keeps data in the tests' process. The end
of a bridge sends them to the host, where inside/plugins checks them. Imports nothing of
pytest_gvisor.
"""

from __future__ import annotations

import array
import base64
import contextlib
import functools
import io
import itertools
import logging
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import pytest
from _pytest.junitxml import _check_record_param_type, xml_key

Send = Callable[..., None]
_PHASES = frozenset({"setup", "call", "teardown"})
_MOMENTS = frozenset({*_PHASES, "start", "logreport", "finish"})
_SCALARS = (str, int, float, type(None))
_MOST_ROUNDS = 4_000_000
"""Rounds of one benchmark in one message, which has 64 MiB at most."""

_MOST_FUNCTIONS = 10_000
_MAIN = threading.main_thread()
_FORMATTER = logging.Formatter()


def register(config: pytest.Config, names: Iterable[str], send: Callable[..., None]) -> None:
    """Register the ends of the bridges that the host has."""
    for name in names:
        end = _ENDS[name](config, functools.partial(_send, send, name))
        config.pluginmanager.register(end, f"gvisor-bridge-{name}")


def _send(send: Callable[..., None], bridge: str, **data: Any) -> None:
    send("bridge", bridge=bridge, data=data)


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, plugins: Iterable[Any]) -> None:
        super().__init__(io.BytesIO(data))
        modules = [one for one in plugins if isinstance(one, ModuleType)]
        self._files = {str(getattr(one, "__file__", "")): one for one in modules}

    def persistent_load(self, found: tuple[str, str]) -> Any:
        """Return what a conftest.py defines."""
        return vars(self._files[found[0]])[found[1]]


def unpickled(config: Any, texts: dict[str, str]) -> dict[str, Any]:
    """Return the values of options, which the host has pickled."""
    plugins, found = config.pluginmanager.get_plugins(), {}
    for name, text in texts.items():
        with contextlib.suppress(Exception):  # of a module that is not here: its plain form stays
            found[name] = _Unpickler(base64.b64decode(text), plugins).load()
    return found


class LeftOut:
    """Makes no tests of functions of which the host has deselected each test."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(
        self, collector: pytest.Collector, name: str
    ) -> list[pytest.Item] | None:
        """Collect nothing of such a function."""
        return [] if f"{collector.nodeid}::{name}" in self._names else None


def xdist_fixtures(ids: dict[str, str]) -> object:
    """Return a plugin whose fixtures have the values that xdist's have on the host.

    A module, because pytest warns of a session's fixture that is a method since 9.2.
    """

    @pytest.fixture(scope="session")
    def worker_id() -> str:
        return ids["worker_id"]

    @pytest.fixture(scope="session")
    def testrun_uid() -> str:
        return ids["testrun_uid"]

    plugin = ModuleType("gvisor_xdist_fixtures")
    vars(plugin).update(worker_id=worker_id, testrun_uid=testrun_uid)
    return plugin


class Junit:
    """A stand-in for pytest's JUnit report, for the fixtures that write to it while a test runs."""

    def __init__(self, config: pytest.Config, send: Send) -> None:
        self._send = send
        self.family = config.getini("junit_family")
        stash: Any = config.stash
        stash[xml_key] = self

    def add_global_property(self, name: str, value: object) -> None:
        """Send a property of the whole suite, for ``record_testsuite_property``."""
        _check_record_param_type("name", name)
        self._send(name=name, value=str(value))

    def node_reporter(self, nodeid: object) -> Element:
        """Return the element of a test, for ``record_xml_attribute``.

        The id is a text, or an object of pytest's whose text it is since 9.2.
        """
        return Element(str(nodeid), self._send)


class Element:
    """A stand-in for a test's element in the JUnit report."""

    def __init__(self, nodeid: str, send: Send) -> None:
        self._id = nodeid
        self._send = send

    def add_attribute(self, name: str, value: object) -> None:
        """Send an attribute."""
        self._send(id=self._id, name=name, value=str(value))


class LiveLog:
    """Takes the place of the handler that shows log records as they come (``log_cli``)."""

    def __init__(self, config: pytest.Config, send: Send) -> None:
        self._config = config
        self._send = send

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Replace the handler: pytest's plugin has it, and puts it to work for each phase."""
        plugin: Any = self._config.pluginmanager.get_plugin("logging-plugin")
        if plugin is not None:
            plugin.log_cli_handler = _Records(self._send)


class _Records(logging.Handler):
    """A handler that sends the records of tests, with the phase that they belong to."""

    def __init__(self, send: Send) -> None:
        super().__init__()
        self._send_data = send
        self._when: str | None = None

    def reset(self) -> None:
        """Begin another test, for pytest's plugin. The host's handler knows of it itself."""

    def set_when(self, when: str | None) -> None:
        """Begin another phase, for pytest's plugin."""
        self._when = when

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, unless a hook made it that runs on the host too."""
        is_hook = self._when not in _PHASES and threading.current_thread() is _MAIN
        if is_hook or self._when not in _MOMENTS:
            return
        # Like pytest's handler, this raises no error into the test: those for its reports do.
        with contextlib.suppress(Exception):
            self._send_data(when=self._when, record=_plain(record))


def _plain(record: logging.LogRecord) -> dict[str, Any]:
    """Return the plain attributes of a record, and its arguments and traceback as text."""
    fields = {**vars(record), "message": None, "args": None, "exc_info": None}
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _FORMATTER.formatException(record.exc_info)
    fields["msg"] = record.getMessage()
    return {name: value for name, value in fields.items() if isinstance(value, _SCALARS)}


class Benchmarks:
    """Sends what pytest-benchmark has measured in a test, when the test is over."""

    def __init__(self, config: pytest.Config, send: Send) -> None:
        self._config: Any = config
        self._send = send

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Send the measurements of a test, and keep none: the host sums up."""
        try:
            return (yield)
        finally:
            measured = self._config._benchmarksession.benchmarks
            for benchmark in measured:
                self._send(id=item.nodeid, **_row(benchmark))
            measured.clear()


def _row(benchmark: Any) -> dict[str, Any]:
    """Return the data of one benchmark: the host knows the test's own names and parameters."""
    options = {
        name: getattr(value, "__name__", repr(value)) if callable(value) else value
        for name, value in benchmark.options.items()
    }
    rounds = array.array("d", benchmark.stats.data)
    return {
        "group": benchmark.group,
        "extra_info": benchmark.extra_info,
        "options": options,
        "iterations": benchmark.iterations,
        "has_error": bool(benchmark.has_error),
        "count": len(rounds),
        # So many numbers are read at once, and exactly.
        "rounds": base64.b64encode(rounds[:_MOST_ROUNDS]).decode(),
        "cprofile_stats": _profile(benchmark.cprofile_stats),
    }


def _profile(stats: Any) -> list[list[Any]] | None:
    """Return the rows of a profile: a function's file, line and name, and its four numbers."""
    if stats is None:
        return None
    rows = ([*place, *numbers[:4]] for place, numbers in stats.stats.items())
    return list(itertools.islice(rows, _MOST_FUNCTIONS))


_ENDS: dict[str, Callable[[pytest.Config, Send], object]] = {
    "junit": Junit,
    "live log": LiveLog,
    "benchmark": Benchmarks,
}
