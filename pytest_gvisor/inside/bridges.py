"""Bridges: data of a plugin inside, checked and handed to the same plugin on the host.

A plugin that sums up or speaks while tests run keeps its data in the tests' process. A plugin that
has a bridge has two ends. One in the sandbox sends them (guest/bridges.py), and one here takes
them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.junitxml import bin_xml_escape, xml_key

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.escape import safe, safe_but_colour
from pytest_gvisor.inside import rules
from pytest_gvisor.inside.benchmarks import Benchmarks, is_known
from pytest_gvisor.inside.bridge_ends import End, Sender

if TYPE_CHECKING:
    from _pytest.junitxml import LogXML

    from pytest_gvisor.inside.session_bounds import SessionBounds

_LONGEST_CAUSE = 200
_MOST_PROPERTIES = 10_000
_MOST_TEXT = 4 * 1024 * 1024
# ElementTree writes the name of an attribute unchanged.
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")

# The moments of a test for pytest's live log; those of the whole session are the host's own.
_MOMENTS = ("start", "setup", "call", "teardown", "logreport", "finish")
_RECORD_TEXTS = ("name", "levelname", "pathname", "filename", "module", "funcName", "msg")
_RECORD_NUMBERS = ("created", "msecs", "relativeCreated")
_MOST_ATTRIBUTES = 100
_MOST_SPACES = 200


class Bridges:
    """The bridges of one session: those whose plugin is at work on the host."""

    def __init__(self, config: pytest.Config, bounds: SessionBounds) -> None:
        made = {name: make(config, bounds) for name, make in _TABLE.items()}
        self._ends = {name: end for name, end in made.items() if end is not None}
        self.known = {"pytest-benchmark"} if is_known(config) else set[str]()
        """The distributions whose data these bridges can bring."""

    @property
    def names(self) -> list[str]:
        """Return the names of the bridges, for the pytest inside."""
        return list(self._ends)

    def take(self, message: dict[str, Any], sender: Sender | None) -> None:
        """Hand on the data in a message. Raises `ProtocolError` if they are malformed."""
        name = message.get("bridge")
        end = self._ends.get(name) if isinstance(name, str) else None
        if end is None:
            raise ProtocolError(f"data from inside for a bridge that is not here: {name!r:.50}")
        try:
            end.take(message.get("data"), sender)
        except rules.WRONG as error:
            text = safe(repr(error))[:_LONGEST_CAUSE]
            raise ProtocolError(f"data from inside that {name} cannot take: {text}") from error


class Junit:
    """``record_testsuite_property`` and ``record_xml_attribute``: pytest's own JUnit report.

    As on the host, xdist's workers have no such report.
    """

    def __init__(self, xml: LogXML, bounds: SessionBounds) -> None:
        self._xml = xml
        self._bounds = bounds
        self._count = self._size = 0

    @classmethod
    def find(cls, config: pytest.Config, bounds: SessionBounds) -> Junit | None:
        """Return the end of the bridge if the host writes a report."""
        xml = config.stash.get(xml_key, None)
        return None if xml is None else cls(xml, bounds)

    def take(self, data: Any, sender: Sender | None) -> None:
        """Add a property of the suite, or an attribute of the test that runs."""
        name, value = data["name"], data["value"]
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("a property that is no text")
        self._count += 1
        self._size += len(name) + len(value)
        if self._count > _MOST_PROPERTIES or self._size > _MOST_TEXT:
            self._bounds.drop("properties of the JUnit report")
        elif "id" not in data:
            self._xml.add_global_property(bin_xml_escape(name), value)
        elif sender is None or data["id"] != sender.inner or sender.over:
            raise ValueError("an attribute of a test that does not run")
        elif _ATTRIBUTE.fullmatch(name):
            self._xml.node_reporter(sender.item.nodeid).add_attribute(name, value)
        else:
            self._bounds.drop("attributes of the JUnit report whose name XML has not")


class LiveLog:
    """``log_cli``: log records of tests inside, shown on the host while the tests run.

    The host formats them, since colours and formats are its own, and escapes the result. As on the
    host, xdist's workers show none.
    """

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        self._handler: Any = handler

    @classmethod
    def find(cls, config: pytest.Config, _bounds: SessionBounds) -> LiveLog | None:
        """Return the end of the bridge if the host shows log records."""
        plugin = config.pluginmanager.get_plugin("logging-plugin")
        handler = getattr(plugin, "log_cli_handler", None)
        return cls(handler) if isinstance(handler, logging.StreamHandler) else None

    def take(self, data: Any, _sender: Sender | None) -> None:
        """Show a record under the phase that it comes from. A thread may outlive its test."""
        when = rules.or_none(rules.one_of(*_MOMENTS))(data["when"])
        record = logging.makeLogRecord(_record(data["record"]))
        handler = self._handler
        try:
            shown = safe_but_colour(handler.format(record))
        except (*rules.WRONG, MemoryError):
            return  # the format of the host names an attribute that the record has not
        if handler._when != when:
            handler.set_when(when)
        formatter = handler.formatter
        handler.setFormatter(_Formatted(shown))
        try:
            handler.emit(record)
        finally:
            handler.setFormatter(formatter)


class _Formatted(logging.Formatter):
    """A formatter of one record, whose text is known."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def format(self, record: logging.LogRecord) -> str:  # noqa: ARG002 -- logging's
        """Return the text."""
        return self._text


def _record(value: Any) -> dict[str, Any]:
    """Check the attributes of a log record: its own, and plain ones that a test has added."""
    if len(value) > _MOST_ATTRIBUTES:
        raise ValueError(f"a log record of {len(value)} attributes")
    checked: dict[str, Any] = {rules.text(name): _scalar(part) for name, part in value.items()}
    checked |= {name: rules.text(value[name]) for name in _RECORD_TEXTS}
    checked |= {name: rules.seconds(value[name]) for name in _RECORD_NUMBERS}
    # A number of spaces, which pytest puts before each line.
    indent = checked.pop("auto_indent", None)
    if type(indent) is bool or (type(indent) is int and 0 <= indent <= _MOST_SPACES):
        checked["auto_indent"] = indent
    return {**checked, "args": None, "exc_info": None}


def _scalar(value: Any) -> str | float | None:
    if isinstance(value, str):
        return rules.utf8(value)
    if value is None or isinstance(value, bool):
        return value
    # A time may have a fraction; the number of a thread is an address.
    if not isinstance(value, int | float) or not abs(value) < 2.0**64:
        raise TypeError(f"{value!r:.50} in a log record")
    return value


_TABLE: dict[str, Callable[[pytest.Config, SessionBounds], End | None]] = {
    "junit": Junit.find,
    "live log": LiveLog.find,
    "benchmark": Benchmarks.find,
}
