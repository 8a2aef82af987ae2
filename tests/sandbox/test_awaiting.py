"""Warm sandboxes for asyncio."""

import asyncio
from typing import Any

import pytest

from pytest_gvisor import (
    Gvisor,
    InsideError,
    Process,
    Sandbox,
    UsageError,
    WorkloadFailed,
    WorkloadTimeout,
)
from pytest_gvisor.sandbox import peers
from tests.sandbox.conftest import alive, sentries

LONG = ["sh", "-c", "sleep 1234 & echo up; sleep 1234"]


def test_programs_and_files_are_those_of_a_sandbox(gvisor: Gvisor) -> None:
    """Results and errors are the same, and two programs wait for each other's files."""

    async def act() -> list[str]:
        async with gvisor.asandbox(env={"A": "b"}) as box:
            await box.put("/tmp/in", "put\n")
            assert await box.get("/tmp/in") == b"put\n"
            with pytest.raises(InsideError, match="ENOENT"):
                await box.get("/tmp/missing")
            with pytest.raises(WorkloadFailed):
                await box.exec(["false"], check=True)
            with pytest.raises(WorkloadTimeout):
                await box.exec(["sleep", "1000"], timeout=0.2)
            script = "echo >/tmp/$0; while ! [ -e /tmp/$1 ]; do :; done; echo $0 $A"
            words = [["sh", "-c", script, *names] for names in (("a", "b"), ("b", "a"))]
            return [one.stdout for one in await asyncio.gather(*map(box.exec, words))]

    assert asyncio.run(act()) == ["a b\n", "b b\n"]
    assert sentries(gvisor) == []


def test_a_program_is_spoken_with(gvisor: Gvisor) -> None:
    """Its streams are awaited. A cancelled wait leaves it, and its ``async with`` kills it."""

    async def act() -> None:
        async with gvisor.asandbox() as box:
            async with await box.popen(["cat"]) as cat:
                await cat.stdin.write("one\n")
                assert await cat.stdout.readline() == b"one\n"
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(cat.wait(), 0.2)
                assert [cat.returncode] == [None]
            assert cat.returncode == -9
            async with await box.popen(["sh", "-c", "echo out; exit 3"]) as sh:
                assert (await sh.wait_for_output("out")).span() == (0, 3)
                assert await sh.wait() == 3

    asyncio.run(act())


@pytest.mark.parametrize("started", [False, True])
def test_a_start_that_is_cancelled_leaves_no_program(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch, *, started: bool
) -> None:
    """Nobody would have its `AsyncProcess`, whether the program has started or is about to."""
    real = Sandbox.popen

    async def act() -> str:
        def popen(box: Sandbox, *args: Any, **options: Any) -> Process:
            # The task cannot end before: the loop calls these in their order.
            if not started:
                loop.call_soon_threadsafe(start.cancel)
            process = real(box, *args, **options)
            if started:
                loop.call_soon_threadsafe(start.cancel)
            return process

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(Sandbox, "popen", popen)
        async with gvisor.asandbox() as box:
            start = asyncio.create_task(box.popen(["sleep", "1234"]))
            with pytest.raises(asyncio.CancelledError):
                await start
            return (await box.exec(["sh", "-c", "cat /proc/[0-9]*/comm"])).stdout

    assert "sleep" not in asyncio.run(act())


def test_a_network_is_opened_and_a_server_is_waited_for(gvisor: Gvisor) -> None:
    """One sandbox fetches from another, by a name that it has for the block."""
    fetch = ["python3", "-c", "import urllib.request as r; print(r.urlopen('http://web').status)"]

    async def act() -> None:
        async with gvisor.asandbox() as web, gvisor.asandbox() as box:
            await web.popen(["python3", "-m", "http.server", "80"])
            await web.wait_for_http(80)
            async with box.network({"web:80": web.port(80)}):
                assert (await box.exec(fetch, check=True)).stdout == "200\n"
            assert (await box.exec(fetch)).returncode == 1

    asyncio.run(act())


def test_a_cancelled_exec_is_killed_with_all_that_it_started(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is gone when the error is raised. No nap of a wait is waited for."""
    monkeypatch.setattr(peers.Peer.wait_change, "__defaults__", (600.0,))

    async def act() -> None:
        async with gvisor.asandbox() as box:
            task = asyncio.ensure_future(box.exec([*LONG[:2], f"touch /tmp/up; {LONG[2]}"]))
            while (await box.exec(["test", "-e", "/tmp/up"])).returncode:
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert alive(gvisor.sandboxes[-1], "sleep 1234") == []
            assert (await box.exec(["echo", "usable"])).stdout == "usable\n"

    asyncio.run(asyncio.wait_for(act(), 300))


def test_a_cancelled_start_leaves_nothing(gvisor: Gvisor) -> None:
    """The sandbox is closed again before the cancellation goes on."""

    async def act() -> None:
        with pytest.raises(UsageError, match="not been started"):
            await gvisor.asandbox().exec(["true"])
        async with gvisor.asandbox():
            raise AssertionError

    async def cancelled() -> None:
        task = asyncio.ensure_future(act())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert gvisor.sandboxes == []
    assert sentries(gvisor) == []
