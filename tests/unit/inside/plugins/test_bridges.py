"""The host's ends of bridges, with data from inside that may be anything."""

import contextlib
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.junitxml import LogXML, xml_key

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.base.escape import Live
from pytest_gvisor.inside.plugins import Bridges
from pytest_gvisor.inside.plugins import junit as end
from pytest_gvisor.inside.wire.rules import Sender
from pytest_gvisor.inside.wire.session_bounds import SessionBounds

INNER = "test_it.py::test_it"


@contextlib.contextmanager
def collected(config: pytest.Config) -> Iterator[list[str]]:
    """The texts of the warnings that a configuration records."""
    texts: list[str] = []

    class Listener:
        def pytest_warning_recorded(self, warning_message: Any) -> None:
            texts.append(str(warning_message.message))

    listener = Listener()
    config.pluginmanager.register(listener)
    yield texts
    config.pluginmanager.unregister(listener)


class Host:
    """The bridges of a session of its own, with this test as the one that runs inside."""

    def __init__(self, item: pytest.Item, config: pytest.Config) -> None:
        self.config = config
        self.bounds = SessionBounds(config)
        self.bridges = Bridges(config, self.bounds)
        self.item = item

    def said(self) -> list[str]:
        """The warnings at the end of the session."""
        with collected(self.config) as texts:
            self.bounds.close()
        return texts

    def take(self, bridge: object, data: object, **changes: Any) -> None:
        """Take data while the test runs."""
        sender = Sender(self.item, INNER, over=False)._replace(**changes)
        self.bridges.take({"type": "bridge", "bridge": bridge, "data": data}, sender)


@pytest.fixture
def log_xml(pytester: pytest.Pytester) -> LogXML:
    """A JUnit report of pytest's, to be written."""
    return LogXML(str(pytester.path / "junit.xml"), None, "pytest", "no", family="xunit1")


@pytest.fixture
def junit(log_xml: LogXML, request: pytest.FixtureRequest, pytester: pytest.Pytester) -> Host:
    """A session that writes a JUnit report."""
    config = pytester.parseconfig()
    config.stash[xml_key] = log_xml
    return Host(request.node, config)


def written(log_xml: LogXML) -> ET.Element:
    """The JUnit report, read back."""
    log_xml.pytest_sessionstart()
    log_xml.pytest_sessionfinish()
    return ET.fromstring(Path(log_xml.logfile).read_text())


def test_data_for_a_bridge_that_is_not_here_are_an_error(
    request: pytest.FixtureRequest, pytester: pytest.Pytester
) -> None:
    """The host has the bridges of those plugins that are at work here."""
    host = Host(request.node, pytester.parseconfig())
    assert host.bridges.names == []
    names: list[object] = ["junit", "", None, [], {"a": 1}, 5]
    for name in names:
        with pytest.raises(ProtocolError, match="bridge that is not here"):
            host.take(name, {"name": "a", "value": "b"})


def test_properties_of_the_suite_are_escaped(junit: Host, log_xml: LogXML) -> None:
    """Names and values hold characters that XML has not, and markup."""
    junit.take("junit", {"name": "a\0\x1b]<x>", "value": '"><y>\udc80\x07'})
    (found,) = written(log_xml).iter("property")
    assert found.attrib == {"name": "a#x00#x1B]<x>", "value": '"><y>#xDC80#x07'}


def test_an_attribute_is_that_of_the_test_that_runs(junit: Host, log_xml: LogXML) -> None:
    """Not of another one, nor of one that is over, whose element has been written."""
    given = {"id": INNER, "name": "owner", "value": "x"}
    junit.take("junit", given)
    assert log_xml.node_reporter(junit.item.nodeid).attrs == {"owner": "x"}
    for data, changes in ((given, {"over": True}), ({**given, "id": "test_it.py::test_next"}, {})):
        with pytest.raises(ProtocolError, match="does not run"):
            junit.take("junit", data, **changes)
    with pytest.raises(ProtocolError, match="does not run"):
        junit.bridges.take({"bridge": "junit", "data": given}, None)
    assert len(log_xml.node_reporters) == 1


@pytest.mark.parametrize(
    "data",
    [None, 5, "x", [], {}, {"name": "a"}, {"name": "a", "value": 1}, {"name": ["a"], "value": ""}],
)
def test_what_is_no_property_is_an_error(data: object, junit: Host) -> None:
    """The sandbox ends with an error of the protocol, whatever the data are."""
    with pytest.raises(ProtocolError, match="junit cannot take"):
        junit.take("junit", data)


def test_the_host_keeps_some_properties(
    junit: Host, log_xml: LogXML, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One warning counts those that are left out, for their number or for their size."""
    monkeypatch.setattr(end, "_MOST_PROPERTIES", 2)
    monkeypatch.setattr(end, "_MOST_TEXT", 100)
    junit.take("junit", {"name": "a", "value": "b"})
    for value in ("x" * 100, "c", "d"):
        junit.take("junit", {"name": "a", "value": value})
    assert log_xml.global_properties == [("a", "b")]
    assert junit.said() == ["3 properties of the JUnit report from inside were left out"]


RECORD = {
    "name": "of.tests", "levelname": "INFO", "levelno": 20, "pathname": "/x/test_it.py",
    "filename": "test_it.py", "module": "test_it", "lineno": 5, "funcName": "test_it",
    "created": 1.7e9, "msecs": 1.5, "relativeCreated": 100.0, "msg": "hello", "own": "mark",
}  # fmt: skip


@pytest.fixture
def live_log(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> tuple[Host, io.StringIO]:
    """A session that shows log records, and its terminal."""
    config = pytester.parseconfigure(
        "--log-cli-level=INFO", "-o", "log_cli_format=%(name)s:%(levelname)s:%(lineno)d %(message)s"
    )
    plugin: Any = config.pluginmanager.get_plugin("logging-plugin")
    terminal = io.StringIO()
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reporter._tw._file = terminal
    assert plugin.log_cli_handler.stream is reporter
    return Host(request.node, config), terminal


def show(live_log: tuple[Host, io.StringIO], **changes: Any) -> str:
    """The text on the terminal after a record with these attributes."""
    host, terminal = live_log
    host.take("live log", {"when": "call", "record": {**RECORD, **changes}})
    return terminal.getvalue()


def test_a_record_is_shown_under_its_phase(live_log: tuple[Host, io.StringIO]) -> None:
    """The title is written once, and the format is the host's."""
    show(live_log)
    text = show(live_log, exc_text="Traceback: so")
    assert text.count("live log call") == 1
    assert text.count("of.tests:INFO:5 hello\n") == 2
    assert text.endswith("\nTraceback: so\n")


def test_the_whole_line_is_escaped(live_log: tuple[Host, io.StringIO]) -> None:
    """A command of a CI system may be put together of several attributes."""
    text = show(
        live_log, name="", levelname=":error", msg=":x\x1b]0;y\x07\n::error::z\n1 passed in 1s"
    )
    shown = text.partition("live log call")[2]
    assert "\x1b]" not in shown
    assert not re.search(r"(?m)^\s*::", shown)
    assert "\n\\x31 passed" in shown


def test_no_record_behind_output_is_a_command(live_log: tuple[Host, io.StringIO]) -> None:
    """With ``-s`` they share a line."""
    show(live_log)  # the title is written by now
    shown: list[str] = []
    Live(shown.append).add("\n:")
    live_log[1].write(shown[0])
    assert "\n:\\x3aerror::x:INFO:5 hello\n" in show(live_log, name=":error::x")


def test_no_number_of_spaces_costs_memory(live_log: tuple[Host, io.StringIO]) -> None:
    """pytest puts as many before each line as the record says."""
    for indent in (10**12, -(10**12), 1e300, "1000000000000", "x"):
        assert show(live_log, auto_indent=indent, msg="a\nb").endswith(":5 a\nb\n"), indent


def test_a_format_that_a_record_does_not_fit_shows_nothing(
    live_log: tuple[Host, io.StringIO],
) -> None:
    """The host's own handler shows none either."""
    assert show(live_log, lineno="five") == ""


NO_RECORDS: list[dict[str, Any]] = [
    {"when": "sessionfinish"},
    {"when": []},
    {"record": None},
    {"record": []},
    {"record": {}},
    {"record": {**RECORD, "created": "now"}},
    {"record": {**RECORD, "created": float("nan")}},
    {"record": {**RECORD, "created": 10**400}},
    {"record": {**RECORD, "own": []}},
    {"record": {**RECORD, **{f"own{number}": 1 for number in range(1000)}}},
]


def test_what_is_no_record_is_an_error(live_log: tuple[Host, io.StringIO]) -> None:
    """The sandbox ends with an error of the protocol, and the terminal shows nothing."""
    host, terminal = live_log
    for changes in NO_RECORDS:
        with pytest.raises(ProtocolError, match="live log cannot take"):
            host.take("live log", {"when": "call", "record": RECORD, **changes})
        assert terminal.getvalue() == "", changes
