"""The steps to a snapshot: the guest is put to rest, the sandbox is saved, the guest wakes up."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING

from pytest_gvisor.errors import GvisorError, SnapshotError
from pytest_gvisor.guest.frames import TAG_SIZE
from pytest_gvisor.run import saved
from pytest_gvisor.runsc import saving
from pytest_gvisor.sandbox.peers import Answer
from pytest_gvisor.sandbox.snapshot import Snapshot, wake_up

if TYPE_CHECKING:
    from pytest_gvisor.run.workload import Workload
    from pytest_gvisor.sandbox.channel import Channel


def take(workload: Workload, channel: Channel, wait: float) -> Snapshot:
    """Save the sandbox of a channel within ``wait`` seconds. The sandbox runs on.

    Raises `SnapshotError`, also where the time is up; the sandbox is killed then.
    """
    request, deadline = channel.driven.request, time.monotonic() + wait
    saving.check(request.runsc, request.platform, request.way)
    saving.save_flags(request.runsc)  # runsc is asked before the sandbox has to wait
    tag = secrets.token_bytes(TAG_SIZE)
    rest = Answer(channel.lock, "answer")
    number = channel.hold(rest, {"op": "rest", "tag": tag.hex()})
    try:
        _save(channel, rest, deadline, wait)
    except GvisorError:
        raise
    except BaseException:  # Ctrl-C: the guest is at rest
        channel.kill("saving it was given up")
        raise
    finally:
        channel.release(wake_up(tag, restored=0))
    image = channel.driven.finish_save()
    session = os.path.dirname(channel.driven.workspace.folder)
    folder = os.path.join(session, f"saved-{secrets.token_hex(4)}")
    size = saved.size_of(image)
    try:
        os.rename(image, folder)
    except OSError as error:
        raise SnapshotError(f"cannot keep {image}: {error.strerror}") from error
    return Snapshot(
        request=request,
        workload=workload,
        folder=folder,
        size=size,
        tag=tag,
        last_id=number,
    )


def _save(channel: Channel, rest: Answer, deadline: float, wait: float) -> None:
    """Let the guest come to rest, and have runsc save the sandbox."""
    if channel.wait_for(lambda: rest.message is not None, deadline):
        channel.driven.begin_save()
        if channel.wait_for(channel.driven.is_saved, deadline, saved.WATCH):
            return
    channel.kill("it could not be saved in time")
    raise SnapshotError(f"the sandbox was not saved within {wait:g} s; it has been killed")
