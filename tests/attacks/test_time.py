"""A test inside, or a workload, wants to keep the host for ever, or to fill it."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.programs import clock
from pytest_gvisor.run.connected import Driven
from pytest_gvisor.sandbox.output import Reader
from tests.forks import a_fork

PROJECT = """
import os, signal, struct, time

def loud():
    if os.fork() == 0:
        fd = os.open("/proc/1/fd/2", os.O_WRONLY)
        while True:
            os.write(fd, b"x" * 9999 + b"\\n")

def again(act, *args):
    while True:
        try:
            act(*args)
        except BaseException:
            pass

def test_it(pytestconfig, subtests):
    channel = pytestconfig.pluginmanager.get_plugin("gvisor-worker")._link
    test = os.environ["PYTEST_CURRENT_TEST"].split(" ")[0]
    head = struct.pack("<8sIII", bytes(8), 0, 2**26, 0)

    def flood(kind, pause=0, **fields):
        while time.sleep(pause) is None:
            channel.send(kind, id=test, **fields)

    class AtTheEnd:
        def pytest_sessionfinish(self):
            {at_the_end}

    pytestconfig.pluginmanager.register(AtTheEnd())
    {in_the_test}
"""

ATTACKS = {
    "a flood in a debugger": ("loud(); breakpoint()", ""),
    "a debugger again and again": ("again(breakpoint)", ""),
    "questions": ("flood('debugger', event='open', shown=False)", ""),
    "a trickle at the end": ("", "flood('warning', 0.08, text='x' * 30_000, when='runtest')"),
    "a flood at the end": ("", "loud(); signal.pause()"),
    "half a message": ("again(os.write, channel.socket, head)", ""),
    "short messages": ("flood('phase', when='call')", ""),
    "subtests": ("again(lambda: subtests.test().__enter__())", ""),
    "a stop": ("loud(); os.kill(os.getpid(), signal.SIGSTOP)", ""),
    "pytest.exit": ("import pytest; pytest.exit('now')", "again(pytest.exit, 'again')"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_test_inside_keeps_the_host_for_its_time_alone(
    attack: str, project: pytest.Pytester
) -> None:
    """However much or little comes from inside, the session ends, and shows a bounded output."""
    test, end = ATTACKS[attack]
    project.makepyfile(PROJECT.format(in_the_test=test or "pass", at_the_end=end or "pass"))
    options = ("--in-gvisor", "--gvisor-strict", "--gvisor-timeout=1")
    result = project.runpytest_subprocess(*options, timeout=120)
    assert sum(map(len, result.outlines)) < 40_000_000
    assert " in " in result.outlines[-1]


def test_no_source_of_a_failure_keeps_the_host_at_its_colours(project: pytest.Pytester) -> None:
    """Pygments looks at each zero as often as there are zeros: some minutes, for these."""
    project.makepyfile("""
        from _pytest.reports import TestReport

        def test_it():
            real = TestReport._to_json

            def forged(self):
                data = real(self)
                for traceback, *_ in (data["longrepr"] or {"chain": []})["chain"]:
                    traceback["reprentries"][0]["data"]["lines"] = ["    '%" + "0" * 80_000]
                return data

            TestReport._to_json = forged
            assert 0
    """)
    result = project.runpytest_subprocess("--in-gvisor", "--color=yes", timeout=60)
    result.assert_outcomes(failed=1)
    assert "0" * 80_000 in result.stdout.str()


def test_an_strace_fills_neither_disk_nor_memory(gvisor: Gvisor) -> None:
    """A log of any length takes no room in the session folder, and the report says it was cut."""
    calls = "import os\nfor _ in range(5000): os.getppid()"
    with gvisor.sandbox(debug=True) as sandbox:
        sandbox.exec(["python3", "-c", calls], check=True)
        logs = Path(gvisor._launcher.session().path).glob("*/logs/*")
        assert {path.stat().st_size for path in logs} == {0}
    first, *lines = gvisor.records[-1].debug_logs["boot"].splitlines()
    assert first.endswith("bytes before …]")
    assert any("strace.go" in line for line in lines)
    assert sum(map(len, lines)) < 300_000


def test_no_cancelled_read_takes_what_has_come(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task is cancelled when its read has returned: the bytes are those of the next one."""
    take = Reader._take

    async def act() -> list[bytes]:
        def cancelled(reader: Reader, *args: Any) -> bytes:
            data = take(reader, *args)
            # The task cannot end before: the loop calls these in their order.
            loop.call_soon_threadsafe(reads.cancel)
            return data

        loop, found = asyncio.get_running_loop(), []
        async with gvisor.asandbox() as box, await box.popen(["seq", "9"]) as program:
            stdout = program.stdout
            two = functools.partial(stdout.read, 2)
            calls: list[Callable[[], Awaitable[bytes]]] = [stdout.readline, stdout.read1, two]
            for read in calls:
                with monkeypatch.context() as patched:
                    patched.setattr(Reader, "_take", cancelled)
                    reads = asyncio.ensure_future(read())
                    with pytest.raises(asyncio.CancelledError):
                        await reads
                found.append(await stdout.readline())
        return found

    assert asyncio.run(act()) == [b"1\n", b"2\n", b"3\n"]


def test_no_sandbox_is_given_up_because_this_process_was_stopped(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user comes back to a Ctrl-Z in the midst of a start, which has a minute for itself."""
    begin, now, stopped = Driven.start, clock.monotonic, [0.0]

    def stops(driven: Driven) -> object:
        found = begin(driven)
        stopped.append(600.0)
        return found

    monkeypatch.setattr(Driven, "start", stops)
    monkeypatch.setattr(clock, "monotonic", lambda: now() + sum(stopped))
    with gvisor.sandbox() as sandbox:
        assert sandbox.exec(["echo", "x"]).stdout == "x\n"


def test_no_cancelled_wait_for_a_server_goes_on(gvisor: Gvisor) -> None:
    """Nothing listens, and the wait has an hour."""

    async def act() -> None:
        async with gvisor.asandbox() as box:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(box.wait_for_http(8000, timeout=3600), 0.1)
            assert (await box.exec(["echo", "usable"])).stdout == "usable\n"

    begun = time.monotonic()
    asyncio.run(act())
    assert time.monotonic() - begun < 600


def test_no_fork_of_this_process_keeps_an_input_open(gvisor: Gvisor) -> None:
    """Another thread makes a worker of multiprocessing amid the run, and the worker lives on."""
    with contextlib.ExitStack() as forks:

        def pieces() -> Iterator[bytes]:
            forks.enter_context(a_fork())
            yield b"all of it"

        assert gvisor.run(["cat"], input=pieces(), timeout=20).stdout == "all of it"
