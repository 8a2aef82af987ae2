"""The summary of files from inside."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from _pytest.config import PytestPluginManager

from pytest_gvisor.base.errors import ProtocolError
from pytest_gvisor.guest.tests.returns import Place
from pytest_gvisor.inside.back.anchors import Anchors
from pytest_gvisor.inside.back.landing import PLUGIN, Arriving, Store, Tally, take_worker


class Reporter:
    """A terminal reporter that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_line(self, line: str, **_markup: bool) -> None:
        """Keep a line."""
        self.lines.append(line)


def shown(tally: Tally, verbosity: int = 0) -> list[str]:
    """The lines for this."""
    store, reporter = Store(Anchors("/p")), Reporter()
    store.tally = tally
    config = cast("Any", SimpleNamespace(get_verbosity=lambda: verbosity))
    store.pytest_terminal_summary(cast("Any", reporter), config)
    return reporter.lines


def test_names_are_for_those_who_ask() -> None:
    """Numbers are there by default, and errors always."""
    tally = Tally(
        written=["/a"], count=2, others=["/b"], more=3, whole=False, errors=["bad"], notes=["n"] * 9
    )
    lines = shown(tally)
    assert lines[:2] == [
        "gvisor: 2 files came back from inside",
        (
            "gvisor: at least 3 other files that tests wrote in the project stayed inside "
            "(gvisor_returns brings files back, -v names them)"
        ),
    ]
    assert lines[2:] == [
        *["gvisor: n"] * 5, "gvisor: 4 more such lines with -v", "gvisor: ERROR: bad",
    ]  # fmt: skip
    verbose = shown(tally, verbosity=1)
    assert {"gvisor:   /a", "gvisor:   /b", "gvisor:   and 1 more", "gvisor:   and 2 more"} < {
        *verbose
    }
    assert verbose.count("gvisor: n") == 9
    assert shown(tally, verbosity=-1)[0] == "gvisor: n"
    assert shown(Tally()) == []


def test_as_many_bytes_are_kept_as_there_is_room_for() -> None:
    """One more is an error, and the file before it stays readable."""
    store = Store(Anchors("/p"), size=3)
    file = store.begin(
        Arriving(place=Place("/p"), path="a", anchor=cast("Any", None), sandbox="s", wanted=True)
    )
    store.add(file, b"abc")
    assert store.read(file) == b"abc"
    with pytest.raises(ProtocolError, match="more bytes than are kept"):
        store.add(file, b"d")
    store.close()


def test_workers_that_wrote_different_files_are_an_error() -> None:
    """The session fails, and the error names both. Until then, it does not."""
    config: Any = SimpleNamespace(
        rootpath="/p", get_verbosity=lambda: 0, pluginmanager=PytestPluginManager(),
        stash=pytest.Stash(),
    )  # fmt: skip
    for worker, digest in {"gw0": "1", "gw1": "1", "gw2": "2"}.items():
        tally = Tally(digests={"/a": [digest, "test_it"]}, count=1, notes=["n"])
        take_worker(config, worker, {"gvisor_returned": dataclasses.asdict(tally)})
        store = config.pluginmanager.get_plugin(PLUGIN)
        session: Any = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)
        [*store.pytest_sessionfinish(session)]
        assert (session.exitstatus == pytest.ExitCode.OK) == (worker != "gw2")
    reporter = Reporter()
    store.pytest_terminal_summary(cast("Any", reporter), config)
    assert reporter.lines[0] == "gvisor: 3 files came back from inside"
    assert reporter.lines[1:4] == ["gvisor: gw0: n", "gvisor: gw1: n", "gvisor: gw2: n"]
    assert reporter.lines[-1].endswith("from gw0: test_it and gw2: test_it")
    assert session.exitstatus == pytest.ExitCode.TESTS_FAILED
    session.exitstatus = pytest.ExitCode.INTERRUPTED
    [*store.pytest_sessionfinish(session)]
    assert session.exitstatus == pytest.ExitCode.INTERRUPTED


def test_of_many_files_in_which_workers_differ_a_bounded_number_is_named() -> None:
    """Two hostile sandboxes may have sent a hundred thousand files of the same names."""
    tally = Tally()
    for digest in "12":
        tally.add(Tally(digests={f"/{n}": [digest, "test_it"] for n in range(2000)}))
    assert len(tally.errors) == 1000
