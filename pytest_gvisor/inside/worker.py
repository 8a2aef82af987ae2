"""The handle of one pytest inside: sends it tests, and takes their reports.

For a test that runs inside, the host's whole protocol is taken over: nothing of it is set up here.
The pytest inside runs it with its fixtures and plugins. Its reports are logged here as if they had
been made here. So what counts, prints or writes results needs to know nothing of sandboxes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_gvisor.base.errors import GvisorError, ProtocolError, UsageError
from pytest_gvisor.base.escape import safe
from pytest_gvisor.inside.ahead import Ahead, Ids, Progress, check_test, not_found, other_names
from pytest_gvisor.inside.back.returned import LAST_ACTS, Taker
from pytest_gvisor.inside.debugger import Debugger, stopped
from pytest_gvisor.inside.plugins import Bridges
from pytest_gvisor.inside.view import environment, shown_files, users, visible
from pytest_gvisor.inside.view.configuration import measuring
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.wire import fields, reports, rules
from pytest_gvisor.inside.wire.link import Died, Hangs, Link, gone
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
    """One pytest inside, started for its first test and replaced after its death."""

    def __init__(
        self,
        config: pytest.Config,
        start: Callable[[], tuple[Link, Taker]],
        timeout: float,
        show: Callable[[str], None],
        bounds: SessionBounds,
        *,
        bridges: Bridges,
        inside: Inside,
        items: Sequence[pytest.Item],
    ) -> None:
        self._config = config
        self._cwd = str(config.invocation_params.dir)
        self._inside = inside
        self._items = items
        self._names: Mapping[str, str] = {}
        """The names inside of tests that have others there."""

        self._shown = functools.cache(lambda: visible.shown(config, items, inside.readable))
        self._bounds = bounds
        self._bridges = bridges
        self._debugger = Debugger(config)
        self._stopped = False
        self._taker: Taker
        """The receiver of the sandbox's files, which is there as long as `_link`."""

        self._start = start
        self._timeout = timeout
        self._show = show
        self._relayed = any(config.getoption(o, False) for o in ("setupshow", "setuponly"))
        self._link: Link | None = None
        self.used: Link | None = None
        """The sandbox that was used last, which may have ended."""

        self.fresh: Link | None = None
        """The sandbox that was started last, until somebody takes note of it."""

        self.ahead = Ahead()
        """The tests that were named ahead."""

        self._under_way = False
        self.ran = False
        """Whether the test that `run` was last asked for has begun inside."""

        self.captured = False
        """Whether pytest logs the report that `run` yields while it captures output."""

        self.excused = False
        """Whether a failure of the test's own is expected, so that forbidden acts fail it too."""

        self.forbidden = False
        """Whether it did what ``forbid`` names, or may have."""

        self.broke = False
        """Whether the pytest inside ended with an error of its own, and not of a test."""

        self.ended = False
        """Whether it has come to its end there, with all its reports."""

        self._errors: list[str] = []
        self.ids: frozenset[str] = frozenset()

    def start(self) -> str:
        """Start the pytest inside, if it is not there; return the problem, or nothing."""
        try:
            self._ready()
        except (Died, Hangs, GvisorError) as error:
            cause, link, self._link = gone(error), self._link, None
            if link is not None:
                self._close(link)
                cause = link.told(cause)
            return self._explained(f"the pytest inside did not get as far as a test: {cause}")
        return ""

    def run(self, item: pytest.Item, ids: Ids) -> Iterator[pytest.TestReport]:
        """Run one test; yield its reports as they arrive, and made-up ones for missing phases.

        To be called after a `start` that went well: the deadline is the test's own.
        """
        progress = Progress(calls=not self._config.getoption("setuponly", False))
        self.ran = self.ended = self.broke = self.forbidden = False
        began = clock.monotonic()
        link = self._ready()
        self._taker.name_sandbox(item.nodeid)
        link.budget = Budget(self._timeout)
        ids = ids.renamed(self._names)
        if ids.inner not in self.ids:
            text = self._explained(not_found(ids.inner, self.ids, self._errors))
            yield reports.made_up(item, "setup", text, 0.0)
            return
        self._debugger.begin(link)
        try:
            self._under_way = self.ran = True
            self._command(link, item, ids)
            for report in self._reports(link, item, ids.inner, progress):
                if progress.missing() is None:
                    self.forbidden = link.judge(report, failed=progress.failed and not self.excused)
                yield report
                if report.failed:  # the caller may know of a pass that counts as one
                    self._taker.note_failed(item, ids.inner)
            self._under_way, self.ended = False, True
            self.ahead.took(clock.monotonic() - began)
        except (Died, Hangs, GvisorError) as error:
            cause = gone(error)
            if isinstance(error, Hangs):
                link.terminate()
                cause = f"it did not end within {self._timeout:g} s (--gvisor-timeout)"
            self._taker.note_failed(item, ids.inner)
            yield from self._dead(item, progress, began, link, cause)
        finally:
            if not self._stopped:  # else what is torn down is shown too
                self._debugger.end()

    def _command(self, link: Link, item: pytest.Item, ids: Ids) -> None:
        """Send the command to run a test, unless it runs already, and name the next one.

        Those after it are commanded too, where it is known that they will follow. Then the pytest
        inside goes on without waiting for the host to report.
        """
        while (first := self.ahead.first) not in (None, ids.inner):
            while (message := link.receive())["type"] != "done":
                self._unasked(message)
            check_test(message, first)
            self.ahead.pop()
        if first is None:
            following = ids.upcoming[0] if ids.upcoming else None
            failed = item.session.testsfailed
            link.send("run", ids=[ids.inner], next=following, failed=failed)
        else:
            self.ahead.pop()
        self.ahead.send(link, ids, self.ids)

    def _reports(
        self, link: Link, item: pytest.Item, inner: str, progress: Progress
    ) -> Iterator[pytest.TestReport]:
        kind, report = "", None
        while kind != "done":
            message = link.receive()
            kind = message["type"]
            if kind == "bridge":
                over = "teardown" in progress.reported
                own = item.stash[variant_key].inner
                self._bridges.take(message, rules.Sender(item, self._names.get(own, own), over))
                continue
            if kind not in _OF_A_TEST:
                self._common(message, item.nodeid)
                continue
            check_test(message, inner)
            if "passed" in message:
                report = reports.revive_passed(message["passed"], item)
                progress.add(report)
                yield report
            if kind == "phase":
                with rules.reading("a phase from inside that there is not"):
                    progress.phase = fields.phase(message["when"])
            elif kind == "report":
                report = self._full_report(message, item)
                progress.add(report)
                self.captured = message.get("captured") is True
                yield report
                self.captured = False
            elif kind == "debugger":
                self._debugger.take(message, item.nodeid, report)
            elif kind == "stops":
                name = "shouldfail" if message.get("fails") is True else "shouldstop"
                setattr(item.session, name, safe(str(message.get("text"))[:10_000]))
            elif kind == "stopped":
                self._taker.note_failed(item, inner)
                self._under_way, self._stopped = False, True
                raise stopped(message)
        if missing := progress.missing():
            raise ProtocolError(
                f"it said that the test was done, without a report of its {missing}"
            )

    def _full_report(self, message: dict[str, Any], item: pytest.Item) -> pytest.TestReport:
        report = reports.revive(self._config, message, item, self._bounds)
        if report.failed:
            texts = [report.longreprtext, *(text for _title, text in report.sections)]
            hint = environment.hint(message.get("missed"), self._inside.held_back, texts)
            # Of the files that a failure names, the host may have some.
            told = {"environment": hint, "files": self._explain(texts)}
            told |= self.used.did("what it did") if self.used else {}
            report.sections += [(f"gvisor: {title}", told[title]) for title in told if told[title]]
        return report

    def _explain(self, texts: Sequence[str]) -> str:
        """Return what there is to say of files that failures name and that are not shown."""
        with contextlib.suppress(UsageError):  # no sandbox is planned, and the failure says why
            return shown_files.hint(texts, lambda path: self._shown().holds(path), self._cwd)
        return ""

    def _explained(self, text: str) -> str:
        """Add to a failure's text what there is to say of the files that it names."""
        return "\n".join(filter(None, (text, self._explain([text]))))

    def _unasked(self, message: dict[str, Any]) -> None:
        """Take a message of a test that was commanded ahead and is no longer wanted."""
        first = self.ahead.first
        if message["type"] == "debugger" and self.used is not None:
            Debugger.refuse(message, self.used)
            return
        if first is not None and message["type"] == "bridge":
            return  # of a test that does not run on the host
        if first is None or message["type"] not in _OF_A_TEST:
            self._common(message, "")
            return
        check_test(message, first)
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

    def _ready(self) -> Link:
        """Return the link to a pytest that has collected. Raises the errors of `Link.receive`."""
        if self._link is not None:
            return self._link
        self.ahead = Ahead()
        self._under_way = False
        link, self._taker = self._start()
        self._link = self.used = self.fresh = link
        link.budget = Budget(max(self._timeout, 60.0))
        self._debugger.begin(link, test=False)
        try:
            while (message := link.receive())["type"] != "collected":
                if message["type"] == "debugger":
                    self._debugger.take(message, "the collection of tests", None)
                elif message["type"] == "ready":
                    link.holds = message.get("holds") is True
                elif message["type"] != "goes on":
                    self._common(message, "")
        finally:
            self._debugger.end()
        with rules.reading("a collection from inside that cannot be one"):
            ids, numbers = _TEXTS(message["ids"]), _TEXTS(message["numbers"])
            self._names = other_names(self._items, ids, numbers)
            self._bounds.rename(self._names)
            self.ids, self._errors = frozenset(ids), _TEXTS(message["errors"])
        return link

    def _close(self, link: Link) -> None:
        """Remove a sandbox whose pytest is gone, when its files are here, or lost."""
        ends = self._taker.receive(link, _LAST_WORDS)
        link.close(patience=_LAST_WORDS if ends else 0.0)

    def _dead(
        self, item: pytest.Item, progress: Progress, began: float, link: Link, cause: str
    ) -> Iterator[pytest.TestReport]:
        """Yield the missing reports of a test whose pytest is gone; the next test gets a new
        one.
        """
        self._link = None
        self._close(link)
        if measuring(self._config) is not None:
            self._bounds.drop("sandboxes' lines of coverage, which were lost with them,")
        text = f"the sandbox was lost in this test's {progress.phase}: {link.told(cause)}"
        if phase := progress.lost():
            report = reports.made_up(item, phase, text, clock.monotonic() - began)
            self.forbidden = link.judge(report, failed=True)
            yield report

    def finish(self, patience: float = 0.0, *, interrupted: bool = False) -> Link | None:
        """Let the pytest inside tear down what is still set up, and end the sandbox.

        runsc may take ``patience`` seconds for its own end, and is killed then. In the midst of a
        test it is killed at once. So it is if the session was ``interrupted`` by Ctrl-C: a test
        that runs ahead may last. Returns the sandbox, if there is one: it is being removed, and the
        caller closes it.
        """
        link, self._link = self._link, None
        if link is None:
            return None
        if self._under_way or (interrupted and self.ahead.first is not None):
            link.leave()
            self._taker.lose("the session was stopped in the midst of a test")
            return link
        measured = self._coverage()
        complete = ends = False
        try:
            size = MOST_MESSAGES if measured is None else measured.most_bytes
            link.budget = Budget(self._timeout, size=size)
            if not self._stopped:
                link.send("finish")
            self._last_words(link, measured)
            if measured is not None:
                measured.finish()
            complete = True
        except (Died, Hangs, GvisorError) as error:
            text = f"the pytest inside did not come to its end, nor its coverage: {gone(error)}"
            self._bounds.fail(text)
        finally:
            self._debugger.end()
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

        excluded = [*self._inside.writable, *self._shown().hidden, *places.session_bases()]
        own = ["/tmp", *filter(None, [self._taker.agreed.basetemp])]
        files = shown_files.ShownFiles(self._shown().folders, excluded, own)
        return InsideCoverage(cov, files, cwd=self._cwd, bounds=self._bounds)

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
        if (status := message.get("status")) and not self._stopped:
            self._bounds.fail(f"a hook inside failed the session: status {status!r:.9}")
