"""After several runs alike, a runsc waits for the next one, at its log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.completed import WorkloadTimeout
from pytest_gvisor.errors import GvisorError
from pytest_gvisor.programs import leftovers
from pytest_gvisor.programs.proc import words_of
from pytest_gvisor.run import waiting
from pytest_gvisor.run.waiting import Lobby, Waiting
from tests.runsc.conftest import PATIENCE, wait_for

_OPENAT = {"x86_64": "257", "aarch64": "56"}


def at_its_log(pid: int) -> set[str]:
    """The threads of a process that are in openat(2), with its arguments."""
    found = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
                line = file.read()
            if line.split()[0] == _OPENAT[os.uname().machine]:
                found.add(f"{thread} {line}")
    except OSError:  # a process or thread that has ended
        return set()
    return found


def is_waiting(one: Waiting) -> bool:
    """Whether a runsc waits in the same call for a while, which is that of its log."""
    if not one.is_alive() or "runsc" not in words_of(one.pid)[:1]:
        return False
    before = at_its_log(one.pid)
    time.sleep(0.05)
    return bool(before & at_its_log(one.pid))


def next_one(gvisor: Gvisor) -> Waiting:
    """The runsc that waits for the next run of this kind, when it has come to its log."""
    gvisor.run(["true"], check=True)
    one = Lobby.of(gvisor._launcher)._waiting
    assert one is not None
    wait_for(lambda: is_waiting(one), "runsc to open its log")
    return one


@pytest.fixture
def ready(gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """A runsc that waits for the next run of its kind, after the first one of its release."""
    monkeypatch.setattr(waiting, "ALIKE", 1)
    one = next_one(gvisor)
    while Lobby.of(gvisor._launcher)._proven is not gvisor.runsc:
        one = next_one(gvisor)
    return one


def used(gvisor: Gvisor, one: Waiting) -> bool:
    """Whether the last run was that of this runsc."""
    return gvisor.records[-1].argv[-1] == one.id


def test_a_run_with_a_runsc_that_waited_has_its_input_output_and_status(
    gvisor: Gvisor, ready: Waiting
) -> None:
    done = gvisor.run(["sh", "-c", "cat; echo no >&2; exit 3"], input=b"yes")
    assert used(gvisor, ready)
    assert (done.stdout, done.stderr, done.returncode, done.exact) == ("yes", "no\n", 3, True)
    assert done.leaks == ()


def test_its_errors_are_those_of_any_other_run(gvisor: Gvisor, ready: Waiting) -> None:
    with pytest.raises(GvisorError) as one:
        gvisor.run(["/no/such/program"])
    assert used(gvisor, ready)
    Lobby.of(gvisor._launcher).close()
    with pytest.raises(GvisorError) as other:
        gvisor.run(["/no/such/program"])
    assert (type(one.value), str(one.value)) == (type(other.value), str(other.value))


def test_its_deadline_kills_it(gvisor: Gvisor, ready: Waiting) -> None:
    with pytest.raises(WorkloadTimeout):
        gvisor.run(["sleep", "1000"], timeout=3)
    assert used(gvisor, ready)
    assert not leftovers.processes(ready.folder, everywhere=True)


@pytest.mark.parametrize("change", [{"network": "host"}, {"max_output": 1000}])
def test_a_run_of_another_kind_ends_it(
    gvisor: Gvisor, ready: Waiting, change: dict[str, Any]
) -> None:
    gvisor.run(["true"], check=True, **change)
    assert not used(gvisor, ready)
    wait_for(lambda: not os.path.exists(ready.folder), "its folder to be removed")
    assert not leftovers.processes(ready.folder, everywhere=True)


def test_a_run_does_without_one_that_has_ended(gvisor: Gvisor, ready: Waiting) -> None:
    assert ready.is_alive()
    os.kill(ready.pid, signal.SIGKILL)
    wait_for(lambda: not ready.is_alive(), "the keeper to report its end")
    gvisor.run(["true"], check=True)
    assert not used(gvisor, ready)


@contextmanager
def fork() -> Iterator[None]:
    """A fork of this process, which does nothing meanwhile."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def test_a_fork_does_not_hold_the_input_of_the_next_run(gvisor: Gvisor, ready: Waiting) -> None:
    with fork():
        done = gvisor.run(["cat"], input=b"all of it")
    assert used(gvisor, ready)
    assert done.stdout == "all of it"


def test_nothing_of_it_outlives_a_killed_process(gvisor: Gvisor) -> None:
    program = """
        import os, signal, sys
        from pytest_gvisor import session
        from pytest_gvisor.run import waiting

        waiting.ALIKE = 1
        with session(runsc=sys.argv[1], platform=sys.argv[2]) as gvisor:
            gvisor.run(["true"], check=True)
            folder = waiting.Lobby.of(gvisor._launcher)._waiting.folder
            print(folder, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    argv = [sys.executable, "-c", textwrap.dedent(program), gvisor.runsc.path, gvisor.platform]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    session = os.path.dirname(done.stdout.strip())
    wait_for(lambda: not os.path.exists(session), "the session's folder to be removed")
    assert not leftovers.processes(session, everywhere=True)
