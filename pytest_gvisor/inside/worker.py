"""The handle of one pytest inside: sends it tests, and takes their reports.

For a test that runs inside, the host's whole protocol is taken over: nothing of it is set up here.
The pytest inside runs it with its fixtures and plugins. Its reports are logged here as if they had
been made here. So what counts, prints or writes results needs to know nothing of sandboxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.base.errors import ProtocolError, stage
from pytest_gvisor.base.escape import safe
from pytest_gvisor.inside import ahead
from pytest_gvisor.inside.back.returned import LAST_ACTS, Taker
from pytest_gvisor.inside.debugger import Debugger, is_asked_for, stopped
from pytest_gvisor.inside.hints import Hints
from pytest_gvisor.inside.plugins import Bridges
from pytest_gvisor.inside.view import shown_files, users
from pytest_gvisor.inside.view.configuration import measuring
from pytest_gvisor.inside.wire import fields, reports, rules
from pytest_gvisor.inside.wire.link import LOST, Hangs, Link, gone
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.plugin.placement import variant_key
from pytest_gvisor.programs import clock
from pytest_gvisor.run.budget import MOST_MESSAGES, Budget
from pytest_gvisor.sessions import places

if TYPE_CHECKING:
    from pytest_gvisor.inside.back.coverage_data import InsideCoverage

_OF_A_TEST = frozenset({"passed", "phase", "report", "done", "debugger", "stops", "stopped"})
_TEXTS = rules.list_of(rules.exact_text)
_LAST_WORDS = 2.0


class Worker:
    """One pytest inside, from its collection to its end."""

    def __init__(
        self,
        config: pytest.Config,
        items: Sequence[pytest.Item],
        hints: Hints,
        bounds: SessionBounds,
        bridges: Bridges,
        *,
        timeout: float,
        show: Callable[[str], None],
        most: int,
    ) -> None:
        self._config, self._items, self.hints = config, items, hints
        self._names: Mapping[str, str] = {}
        """The names inside of tests that have others there."""

        self._bounds, self._bridges = bounds, bridges
        self._debugs = is_asked_for(config)
        self._debugger: Debugger | None = None
        """That of the test or the start that goes on, from when one is asked for."""

        self._stopped = False
        self._taker: Taker
        """The receiver of the sandbox's files, which is there as long as `link`."""

        self._timeout, self._show = timeout, show
        self._relayed = any(config.getoption(o, False) for o in ("setupshow", "setuponly"))
        self.link: Link | None = None
        """The sandbox, from when it is started."""

        self.gone = False
        """Whether the pytest has died, or has not got as far as a test."""

        self.ahead = ahead.Ahead(most)
        """The tests that were named ahead."""

        self._dropped: set[str] = set()
        """Those that have run, and whose reports were dropped: their turn had not come."""

        self.ran = False
        """Whether the test that `run` was last asked for has begun inside."""

        self.captured = False
        """Whether pytest logs the report that `run` yields, of a subtest, while it captures output.
        """

        self.forbidden = False
        """Whether it did what ``forbid`` names, or may have."""

        self.broke = False
        """Whether the pytest inside ended with an error of its own, and not of a test."""

        self.has_failed = False
        """Whether a test of it has failed, and that was not expected."""

        self.ended = False
        """Whether it has come to its end there, with all its reports."""

        self._errors: list[str] = []
        self.ids: frozenset[str] = frozenset()

    def has_dropped(self, name: str) -> bool:
        """Whether a test has run in this sandbox without a report, since a hook took another."""
        return self._names.get(name, name) in self._dropped

    def not_begun(self, error: Exception) -> str:
        """End a sandbox that did not get as far as a test, if it was started; return the text."""
        self.gone, cause = True, gone(error)
        if self.link is not None:
            self._close(self.link)
            cause = self.link.told(cause)
        return self.hints.explained(f"the pytest inside did not get as far as a test: {cause}")

    def run(
        self, item: pytest.Item, ids: ahead.Ids, *, excused: bool = False
    ) -> Iterator[pytest.TestReport]:
        """Run one test; yield its reports as they arrive, and made-up ones for missing phases.

        ``excused`` tells that its failure is expected, so that forbidden acts fail it too. To be
        called after `collect`: the deadline is the test's own.
        """
        progress = ahead.Progress(calls=not self._config.getoption("setuponly", False))
        self.ran = self.ended = self.broke = self.forbidden = False
        began = clock.monotonic()
        link = self.link
        assert link is not None
        link.budget = Budget(self._timeout)
        ids = ids.renamed(self._names)
        if ids.inner not in self.ids:
            text = self.hints.explained(ahead.not_found(ids.inner, self.ids, self._errors))
            yield reports.made_up(item, "setup", text, 0.0)
            return
        self._taker.note_begun(item)
        if self._debugs:
            self._debugger_of(link).pass_on_interrupts()
        try:
            self._command(link, item, ids)
            for report in self._reports(link, item, ids.inner, progress):
                if progress.missing() is None:
                    self.forbidden = link.judge(report, failed=progress.failed and not excused)
                yield report
                if report.failed:  # the caller may know of a pass that counts as one
                    self._taker.note_failed(item, ids.inner)
            self.ended = True
            self.ahead.took(clock.monotonic() - began)
        except LOST as error:
            cause = gone(error)
            if isinstance(error, Hangs):
                link.terminate()
                cause = f"it did not end within {self._timeout:g} s (--gvisor-timeout)"
            self._taker.note_failed(item, ids.inner)
            yield from self._dead(item, progress, began, link, cause)
        finally:
            if not self._stopped:  # else what is torn down is shown too
                self._end_debugger()

    def _debugger_of(self, link: Link) -> Debugger:
        self._debugger = self._debugger or Debugger(self._config, link)
        return self._debugger

    def _end_debugger(self) -> None:
        debugger, self._debugger = self._debugger, None
        if debugger is not None:
            debugger.end()

    def _command(self, link: Link, item: pytest.Item, ids: ahead.Ids) -> None:
        """Send the command to run a test, unless it runs already, and name the next one.

        Those after it are commanded too, where it is known that they will follow. Then the pytest
        inside goes on without waiting for the host to report.
        """
        while (first := self.ahead.first) not in (None, ids.inner):
            self._dropped.add(first)
            self._unasked(link.receive())
        self.ran = True
        if first is None:
            following = ids.upcoming[0] if ids.upcoming else None
            failed = item.session.testsfailed
            link.send("run", ids=[ids.inner], next=following, failed=failed)
        else:
            self.ahead.pop()
        self.ahead.send(link, ids, self.ids)

    def _reports(
        self, link: Link, item: pytest.Item, inner: str, progress: ahead.Progress
    ) -> Iterator[pytest.TestReport]:
        kind, report = "", None
        while kind != "done":
            message = link.receive()
            kind = message["type"]
            if kind == "bridge":
                over = progress.missing() is None
                own = item.stash[variant_key].inner
                self._bridges.take(message, rules.Sender(item, self._names.get(own, own), over))
                continue
            if kind not in _OF_A_TEST:
                self._common(message, item.nodeid)
                continue
            ahead.check_test(message, inner)
            if "passed" in message:
                report = reports.revive_passed(message["passed"], item)
                progress.add(report)
                yield report
            if kind == "phase":
                with rules.reading("a phase from inside that there is not"):
                    progress.phase = fields.phase(message["when"])
            elif kind == "report":
                report = reports.revive(self._config, message, item, self._bounds)
                if report.failed:
                    self.hints.add(report, link, message.get("missed"))
                progress.add(report)
                self.captured = (
                    type(report) is not pytest.TestReport and message.get("captured") is True
                )
                yield report
                self.captured = False
            elif kind == "debugger":
                self._debugger_of(link).take(message, item.nodeid, report)
            elif kind == "stops":
                name = "shouldfail" if message.get("fails") is True else "shouldstop"
                setattr(item.session, name, safe(str(message.get("text"))[:10_000]))
            elif kind == "stopped":
                self._taker.note_failed(item, inner)
                self._stopped = True
                if link.traced is not None:  # no report of its own tells what it did
                    link.traced.begin("finish")
                raise stopped(message)
        if missing := progress.missing():
            raise ProtocolError(
                f"the test was done without a passed, failed or skipped report of its {missing}"
            )

    def _unasked(self, message: dict[str, Any]) -> None:
        """Take a message of a test that was commanded ahead and is no longer wanted."""
        first = self.ahead.first
        if message["type"] == "debugger" and self.link is not None:
            Debugger.refuse(message, self.link)
            return
        if first is not None and message["type"] == "bridge":
            return  # of a test that does not run on the host
        if first is None or message["type"] not in _OF_A_TEST:
            self._common(message, "")
            return
        ahead.check_test(message, first)
        self._stopped |= message["type"] == "stopped"
        if message["type"] in ("done", "stopped"):
            self.ahead.pop()

    def _common(self, message: dict[str, Any], nodeid: str) -> None:
        """Take a message that may come at any time."""
        kind = message["type"]
        if kind == "warning":
            reports.warn(self._config, message, nodeid, self._bounds)
        elif kind == "bridge":
            self._bridges.take(message, None)
        elif kind == "terminal" and self._relayed:
            self._show(str(message.get("text")))
        elif kind == "no user":
            raise users.refused(message)
        elif kind == "internal error":
            self.broke = True
            raise ProtocolError(f"the pytest inside broke:\n{safe(str(message.get('text')))}")
        else:
            raise ProtocolError(f"a message {kind!r:.50} from inside that does not belong here")

    def collect(self, link: Link, taker: Taker) -> None:
        """Take the tests that a pytest collects. Raises the errors of `Link.receive`."""
        self.link, self._taker = link, taker
        link.budget = Budget(max(self._timeout, 60.0))
        try:
            while (message := link.receive())["type"] != "collected":
                if message["type"] == "debugger":
                    self._debugger_of(link).take(message, "the collection of tests", None)
                elif message["type"] == "ready":
                    link.holds = message.get("holds") is True
                elif message["type"] != "goes on":
                    self._common(message, "")
        finally:
            self._end_debugger()
        with rules.reading("a collection from inside that cannot be one"):
            ids, numbers = _TEXTS(message["ids"]), _TEXTS(message["numbers"])
            self._names = ahead.other_names(self._items, ids, numbers)
            self._bounds.rename(self._names)
            left = dict(zip(reversed(ids), reversed(_TEXTS(message.get("left", []))), strict=False))
            other = ahead.changed(self._items, self._names, left)
            self.ids, self._errors = frozenset(ids).difference(other), _TEXTS(message["errors"])
            self._errors += [f"{one}: left out by a hook inside, and changed here" for one in other]

    def _close(self, link: Link) -> None:
        """Remove a sandbox whose pytest is gone, when its files are here, or lost."""
        ends = self._taker.receive(link, _LAST_WORDS)
        link.close(patience=_LAST_WORDS if ends else 0.0)

    def _dead(
        self, item: pytest.Item, progress: ahead.Progress, began: float, link: Link, cause: str
    ) -> Iterator[pytest.TestReport]:
        """Yield the missing reports of a test whose pytest is gone; the next test gets a new
        one.
        """
        self.gone = True
        self._close(link)
        if measuring(self._config) is not None:
            self._bounds.drop("sandboxes' lines of coverage, which were lost with them,")
        text = f"the sandbox was lost in this test's {progress.phase}: {link.told(cause)}"
        phase = "" if self.forbidden else progress.lost()
        report = reports.made_up(item, phase or "teardown", text, clock.monotonic() - began)
        self.forbidden = link.judge(report, failed=True)  # also of acts after its last report
        if phase or self.forbidden:
            yield report

    def finish(self, patience: float = 0.0, *, interrupted: bool = False) -> Link | None:
        """Let the pytest inside tear down what is still set up, and end the sandbox.

        runsc may take ``patience`` seconds for its own end, and is killed then. In the midst of a
        test it is killed at once. So it is if the session was ``interrupted`` by Ctrl-C: a test
        that runs ahead may last. Returns the sandbox, if there is one: it is being removed, and the
        caller closes it.
        """
        link = self.link
        if link is None or self.gone:
            return None
        in_test = self.ran and not (self.ended or self._stopped)
        if in_test or (interrupted and self.ahead.first is not None):
            link.leave()
            self._taker.lose("the session was stopped in the midst of a test")
            return link
        measured: InsideCoverage | None = None
        complete = ends = False
        try:
            measured = self._coverage()
            size = MOST_MESSAGES if measured is None else measured.most_bytes
            link.budget = Budget(self._timeout, size=size)
            if not self._stopped:
                link.send("finish", failed=self._items[0].session.testsfailed)
            self._last_words(link, measured)
            if measured is not None:
                measured.finish()
            complete = True
        except LOST as error:
            text = f"the pytest inside did not come to its end, nor its coverage: {gone(error)}"
            self._bounds.fail(text)
            self._bounds.stands |= self.has_failed
        finally:
            self._end_debugger()
            ends = self._taker.receive(link, LAST_ACTS if complete else _LAST_WORDS)
            # Its first process ends now, and has sent all that anybody waits for.
            link.leave(patience if complete and ends else 0.0)
            if measured is not None:
                measured.close(complete=complete)
        return link

    def _coverage(self) -> InsideCoverage | None:
        """Return the receiver of the coverage of this sandbox, if pytest-cov measures here."""
        cov = measuring(self._config)
        if cov is None:
            return None
        from pytest_gvisor.inside.back.coverage_data import InsideCoverage  # noqa: PLC0415 -- pytest-cov

        shown, here = self.hints.shown, str(self._config.invocation_params.dir)
        excluded = [*self.hints.inside.writable, *shown.hidden, *places.session_bases()]
        own = ["/tmp", *filter(None, [self._taker.agreed.basetemp])]
        with stage("coverage", "the files that it names cannot be looked up"):
            files = shown_files.ShownFiles(shown.folders, excluded, own)
        return InsideCoverage(cov, files, cwd=here, bounds=self._bounds)

    def _last_words(self, link: Link, measured: InsideCoverage | None) -> None:
        """Take the messages of a pytest inside about its whole session.

        Coverage of many contexts takes long to send, and to take.
        """
        while (message := link.receive())["type"] != "finished":
            if message["type"] != "coverage" or measured is None:
                self._unasked(message)
                continue
            received = clock.monotonic()
            measured.take(message)
            link.budget.earn(link.budget.latest, clock.monotonic() - received)
        # Its hooks know how many tests of other sandboxes failed, and not which.
        self._bounds.stands |= self.has_failed and message.get("fails") is True
        if (status := message.get("status")) and not self._stopped:
            self._bounds.fail(f"a hook inside failed the session: status {status!r:.9}")
