"""Looks at the host's files have a deadline."""

import asyncio
import errno
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from pytest_gvisor.base import errors
from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.run import threads


def test_a_program_that_a_thread_runs_on_counts_as_forbidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its acts after the test's end would be nobody's. A program without ``forbid`` is none."""
    monkeypatch.setattr(threads, "DEADLINE", 0)
    running = threads.Running()
    with running.here(["exec"]):
        running += [(0, ["connect"]), (0, ())]  # of other threads
        running.wait()
    ((text, forbid),) = [errors.forbidden.pop() for _ in range(len(errors.forbidden))]
    assert ("runs on" in text, forbid) == (True, ["connect"])


def test_a_program_that_a_thread_ends_in_time_does_not() -> None:
    """The test's end waits for it."""
    running = threads.Running()
    entry = (0, ["exec"])
    running.append(entry)
    ends = threading.Timer(0.2, running.remove, [entry])
    ends.start()
    running.wait()
    ends.join()
    assert not errors.forbidden


def test_an_answer_comes_through() -> None:
    """A look that ends returns its answer."""
    assert threads.look(lambda: "there", "") == "there"

    def late() -> str:
        time.sleep(0.05)
        return "late"

    assert threads.look(late, "") == "late"


def test_a_look_that_fails_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder that is gone raises nothing in the thread."""
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert threads.look(lambda: os.path.abspath("x"), "none") == "none"
    assert failed == []


def test_a_look_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that hangs ends at the deadline. No other look begins until its thread has ended."""
    monkeypatch.setattr(threads, "DEADLINE", 0.05)
    freed = threading.Event()
    begun = time.monotonic()
    assert threads.look(lambda: "late" if freed.wait(30) else "", "none") == "none"
    assert time.monotonic() - begun < 10
    assert threads.look(lambda: pytest.fail("a second look"), "none") == "none"
    # Python waits at its exit for all threads but these.
    assert [thread.daemon for thread in threads._hung] == [True]
    freed.set()
    for thread in list(threads._hung):
        thread.join(30)
    assert threads.look(lambda: "there", "none") == "there"


def test_without_a_thread_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes is reached, say."""

    def refused(_self: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert threads.look(lambda: "there", "none") == "none"
    with pytest.raises(LaunchError, match="no thread can be started"):
        threads.start(threading.Thread())


@pytest.mark.parametrize(
    ("size", "limit", "stack"), [(65536, 8192, 65536), (0, 8192, 8192), (0, -1, 0)]
)
def test_memory_for_a_thread_s_stack_is_tried(
    monkeypatch: pytest.MonkeyPatch, size: int, limit: int, stack: int
) -> None:
    """The size is that of Python's threads, or the soft limit on a stack, which may be none."""
    mapped: list[int] = []

    def note(_fd: int, size: int, **_: int) -> NoReturn:
        mapped.append(size)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(threading, "stack_size", lambda: size)
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (limit, 7))
    monkeypatch.setattr("pytest_gvisor.run.threads.mmap.mmap", note)
    with pytest.raises(LaunchError, match=r"no [0-9]+ bytes of memory for the thread"):
        threads.start(threading.Thread())
    assert mapped == [stack + 72 * 1024 * 1024]


def test_without_memory_for_a_thread_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` would wait for ever for a thread that has no memory for its first steps."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("pytest_gvisor.run.threads.mmap.mmap", refused)
    assert threads.look(lambda: pytest.fail("a thread was started"), "none") == "none"


@pytest.mark.fault("G6")
def test_a_call_that_asyncio_has_no_thread_for_is_never_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The executor keeps it, and a thread of it that was busy would make it later."""
    made: list[str] = []
    freed = threading.Event()

    def refused(_self: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    async def calls() -> None:
        busy = asyncio.create_task(threads.in_thread(lambda: freed.wait(30), lambda: None))
        await asyncio.sleep(0)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refused)
            with pytest.raises(LaunchError, match="asyncio has no thread for it: can't start"):
                await threads.in_thread(lambda: made.append("late"), lambda: None)
        freed.set()
        await busy
        await threads.in_thread(lambda: made.append("next"), lambda: None)

    asyncio.run(calls())
    assert made == ["next"]
