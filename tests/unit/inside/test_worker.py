"""The host's side of a pytest inside, with a scripted one that may send anything."""

import signal
import warnings
from collections.abc import Sequence
from typing import Any, cast

import pytest

from pytest_gvisor.base.errors import GvisorError, LaunchError
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.inside.ahead import Ids
from pytest_gvisor.inside.back.returned import Taker
from pytest_gvisor.inside.hints import Hints
from pytest_gvisor.inside.plugins import Bridges
from pytest_gvisor.inside.view.run_options import Inside
from pytest_gvisor.inside.wire.link import Died, Hangs, Link
from pytest_gvisor.inside.wire.session_bounds import SessionBounds
from pytest_gvisor.inside.worker import Worker
from pytest_gvisor.run.budget import LATE, Budget
from tests.unit.inside.wire.test_reports import data_of
from tests.unit.run.test_budget import Clock, clock

__all__ = ["clock"]

INNER = "test_it.py::test_it"
COLLECTED = {
    "type": "collected",
    "ids": [INNER, "test_it.py::test_next"],
    "numbers": ["", ""],
    "errors": [],
}
DONE = {"type": "done", "id": INNER}
Message = dict[str, Any]


class Script:
    """A substitute for a link, which fails after its given messages."""

    def __init__(self, messages: Sequence[Message | BaseException]) -> None:
        self.messages = [*messages]
        self.sent: list[Message] = []
        self.closed = 0
        self.budget = Budget(60)
        self.did: Any = lambda _title: {}
        self.handlers: list[object] = []
        """That of Ctrl-C at each message."""

    def send(self, op: str, **fields: object) -> None:
        """Note a command."""
        self.sent.append({"op": op, **fields})

    def receive(self) -> Message:
        """The next message, or the next error."""
        self.handlers.append(signal.getsignal(signal.SIGINT))
        message = self.messages.pop(0) if self.messages else Died("it is gone")
        if isinstance(message, BaseException):
            raise message
        return message

    def terminate(self) -> None:
        """Send no signal."""

    def close(self, patience: float = 0.0) -> None:
        """Note that it was closed."""
        self.closed += 1

    def judge(self, report: object, *, failed: bool) -> bool:
        """Forbid nothing."""
        return False

    def leave(self, patience: float = 0.0) -> None:
        """Note the end in the same way."""
        self.close(patience)

    def told(self, why: str) -> str:
        """Return no further detail."""
        return why


def report(when: str, **changes: Any) -> Message:
    """The message with a passed phase's report."""
    data = data_of(nodeid=INNER, when=when, **changes)
    return {"type": "report", "id": INNER, "data": data, "plain": True}


def short(kind: str, when: str, passed: str) -> Message:
    """A message that has the short form of a passed phase with it."""
    form = {"when": passed, "times": [0.1, 1.0, 1.1]}
    return {"type": kind, "id": INNER, "when": when, "passed": form}


PASSED = [
    report("setup"),
    {"type": "phase", "id": INNER, "when": "call"},
    report("call"),
    {"type": "phase", "id": INNER, "when": "teardown"},
    report("teardown"),
]


class Host:
    """A worker whose pytest inside is a script, and a test for it."""

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.shown: list[str] = []

    def worker(self, *messages: Message | BaseException, collected: Message = COLLECTED) -> Worker:
        """A worker whose pytest says this."""
        self.script = Script([collected, *messages])
        self.files = Files(self.script)
        config = self.item.config
        bounds = SessionBounds(config)
        bridges = Bridges(config, bounds)
        hints = Hints(config=config, items=[self.item], inside=Inside(), settings=Settings())
        worker = Worker(
            config, [self.item], hints, bounds, bridges,
            timeout=5.0, show=self.shown.append, most=64,
        )  # fmt: skip
        self.told = self.start(worker)
        return worker

    def start(self, worker: Worker) -> str:
        """Start it, as a session does; return the failure, or nothing."""
        try:
            worker.collect(cast("Link", self.script), cast("Taker", self.files))
        except (Died, Hangs, GvisorError) as error:
            return worker.not_begun(error)
        return ""

    def run(self, *messages: Message | BaseException) -> list[tuple[str | None, str]]:
        """Phase and outcome of each report of the test."""
        return [(one.when, one.outcome) for one in self.reports(*messages)]

    def reports(self, *messages: Message | BaseException) -> list[pytest.TestReport]:
        """The reports of the test."""
        return list(self.worker(*messages).run(self.item, Ids(inner=INNER)))


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Host:
    """A host with one test: this one, which is not run by it."""
    return Host(request.node)


def test_reports_of_three_phases_are_a_test(host: Host) -> None:
    """The reports arrive unchanged, and the sandbox stays for the next test."""
    assert host.run(*PASSED, DONE) == [
        ("setup", "passed"),
        ("call", "passed"),
        ("teardown", "passed"),
    ]
    assert not host.script.closed


def test_short_forms_of_three_phases_are_a_test(host: Host) -> None:
    """Short forms come with the message that follows a phase, or alone."""
    alone = short("passed", "", "call")
    phases = [short("phase", "call", "setup"), alone, short("done", "", "teardown")]
    assert host.run(*phases) == host.run(*PASSED, DONE)
    assert not host.script.closed


@pytest.mark.parametrize(
    ("messages", "last"),
    [
        ([short("phase", "call", "setup"), DONE], "call"),
        ([short("phase", "call", "setup"), short("done", "", "call")], "teardown"),
        ([short("phase", "call", "setup")], "call"),
        ([short("phase", "teardown", "call"), short("phase", "teardown", "call")], "setup"),
        ([{**short("phase", "call", "setup"), "id": "test_it.py::test_next"}], "setup"),
        ([{**short("phase", "call", "setup"), "passed": {"when": "setup"}}], "setup"),
    ],
)
def test_short_forms_leave_no_phase_out(messages: list[Message], last: str, host: Host) -> None:
    """A missing, malformed or foreign one is a failure, and the sandbox ends."""
    assert host.run(*messages)[-1] == (last, "failed")
    assert host.script.closed


@pytest.mark.parametrize(
    ("messages", "last"),
    [
        ([DONE], "setup"),
        ([PASSED[0], DONE], "setup"),
        ([*PASSED[:2], DONE], "call"),
        ([*PASSED[:4], DONE], "teardown"),
        ([PASSED[0], PASSED[4], DONE], "setup"),
        ([*PASSED, {**DONE, "id": "test_it.py::test_next"}], "teardown"),
        ([*PASSED[:3], {**PASSED[4], "id": "test_it.py::test_next"}, DONE], "teardown"),
        ([*PASSED, {"type": "phase", "id": "test_it.py::test_next", "when": "call"}], "teardown"),
        ([*PASSED[:2], {"type": "phase", "id": INNER, "when": "\x1b]"}], "call"),
    ],
)
def test_no_test_is_done_without_its_own_reports(
    messages: list[Message], last: str, host: Host
) -> None:
    """A missing report, or one of another test, is a failure, and the sandbox ends."""
    ran = host.run(*messages)
    assert ran[-1] == (last, "failed")
    assert host.script.closed


SUBTEST: dict[str, Any] = {
    "_report_type": "SubTestReport", "_subtest.context": {"msg": "a", "kwargs": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "last"),
    [
        ([*PASSED[:3], PASSED[2]], "teardown"),
        ([*PASSED[:3], report("call", outcome="failed", longrepr="x")], "teardown"),
        ([PASSED[0], PASSED[4], PASSED[2]], "setup"),
        ([*PASSED, PASSED[4], DONE], "teardown"),
        ([*PASSED, PASSED[0], DONE], "teardown"),
        ([*PASSED, report("call", **SUBTEST), DONE], "teardown"),
    ],
    ids=["twice", "two verdicts", "late", "torn down twice", "set up again", "a late subtest"],
)
def test_each_phase_of_a_test_has_one_report_in_order(
    messages: list[Message], last: str, host: Host
) -> None:
    """One report too many is a failure, it is not logged, and the sandbox ends."""
    logged = [one for one in messages if one["type"] == "report"][:-1]
    ran = host.run(*messages)
    assert len(ran) == len(logged) + 1
    assert ran[-1] == (last, "failed")
    assert host.script.closed


class Outcomes:
    """A plugin that has outcomes of its own."""

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Return the letter of one."""
        own: str = report.outcome
        return (own, "R", "AGAIN") if own in {"rerun", "retried", "better"} else None


@pytest.mark.parametrize("outcome", ["rerun", "retried", "better"])
def test_a_plugin_s_own_outcome_ends_no_phase(
    host: Host, outcome: str, request: pytest.FixtureRequest
) -> None:
    """A phase is over with a report that passed, failed or was skipped, and that one comes last."""
    plugin, manager = Outcomes(), host.item.config.pluginmanager
    manager.register(plugin)
    request.addfinalizer(lambda: manager.unregister(plugin))
    tried = report("call", outcome=outcome)
    end = PASSED[3:]
    for again in ([PASSED[2]], PASSED[:3]):
        assert host.run(*PASSED[:2], tried, *again, *end, DONE)[-1] == ("teardown", "passed")
        assert not host.script.closed
    for calls in ([tried], [PASSED[2], tried]):
        assert host.run(*PASSED[:2], *calls, *end, DONE)[-1][1] == "failed"
        assert host.script.closed


def test_a_set_up_that_does_not_pass_needs_no_call(host: Host) -> None:
    """A skipped set-up needs no call either; a loss after it belongs to the teardown."""
    skip = report("setup", outcome="skipped", longrepr=["test_it.py", 1, "Skipped: so"])
    assert host.run(skip, PASSED[4], DONE) == [("setup", "skipped"), ("teardown", "passed")]
    assert host.run(skip, PASSED[3]) == [("setup", "skipped"), ("teardown", "failed")]


@pytest.mark.parametrize("ids", [5, None, "test_it.py", [1], {"a": 1}])
def test_a_collection_that_is_no_list_of_ids_is_a_false_start(ids: object, host: Host) -> None:
    """The start fails with a message, and the sandbox ends."""
    host.worker(collected={"type": "collected", "ids": ids, "numbers": [], "errors": []})
    assert "did not get as far as a test" in host.told
    assert host.script.closed


def test_an_error_of_the_launch_in_a_test_is_that_test_s(host: Host) -> None:
    """The keeper may be lost in the midst of one."""
    assert host.run(PASSED[0], LaunchError("keeper", "lost"))[-1] == ("setup", "failed")


@pytest.mark.fault("G6")
def test_a_message_that_there_is_no_memory_for_costs_its_sandbox_alone(host: Host) -> None:
    """Its values may take twenty times its bytes. Amid the last ones, the session fails."""
    (lost,) = host.reports(MemoryError())
    assert lost.failed
    assert "there is no memory for what came from it" in lost.longreprtext
    worker = host.worker(*PASSED, DONE, MemoryError())
    list(worker.run(host.item, Ids(inner=INNER)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pytest that did not come to its end
        worker.finish()
    assert worker._bounds.failed
    assert host.script.closed


@pytest.mark.parametrize("option", ["usepdb", "trace"])
def test_an_interrupt_goes_inside_while_a_test_runs_and_not_in_a_start(
    option: str, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that starts is ended by Ctrl-C like any wait of the host's."""
    monkeypatch.setattr(host.item.config.option, option, True)
    before = signal.getsignal(signal.SIGINT)
    host.run(*PASSED, DONE)
    in_start, *in_test = host.script.handlers
    assert in_start == before == signal.getsignal(signal.SIGINT)
    assert before not in in_test


def test_what_is_said_outside_of_tests_is_escaped(host: Host) -> None:
    """Errors of the collection, and of pytest itself."""
    bad = {**COLLECTED, "ids": [], "errors": ["\x1b]52;c;eA==\x07\n::error::x\n1 passed in 0.1s"]}
    (missing,) = host.worker(collected=bad).run(host.item, Ids(inner=INNER))
    (broken,) = host.reports({"type": "internal error", "text": "\x1b]0;x\x07"})
    for report in (missing, broken):
        assert "\x1b" not in str(report.longrepr)
        assert "\\x1b]" in str(report.longrepr)
    assert "\n\\x3a:error::x\n\\x31 passed in" in str(missing.longrepr)


def test_what_is_not_shown_on_the_host_is_not_shown_for_tests_inside(host: Host) -> None:
    """Lines of the terminal come with --setup-show, and are a break of the protocol without."""
    assert host.run({"type": "terminal", "text": "1 passed in 0.1s"})[-1] == ("setup", "failed")
    assert not host.shown


def test_a_user_that_cannot_be_had_is_no_start_and_no_green_test(host: Host) -> None:
    """The reason names the refused call and the way out. In a test it ends the sandbox."""
    refused: Message = {"type": "no user", "errno": 1, "text": "unshare(0x10000000)"}
    host.worker(collected=refused)
    assert "unshare(0x10000000)" in host.told
    assert "--gvisor-user root" in host.told
    assert ("call", "failed") in host.run(*PASSED[:2], refused, *PASSED[2:], DONE)


class Files:
    """Stands for the receiver of a sandbox's files; notes what happens, and when."""

    def __init__(self, script: Script) -> None:
        self.said: list[str] = []
        self._script = script

    def note_begun(self, item: pytest.Item) -> None:
        """Note the first test."""
        self.said = self.said or [item.name]

    def note_failed(self, _item: pytest.Item, inner: str) -> None:
        """Note the test."""
        self.said.append(f"{inner} failed")

    def receive(self, _link: Link, _start: float) -> bool:
        """Note whether the sandbox is there."""
        self.said.append(f"received, closed {self._script.closed}")
        return True

    def lose(self, why: str) -> None:
        """Note why."""
        self.said.append(why)


@pytest.mark.parametrize(
    "messages",
    [[*PASSED, DONE, {"type": "finished"}], PASSED[:2], [*PASSED[:2], Hangs()], [*PASSED, DONE]],
    ids=["ends", "dies", "hangs", "dies at its end"],
)
def test_files_are_taken_before_a_sandbox_is_removed(
    messages: list[Message | BaseException], host: Host
) -> None:
    """Each sandbox's files are taken once, however its pytest has ended."""
    worker = host.worker(*messages)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pytest that did not come to its end
        list(worker.run(host.item, Ids(inner=INNER)))
        worker.finish()
    name = "test_files_are_taken_before_a_sandbox_is_removed"
    said = [line.partition("[")[0] for line in host.files.said]
    assert [one for one in said if "failed" not in one] == [name, "received, closed 0"]
    assert (f"{INNER} failed" in said) == (DONE not in messages)
    assert host.script.closed == 1


def test_a_session_that_is_stopped_in_a_test_says_that_files_are_lost(host: Host) -> None:
    """The sandbox is removed at once then."""
    worker = host.worker(*PASSED[:2])
    next(worker.run(host.item, Ids(inner=INNER)))
    worker.finish()
    assert host.files.said[1:] == ["the session was stopped in the midst of a test"]
    assert host.script.closed == 1


def of(inner: str) -> list[Message]:
    """The messages of another test that passes."""
    return [{**message, "id": inner} for message in [*PASSED, DONE]]


def test_tests_ahead_that_nobody_wants_are_read_and_dropped(host: Host) -> None:
    """The messages of a test that is wanted come after theirs."""
    others = [f"test_it.py::test_{name}" for name in "abc"]
    collected = {**COLLECTED, "ids": [INNER, *others]}
    bridge: Message = {"type": "bridge", "bridge": "junit", "data": {"id": others[0]}}
    first = [*PASSED, DONE]
    unwanted = [bridge, *of(others[0]), *of(others[1])]
    worker = host.worker(*first, *unwanted, *of(others[2]), collected=collected)
    sure = Ids(inner=INNER, upcoming=(*others,), sure=2)
    list(worker.run(host.item, sure))
    ran = list(worker.run(host.item, Ids(inner=others[2])))
    assert [report.when for report in ran] == ["setup", "call", "teardown"]
    named = [inner for command in host.script.sent for inner in command["ids"]]
    assert named == [INNER, *others]
    assert not host.script.closed


def test_a_test_ahead_that_nobody_wants_ends_once(host: Host) -> None:
    """If it has ended the pytest inside, what it says then is of no test that is known."""
    others = [f"test_it.py::test_{name}" for name in "ab"]
    ends = [{"type": kind, "id": others[0]} for kind in ("stopped", "done")]
    worker = host.worker(*PASSED, DONE, *ends, collected={**COLLECTED, "ids": [INNER, *others]})
    list(worker.run(host.item, Ids(inner=INNER, upcoming=(*others,), sure=1)))
    (report,) = worker.run(host.item, Ids(inner=others[1]))
    assert (report.when, report.outcome) == ("setup", "failed")
    assert host.script.closed


def test_a_session_that_stops_waits_for_the_tests_ahead(host: Host) -> None:
    """Their reports are dropped, and the end of the pytest inside comes after them."""
    others = [f"test_it.py::test_{name}" for name in "ab"]
    collected = {**COLLECTED, "ids": [INNER, *others]}
    unwanted = [*of(others[0]), *of(others[1])]
    finished: Message = {"type": "finished"}
    worker = host.worker(*PASSED, DONE, *unwanted, finished, collected=collected)
    list(worker.run(host.item, Ids(inner=INNER, upcoming=(*others,), sure=2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        worker.finish()
    assert not host.script.messages


def test_a_death_in_a_test_ahead_is_that_test_s(host: Host) -> None:
    """Tests that ended before it keep their reports, and no later one is named with it."""
    others = [f"test_it.py::test_{name}" for name in "abc"]
    collected = {**COLLECTED, "ids": [INNER, *others]}
    worker = host.worker(*PASSED, DONE, *of(others[0]), *of(others[1])[:2], collected=collected)
    order = [INNER, *others]
    found = []
    for number, inner in enumerate(order[:3]):
        ids = Ids(inner=inner, upcoming=tuple(order[number + 1 :]), sure=len(order) - number - 1)
        found.append([(one.when, one.outcome) for one in worker.run(host.item, ids)])
    passed = [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]
    assert found == [passed, passed, [("setup", "passed"), ("call", "failed")]]
    assert worker.gone
    last = host.worker(*of(others[2]), collected=collected).run(host.item, Ids(inner=others[2]))
    assert [(one.when, one.outcome) for one in last] == passed


FLOODS: list[Message] = [
    {"type": "warning"}, PASSED[0], PASSED[1], {**DONE, "id": "test_it.py::test_next"},
    {"type": "debugger", "id": "test_it.py::test_next", "event": "read"}, {"type": "coverage"},
]  # fmt: skip


@pytest.mark.parametrize("message", FLOODS, ids=str)
@pytest.mark.parametrize("phase", ["start", "test", "ahead", "end"])
def test_no_flood_of_messages_keeps_the_host(
    phase: str, message: Message, host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start, a test, one that was sent ahead, and the session's end are over in time."""
    worker, script = host.worker(), host.script

    def receive() -> Message:
        clock.now += 0.08
        if script.budget.left <= -LATE:
            raise Hangs
        return message

    monkeypatch.setattr(script, "receive", receive)
    monkeypatch.setattr("pytest_gvisor.inside.wire.reports.warn", lambda *_: None)
    monkeypatch.setattr(SessionBounds, "say", lambda *_: None)
    begun = clock.now
    if phase == "start":
        assert host.start(worker)
    elif phase == "end":
        worker.finish()
    else:
        worker.ahead._ids.extend(["test_it.py::test_next"] if phase == "ahead" else [])
        assert list(worker.run(host.item, Ids(inner=INNER)))[-1].failed
    assert clock.now - begun <= (60 if phase == "start" else 5) + LATE + 1
    assert script.closed
