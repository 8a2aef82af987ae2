"""The tests of each fault in faults/cases.toml, as a table with ``--faults``.

A pytest plugin for this repository's own suite, loaded by the conftest at the top. A skipped test
has injected nothing: it is counted as not run, in a column of its own.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import re
import tomllib
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.faults.watch import Watch

TESTS = Path(__file__).parent
CASES = TESTS / "faults" / "cases.toml"
REAL_FIXTURES = frozenset(
    {"gvisor", "gvisor_sandbox", "runsc", "oci_bundle", "little", "make_little", "any_little",
     "dockerd", "pytester", "project", "alone_project"}
)  # fmt: skip
REAL_FOLDERS = frozenset({"cli", "inside", "plugin", "runsc", "sandbox", "suites", "vm"})
_ROUND = "fault_round"


def read_cases(path: Path = CASES) -> dict[str, str]:
    """The cases in their order, ``A1`` and so on, with a short text of the fault."""
    letters = tomllib.loads(path.read_text())
    return {
        f"{letter}{number}": words
        for letter, entries in letters.items()
        for number, words in entries.items()
        if number != "title"
    }


class State(enum.IntEnum):
    """The result of a test, the worst of its repetitions; later members are worse."""

    HELD = 0
    NOT_RUN = 1
    FAILED = 2


@dataclasses.dataclass(kw_only=True)
class Tally:
    """The facts of one test, over all its repetitions."""

    cases: tuple[str, ...]
    real: bool
    """Whether the test starts the real runsc, rather than a scripted one or none."""
    injected: int = 0
    """How often it ran: what was skipped did not."""
    state: State = State.HELD

    def count(self, state: State) -> None:
        """Add one repetition that is over."""
        self.injected += state is not State.NOT_RUN
        self.state = max(self.state, state)


class Table:
    """Collects the reports of tests that carry cases; this process's, or those of xdist's."""

    def __init__(self, cases: dict[str, str]) -> None:
        self.cases = cases
        self.tests: dict[str, Tally] = {}
        self._open: dict[str, State] = {}

    def add(self, report: pytest.TestReport) -> None:
        """Take one phase of a test."""
        cases: list[str] = getattr(report, "fault_cases", [])
        if not cases:
            return
        state = State.HELD
        if report.skipped:
            # An expected failure is reported as a skip, and is no case that holds.
            state = State.FAILED if hasattr(report, "wasxfail") else State.NOT_RUN
        elif report.failed:
            state = State.FAILED
        self._open[report.nodeid] = max(self._open.get(report.nodeid, State.HELD), state)
        if report.when == "teardown":
            test = without_round(report.nodeid)
            real: bool = getattr(report, "fault_real", False)
            tally = self.tests.setdefault(test, Tally(cases=tuple(cases), real=real))
            tally.count(self._open.pop(report.nodeid))

    def lines(self) -> list[str]:
        """The table: a line for each case, and one for all.

        The last two numbers are injections: on a scripted runsc or none, and on the real one.
        """
        head = f"{'case':<5}{'tests':>6}{'held':>6}{'failed':>7}{'not run':>8}"
        head += f"{'scripted':>9}{'real':>6}  what"
        return [head, *(self._line(case, words) for case, words in self.cases.items()), self._sum()]

    def _line(self, case: str, words: str) -> str:
        some = [tally for tally in self.tests.values() if case in tally.cases]
        return f"{case:<5}{_numbers(some)}  {words}"

    def _sum(self) -> str:
        held, part = self.count_cases()
        known = len(self.cases)
        text = f"{held} of {known} cases held, {part} of these in part (some tests not run)"
        return f"{'all':<5}{_numbers(self.tests.values())}  {text}"

    def count_cases(self) -> tuple[int, int]:
        """How many cases held, and how many of them have tests that did not run.

        A case without a test that ran does not hold.
        """
        held = part = 0
        for case in self.cases:
            states = [tally.state for tally in self.tests.values() if case in tally.cases]
            if State.HELD in states and State.FAILED not in states:
                held += 1
                part += State.NOT_RUN in states
        return held, part


def _numbers(tallies: Iterable[Tally]) -> str:
    some = list(tallies)
    states = [tally.state for tally in some]
    counts = [states.count(s) for s in (State.HELD, State.FAILED, State.NOT_RUN)]
    injected = [sum(t.injected for t in some if t.real is real) for real in (False, True)]
    return (
        f"{len(some):>6}{counts[0]:>6}{counts[1]:>7}{counts[2]:>8}{injected[0]:>9}{injected[1]:>6}"
    )


def without_round(nodeid: str) -> str:
    """A node id without the number of the repetition that `FaultCheck` has put into it."""
    return re.sub(r"(?<=[\[-])round\d+(?=[\]-])", "round", nodeid)


class FaultCheck:
    """Refuses cases that are not in the list, repeats tests, and prints the table."""

    def __init__(self, *, shown: bool, watch: Watch | None, scripted: int, real: int) -> None:
        self.table = Table(read_cases())
        self.shown = shown
        self.watch = watch
        self.left: list[str] = []
        self.scripted = scripted
        self.real = real

    @pytest.hookimpl(trylast=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Repeat a test that carries a case, as often as its kind is to be."""
        if not any(metafunc.definition.iter_markers("fault")):
            return
        is_on_real = is_real(metafunc.definition.path, metafunc.fixturenames)
        times = self.real if is_on_real else self.scripted
        if times > 1:
            metafunc.fixturenames.append(_ROUND)
            ids = [f"round{number}" for number in range(times)]
            metafunc.parametrize(_ROUND, range(times), ids=ids, scope="function")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """An unknown case is a usage error."""
        wrong = [
            f"{item.nodeid}: {case!r}"
            for item in items
            for case in cases_of(item)
            if case not in self.table.cases
        ]
        if wrong:
            raise pytest.UsageError(f"faults that {CASES.name} does not list: {', '.join(wrong)}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if found := cases_of(item):
            report.__dict__["fault_cases"] = found  # xdist passes on whatever is in there
            report.__dict__["fault_real"] = is_real(item.path, getattr(item, "fixturenames", ()))
            if self.watch is not None and call.when == "teardown":
                self.watch.look(item.nodeid)
                if self.watch.canary_is_changed():
                    report.outcome = "failed"
                    report.longrepr = "a file of a tree that is nobody's business was changed"
        return report

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session if a test has left anything."""
        if self.watch is not None:
            self.left = self.watch.left()
            self.watch.end()
            if self.left:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.table.add(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.shown:
            return
        terminalreporter.section("faults")
        for line in self.table.lines():
            terminalreporter.write_line(line)
        if self.watch is not None:
            text = f"a census and a look at the canary after {self.watch.looks} tests"
            terminalreporter.write_line(f"{text}: {len(self.left)} left something")
        for line in self.left:
            terminalreporter.write_line(line)


def cases_of(item: pytest.Item) -> list[str]:
    """The cases that a test carries, of all its markers."""
    return list(itertools.chain.from_iterable(m.args for m in item.iter_markers("fault")))


def is_real(path: Path, fixtures: Iterable[str]) -> bool:
    """Whether a test starts the real runsc, by its folder in tests/ and its fixtures."""
    folder = path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""
    return folder in REAL_FOLDERS or bool(REAL_FIXTURES.intersection(fixtures))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the faults of tests/faults/cases.toml")
    group.addoption(
        "--faults", action="store_true", help="show which of them were injected, and held"
    )
    group.addoption(
        "--faults-watch",
        action="store_true",
        help="look for what each of their tests leaves on this machine;"
        " with xdist, tests would see each other's files",
    )
    group.addoption(
        "--faults-repeat",
        default="1,1",
        metavar="SCRIPTED,REAL",
        help="how often to run each of their tests, on a scripted runsc or none, and on the real",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "fault(case, ...): the cases of tests/faults/cases.toml that the test injects"
    )
    scripted, real = map(int, config.getoption("--faults-repeat").split(","))
    watch = None
    if config.getoption("--faults-watch"):
        from tests.faults.watch import Watch

        watch = Watch()
    check = FaultCheck(
        shown=config.getoption("--faults"),
        watch=watch,
        scripted=scripted,
        real=real,
    )
    config.pluginmanager.register(check, "faultcheck-active")
