"""The tests of one pytest process that run inside, and the sandboxes that they share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_gvisor.errors import GvisorError, UsageError
from pytest_gvisor.inside import reports, visible
from pytest_gvisor.inside.coverage_data import InsideCoverage, target_of
from pytest_gvisor.inside.output import Live
from pytest_gvisor.inside.session_bounds import SessionBounds
from pytest_gvisor.inside.start import Inside, start
from pytest_gvisor.inside.worker import Ids, Worker
from pytest_gvisor.plugin import cells, markers
from pytest_gvisor.plugin.placement import FIELDS, Plan, plan_key, plan_of
from pytest_gvisor.plugin.precedence import expected_failure, location, settings_of
from pytest_gvisor.plugin.skips import usage
from pytest_gvisor.sessions import places
from pytest_gvisor.settings import Isolation, Platform, Settings

if TYPE_CHECKING:
    from pytest_gvisor.inside.link import Link


_MAX_FALSE_STARTS = 3


class _Key(NamedTuple):
    """The sandbox of a test: two tests whose keys are equal share one."""

    platform: Platform | None
    """The platform that was asked for."""

    settings: Settings
    unit: str
    """The tests that it lives for."""


class InsideSession:
    """The sandboxes for tests inside, each made for its first test."""

    def __init__(self, config: pytest.Config, isolation: Isolation, inside: Inside) -> None:
        self._config = config
        self._bounds = SessionBounds(config, config.getini(FIELDS))
        self._isolation = isolation
        self._inside = inside
        self._workers: dict[_Key, Worker] = {}
        self._keys: dict[int, _Key] = {}
        self._working: set[tuple[Platform, str | None]] = set()
        self._false_starts: dict[tuple[Platform | None, Settings], int] = {}
        self._refused: dict[int, bool] = {}

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Run the whole protocol of one test inside."""
        plan = item.stash[plan_key]
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        platform = self._platform(item)
        if platform is not None:
            key = self._key(item)
            ids = self._ids(item, nextitem, plan)
            self._run(item, key, platform, ids)
            if (ids.following is None and self._isolation is not Isolation.SESSION) or plan.fresh:
                self._finish(key)
        self._tear_down_here(item, nextitem)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    @staticmethod
    def _tear_down_here(item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Tear down fixtures of earlier tests on the host that no later test needs."""
        state = item.session._setupstate
        if not state.stack:
            return
        call = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), when="teardown")
        if call.excinfo is not None:
            _log(item, call)
            if call.excinfo.errisinstance((KeyboardInterrupt, pytest.exit.Exception)):
                raise call.excinfo.value

    def _run(self, item: pytest.Item, key: _Key, platform: Platform, ids: Ids) -> None:
        worker = self._worker(key, item.session.items, platform)
        began = time.monotonic()
        failure = worker.start()
        tried = platform, key.settings.runsc
        # A sandbox that starts shows that its platform works; one that does not is looked into.
        if not failure:
            self._working.add(tried)
        elif tried not in self._working and self._platform(item, examine=True) is None:
            return
        self._count_start(item, key, failure)
        fresh, reason = None, None
        if not self._config.getoption("runxfail", False):
            reason = expected_failure(item, platform)
        made_up = [reports.made_up(item, "setup", failure, time.monotonic() - began)]
        for report in made_up if failure else worker.run(item, ids):
            # A test that has not begun cannot have failed as expected.
            if reason is not None and not failure and worker.ran:
                _as_expected(report, f"{platform}: {reason}")
            fresh, worker.fresh = worker.fresh or fresh, None
            starts = [] if fresh is None or fresh.start is None else [fresh.start]
            shown = worker.used if report.failed else fresh
            record = None if shown is None else shown.record
            cells.attach_inside(item, report, starts=starts, record=record)
            item.ihook.pytest_runtest_logreport(report=report)

    def _count_start(self, item: pytest.Item, key: _Key, failure: str) -> None:
        """End the session after too many failed starts in a row.

        Whichever unit of tests they were for: what they have in common is platform and settings.
        """
        kind = key.platform, key.settings
        self._false_starts[kind] = self._false_starts.get(kind, 0) + 1 if failure else 0
        if self._false_starts[kind] >= _MAX_FALSE_STARTS:
            item.session.shouldstop = "three sandboxes in a row ended before their first test"

    def _platform(self, item: pytest.Item, *, examine: bool = False) -> Platform | None:
        """Return the platform of a test; after a skip or failure, report it and return None.

        Only where ``examine`` says so, and for kvm, whose devices may hang a sandbox for ever, is
        it tried first.
        """
        found: list[Platform] = []
        call = pytest.CallInfo.from_call(
            lambda: found.append(_judged(item, examine=examine)), when="setup"
        )
        if call.excinfo is None:
            return found[0]
        if call.excinfo.errisinstance((KeyboardInterrupt, pytest.exit.Exception)):
            raise call.excinfo.value
        teardown = pytest.CallInfo.from_call(lambda: None, when="teardown")
        for phase in (call, teardown):
            _log(item, phase)
        return None

    def _key(self, item: pytest.Item) -> _Key:
        if id(item) not in self._keys:
            plan = item.stash[plan_key]
            unit = {
                Isolation.SESSION: "",
                Isolation.MODULE: str(item.path),
                Isolation.TEST: item.nodeid,
            }[self._isolation]
            own = item.nodeid if plan.fresh else unit
            self._keys[id(item)] = _Key(plan.platform, settings_of(item), own)
        return self._keys[id(item)]

    def _ids(self, item: pytest.Item, nextitem: pytest.Item | None, plan: Plan) -> Ids:
        """Return the node ids inside of a test and of those after it: their fixtures stay set
        up.
        """
        following = self._following(item, nextitem)
        if following is None:
            return Ids(inner=plan.inner)
        option = self._config.option
        stops = option.maxfail or getattr(option, "stepwise", False)
        # Under xdist nobody knows what comes after the next test.
        sure = following is nextitem and not stops and not hasattr(self._config, "workerinput")
        then = self._following(following, following) if sure else None
        return Ids(
            inner=plan.inner,
            following=following.stash[plan_key].inner,
            sure=sure,
            after_that=None if then is None else then.stash[plan_key].inner,
        )

    def _following(self, item: pytest.Item, nextitem: pytest.Item | None) -> pytest.Item | None:
        """Return the next test in the same sandbox that the host will not skip or fail."""
        if item.stash[plan_key].fresh or self._isolation is Isolation.TEST:
            return None
        for other in self._upcoming(item, nextitem):
            theirs = plan_of(other)
            if theirs is None or theirs.fresh or self._key(other) != self._key(item):
                continue
            if not self._is_refused(other):
                return other
        return None

    def _is_refused(self, item: pytest.Item) -> bool:
        """Whether the host will skip or fail a test, so that it must not run ahead inside."""
        if id(item) not in self._refused:
            self._refused[id(item)] = False
            try:
                _judged(item)
            except (pytest.skip.Exception, pytest.fail.Exception, GvisorError):
                self._refused[id(item)] = True
        return self._refused[id(item)]

    def _upcoming(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[pytest.Item]:
        """Yield the tests after this one; under xdist only the next one is known."""
        if nextitem is None:
            return
        items = item.session.items
        if hasattr(self._config, "workerinput"):
            yield nextitem
            return
        position = self._positions(items)[id(item)]
        yield from items[position + 1 :]

    _cached_positions: dict[int, int] | None = None

    def _positions(self, items: Sequence[pytest.Item]) -> dict[int, int]:
        if self._cached_positions is None or len(self._cached_positions) != len(items):
            self._cached_positions = {id(item): place for place, item in enumerate(items)}
        return self._cached_positions

    def _worker(self, key: _Key, collected: Sequence[pytest.Item], platform: Platform) -> Worker:
        if key not in self._workers:
            items = [other for other in collected if self._shares(other, key)]
            config, settings = self._config, key.settings

            def begin() -> Link:
                return start(
                    config,
                    platform=platform,
                    settings=settings,
                    inside=self._inside,
                    items=items,
                    show=self._show(),
                )

            show = Live(self._terminal).add
            self._workers[key] = Worker(
                config, begin, settings.timeout, show, self._bounds, measured=self._measured(items)
            )
        return self._workers[key]

    def _measured(self, items: Sequence[pytest.Item]) -> Callable[[], InsideCoverage] | None:
        """Return a function that makes the coverage of a sandbox, if pytest-cov measures here."""
        config, target = self._config, target_of(self._config)
        if target is None:
            return None
        return lambda: InsideCoverage(
            target,
            shown=visible.readable(config, items),
            excluded=[*self._inside.writable, *places.session_bases()],
            cwd=str(config.invocation_params.dir),
            bounds=self._bounds,
        )

    def _shares(self, item: pytest.Item, key: _Key) -> bool:
        return plan_of(item) is not None and self._key(item) == key

    def _show(self) -> Callable[[bytes], None] | None:
        if self._config.getoption("capture", "fd") != "no":
            return None

        def show(text: str) -> None:
            sys.stdout.write(text)
            sys.stdout.flush()

        return Live(show).add_bytes

    def _terminal(self, text: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write(text)

    def _finish(self, key: _Key) -> None:
        worker = self._workers.pop(key, None)
        if worker is not None:
            worker.finish()

    def close(self) -> None:
        """Let every pytest inside tear down and end, and warn of messages left out."""
        for key in list(self._workers):
            self._finish(key)
        self._bounds.close()


def _judged(item: pytest.Item, *, examine: bool = False) -> Platform:
    """Return the platform of a test. Skips or fails the test if a requirement is missing."""
    with usage():
        settings = settings_of(item)
        _check_no_image(item, settings)
    markers.check(item)
    platform = markers.platform_asked(item, settings, item.stash[plan_key].platform)
    if examine or platform is Platform.KVM:
        markers.check_platform(item, settings, platform)
    return platform


def _log(item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
    """Report a phase of a test inside that has ended here."""
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    # pytest 9.2 takes the id from elsewhere than from the item's node id: see twins.
    report.nodeid = item.nodeid
    item.ihook.pytest_runtest_logreport(report=report)


def _check_no_image(item: pytest.Item, settings: Settings) -> None:
    """Raise `UsageError` for a test inside with an image: its Python is the host's."""
    image = settings.image
    if image is not None:
        raise UsageError(
            f"{location(item)}: a test inside runs with the host's Python and system folders, and "
            f"image={image!r} is asked for",
            next_step="Say @pytest.mark.gvisor(image=None) for it, or run a program of the image "
            "with the gvisor fixture.",
        )


def _as_expected(report: pytest.TestReport, reason: str) -> None:
    """Change a phase's report like pytest does for a strict xfail."""
    if hasattr(report, "wasxfail"):
        return
    if report.failed:
        report.outcome, report.wasxfail = "skipped", reason
    elif report.passed and report.when == "call":
        report.outcome, report.longrepr = "failed", f"[XPASS(strict)] {reason}"
