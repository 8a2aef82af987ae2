"""The tests of one pytest process that run inside, and the sandboxes that they share."""

from __future__ import annotations

import contextlib
import functools
import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from pytest_gvisor.base.egress import missing
from pytest_gvisor.base.escape import Live
from pytest_gvisor.base.settings import Isolation, Network, Platform, Settings
from pytest_gvisor.inside import ahead
from pytest_gvisor.inside.back.anchors import Anchors
from pytest_gvisor.inside.back.landing import PLUGIN, Store
from pytest_gvisor.inside.back.returned import Agreed, Taker, agree, basetemp
from pytest_gvisor.inside.boot.copies import Copies
from pytest_gvisor.inside.boot.early import early
from pytest_gvisor.inside.boot.start import fresh, open_gate, opening, plan
from pytest_gvisor.inside.groups import Group, ItemPlan, plan_key, planned
from pytest_gvisor.inside.plugins import Bridges, allure, unbridged
from pytest_gvisor.inside.view import run_options
from pytest_gvisor.inside.wire import reports
from pytest_gvisor.inside.wire.link import Link
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.inside.worker import Worker
from pytest_gvisor.plugin import cells, placement
from pytest_gvisor.programs import clock
from pytest_gvisor.report.run_texts import run_of
from pytest_gvisor.run.not_started import NO_NETWORK, NO_NETWORK_TOLD

_MAX_FALSE_STARTS = 3
_STOPS = (KeyboardInterrupt, pytest.exit.Exception)
"""The exceptions that end the session, and are no outcome of a test."""

_NO_NETWORK = f"{NO_NETWORK_TOLD}: --gvisor-network=host (or ini gvisor_network)"
_LAST_END = 10.0
"""Seconds for runsc to end when the pytest inside has: it takes some 15 ms."""


class InsideSession:
    """The sandboxes for tests inside, each made for its first test."""

    def __init__(self, session: pytest.Session) -> None:
        """Plan the tests. Raises `pytest.UsageError`."""
        self._config = session.config
        self._inside = inside = run_options.inside(self._config)
        self._bounds = SessionBounds(self._config, self._config.getini(placement.FIELDS))
        self._config.pluginmanager.register(self._bounds)
        self._bridges = Bridges(self._config, self._bounds)
        self._returned = Store(Anchors(str(self._config.rootpath), inside.writable))
        self._returned.began = placement.began(self._config)
        self._config.pluginmanager.register(self._returned, PLUGIN)
        self._agree(session.items)  # which opens the anchors of all before the first test

        self._started = 0
        self.copies = Copies(self._config)
        self._config.pluginmanager.register(self.copies)
        self._groups = planned(session.items, run_options.isolation(self._config))
        self._following: ItemPlan | None = None
        self._leaving: Link | None = None
        """The sandbox that ended last, and may still be being removed."""

        self._working: set[tuple[Platform, str | None]] = set()
        self._false_starts: dict[tuple[Platform | None, Settings], int] = {}

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Run the whole protocol of one test inside."""
        plan, hook, ended, lost = item.stash[plan_key], item.ihook, False, None
        self._following = None if nextitem is None else nextitem.stash.get(plan_key, None)
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        platform = _set_up(item, plan.require_platform)
        if platform is not None:
            ids = self._ids(plan, nextitem)
            ended, lost = self._run_in_group(plan, platform, ids)
            if not ids.upcoming and plan.group.lifetime is not Isolation.SESSION:
                self._finish_group(plan.group)
        self._tear_down_here(item, nextitem)
        allure.settle(item, ended=ended, lost=lost)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    @staticmethod
    def _tear_down_here(item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Tear down fixtures of earlier tests on the host that no later test needs.

        If the session is about to stop, these are all of them, as in pytest's own protocol.
        """
        session, state = item.session, item.session._setupstate
        if not state.stack:
            return
        if session.shouldfail or session.shouldstop:
            nextitem = None
        call = pytest.CallInfo.from_call(
            lambda: state.teardown_exact(nextitem), when="teardown", reraise=_STOPS
        )
        if call.excinfo is not None:
            _log_phase(item, call)

    def _run_in_group(
        self, plan: ItemPlan, platform: Platform, ids: ahead.Ids
    ) -> tuple[bool, pytest.TestReport | None]:
        """Run a test inside; return whether it came to its end there, and else its last report."""
        item, group = plan.item, plan.group
        worker = group.worker = group.worker or self._worker(group, platform)
        began = clock.monotonic()
        failure = worker.start()
        tried = platform, group.settings.runsc
        # A sandbox that starts shows that its platform works; one that does not is looked into.
        if not failure:
            self._working.add(tried)
        elif tried not in self._working and not _set_up(
            item, functools.partial(plan.try_platform, platform)
        ):
            return False, None
        began_in, last = None, None
        runs_xfail = self._config.getoption("runxfail", False)
        reason = None if runs_xfail else plan.expected.get(platform)
        spent = clock.monotonic() - began
        made_up = [reports.made_up(item, "setup", failure, spent)] if failure else []
        self._prepare_next(group)
        worker.excused = reason is not None
        for report in made_up or worker.run(item, ids):
            _add_network_hint(report, group)
            # Neither forbidden acts are an expected failure, nor is an error of pytest itself.
            unexpected = failure or worker.broke or worker.forbidden or not worker.ran
            if reason is not None and not unexpected:
                _apply_xfail(report, f"{platform}: {reason}")
            began_in, worker.fresh = worker.fresh or began_in, None
            shown = worker.used if report.failed else began_in
            start = None if began_in is None else began_in.supervisor.start
            told = shown if group.settings.report else None
            run = run_of(told.record, told.traced.acts(tree=True)) if told is not None else None
            cells.attach_inside_cell(item, report, start=start, run=run)
            with self._logging(captured=worker.captured):
                item.ihook.pytest_runtest_logreport(report=report)
            if str(report.outcome) == "rerun":
                _take_back_subtests(item)
            last = report
        self._count_start(item, group, failed=bool(failure) or worker.broke)
        return (True, None) if worker.ended and not failure else (False, last)

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

    def _ids(self, plan: ItemPlan, nextitem: pytest.Item | None) -> ahead.Ids:
        """Return the names of a test and of those after it: their fixtures stay set up."""
        most = self._most_ahead(plan.group)
        following = [] if nextitem is None else self._upcoming(plan)
        upcoming = [*itertools.islice(following, most + 1)]
        sure = 0
        # A worker of xdist does not know the test after the next one.
        if upcoming[:1] == [self._following] and not hasattr(self._config, "workerinput"):
            places = enumerate(upcoming[:most], plan.position + 1)
            sure = len([*itertools.takewhile(lambda pair: pair[1].position == pair[0], places)])
        names = tuple(other.name for other in upcoming)
        return ahead.Ids(inner=plan.name, upcoming=names, sure=sure)

    def _most_ahead(self, group: Group) -> int:
        """Return how many tests may be named ahead to the sandbox of a group."""
        writable, live = bool(self._inside.writable), "live log" in self._bridges.names
        most = ahead.most(self._config, group.settings, writable=writable, live=live)
        return min(most, 1 if group.worker is None else group.worker.ahead.room)

    def _upcoming(self, plan: ItemPlan) -> Iterator[ItemPlan]:
        """Yield the tests after this one in its sandbox that the host will not skip or fail.

        Under xdist nobody knows what comes after the next test.
        """
        plans, following = plan.group.plans, self._following
        others: Iterable[ItemPlan] = (plans[i] for i in range(plan.number + 1, len(plans)))
        if hasattr(self._config, "workerinput"):
            others = [following] if following is not None and following.group is plan.group else []
        yield from (other for other in others if not other.is_refused)

    def _worker(self, group: Group, platform: Platform) -> Worker:
        return Worker(
            self._config, functools.partial(self._start, group, platform), group.settings.timeout,
            Live(self._write_terminal).add, self._bounds, bridges=self._bridges,
            inside=self._inside, items=group.items,
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
        opens = opening(group.items, bridges=bridges, taker=taker, show=self._show())
        # Several sandboxes are started in the same way, for a test or a module each.
        if any(other.starts_like(group) for other in self._groups):
            link = self.copies.begin(planned, opens)
            # It loads the project meanwhile.
            self._prepare_next(group)
        else:
            link = (early(self._config, planned) or fresh(self._config, planned)).link
            open_gate(link, opens)
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
        if not plan.is_refused:
            self.copies.prepare()

    def _show(self) -> Callable[[bytes], None] | None:
        if self._config.getoption("capture", "fd") != "no":
            return None
        return Live(functools.partial(print, end="", flush=True)).add_bytes

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
            if link is not None and (acts := link.traced.after_last()):
                self._bounds.fail(f"after the last test of a sandbox: {acts}")
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
        self._look_at_plugins()
        self._bounds.close()

    def end(self) -> None:
        """Wait until the last sandbox is removed: it goes while pytest's own session ends."""
        self._settle(None)
        self._returned.close()

    def _look_at_plugins(self) -> None:
        """Warn, in one process, of plugins whose summaries lack these tests."""
        items = [item for group in self._groups for item in group.items]
        worker = getattr(self._config, "workerinput", {"workerid": "gw0"})["workerid"]
        if worker == "gw0" and (text := unbridged.find(self._config, items)):
            self._bounds.say(text)
        unbridged.keep_snapshots(self._config, items)


def _set_up(item: pytest.Item, require: Callable[[], Platform]) -> Platform | None:
    """Return the platform of a test; after a skip or failure, report it and return None."""
    call = pytest.CallInfo.from_call(require, when="setup", reraise=_STOPS)
    if call.excinfo is None:
        return call.result
    for phase in (call, pytest.CallInfo.from_call(lambda: None, when="teardown")):
        _log_phase(item, phase)
    return None


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


def _add_network_hint(report: pytest.TestReport, group: Group) -> None:
    """Say of a failed connection that the sandbox has no network, if that is so."""
    if report.failed and group.settings.network is Network.NONE:
        sections = (text for title, text in report.sections if title != "gvisor: allow")
        texts = [report.longreprtext, *sections]
        if any(map(NO_NETWORK.search, texts)):
            report.sections.append(("gvisor: network", _network_told(texts, group.settings.allow)))


def _network_told(texts: Sequence[str], allow: tuple[str, ...]) -> str:
    """Return the remedy for a failed connection; with an allow-list, the whole list that helps."""
    if not allow:
        return _NO_NETWORK
    # pytest begins the lines of the error itself so. Sources of libraries name other hosts.
    lines = sorted("\n".join(texts).splitlines(), key=lambda line: not line.startswith("E "))
    option = shlex.quote(",".join((*allow, missing("\n".join(lines), allow))))
    remedy = f"--gvisor-allow={option} (or ini gvisor_allow, or the marker's allow=[…])"
    return f"It is not in allow={[*allow]!r}. To reach it: {remedy}"
