"""One run as it is watched: input, pipes, and a keeper that is lost or does not answer."""

import contextlib
import errno
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_gvisor.base.completed import Outcome, SandboxCrashed
from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.programs import proc
from pytest_gvisor.programs.order import Order
from pytest_gvisor.run import supervisor as supervisor_module
from pytest_gvisor.run.pipes import Pipes
from pytest_gvisor.run.sentry import Listener
from pytest_gvisor.run.supervisor import Supervisor, _find_gofer
from pytest_gvisor.sessions.launcher import Control, Keeper
from tests.fakes.fake import FINE, FakeRunsc, Step
from tests.fakes.runs import Runs


@pytest.mark.parametrize("of_what", ["read", "write"])
def test_streams_that_cannot_be_waited_for_are_a_typed_error(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, of_what: str
) -> None:
    """An exhausted budget of epoll watches is such an error; started processes are removed."""
    real = selectors.DefaultSelector.register

    def refuse(*arguments: Any) -> Any:
        if getattr(arguments[-1], "__name__", "") == of_what:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    fake.script(*FINE, ["task_exit", 0], ["exit", 0])
    with monkeypatch.context() as patch:
        patch.setattr(selectors.DefaultSelector, "register", refuse)
        error = runs().error
    assert isinstance(error, LaunchError)
    assert (error.stage, error.errno) == ("pipes", errno.ENOSPC)
    assert runs.left() == []
    assert well(runs, fake)


@pytest.mark.parametrize("of_what", ["its number", "its end"])
def test_a_gofer_that_cannot_be_watched_ends_no_run(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, of_what: str
) -> None:
    """The gofer is only evidence."""
    refused = tmp_path / "refused"
    fake.script(["gofer"], *FINE, ["await_file", str(refused)], ["task_exit", 0], ["exit", 0])
    real = selectors.DefaultSelector.register

    def refuse(*arguments: Any) -> Any:
        watched = getattr(arguments[-1], "__name__", "")
        if of_what == "its number" or watched == "_gofer_ended":
            refused.touch()
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*arguments)

    if of_what == "its number":
        monkeypatch.setattr(proc, "children_of", refuse)
    else:
        monkeypatch.setattr(selectors.DefaultSelector, "register", refuse)
    assert runs().error is None
    assert refused.exists()


def well(runs: Runs, fake: FakeRunsc) -> bool:
    """Whether another run ends well."""
    fake.script(*FINE, ["task_exit", 0], ["exit", 0])
    return runs().outcome is Outcome.EXITED


@contextlib.contextmanager
def told(
    *messages: bytes, max_output: int = 10, timeout: float = 1.0, stop: int | None = None
) -> Iterator[Supervisor]:
    """Yield a supervisor whose control socket has these unread messages of the keeper."""
    asked = Order(id="g1", argv=(), term=(), env={}, folder="", root="")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as opened:
        for one in (ours, theirs):
            opened.enter_context(one)
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        listener = opened.enter_context(contextlib.closing(Listener(folder)))
        pipes = opened.enter_context(contextlib.closing(Pipes(max_output)))
        supervisor = Supervisor(asked, pipes, timeout=timeout, listener=listener, stop=stop)
        supervisor._control = Control(ours)
        for message in messages:
            theirs.send(message)
        supervisor._register()
        yield supervisor
        supervisor.close()


def test_the_sentry_may_be_heard_before_the_keeper() -> None:
    """A keeper that is busy with other runs says late that this one was spawned."""
    with told(b'{"state": "spawned", "pid": 7}') as supervisor:
        supervisor.start = 0.5
        assert supervisor._hear()
    assert (supervisor.pid, supervisor.start) == (7, 0.5)


EXITED = b'{"state": "exited", "status": 512}'


def test_a_workload_that_has_ended_before_it_was_heard_has_not_timed_out() -> None:
    """An input that blocks past the deadline, or a stopped pytest, hears of it only then."""
    with told(b'{"state": "spawned", "pid": 7}', EXITED, timeout=0.0) as supervisor:
        supervisor.pipes.hand_over()
        supervisor.watch()
    assert (supervisor.status, supervisor.timed_out) == (512, False)


def test_what_is_in_the_pipes_when_nobody_waits_any_longer_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Output that arrives while the process has no turn is read at the end."""
    real = Supervisor.turn

    def stalled(self: Supervisor, timeout: float | None) -> None:
        real(self, timeout)
        for fd in self.pipes.theirs[1:]:
            os.write(fd, b"x" * 50_000)

    monkeypatch.setattr(Supervisor, "turn", stalled)
    monkeypatch.setattr(supervisor_module, "LINGER", 0.0)
    with told(EXITED, max_output=10**6) as supervisor:
        supervisor.watch()
        kept = [supervisor.pipes.stdout.data(), supervisor.pipes.stderr.data()]
    assert kept == [b"x" * 50_000] * 2


LIVELY: list[Step] = [*FINE, ["state"], ["gofer"], ["orphan", True], ["hang"]]


@pytest.mark.fault("F9")
def test_a_gofer_that_ends_after_a_flood_of_reports_has_not_died_first(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More ends of processes are waiting than one turn takes, and the first one's is the last."""
    fake.script(["gofer"], *FINE, ["flood", 150], ["task_exit", 0], ["kill_gofer"], ["exit", 0])
    real = supervisor_module.Supervisor.turn

    def turn(self: supervisor_module.Supervisor, timeout: float | None) -> None:
        if self._gofers and self.start is not None:
            select.select([*self._gofers.values()], [], [], 20)
        real(self, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor_module.Supervisor, "turn", turn)
        ended = runs()
    assert ended.error is None
    assert ended.outcome is Outcome.EXITED


def test_a_gofer_that_dies_after_a_thread_of_the_workload_has_died_first(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The workload is killed then: that is neither its own end nor a signal that it got."""
    noticed = tmp_path / "noticed"
    killed: list[Step] = [["await_file", str(noticed)], ["task_exit", 9], ["exit", 137]]
    fake.script(["gofer"], *FINE, ["task_exit", 0], ["state"], ["kill_gofer"], *killed)
    real = supervisor_module.Supervisor._gofer_ended

    def notice(self: supervisor_module.Supervisor) -> bool:
        going_on = real(self)
        noticed.touch()
        return going_on

    monkeypatch.setattr(supervisor_module.Supervisor, "_gofer_ended", notice)
    assert isinstance(runs().error, SandboxCrashed)


def test_a_driven_run_whose_gofer_dies_before_the_start_is_killed(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentry, just starting, does not see it: the start's deadline is not waited for."""
    monkeypatch.setattr(supervisor_module, "TERM_GRACE", 0.1)
    fake.script(["gofer"], ["connect"], ["kill_gofer"], ["hang"])
    with runs.driven() as driven:
        supervisor = driven.start()
    deadline = time.monotonic() + 60
    while not supervisor.over and time.monotonic() < deadline:
        supervisor.turn(deadline - time.monotonic())
    over = supervisor.over
    error = driven.end().error
    assert over
    assert isinstance(error, SandboxCrashed)


def test_a_gofer_s_end_puts_off_no_deadline(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentry that does not end with its gofer is killed at the deadline, not after the grace."""
    monkeypatch.setattr(supervisor_module, "TERM_GRACE", 10**6)
    fake.script(["gofer"], *FINE, ["kill_gofer"], ["hang"])
    real = supervisor_module.Supervisor._gofer_ended

    def just_before_the_deadline(self: supervisor_module.Supervisor) -> bool:
        self._due = time.monotonic() + 0.1
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor_module.Supervisor, "_gofer_ended", just_before_the_deadline)
        assert isinstance(runs(timeout=60.0).error, SandboxCrashed)


def test_a_driven_run_is_over_although_a_stopped_keeper_says_nothing_of_its_end(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gofer has died, and the keeper neither kills nor reaps it: nobody waits for ever."""
    monkeypatch.setattr(supervisor_module, "TERM_GRACE", 0.1)
    monkeypatch.setattr(supervisor_module, "KILL_DEADLINE", 0.1)
    fake.script(["gofer"], *FINE, ["hang"])
    with runs.driven() as driven:
        supervisor = driven.start()
    while not supervisor._gofers or supervisor.start is None:
        supervisor.turn(1.0)
    os.kill(runs.launcher.keeper().pid, signal.SIGSTOP)
    signal.pidfd_send_signal(next(iter(supervisor._gofers.values())), signal.SIGKILL)
    while not supervisor.over:
        supervisor.turn(None)
    assert isinstance(driven.end().error, SandboxCrashed)
    assert runs.left() == []


@pytest.mark.fault("F8")
def test_a_keeper_that_does_not_clean_is_killed_and_done_without(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keeper that stops just before the end is killed, and the run ends without it."""
    monkeypatch.setattr(supervisor_module, "CLEAN_DEADLINE", 0.3)
    keeper = runs.launcher.keeper()
    fake.script(*FINE, ["state"], ["gofer"], ["task_exit", 0], ["exit", 0])
    real = supervisor_module.Supervisor.clean

    def clean(self: supervisor_module.Supervisor) -> tuple[str, ...]:
        os.kill(keeper.pid, signal.SIGSTOP)
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(supervisor_module.Supervisor, "clean", clean)
        ended = runs()
    assert ended.completed is not None
    assert ended.completed.leaks == ()
    assert runs.left() == []
    assert well(runs, fake)


@pytest.mark.parametrize(
    "message",
    [b'{"state": "spawned"}', b'{"state": "exited", "status": "x"}', b'{"state": "failed"}', b"[]"],
)
def test_a_keeper_that_talks_nonsense_is_a_protocol_error(
    runs: Runs, fake: FakeRunsc, monkeypatch: pytest.MonkeyPatch, message: bytes
) -> None:
    """The run is ended, and removed."""
    real = Keeper.launch
    others: list[socket.socket] = []

    def launch(self: Keeper, *arguments: Any) -> Control:
        control = real(self, *arguments)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        others.extend([theirs, control._socket])
        theirs.send(message)
        return Control(ours)

    fake.script(*LIVELY)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "launch", launch)
        patch.setattr(supervisor_module, "CLEAN_DEADLINE", 0.3)
        ended = runs(timeout=5.0)
    for other in others:
        other.close()
    assert isinstance(ended.error, ProtocolError)
    assert runs.left() == []


@pytest.mark.parametrize(("timeout", "cancelled"), [(60.0, True), (0.0, False)])
def test_a_run_is_killed_at_once_when_it_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, timeout: float, cancelled: bool
) -> None:
    """Before its deadline it counts as cancelled, and after it as timed out."""
    asked: list[str] = []
    monkeypatch.setattr(Supervisor, "ask", lambda _, wish: asked.append(wish))
    stop = os.eventfd(1)
    try:
        with told(timeout=timeout, stop=stop) as supervisor:
            supervisor.turn(1.0)
            assert (supervisor.cancelled, supervisor.timed_out) == (cancelled, not cancelled)
    finally:
        os.close(stop)
    assert asked[-1] == "kill"


@pytest.mark.parametrize(
    ("after", "seconds"), [(1.5, 1.5), (None, 2.0), (-0.1, 2.0), (2.5, 2.0), (1e12, 2.0)]
)
def test_a_start_is_timed_by_the_sandbox_s_clock_if_that_can_be(
    after: float | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that listens late knows the time; what no clock says is the time of the news."""
    now = SimpleNamespace(monotonic=lambda: 100.0, time_ns=lambda: 5_000_000_000)
    monkeypatch.setattr(supervisor_module, "time", now)
    monkeypatch.setattr(supervisor_module, "clock", now)
    told = None if after is None else 5_000_000_000 + int(after * 1e9)
    heard = cast("Any", SimpleNamespace(started_at=told))
    nothing = cast("Any", None)
    with contextlib.closing(Supervisor(nothing, nothing, timeout=9, listener=heard)) as watch:
        monkeypatch.setattr(now, "monotonic", lambda: 102.0)
        assert watch._seconds_to_start() == pytest.approx(seconds)


FORKS = """
import os, subprocess, sys
if sys.argv[1:] == ["gofer"]:
    child = os.fork()
    if child:
        print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
subprocess.run([sys.executable, "-c", sys.argv[1], "gofer"])
"""


def test_a_fork_of_the_gofer_is_not_taken_for_it() -> None:
    """The gofer's own children have its argv until their execve, and some of them end at once."""
    argv = [sys.executable, "-c", FORKS, FORKS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        gofer = int(process.stdout.readline())
        pidfd = _find_gofer(process.pid)
        assert pidfd is not None
        assert f"Pid:\t{gofer}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        os.close(pidfd)
