"""Threads: their start, with an error that names the exhausted resource, looks with a deadline, and
calls for asyncio.

A stat(2) on a dead network file system may never return, and the kernel does not interrupt it. So a
daemon thread looks at the host's files. If it hangs, the caller goes on without it. It does not
keep the process from ending: Python does not wait for daemon threads, and the kernel ends them.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import mmap
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pytest_gvisor.base.errors import FORBIDDEN, LaunchError, UsageError, note_forbidden, stage
from pytest_gvisor.programs import clock

_ROOM = (64 + 8) * 1024 * 1024
"""Bytes of address space beside a thread's stack: glibc reserves 64 MiB for malloc, and Python
needs a few more."""

DEADLINE = 5.0
"""Seconds for one look. It takes milliseconds, and a busy machine may take longer than a second."""

_Answer = TypeVar("_Answer")
_hung: list[threading.Thread] = []


class Running(list[tuple[int, Sequence[str]]]):
    """The threads that run a program, and then check what it did, each with its ``forbid``."""

    over = False
    """Whether no more of them may begin with one."""

    @contextlib.contextmanager
    def here(self, forbid: Sequence[str]) -> Iterator[None]:
        """Note that this thread does so in the block. Raises `UsageError` if it may not."""
        self.append(entry := (threading.get_ident(), forbid))
        try:
            if self.over and forbid:
                raise UsageError(f"forbid={forbid!r}: the test of this thread has ended")
            yield
        finally:
            self.remove(entry)

    def wait(self) -> None:
        """Wait `DEADLINE` at most for the other threads: the test's end has to know of each act.

        A program that runs on may have done what is forbidden, and counts so.
        """
        here, until = threading.get_ident(), clock.monotonic() + DEADLINE
        while (others := [f for thread, f in [*self] if f and thread != here]) and (
            clock.monotonic() < until
        ):
            time.sleep(0.001)
        for forbid in others:
            note_forbidden("a program of a thread runs on: its acts are unknown", forbid)


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises `LaunchError`, stage ``channel``, without memory or a thread for it.

    `threading.Thread.start` waits until the new thread has begun. If there is memory for the thread
    and not for its first steps, it waits for ever. So memory for both is mapped first, as a trial.
    """
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    size = max(stack, 0) + _ROOM
    with stage("channel", f"no {size} bytes of memory for the thread that listens"):
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    try:
        thread.start()
    except RuntimeError as error:
        text = "no thread can be started that listens to the sandbox"
        raise LaunchError("channel", text, errno=errno.EAGAIN) from error


def look(at: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Return what ``at`` returns, or ``otherwise`` if that takes longer than `DEADLINE`.

    It also returns ``otherwise`` if ``at`` raises `OSError`, because the current folder may be
    gone, or `ValueError`, for a text that is no path. As long as one look hangs, no other is begun.
    """
    _hung[:] = [thread for thread in _hung if thread.is_alive()]
    if _hung:
        return otherwise
    answers: list[_Answer] = []

    def ask() -> None:
        with contextlib.suppress(OSError, ValueError):
            answers.append(at())

    thread = threading.Thread(target=ask, name="gvisor-look", daemon=True)
    with contextlib.suppress(LaunchError):
        start(thread)
        thread.join(DEADLINE)
    if thread.is_alive():
        _hung.append(thread)
    return answers[0] if answers else otherwise


async def in_thread(
    run: Callable[[], _Answer],
    cancel: Callable[[], None],
    take_back: Callable[[_Answer], object] = lambda _answer: None,
) -> _Answer:
    """Call ``run`` in a thread of asyncio's executor, and return its result.

    ``cancel`` is called if the task is cancelled, and makes ``run`` return soon. The cancellation
    goes on when ``run`` has returned, so that nothing of its work is left then: ``take_back`` gets
    its result. An error of ``run`` for a forbidden act is raised in its place.
    """
    # It takes some 80 ms, and the caller has imported it.
    import asyncio  # noqa: PLC0415

    # No task, as that of asyncio.to_thread: the end of asyncio.run cancels all tasks, not this.
    loop, waiting, in_context = asyncio.get_running_loop(), [run], contextvars.copy_context().run
    try:
        thread = loop.run_in_executor(None, in_context, lambda: waiting.pop()())  # noqa: PLW0108
    except RuntimeError as refused:
        waiting.clear()  # else a busy thread of the executor would call it later
        raise LaunchError("channel", f"asyncio has no thread for it: {refused}") from refused
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        cancel()
        # A second cancellation changes nothing: ``run`` uses what belongs to the caller.
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        error = thread.exception()
        if error is not None and (not isinstance(error, Exception) or FORBIDDEN in vars(error)):
            raise error from None
        if error is None:
            take_back(thread.result())
        raise
