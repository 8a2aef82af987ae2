"""Slots for starts: so many runs of this user start at once, and further ones wait.

A start is work for a processor. If dozens begin at once, each takes seconds, and deadlines pass
before the workloads have done anything.

A slot is a file beside the sessions, and is taken by flock(2). So all processes of a user share the
slots, and the kernel frees that of a process that dies. No other user can open the files.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

from pytest_gvisor.base.errors import stage
from pytest_gvisor.programs import clock
from pytest_gvisor.programs.linux import ready
from pytest_gvisor.sessions.private import closing_lock, open_lock, take_lock

PER_PROCESSOR = 2
"""Starts at once for each processor. With one, processors are idle while starts wait for the
kernel. With four, 64 runs at once that import modules miss deadlines of 5 seconds."""

PATIENCE = 60.0
"""Seconds until a start goes on without a slot: another process may hold one and be stopped."""

SLOT = ".lock-start-"
"""The beginning of a slot's name; its number follows."""

_PAUSE = 0.01
_LOOK = 0.1


class Starts:
    """The slots, as the threads of one process share them."""

    def __init__(self) -> None:
        self._count = PER_PROCESSOR * len(os.sched_getaffinity(0))
        # Threads wait here in their order, and only the first of them look at the files.
        self._gate = threading.Semaphore(self._count)

    @contextlib.contextmanager
    def slot(self, folder: str, stop: int | None = None) -> Iterator[float]:
        """Hold a slot of the sessions' ``folder`` in the block; yield the seconds of the wait.

        The wait ends early, without a slot, once the descriptor ``stop`` is readable. Raises
        `LaunchError`.
        """
        began = clock.monotonic()
        with contextlib.ExitStack() as held:
            if self._enter(began + PATIENCE, stop):
                held.callback(self._gate.release)
                self._take(folder, held, began + PATIENCE, stop)
            yield clock.monotonic() - began

    def _enter(self, deadline: float, stop: int | None) -> bool:
        """Pass the gate; return whether it was passed."""
        seconds = PATIENCE if stop is None else _LOOK
        while not (passed := self._gate.acquire(timeout=seconds)) and _goes_on(deadline, stop):
            pass
        return passed

    def _take(
        self, folder: str, held: contextlib.ExitStack, deadline: float, stop: int | None
    ) -> None:
        """Take a slot, which ``held`` gives back."""
        while True:
            for number in range(self._count):
                doing = f"cannot look for a slot in {folder}"
                with stage("starts", doing), contextlib.ExitStack() as tried:
                    path = os.path.join(folder, f"{SLOT}{number}")
                    file = tried.enter_context(closing_lock(open_lock(path)))
                    if take_lock(file):
                        held.enter_context(tried.pop_all())
                        return
            if not _goes_on(deadline, stop):
                return
            time.sleep(_PAUSE)


def _goes_on(deadline: float, stop: int | None) -> bool:
    """Whether a wait goes on: neither its deadline has passed, nor is ``stop`` readable."""
    stopped = stop is not None and ready(stop, seconds=0)
    return not stopped and clock.monotonic() < deadline
