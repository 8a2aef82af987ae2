"""The tests of one pytest process that run inside, and the sandboxes that they share."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_gvisor.base.errors import LaunchError, stage
from pytest_gvisor.base.escape import Live, print_live
from pytest_gvisor.base.settings import Isolation, Platform, Settings
from pytest_gvisor.inside import ahead
from pytest_gvisor.inside.back.anchors import Anchors
from pytest_gvisor.inside.back.landing import PLUGIN, Store
from pytest_gvisor.inside.back.returned import Agreed, Taker, agree, basetemp
from pytest_gvisor.inside.boot.copies import Copies
from pytest_gvisor.inside.boot.start import opening, plan
from pytest_gvisor.inside.groups import Group, ItemPlan, plan_key, planned
from pytest_gvisor.inside.hints import Hints
from pytest_gvisor.inside.plugins import Bridges, allure, unbridged
from pytest_gvisor.inside.view import run_options
from pytest_gvisor.inside.wire import reports
from pytest_gvisor.inside.wire.link import LOST, Link
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.inside.worker import Worker
from pytest_gvisor.plugin import cells, placement
from pytest_gvisor.programs import clock
from pytest_gvisor.report.run_texts import run_of

_MAX_FALSE_STARTS = 3
_STOPS = (KeyboardInterrupt, pytest.exit.Exception)
"""The exceptions that end the session, and are no outcome of a test."""

_LAST_END = 10.0
"""Seconds for runsc to end when the pytest inside has: it takes some 15 ms."""


class InsideSession:
    """The sandboxes for tests inside, each made for its first test."""

    def __init__(self, session: pytest.Session) -> None:
        """Plan the tests. Raises `pytest.UsageError`."""
        self._session, self._config = session, session.config
        unbridged.refuse_objects(self._config)
        self._inside = inside = run_options.inside(self._config)
        self._bounds = SessionBounds(self._config, self._config.getini(placement.FIELDS))
        self._config.pluginmanager.register(self._bounds)
        self._bridges = Bridges(self._config, self._bounds)
        self._returned = Store(Anchors(str(self._config.rootpath), inside.writable))
        self._returned.began = placement.began(self._config)
        self._config.pluginmanager.register(self._returned, PLUGIN)
        self._allure = self._config.pluginmanager.get_plugin("allure_listener")
        self._agree(session.items)  # which opens the anchors of all before the first test

        self._started = 0
        self.copies = Copies(self._config)
        self._config.pluginmanager.register(self.copies)
        self._groups = planned(session.items, run_options.isolation(self._config))
        plans = [item.stash.get(plan_key, None) for item in session.items]
        self._uncopied = [n for n, p in enumerate(plans) if not (p and p.group.settings.native)]
        """The places of tests that are no copies of one here for a platform."""

        self._following: ItemPlan | None = None
        self._leaving: Link | None = None
        """The sandbox that ended last, and may still be being removed."""

        self._working: set[tuple[Platform, str | None]] = set()
        self._false_starts: dict[tuple[Platform | None, Settings], int] = {}

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run the whole protocol of a test inside, in place of pytest's own; None for others."""
        plan = item.stash.get(plan_key, None)
        if plan is None:
            return None
        hook, ended, lost = item.ihook, False, None
        self._following = None if nextitem is None else nextitem.stash.get(plan_key, None)
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        if isinstance(platform := plan.verdict, BaseException):
            _report_refusal(item, platform)
        else:
            worker = plan.group.worker
            # A second try in that sandbox could pass where the first, which nobody saw, has failed.
            if worker is not None and worker.has_dropped(plan.name):
                self._finish_group(plan.group)
                worker = None
            if worker is None or worker.gone:
                worker = plan.group.worker = self._worker(plan.group)
            ids = self._ids(plan, nextitem, worker.ahead.room)
            ended, lost = self._run_in_group(plan, platform, worker, ids)
            if not ids.upcoming and plan.group.lifetime is not Isolation.SESSION:
                self._finish_group(plan.group)
        self._tear_down_here(plan, nextitem)
        if self._allure is not None:
            allure.settle(self._allure, item, ended=ended, lost=lost)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _tear_down_here(self, plan: ItemPlan, nextitem: pytest.Item | None) -> None:
        """Tear down fixtures of earlier tests on the host that no later test needs.

        If the session is about to stop, these are all of them, as in pytest's own protocol.
        """
        item, session, state = plan.item, plan.item.session, plan.item.session._setupstate
        if not state.stack:
            return
        if session.shouldfail or session.shouldstop:
            nextitem = None
        later = bisect.bisect(self._uncopied, plan.position)
        if nextitem and later < len(self._uncopied) and not hasattr(self._config, "workerinput"):
            # They end where they do without copies for platforms.
            nextitem = session.items[self._uncopied[later]]
        call = pytest.CallInfo.from_call(
            lambda: state.teardown_exact(nextitem), when="teardown", reraise=_STOPS
        )
        if call.excinfo is not None:
            _log_phase(item, call)

    def _run_in_group(
        self, plan: ItemPlan, platform: Platform, worker: Worker, ids: ahead.Ids
    ) -> tuple[bool, pytest.TestReport | None]:
        """Run a test inside; return whether it came to its end there, and else its last report."""
        item, group = plan.item, plan.group
        began, is_fresh = clock.monotonic(), worker.link is None
        failure = self._begin(worker, group, platform) if is_fresh else ""
        # A sandbox that starts shows that its platform works; one that does not is looked into.
        is_known = not failure or (platform, group.settings.runsc) in self._working
        if isinstance(refusal := platform if is_known else plan.tried(platform), BaseException):
            _report_refusal(item, refusal)
            if isinstance(refusal, LaunchError):
                self._count_start(item, group, failed=True)
            return False, None
        last = None
        runs_xfail = self._config.getoption("runxfail", False)
        reason = None if runs_xfail else plan.expected.get(platform)
        spent = clock.monotonic() - began
        made_up = [reports.made_up(item, "setup", failure, spent)] if failure else []
        self._prepare_next(group)
        for report in made_up or worker.run(item, ids, excused=reason is not None):
            if report.failed:
                worker.hints.add_network(report)
            # Neither forbidden acts are an expected failure, nor is an error of pytest itself.
            unexpected = failure or worker.broke or worker.forbidden or not worker.ran
            if reason is not None and not unexpected:
                _apply_xfail(report, f"{platform}: {reason}")
            worker.has_failed |= report.failed
            self._bounds.stands |= bool(report.failed and (unexpected or worker.gone))
            start, run, link = None, None, worker.link
            if link is not None and is_fresh:
                start = link.supervisor.start
            if link is not None and group.settings.report and (is_fresh or report.failed):
                run = run_of(link.record, link.traced.latest().tree() if link.traced else "")
            cells.attach_inside_cell(item, report, start=start, run=run)
            with self._logging(captured=worker.captured):
                item.ihook.pytest_runtest_logreport(report=report)
            if hasattr(report, "rerun"):  # for --fail-on-flaky of pytest-rerunfailures here
                vars(item)["execution_count"] = report.rerun + 1
            if str(report.outcome) == "rerun":
                _take_back_subtests(item)
            last = report
        self._count_start(item, group, failed=bool(failure) or worker.broke)
        return (True, None) if worker.ended and not failure else (False, last)

    def _begin(self, worker: Worker, group: Group, platform: Platform) -> str:
        """Start the sandbox of a group; return the failure, or nothing."""
        try:
            with stage("sandbox", "what its start needs was refused"):
                worker.collect(*self._start(group, platform))
        except LOST as error:
            return worker.not_begun(error)
        self._working.add((platform, group.settings.runsc))
        return ""

    @contextlib.contextmanager
    def _logging(self, *, captured: bool) -> Iterator[None]:
        """Capture output while a report is logged, if pytest does so: it is that of a subTest."""
        manager = self._config.pluginmanager.getplugin("capturemanager") if captured else None
        if manager is None:
            yield
            return
        manager.resume_global_capture()
        try:
            yield
        finally:
            manager.suspend_global_capture()
            manager.read_global_capture()  # a part of the test's own output, which has come

    def _count_start(self, item: pytest.Item, group: Group, *, failed: bool) -> None:
        """End the session after too many starts in a row that failed, or led to no test.

        Whichever tests they were for: what they have in common is platform and settings.
        """
        kind = group.platform, group.settings
        self._false_starts[kind] = self._false_starts.get(kind, 0) + 1 if failed else 0
        if self._false_starts[kind] >= _MAX_FALSE_STARTS:
            item.session.shouldstop = (
                "three sandboxes in a row ended before their first test, or by an error of pytest"
            )

    def _ids(self, plan: ItemPlan, nextitem: pytest.Item | None, most: int) -> ahead.Ids:
        """Return the names of a test and of those after it: their fixtures stay set up.

        Tests that the host will skip or fail are left out. Under xdist nobody knows what comes
        after the next test.
        """
        plans, following, sure = plan.group.plans, self._following, 0
        numbers: Iterable[int] = range(plan.number + 1, len(plans)) if nextitem is not None else ()
        if is_worker := hasattr(self._config, "workerinput"):
            numbers = [one.number for one in (following,) if one and one.group is plan.group]
        others = (plans[n] for n in numbers if not isinstance(plans[n].verdict, BaseException))
        upcoming = [*itertools.islice(others, most + 1)]
        if upcoming[:1] == [following] and not is_worker:
            places = enumerate(upcoming[:most], plan.position + 1)
            sure = len([*itertools.takewhile(lambda pair: pair[1].position == pair[0], places)])
        names = tuple(other.name for other in upcoming)
        return ahead.Ids(inner=plan.name, upcoming=names, sure=sure)

    def _worker(self, group: Group) -> Worker:
        writable, live = bool(self._inside.writable), "live log" in self._bridges.names
        most = ahead.most(self._config, group.settings, writable=writable, live=live)
        hints = Hints(
            config=self._config, items=group.items, inside=self._inside, settings=group.settings
        )
        return Worker(
            self._config, group.items, hints, self._bounds, self._bridges,
            timeout=group.settings.timeout, show=Live(self._write_terminal).add, most=most,
        )  # fmt: skip

    def _start(self, group: Group, platform: Platform) -> tuple[Link, Taker]:
        """Start a sandbox for a group, and let its pytest collect. Raises `GvisorError`."""
        self._started += 1
        base = basetemp(self._config, group.items, self._started)
        taker = Taker(self._returned, self._agree(group.items, base))
        planned = plan(
            self._config, platform=platform, settings=group.settings, inside=self._inside,
            user=group.user, items=group.items,
        )  # fmt: skip
        bridges = self._bridges.names
        live = self._config.getoption("capture", "fd") == "no"
        show = Live(print_live).add_bytes if live else None
        opens = opening(group.items, bridges=bridges, taker=taker, show=show)
        # Several sandboxes are started in the same way, for a test or a module each.
        alike = any(other.starts_like(group) for other in self._groups)
        link = self.copies.begin(planned, opens, alike=alike)
        self._prepare_next(group)  # it loads the project meanwhile
        return link, taker

    def _agree(self, items: Sequence[pytest.Item], base: str | None = None) -> Agreed:
        """Return the places of a sandbox with these tests."""
        found, writable = self._returned.anchors, self._inside.writable
        return agree(self._config, items, anchors=found, writable=writable, basetemp=base)

    def _prepare_next(self, group: Group) -> None:
        """Start the next test's sandbox, if it has one of its own that is a copy like this one."""
        plan = self._following
        if plan is None or plan.group.worker is not None or not plan.group.starts_like(group):
            return
        if not isinstance(plan.verdict, BaseException):
            self.copies.prepare()

    def _write_terminal(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write(text)

    def _finish_group(
        self, group: Group, patience: float = 0.0, *, interrupted: bool = False
    ) -> None:
        worker, group.worker = group.worker, None
        if worker is not None:
            link = worker.finish(patience, interrupted=interrupted)
            traced = None if link is None else link.traced
            if traced is not None and (acts := traced.after_last()):
                self._bounds.fail(f"in or after the last test of a sandbox: {acts}")
            self._settle(link)

    def _settle(self, leaving: Link | None) -> None:
        """Wait for the removal of the sandbox that ended before this one."""
        before, self._leaving = self._leaving, leaving
        if before is not None:
            before.close()

    def close(self, *, interrupted: bool) -> None:
        """Let every pytest inside tear down and end, and warn of messages left out.

        If Ctrl-C has ``interrupted`` the session, one that runs tests ahead is killed instead.
        The last sandbox may still be being removed then, until `end`.
        """
        self.copies.close()
        # A sentry may hold data for the files of the host that it writes to, until its own end.
        patience = _LAST_END if self._inside.writable else 0.0
        for group in self._groups:
            self._finish_group(group, patience, interrupted=interrupted)
        items = [item for group in self._groups for item in group.items]
        worker = getattr(self._config, "workerinput", {"workerid": "gw0"})["workerid"]
        if worker == "gw0" and (text := unbridged.find(self._config, items)):
            self._bounds.say(text)  # in one process
        unbridged.keep_snapshots(self._config, items)
        self._bounds.close()
        self._returned.tally.failed = self._bounds.failed
        failed = self._session.testsfailed > 0  # as long as no hook at the session's end has set it
        self._returned.tally.stands = self._bounds.stands and failed

    def end(self) -> None:
        """Wait until the last sandbox is removed: it goes while pytest's own session ends."""
        self._settle(None)
        self._returned.close()


def _report_refusal(item: pytest.Item, why: BaseException) -> None:
    """Report a test that the host skips or fails."""

    def refuse() -> None:
        raise why

    _log_phase(item, pytest.CallInfo.from_call(refuse, when="setup", reraise=_STOPS))
    _log_phase(item, pytest.CallInfo.from_call(lambda: None, when="teardown"))


def _log_phase(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Report a phase of a test inside that has ended here."""
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    item.ihook.pytest_runtest_logreport(report=report)


def _apply_xfail(report: pytest.TestReport, reason: str) -> None:
    """Change a phase's report like pytest does for a strict xfail."""
    if hasattr(report, "wasxfail"):
        return
    if report.failed:
        report.outcome, report.wasxfail = "skipped", reason
    elif report.passed and report.when == "call":
        report.outcome, report.longrepr = "failed", f"[XPASS(strict)] {reason}"


def _take_back_subtests(item: pytest.Item) -> None:
    """Count no subtest of a try that is repeated, as pytest-rerunfailures does for tests here.

    For xdist, it does so in the controller itself.
    """
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    stats = {} if reporter is None else reporter.stats
    for key in {"failed", "subtests passed"} & stats.keys():
        kept = [
            report for report in stats[key]
            if type(report) is pytest.TestReport or report.nodeid != item.nodeid
        ]  # fmt: skip
        if key == "failed":
            item.session.testsfailed -= len(stats[key]) - len(kept)
        stats[key] = kept
        if not kept:
            del stats[key]  # pytest looks whether it is there
