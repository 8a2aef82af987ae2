"""The matrix of tests and platforms, collected from pytest's reports in one process.

Without xdist that is the process that runs the tests. With it, it is the controller, which sees
nothing but the workers' reports.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime as dt
import hashlib
import os
from collections.abc import Iterator, Sequence

import pytest

from pytest_gvisor.base.errors import ReportError
from pytest_gvisor.base.escape import escape, safe, uncoloured
from pytest_gvisor.base.kernel import named_sandbox
from pytest_gvisor.base.setting_values import NATIVE
from pytest_gvisor.plugin import cells, explain, machines
from pytest_gvisor.plugin.entries import MAX_OUTPUT, CellInMaking, worker_of
from pytest_gvisor.plugin.placement import UNSUPPORTED, here_is_inside
from pytest_gvisor.plugin.precedence import run_settings
from pytest_gvisor.plugin.stash import engine_if_any
from pytest_gvisor.report import outputs, summary
from pytest_gvisor.report.merging import worse
from pytest_gvisor.report.model import MAX_DETAILS, Binary, Cell, Column, Leg, Report, Row, State
from pytest_gvisor.report.run_texts import tail

NAME = "gvisor-report"
_BAD = {State.FAILED, State.ERROR}
_LONGEST_CAUSE = 1000
_LONGEST_COMMIT = 64
_GREEN = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
_TO_THE_END = {*_GREEN, pytest.ExitCode.TESTS_FAILED}
"""The status of a session that has not stopped before its end."""


def ensure(config: pytest.Config) -> Collector | None:
    """Return this process's collector; None inside a sandbox and in xdist's workers."""
    if here_is_inside() or hasattr(config, "workerinput"):
        return None
    found = config.pluginmanager.get_plugin(NAME)
    if not isinstance(found, Collector):
        found = Collector(config)
        config.pluginmanager.register(found, NAME)
    return found


def settle(config: pytest.Config, report: pytest.TestReport) -> None:
    """Make the matrix for its first report; in a worker, add what there is to run to the report."""
    manager = config.pluginmanager
    known = manager.has_plugin(NAME)
    if (collector := ensure(config)) is None:
        # The controller collects nothing itself: once, it is told.
        session = manager.get_plugin("session")
        vars(report)[cells.ROSTER] = [] if session is None else cells.roster(session)
    elif not known:
        # The call of this hook that is under way does not reach what is registered in it.
        collector.pytest_runtest_logreport(report)


_paths_key = pytest.StashKey[dict[str, str]]()
"""Where each report is written, by its path as it was given."""


class Collector:
    """pytest's hooks in the process that writes the report."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._detailed = bool(run_settings(config).report)
        self._tests: dict[str, dict[str, CellInMaking]] = {}
        """By node id, and by the worker that has run the test: ``""`` is nobody so far, or this
        process."""

        self._lost: list[pytest.TestReport] = []
        self._causes: dict[tuple[str, str], str] = {}
        """The cause for which a worker could not use a column."""

        self._size = 0
        self._unsupported: collections.Counter[str] = collections.Counter()
        self._is_known = not self._detailed
        """Whether the tests of the session are known: so they are where a test made this plugin."""

        self._uncollected: set[str] = set()
        self.reaped: collections.Counter[str] = collections.Counter()
        """Leaks that were removed, by worker; so is ``left``."""

        self.left: collections.Counter[str] = collections.Counter()
        self.notes: list[str] = []
        self.report: Report | None = None
        self.written: list[str] = []
        self.problems: list[str] = []

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_collection_modifyitems(self) -> Iterator[None]:
        """Note that the tests are known."""
        yield
        self._is_known = True

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        """Note that a worker knows the tests; it tells them with its first report of one."""
        self._is_known = True

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """Take the digest of the tests that pytest-split has divided in a worker."""
        if told := getattr(node, "workeroutput", {}).get(_COLLECTION):
            self._config.stash[_collection_key] = told

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note what could not be collected: its tests have no rows."""
        if report.failed:
            self._uncollected.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the data in a report."""
        data = vars(report).pop(cells.CELL, None)
        self._unsupported.update(vars(report).pop(UNSUPPORTED, ()))
        for nodeid, row, name in vars(report).pop(cells.ROSTER, ()):
            self._expect(nodeid, row, name)
        if data is None:
            if str(report.when) == "???":  # xdist: the worker was lost in this test
                self._lost.append(report)
            return
        nodeid = data.pop("nodeid")  # hooks of the project may have changed the report's
        self._expect(nodeid, data["row"], data["platform"])
        entry = self._entry(nodeid, worker_of(report))
        if report.when == "setup" and entry.void:
            self._size -= entry.size
            entry = CellInMaking(row=data["row"], platform=data["platform"])
            self._tests[nodeid][worker_of(report)] = entry
        runs, starts = data.pop("runs", None), data.pop("starts_ms", ())
        entry.row, entry.platform = data["row"], data["platform"]
        entry.command = data.pop("command", entry.command)
        entry.data = data
        entry.starts_ms = starts or entry.starts_ms
        entry.used = data.pop("used", None) or entry.used
        if "cause" in data:
            self._causes.setdefault((worker_of(report), data["lacking"]), data["cause"])
        if str(report.outcome) == "rerun":
            entry.void = not entry.failed
        else:
            entry.take(report)
        if self._detailed:
            self._keep_details(entry, report, runs or [])

    def _expect(self, nodeid: str, row: str, platform: str) -> None:
        """Note a test that is to run."""
        if nodeid not in self._tests:
            self._tests[nodeid] = {"": CellInMaking(row=row, platform=platform)}

    def _entry(self, nodeid: str, worker: str) -> CellInMaking:
        """Return the entry of an expected test in the process that reports it."""
        tries = self._tests[nodeid]
        if worker not in tries:
            some = next(iter(tries.values()))
            fresh = CellInMaking(row=some.row, platform=some.platform)
            tries[worker] = tries.pop("") if "" in tries else fresh
        return tries[worker]

    def _keep_details(
        self, entry: CellInMaking, report: pytest.TestReport, runs: list[dict[str, str]]
    ) -> None:
        before = entry.size
        if report.failed and report.longrepr is not None:
            entry.add_traceback(uncoloured(report.longreprtext))
        if report.sections:
            parts = [
                f"--- {title} ---\n{text.rstrip()}"
                for title, text in report.sections
                if not title.startswith("gvisor: ")
            ]
            entry.captured = tail(uncoloured("\n".join(parts)), MAX_OUTPUT)
        entry.runs = runs or entry.runs
        self._size += entry.size - before
        bad = entry.state in _BAD
        if self._size > MAX_DETAILS * (2 if bad else 1):
            self._size -= entry.size
            entry.drop_details()
        elif entry.size and not bad:
            entry.dropped = False  # a phase's sections are those of the phases before it too

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Complete the matrix, and write the report files."""
        if self._config.getoption("collectonly", False):
            return
        self.report = self._build_report(session)
        states = {cell.state for row in self.report.rows for cell in row.cells}
        shows = not states.isdisjoint({*_BAD, State.NOT_RUN}) or self.report.uncollected
        if session.exitstatus not in _GREEN and not shows:
            note = "the session failed, and none of these tests: another, a hook, or a later act"
            self.report = dataclasses.replace(self.report, notes=(*self.report.notes, note))
        if run_settings(self._config).explain:
            told = explain.why(self._config, self.report)
            self.report = dataclasses.replace(self.report, notes=(*self.report.notes, *told))
        for path in run_settings(self._config).report:
            problem = outputs.write(self.report, self._config.stash[_paths_key][path])
            if problem:
                self.problems.append(f"{path} could not be written: {problem}")
            else:
                self.written.append(path)
        if self.problems and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        if self.report.rows and (problem := outputs.append_summary(self.report, os.environ)):
            self.problems.append(f"GITHUB_STEP_SUMMARY: {problem}")

    @pytest.hookimpl(tryfirst=True, specname="pytest_sessionfinish", wrapper=True)
    def pytest_gvisor_last_line(self) -> Iterator[None]:  # pytest takes no other names for hooks
        """Write the last line of all, if each test for gVisor was skipped because it is missing."""
        yield
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        rows = self.report.rows if self.report else ()
        states = [cell.state for row in rows for cell in row.cells if cell.platform != NATIVE]
        if terminal is None or set(states) != {State.UNAVAILABLE}:
            return
        cause = safe(" ".join(next(iter(self._causes.values()), "").split())[:_LONGEST_CAUSE])
        terminal.write_line(
            f"gVisor: NOTHING RAN UNDER GVISOR: all {len(states)} tests for it were skipped: "
            f"{cause} (--gvisor-strict makes that a failure)",
            red=True,
            bold=True,
        )

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the matrix to pytest's summary, after calls that gVisor does not implement."""
        if self._unsupported:
            found = (f"{name} ({count})" for name, count in self._unsupported.most_common(30))
            text = f"unimplemented system calls, and tests that made them: {', '.join(found)}"
            terminalreporter.write_line(safe(f"gVisor: {text}"))
        if self.report is not None:
            summary.show(terminalreporter, self.report, self.written, self.problems)

    def _build_report(self, session: pytest.Session) -> Report:
        items = getattr(session, "items", ())
        if not (items or self._tests) and (self._lost or session.exitstatus not in _TO_THE_END):
            self._is_known = False  # no worker has told them
        if items and self._is_known:  # else workers run the tests
            for nodeid, row, name in cells.roster(session):
                self._expect(nodeid, row, name)
        for report in self._lost:  # of a test without an entry nothing is known
            if report.nodeid in self._tests:
                self._entry(report.nodeid, worker_of(report)).take(report)
        places = machines.of_workers(self._config)
        if engine := engine_if_any(self._config):
            self.reaped[""] += engine.launcher.swept
            self.left[""] += engine.launcher.left
        each = dict.fromkeys(places.values()) or {machines.here(): None}
        first, numbers = next(iter(each)), {machine: number for number, machine in enumerate(each)}
        rows: dict[str, dict[str, Cell]] = {}
        dropped = 0
        of_each: dict[machines.Machine, list[CellInMaking]] = {machine: [] for machine in each}
        for nodeid, tries in self._tests.items():
            for worker, entry in tries.items():
                machine = places.get(worker, first)
                of_each[machine].append(entry)
                dropped += entry.dropped
                cell = dataclasses.replace(entry.cell(nodeid), leg=numbers[machine])
                found = rows.setdefault(escape(entry.row), {})
                known = found.get(cell.platform)
                found[cell.platform] = cell if known is None else worse(known, cell)
        if dropped:
            self.notes.append(f"details of {dropped} cells were left out, for the report's size")
        date, legs = dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), []
        for machine, entries in of_each.items():
            workers = [name for name in ("", *places) if places.get(name, first) == machine]
            legs.append(dataclasses.replace(self._leg(machine, workers, entries), date=date))
        # Each machine collects the same tests. If they are not known, that is the root folder.
        uncollected = len(self._uncollected) or int(not self._is_known)
        legs[0] = dataclasses.replace(legs[0], uncollected=uncollected)
        return Report(
            legs=tuple(legs),
            rows=tuple(Row(test=test, cells=tuple(found.values())) for test, found in rows.items()),
            notes=tuple(self.notes),
        )

    def _leg(
        self, machine: machines.Machine, workers: Sequence[str], entries: Sequence[CellInMaking]
    ) -> Leg:
        """Return the part of this run on one machine, by the workers there."""
        binaries = {tuple(e.data["runsc"]) for e in entries if e.data.get("runsc", [""])[0]}
        chosen = run_settings(self._config)
        labels = [release.label for release in chosen.releases] or [""]
        names = [cells.column(one.value, label) for one in chosen.platforms for label in labels]
        causes = {name: why for (worker, name), why in self._causes.items() if worker in workers}
        # Other shards may have no test whose own marker asks for a platform.
        found = (e.platform for e in entries if e.platform in causes or not e.data.get("asked"))
        names = [*([NATIVE] * chosen.native), *names, *found]
        # A session that does not know its tests is no part of them.
        shard, shards = _division(self._config) if self._is_known else (0, 0)
        commit = os.environ.get("GITHUB_SHA") or os.environ.get("CI_COMMIT_SHA", "")
        return Leg(
            project=escape(self._config.rootpath.name),
            host=escape(machine.host),
            kernel=escape(machine.uname.release),
            machine=escape(machine.uname.machine),
            inside=escape(named_sandbox(machine.uname)),
            python=escape(machine.python),
            pytest=pytest.__version__,
            plugin=escape(machine.plugin),
            runsc=tuple(
                Binary(version=escape(version), path=escape(path), origin=escape(origin))
                for version, path, origin in sorted(binaries)
            ),
            platforms=tuple(
                Column(name=name, cause=escape(causes.get(name, "")))
                for name in dict.fromkeys(names)
            ),
            reaped=sum(self.reaped[worker] for worker in workers),
            left=sum(self.left[worker] for worker in workers),
            shard=shard,
            shards=shards,
            collection=self._config.stash.get(_collection_key, ""),
            commit=escape(commit)[:_LONGEST_COMMIT] if shards else "",
        )


_COLLECTION = "gvisor_collection"
_collection_key = pytest.StashKey[str]()


def take_collection(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Note the names of all tests in order, as pytest-split is about to divide them.

    With its durations and its algorithm, they decide on each shard. ``--lf`` and ``--sw`` may leave
    out more.
    """
    option, durations = vars(config.option), b""
    with contextlib.suppress(OSError), open(option.get("durations_path") or "", "rb") as file:
        durations = file.read()
    chosen = [option.get(name) for name in ("splitting_algorithm", "lf", "stepwise")]
    names = "\n".join([*(item.nodeid for item in items), *map(str, chosen)])
    digest = hashlib.sha256(os.fsencode(names) + durations).hexdigest()
    config.stash[_collection_key] = getattr(config, "workeroutput", {})[_COLLECTION] = digest


def _division(config: pytest.Config) -> tuple[int, int]:
    """Return the number of this shard, and of all, by the options of pytest-split; 0 without."""
    group, splits = config.getoption("group", None), config.getoption("splits", None)
    return (group, splits) if isinstance(group, int) and isinstance(splits, int) else (0, 0)


def prepare(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` before any test if a report file could not be written."""
    if ensure(config) is None:
        return
    checked = config.stash[_paths_key] = {}
    started = config.invocation_params.dir  # whatever folder a test changes to
    for path in run_settings(config).report:
        try:
            checked[path] = outputs.check(os.path.join(started, os.path.expanduser(path)))
        except ReportError as error:
            raise pytest.UsageError(f"pytest-gvisor: --gvisor-report: {error}") from error
