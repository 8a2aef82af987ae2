"""The ends of bridges in the sandbox send what the host's ends take."""

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from pytest_gvisor.guest.tests import bridges


class Sent:
    """A list of messages."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []

    def __call__(self, kind: str, *, bridge: str, data: dict[str, Any]) -> None:
        """Note a message."""
        assert kind == "bridge"
        self.data.append({"bridge": bridge, **data})


def test_junit_has_the_interface_of_pytest_s_report(pytester: pytest.Pytester) -> None:
    """The fixtures find it where the report would be, and it goes with the session."""
    config, sent = pytester.parseconfigure(), Sent()
    bridges.register(config, ["junit"], sent)
    xml = config.stash[xml_key]
    assert xml.family == "xunit2"
    xml.add_global_property("name", 5)
    xml.node_reporter("x::test").add_attribute("file", None)
    with pytest.raises(TypeError):
        xml.add_global_property(5, "value")  # type: ignore[arg-type]
    config._ensure_unconfigure()
    assert sent.data == [
        {"bridge": "junit", "name": "name", "value": "5"},
        {"bridge": "junit", "id": "x::test", "name": "file", "value": "None"},
    ]


def records(when: str | None, *, thread: bool = False) -> list[dict[str, Any]]:
    """The messages of one record at a moment."""
    sent: list[dict[str, Any]] = []
    handler = bridges._Records(lambda **data: sent.append(data))
    handler.reset()
    handler.set_when(when)
    record = logging.makeLogRecord({"msg": "%s!", "args": ("so",), "own": [1], "levelno": 20})
    if thread:
        running = threading.Thread(target=handler.handle, args=(record,))
        running.start()
        running.join()
    else:
        handler.handle(record)
    return sent


def test_a_record_is_sent_with_its_text_and_plain_attributes() -> None:
    """Arguments are put into the text; an object stays."""
    ((sent),) = records("call")
    assert sent["when"] == "call"
    assert sent["record"]["msg"] == "so!"
    assert sent["record"]["args"] is None
    assert "own" not in sent["record"]


def test_a_record_of_a_hook_that_runs_on_the_host_too_is_not_sent() -> None:
    """A thread belongs to the tests, whenever it speaks."""
    assert records("logreport") == records("sessionfinish") == records(None) == []
    assert len(records("logreport", thread=True)) == 1
    assert records("sessionfinish", thread=True) == []


def test_a_record_that_cannot_be_written_is_no_error_here() -> None:
    """pytest's handlers for the report of the test raise it."""
    sent: list[dict[str, Any]] = []
    handler = bridges._Records(lambda **data: sent.append(data))
    handler.set_when("call")
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("no number",)}))
    assert sent == []


def test_a_benchmark_is_sent_without_what_the_host_knows() -> None:
    """Functions become their names, and a profile becomes rows."""
    measured = SimpleNamespace(
        name="test_it", group=None, extra_info={}, options={"timer": len, "min_rounds": 5},
        iterations=3, has_error=False, stats=SimpleNamespace(data=[0.5]),
        cprofile_stats=SimpleNamespace(stats={("file", 1, "name"): (1, 2, 0.5, 0.25, {})}),
    )  # fmt: skip
    item: Any = SimpleNamespace(name="test_it", nodeid="x::test_it")
    config: Any = SimpleNamespace(_benchmarksession=SimpleNamespace(benchmarks=[measured]))
    sent: list[dict[str, Any]] = []
    protocol = bridges.Benchmarks(config, lambda **data: sent.append(data))
    steps = protocol.pytest_runtest_protocol(item)
    next(steps)
    with pytest.raises(StopIteration):
        next(steps)
    assert config._benchmarksession.benchmarks == []
    assert sent == [{
        "id": "x::test_it", "group": None, "extra_info": {},
        "options": {"timer": "len", "min_rounds": 5}, "iterations": 3, "has_error": False,
        "count": 1, "rounds": "AAAAAAAA4D8=",
        "cprofile_stats": [["file", 1, "name", 1, 2, 0.5, 0.25]],
    }]  # fmt: skip
