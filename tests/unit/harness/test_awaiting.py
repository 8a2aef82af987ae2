"""A run that asyncio awaits."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import threading

import pytest

from pytest_gvisor import Completed, Gvisor
from pytest_gvisor.harness import awaiting


def test_a_run_that_is_awaited_takes_what_run_takes() -> None:
    """The signatures are the same."""
    assert inspect.signature(Gvisor.arun) == inspect.signature(Gvisor.run)


def test_a_cancellation_waits_for_the_thread_however_often_it_comes() -> None:
    """The descriptor is readable from the first one on, and closed after the thread's end."""
    begun, released = threading.Event(), threading.Event()
    seen: list[bool] = []

    def run(stop: int) -> Completed:
        begun.set()
        assert select.select([stop], [], [], 60)[0]
        assert released.wait(60)
        seen.append(os.fstat(stop).st_ino > 0)
        raise ValueError

    async def cancelled() -> None:
        task = asyncio.ensure_future(awaiting.in_thread(run))
        await asyncio.to_thread(begun.wait, 60)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        released.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert seen == [True]
