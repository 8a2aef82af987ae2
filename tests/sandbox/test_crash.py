"""A warm sandbox that dies under its users, and programs that kill the guest."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from pytest_gvisor import (
    Completed,
    Gvisor,
    GvisorError,
    NoAnswer,
    Outcome,
    PytestGvisorWarning,
    Sandbox,
    SandboxCrashed,
)
from pytest_gvisor.run.request import MAX_RECORDS
from pytest_gvisor.sandbox import channel
from tests.runsc.conftest import PATIENCE, wait_for
from tests.sandbox.conftest import sentry


@pytest.mark.fault("E4")
def test_everybody_is_told_when_the_sentry_dies(gvisor: Gvisor) -> None:
    """SIGKILL from outside: each thread that waits gets `SandboxCrashed`, soon, with its output."""
    errors: list[GvisorError] = []
    with gvisor.sandbox() as sandbox:
        process = sandbox.popen(["sh", "-c", "echo up; sleep 60"])
        process.wait_for_output("up")

        def waiting(act: Callable[[], object]) -> threading.Thread:
            def work() -> None:
                try:
                    act()
                except GvisorError as error:
                    errors.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            return thread

        sandbox.put("/tmp/n", "0")
        script = "echo up; echo >> /tmp/n; sleep 60"
        threads = [
            waiting(process.wait),
            waiting(lambda: process.wait_for_output("never")),
            waiting(lambda: process.stdin.write(b"x" * 5_000_000)),
            waiting(lambda: sandbox.wait_for_port(99)),
            *(waiting(lambda: sandbox.exec(["sh", "-c", script])) for _ in range(4)),
        ]
        wait_for(lambda: sandbox.get("/tmp/n").count(b"\n") == 4, "the four to be up")
        # Their output was written before, and the guest reads it before it reports another end.
        sandbox.exec(["true"])
        begun = time.monotonic()
        os.kill(sentry(gvisor), signal.SIGKILL)
        for thread in threads:
            thread.join(50)
        assert time.monotonic() - begun < 40
        assert [type(error) for error in errors] == [SandboxCrashed] * 8
        outputs = sorted(e.stdout for e in errors if isinstance(e, SandboxCrashed))
        assert outputs[-6:] == ["up\n"] * 6
        completed = next(e.completed for e in errors if isinstance(e, SandboxCrashed))
        assert completed.outcome is Outcome.SANDBOX_CRASHED
        assert not sandbox.alive
        uses: tuple[Callable[[], object], ...] = (
            lambda: sandbox.exec(["true"]), sandbox.ping, lambda: sandbox.get("/x"),
            lambda: sandbox.put("/x", b""), process.wait, process.poll, process.terminate,
        )  # fmt: skip
        for use in uses:
            with pytest.raises(SandboxCrashed):
                use()
        process.kill()  # it is dead


def test_what_had_ended_before_the_crash_stays_ended(gvisor: Gvisor) -> None:
    """A complete result stays valid after the sandbox crashes."""
    with gvisor.sandbox() as sandbox:
        process = sandbox.popen(["sh", "-c", "echo out; exit 3"])
        assert process.wait() == 3
        assert process.stdout.read() == b"out\n"
        os.kill(sentry(gvisor), signal.SIGKILL)
        wait_for(lambda: not sandbox.alive, "the crash to be seen")
        assert (process.wait(), process.poll(), process.stdout.captured) == (3, 3, b"out\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_program_that_kills_the_guest_gets_nothing_by_it(
    gvisor_sandbox: Sandbox, number: int
) -> None:
    """A program of root's can end the sandbox: that is a crash, and never a program's status."""
    with pytest.raises(SandboxCrashed, match=rf"its guest has ended: signal {number:d}"):
        gvisor_sandbox.exec(["sh", "-c", f"kill -{number:d} 1; sleep 60"])


def test_a_closed_sandbox_is_gone(gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` ends all programs, a second one does nothing, and the end is noted as clean."""
    # A busy machine takes longer than a second for it.
    monkeypatch.setattr(channel, "_EXIT_PATIENCE", PATIENCE)
    sandbox = gvisor.sandbox()
    process = sandbox.popen(["sleep", "60"])
    results: list[object] = []

    def wait() -> None:
        try:
            results.append(process.wait())
        except GvisorError as error:
            results.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    sandbox.close()
    sandbox.close()
    thread.join(20)
    assert [type(result) for result in results] == [SandboxCrashed]
    assert "it was closed" in str(results[0])
    record = gvisor.records[-1]
    assert record.completed is not None
    assert (record.completed.returncode, record.completed.leaks, record.error) == (0, (), None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a memory limit is a cgroup")
def test_a_limit_on_memory_is_named(gvisor: Gvisor) -> None:
    """A kill for memory is named in the sandbox's error or in the outcome."""
    with gvisor.sandbox(memory="128M") as sandbox:
        hungry = "x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))"
        ends: list[object] = []
        try:
            ends.append(sandbox.exec(["python3", "-c", hungry], timeout=240).outcome)
        except SandboxCrashed as error:
            ends.append("out of memory" in str(error))
        else:
            done = sandbox.exec(["sh", "-c", "exit 1"])  # of another program it says nothing
            assert (done.outcome, done.returncode, done.exact) == (Outcome.EXITED, 1, True)
        assert ends in ([Outcome.OUT_OF_MEMORY], [True])


def test_the_runs_in_a_sandbox_are_in_the_test_s_report(gvisor: Gvisor) -> None:
    """Each program has its record with the harness, and the sandbox itself has one at its end."""
    with gvisor.sandbox() as sandbox:
        done = sandbox.exec(["echo", "hi"])
        assert gvisor.records[-1].completed is done
        with pytest.raises(GvisorError):
            sandbox.exec(["sleep", "9"], timeout=0.2)
        assert isinstance(gvisor.records[-1].completed, Completed)
        assert gvisor.records[-1].error is not None
        for number in range(MAX_RECORDS):
            sandbox.exec(["true", str(number)])
        assert [record.args[1] for record in gvisor.records[-2:]] == ["48", "49"]
        assert len(gvisor.records) == MAX_RECORDS  # each holds its output
    assert "guest/warm/init_process.py" in gvisor.records[-1].args[-1]


class _Rang(Exception):
    """The exception of the handler of a signal, such as that of pytest-timeout."""


def _ring(*_: object) -> None:
    raise _Rang


def test_an_exception_of_a_signal_s_handler_leaves_a_sandbox_that_works(gvisor: Gvisor) -> None:
    """At 400 moments of a message and its answer: the next message has an answer, perhaps anew.

    On a fast machine, most answers come before the signal: there are more tries then.
    """
    rang, moment, before = 0, 0, signal.signal(signal.SIGALRM, _ring)
    try:
        with gvisor.sandbox() as sandbox, warnings.catch_warnings():
            warnings.simplefilter("ignore", PytestGvisorWarning)
            while moment < 400 or rang <= 40:
                moment += 1
                try:
                    signal.setitimer(signal.ITIMER_REAL, (1 + moment % 400) * 5e-6)
                    sandbox.ping()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except _Rang:
                    rang += 1
                sandbox.ping(timeout=PATIENCE)
            assert sandbox.exec(["echo", "hi"]).stdout == "hi\n"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_of_pytest_s_process_leaves_a_sandbox_to_its_parent(gvisor: Gvisor) -> None:
    """Neither its use nor its end there sends anything to the sandbox, and each lock is free."""
    sandbox = gvisor.sandbox()
    snapshot, module = sandbox.snapshot(), sandbox.load("textwrap")
    uses: list[Callable[[], object]] = [
        lambda: sandbox.exec(["true"]),
        lambda: sandbox.popen(["true"]),
        lambda: sandbox.put("/tmp/file", "text"),
        lambda: program.wait(timeout=9),
        lambda: module.dedent(" here"),
        lambda: module.dedent(" again"),
        lambda: sandbox.network(["127.0.0.1:9"]).__enter__(),
    ]
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        assert sandbox._channel is not None
        with sandbox._channel.lock, module._gvisor_link._turn:
            held.set()
            go_on.wait()

    holder = threading.Thread(target=hold)
    with sandbox.popen(["cat"]) as program, sandbox.forward(80) as forward:
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            status = 1
            try:
                for use in uses:
                    gone = pytest.raises((SandboxCrashed, NoAnswer), match="a fork of the one that")
                    with gone:
                        use()
                for thing in (module, program, forward, snapshot, sandbox):
                    thing.__exit__(None, None, None)
                gvisor.close()
                status = 0
            finally:
                os._exit(status)
        go_on.set()
        assert os.waitpid(pid, 0)[1] == 0
        assert sandbox.exec(["echo", "here"], check=True).stdout == "here\n"
        program.stdin.close()
        assert program.wait() == 0
    with snapshot, gvisor.sandbox(snapshot=snapshot) as copy:
        assert copy.alive
