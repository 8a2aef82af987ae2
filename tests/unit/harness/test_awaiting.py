"""A run that asyncio awaits."""

import asyncio
import contextlib
import inspect
import os
import sys
import threading
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Platform, UsageError
from pytest_gvisor.base.errors import FORBIDDEN
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.run.threads import in_thread


def test_a_run_that_is_awaited_takes_what_run_takes() -> None:
    """The signatures are the same."""
    assert inspect.signature(Gvisor.arun) == inspect.signature(Gvisor.run)
    assert inspect.signature(Gvisor.asandbox) == inspect.signature(Gvisor.sandbox)


def test_a_cancellation_waits_for_the_thread_however_often_it_comes() -> None:
    """The first one reaches the thread, and its own error is not raised."""
    begun, told, released = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def run() -> None:
        begun.set()
        seen.append(told.wait(60) and released.wait(60))
        raise ValueError

    async def cancelled() -> None:
        task = asyncio.ensure_future(in_thread(run, told.set))
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


FORBIDDEN_ACT = ValueError("a forbidden act")
setattr(FORBIDDEN_ACT, FORBIDDEN, True)


@pytest.mark.parametrize(
    ("ends", "raised"),
    [
        (None, asyncio.CancelledError),
        (OSError("its own"), asyncio.CancelledError),
        (FORBIDDEN_ACT, ValueError),
        (SystemExit(3), SystemExit),
    ],
    ids=["a result", "an error", "a forbidden act", "an exit"],
)
def test_a_cancellation_hides_no_forbidden_act(
    ends: BaseException | None, raised: type[BaseException]
) -> None:
    """Nor the end of the process. Other errors are those of the run that nobody awaits any more."""
    begun, told = threading.Event(), threading.Event()

    def run() -> None:
        begun.set()
        told.wait(60)
        if ends is not None:
            raise ends

    async def cancelled() -> None:
        task = asyncio.ensure_future(in_thread(run, told.set))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(raised):
            await task

    with contextlib.suppress(SystemExit):  # a task passes it on to the loop as well
        asyncio.run(cancelled())


def gvisor(**settings: Any) -> Gvisor:
    """A harness that starts nothing."""
    nothing: Any = None
    chosen = Settings(**settings)
    return Gvisor(runsc=nothing, launcher=nothing, platform=Platform.SYSTRAP, settings=chosen)


def test_its_python_is_the_running_one() -> None:
    """The running Python is at its own path in `host()`."""
    assert gvisor().python == os.path.normpath(sys.executable)


def test_an_image_has_a_python_of_its_own() -> None:
    """The running one is not in it, so its path would be wrong."""
    with pytest.raises(UsageError, match=r"image='app\.tar'"):
        gvisor(image="app.tar").python  # noqa: B018 -- a property
