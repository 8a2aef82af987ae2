"""The pytest in the sandbox: collects the host's tests, and runs those that the host names.

The plugin replaces the loop that would run every test by one that waits for the host's commands. So
fixtures of every scope live as long as on the host. `pytest_process` configures the pytest.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import PurePath
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pytest_gvisor.guest.tests import first, passed, program
from pytest_gvisor.guest.tests.debugger import Debugger
from pytest_gvisor.guest.tests.gate import COLLECTS
from pytest_gvisor.guest.tests.link import Link
from pytest_gvisor.guest.tests.terminal_file import Terminal, Unrelayed, drop_summaries
from pytest_gvisor.guest.wire import encoding

if TYPE_CHECKING:
    import pytest

    from pytest_gvisor.guest.tests.measure import Coverage

# Tests replace functions of modules, and this program speaks while they are replaced.
_exit, _open, _fstat, _samestat = os._exit, os.open, os.fstat, os.path.samestat


class Plugin:
    """The loop, and the messages on each test."""

    def __init__(
        self,
        link: Link,
        terminal: Terminal,
        debugger: Debugger,
        notes: first.Notes,
        *,
        files: Iterable[str],
        variables: program.Watch,
        coverage: Coverage | None,
        basetemp: str | None,
    ) -> None:
        self._link = link
        self._debugger = debugger
        self._notes = notes
        self._wanted = {*files}.union(*(map(str, PurePath(file).parents) for file in files))
        self._variables = variables
        self._coverage = coverage
        self._basetemp = basetemp
        self._terminal = terminal
        self._errors: list[str] = []
        self._reports: list[tuple[pytest.TestReport, bool]] = []
        """Reports that are not yet sent, and whether pytest made them while it captured output."""

        self._output = os.fstat(1)
        self._running = ""
        self._folder = ""
        """The folder of ``tmp_path`` of the test that runs; empty until there is one."""

        self._items: dict[str, pytest.Item] = {}
        self._collected: list[pytest.Item] = []
        self._not_run: set[str] = set()
        self._failed: int | None = None
        """How many tests had failed at the end of the loop; None before it."""

    def pytest_configure(self, config: pytest.Config) -> None:
        """Show the host's ``--basetemp``, when pytest has taken the sandbox's.

        Hooks of the project read ``-k`` and ``-m`` too. The host alone chooses tests by them.
        """
        config.option.basetemp = self._basetemp
        config.pluginmanager.unregister(name="mark")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Take the place of the terminal before the terminal plugin writes its first line."""
        self._config, self._session = session.config, session
        self._relays = any(map(vars(session.config.option).get, ("setupshow", "setuponly")))
        if self._relays:
            session.config.pluginmanager.register(Unrelayed(self._terminal), "gvisor-unrelayed")
        self._terminal.replace(session.config)

    def pytest_collection(self) -> None:
        """Begin a trace here: what plugins did to configure themselves is no act of the tests."""
        self._mark({"mark": COLLECTS})

    def pytest_ignore_collect(self, collection_path: os.PathLike[str]) -> bool | None:
        """Leave out files and folders that hold none of the host's tests for this sandbox."""
        return None if os.fspath(collection_path) in self._wanted else True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember failed and skipped collections: the host has collected these files."""
        if not report.passed:
            self._errors.append(f"{report.nodeid}: {report.longreprtext}"[:20000])
            self._go_on(0)

    def _go_on(self, failed: int) -> None:
        """Go on after so many failures on the host, which decides when to stop."""
        session = self._session
        session.testsfailed = failed
        # The public properties warn when they are unset.
        session._shouldfail = session._shouldstop = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note all tests, before other hooks leave some out: the host alone chooses."""
        self._collected = [*items]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Send the collected tests, without those that nobody can tell apart."""
        several = set()
        for item in session.items:
            if self._items.setdefault(_name(item), item) is not item:
                several.add(_name(item))
        self._not_run.update(self._items)
        # A hook that takes a part of the tests had others to choose from on the host. What it and
        # later ones do to the tests that they keep, they have not done to those.
        left = {_name(item): item for item in self._collected if _name(item) not in self._items}
        self._items.update(left)
        for name in several:
            del self._items[name]
            self._errors.append(f"{name}: a hook has made several tests of this node id"[:20000])
        numbers = [encoding.numbered(item) for item in self._items.values()]
        told = [*map(encoding.changes, left.values())]  # of the last ones
        self._link.send(
            "collected", ids=[*self._items], numbers=numbers, left=told, errors=self._errors
        )

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests that the host names, in place of pytest's own loop."""
        self._short = passed.Shortener(usual=passed.is_usual(session.config.hook))
        # The plugin that is registered last comes first, before each conftest.py. pytest takes a
        # module, or what it can hash.
        reports = ModuleType("gvisor_reports")
        vars(reports)["pytest_runtest_logreport"] = self.send_report
        session.config.pluginmanager.register(reports)
        self._failed = 0
        self._terminal.relayed = self._relays
        for running, then, failed in self._commanded():
            # What fails from here on without a word fails in the setup.
            self._running = running
            item = self._items[running]  # the host names collected ones alone
            self._not_run.discard(running)
            self._variables.begin()
            self._short.begin(item)
            self._marks = _marks(item)
            self._folder = ""
            self._notes.begin()
            # At the last failure that --maxfail allows, pytest tears everything down.
            self._go_on(session.testsfailed if failed is None else failed)
            self._run_protocol(item, self._items.get(then) if then else None)
            if not self._link.is_ours():
                # It would take the commands that are meant for its parent.
                self._terminal.say(f"a fork came back from {self._running}, and ends here\n")
                _exit(1)
            self._debugger.end()
            self._notes.begin()
            self._send_reports()
            self._send_stop(session)
            self._link.send("done", id=self._running)
        self._terminal.relayed = False
        self._failed = session.testsfailed
        drop_summaries(session.config)
        return True

    def _send_stop(self, session: pytest.Session) -> None:
        """Report that a hook or a test has asked pytest to stop.

        After failures options do so, which act on the host too.
        """
        option, failed = vars(session.config.option), session.testsfailed
        fails = failed < (option.get("maxfail") or failed + 1) and session.shouldfail
        stops = not (option.get("stepwise") and failed) and session.shouldstop
        if text := fails or stops:
            self._link.send("stops", id=self._running, text=str(text), fails=bool(fails))

    def _commanded(self) -> Iterator[tuple[str, str | None, int | None]]:
        """Yield each named test, the test after it, and how many failures there were, if known."""
        while (command := self._link.receive())["op"] in ("run", "mark"):
            if command["op"] == "mark":
                self._mark(command)
                continue
            following = iter([*command["ids"][1:], command["next"]])
            for running in command["ids"]:
                yield running, next(following), command["failed"]
        # Of failures inside, the host may have expected one, or another try has taken it back.
        self._go_on(command.get("failed", self._session.testsfailed))

    def _run_protocol(self, item: pytest.Item, following: pytest.Item | None) -> None:
        """Run one test; before an exception that stops the session, report it."""
        from pytest import exit  # noqa: A004, PLC0415, PT013 -- see run()

        self._debugger.test = self._running
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except (exit.Exception, KeyboardInterrupt) as error:
            self._terminal.in_test = False
            self._send_reports()
            drop_summaries(item.config)
            # pytest.exit has both, and a KeyboardInterrupt neither.
            text, status = getattr(error, "msg", None), getattr(error, "returncode", None)
            self._link.send("stopped", id=self._running, text=text, status=status)
            raise

    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, None]:
        """Note the temporary folder of a test as soon as there is one.

        As a wrapper of the old style: the traceback of an error that passes one of the new style
        has its frame. Where all others are pytest's own, pytest would show none of them.
        """
        done = yield
        if fixturedef.argname == "tmp_path" and not done.excinfo:
            self._folder = str(done.get_result())
            self._notes.begin(self._folder)

    def send_report(self, report: pytest.TestReport) -> Iterator[None]:
        """Send a report before another hook changes it: on the host, these hooks have it too."""
        # By this hook pytest fails a test whose subtests have failed (_pytest/subtests.py). The
        # terminal calls it next, which is too late, and the host does not know of the subtests.
        # What other plugins change by it counts on the host, when pytest has counted the report.
        own: Any = self._config.pluginmanager.get_plugin("subtests")
        if getattr(own, "__name__", "") == "_pytest.subtests":
            own.pytest_report_teststatus(report=report, config=self._config)
        self._reports.append((report, self._terminal.captured))
        if report.failed and self._folder:
            self._notes.keep(self._folder)
        # A test that has replaced what this takes puts it back in its teardown. Its reports go with
        # a later one, or before the test is done.
        with suppress(Exception):
            self._send_reports()
        try:
            return (yield)
        finally:
            self._terminal.captured = False
            self._variables.in_test = True

    def _send_reports(self) -> None:
        while self._reports:
            report, captured = self._reports[0]
            if short := self._short.short(report):
                self._link.put_off("passed", id=self._running, passed=short)
            else:
                self._send_whole(report, captured=captured)
            del self._reports[0]

    def _send_whole(self, report: pytest.TestReport, *, captured: bool) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        data["sections"] = [(title, encoding.cut(text)) for title, text in data.get("sections", [])]
        plain = isinstance(report.longrepr, str)
        missed = self._variables.missed() if report.failed else []
        # A failed subtest is told at once: the test goes on, and may end the sandbox.
        send = self._link.send if report.failed else self._link.put_off
        send("report", id=self._running, data=data, plain=plain, missed=missed, captured=captured)

    def pytest_warning_recorded(self, warning_message: Any, when: str, location: Any) -> None:
        """Send a warning as plain text."""
        category, file = warning_message.category, warning_message.filename
        self._link.put_off(
            "warning", text=str(warning_message.message), module=category.__module__,
            name=category.__qualname__, filename=file, lineno=warning_message.lineno,
            line=linecache.getline(file, warning_message.lineno), when=when, location=location,
        )  # fmt: skip

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note that the test's own code runs from here on, like in the other phases."""
        self._switch(item, "setup")

    def pytest_runtest_call(self, item: pytest.Item) -> None:
        """Report that the test itself begins; fail it for marks that nobody outside knows."""
        from pytest import fail  # noqa: PLC0415, PT013 -- see run()

        self._switch(item, "run")
        self._link.send("phase", id=self._running, when="call")
        if _marks(item) != self._marks:
            told = "this test has got a mark for its sandbox in its setup, and that is too late"
            fail(f"{told}: mark it while pytest collects", pytrace=False)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Report that the teardown begins."""
        self._switch(item, "teardown")
        self._link.send("phase", id=self._running, when="teardown")

    def ask_for_trace(self) -> str | None:
        """Return the host's trace of the test so far, pickled as hex; None if it is not traced."""
        self._mark(self._link.ask("trace"))
        return self._link.ask("trace", marked=True).get("trace")

    def _mark(self, told: dict[str, Any]) -> None:
        """Open a missing file: the event of this tells the host how many before were dropped."""
        with suppress(OSError):
            _open(told.get("mark", "/missing"), os.O_RDONLY)

    def _switch(self, item: pytest.Item, phase: str) -> None:
        self._terminal.in_test = self._variables.in_test = True
        if self._coverage is not None:
            self._coverage.switch(item.nodeid, phase)

    def pytest_runtest_makereport(self, item: pytest.Item) -> None:
        """Note that a phase is over, and that plugins now make a report of it."""
        self._terminal.in_test = self._variables.in_test = False
        # Of a unittest's subTest pytest makes one in the midst of the phase, and writes its letters
        # to what it captures.
        of_unittest = hasattr(item, "addSubTest")
        self._terminal.captured = of_unittest and not _samestat(_fstat(1), self._output)

    def pytest_unconfigure(self) -> None:
        """Report that all is torn down: nobody has to wait for the rest of pytest's work.

        A hook may have failed the session, and the host knows of failed tests alone. Where other
        sandboxes have tests too, a hook judges by a part. Wrappers of ``pytest_sessionfinish`` are
        over by now, and those of the loop may have counted a failure more.
        """
        if self._failed is None:
            return  # pytest_process.main sends the cause
        if self._coverage is not None:
            for piece in self._coverage.pieces():
                self._link.put_off("coverage", **piece)
        status = int(self._session.exitstatus)
        judged = 0 if self._not_run or self._failed else status
        self._link.send("finished", status=judged, fails=status != 0)

    def pytest_internalerror(self, excrepr: object) -> None:
        """Report why the session ends."""
        self._link.send("internal error", text=str(excrepr)[:100000])


def _marks(item: pytest.Item) -> int:
    """Count the marks of a test that are for the host, which decides on its sandbox."""
    marks = item.iter_markers()
    return sum(m.name == "gvisor" or (m.name == "in_gvisor" and m.kwargs != {}) for m in marks)


def _name(item: pytest.Item) -> str:
    """Return its name in messages: its node id, or see APART in plugin/placement.py."""
    return getattr(item, "gvisor_apart", item.nodeid)
