"""A run that asyncio awaits: in a thread, and killed if its task is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from pytest_gvisor.completed import Completed


async def in_thread(run: Callable[[int], Completed]) -> Completed:
    """Call ``run`` in a thread of the loop's executor, and return its result.

    Its argument is a descriptor that becomes readable if the task is cancelled. The cancellation
    goes on when ``run`` has returned, so that nothing of the sandbox is left then.
    """
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        thread = asyncio.ensure_future(asyncio.to_thread(run, stop))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            os.eventfd_write(stop, 1)
            # A second cancellation changes nothing: the descriptor has to outlive the thread.
            while not thread.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([thread])
            with contextlib.suppress(Exception):
                thread.result()
            raise
    finally:
        os.close(stop)
