"""A saved sandbox: how it is made, the settings that a copy must have, the frame that wakes it.

The guest is put to rest, the sandbox is saved, and the guest wakes up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
from collections.abc import Mapping

from pytest_gvisor.base.errors import NotReady, SnapshotError, UsageError
from pytest_gvisor.guest.wire.frames import TAG_SIZE, Encoder
from pytest_gvisor.oci.spec import UserSpec
from pytest_gvisor.programs import clock
from pytest_gvisor.run import connected
from pytest_gvisor.run.request import Request
from pytest_gvisor.run.workload import Workload
from pytest_gvisor.sandbox.channel import Channel
from pytest_gvisor.sandbox.peers import Answer

_FIXED = (
    "network", "netns", "rootless", "image", "project", "memory", "pids", "cpus", "shm",
)  # fmt: skip
"""Settings that a copy has from the saved sandbox."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot(contextlib.AbstractContextManager["Snapshot"]):
    """A saved sandbox, from which ``gvisor.sandbox(snapshot=…)`` starts any number of copies.

    It lies in the folder of the session, and is removed with it if it is not closed before.
    """

    request: Request = dataclasses.field(repr=False)
    """The run of the sandbox that was saved."""

    workload: Workload = dataclasses.field(repr=False)
    folder: str
    """The folder of the image, which ``runsc`` wrote."""

    size: int
    """Bytes of the image."""

    tag: bytes = dataclasses.field(repr=False)
    """The tag of the frame that wakes the guest up."""

    last_id: int = dataclasses.field(repr=False)
    """The last id that the guest of the image knows."""

    owner: int = dataclasses.field(default_factory=os.getpid, repr=False)
    """The process that has made it; in a fork, `close` does nothing."""

    def wake(self, tag: bytes) -> bytes:
        """Return the frame that wakes up a copy's guest, which takes ``tag`` from then on."""
        return wake_up(self.tag, restored=1, tag=tag.hex(), oldest=self.last_id + 1)

    def workload_with(
        self, *, env: Mapping[str, str] | None, cwd: str | None, user: UserSpec | None
    ) -> Workload:
        """Return the workload with other defaults for the programs of a copy."""
        ours = self.workload
        who, home = (ours.user, ours.home) if user is None else ours.rootfs.find_user(user)
        return dataclasses.replace(
            ours, env={**ours.env, **(env or {})}, cwd=cwd or ours.cwd, user=who, home=home
        )

    def check(self, request: Request) -> None:
        """Raise `UsageError` if a sandbox of this request cannot be a copy.

        Raises `SnapshotError` where the image is gone.
        """
        ours, theirs, differ = self.request, request, []
        for name in _FIXED:
            had, has = (getattr(one.settings, name) for one in (ours, theirs))
            if had != has:
                differ.append(f"{name}={has!r} (saved with {had!r})")
        if ours.platform is not theirs.platform:
            differ.append(f"platform {theirs.platform} (saved on {ours.platform})")
        if ours.runsc.sha256 != theirs.runsc.sha256:
            differ.append(f"runsc {theirs.runsc.version} (saved by {ours.runsc.version})")
        if differ:
            raise UsageError(
                f"the snapshot was made with other settings: {', '.join(differ)}",
                next_step="Make a snapshot with these settings, or leave them out.",
            )
        if not os.path.isdir(self.folder):
            raise SnapshotError("the snapshot is closed, or its files are gone")

    def close(self) -> None:
        """Remove the image. Copies that run go on; a second call does nothing."""
        if self.owner == os.getpid():
            shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        """Remove the image."""
        self.close()


def wake_up(own: bytes, /, **fields: object) -> bytes:
    """Return the frame that wakes up a guest at rest; only its host has the tag ``own``."""
    return Encoder(own).head({"op": "wake", "id": 0, **fields})


def take(workload: Workload, channel: Channel, wait: float) -> Snapshot:
    """Save the sandbox of a channel within ``wait`` seconds. The sandbox runs on.

    Raises `SnapshotError`, also where the time is up; the sandbox is killed then.
    """
    request, deadline = channel.driven.request, clock.monotonic() + wait
    connected.check(request.platform, request.way)
    tag = secrets.token_bytes(TAG_SIZE)
    rest = Answer(channel)
    channel.hold(rest, {"op": "rest", "tag": tag.hex()})
    try:
        _save(channel, rest, deadline, wait)
    finally:
        # However the saving ends, by a Ctrl-C too, the guest must not stay at rest.
        channel.release(wake_up(tag, restored=0))
    image = channel.driven.finish_save()
    session = os.path.dirname(channel.driven.workspace.folder)
    folder = os.path.join(session, f"saved-{secrets.token_hex(4)}")
    size = connected.size_of(image)
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
        last_id=rest.id,
    )


def _save(channel: Channel, rest: Answer, deadline: float, wait: float) -> None:
    """Let the guest come to rest, and have runsc save the sandbox."""
    text = f"the sandbox was not saved within {wait:g} s; it has been killed"
    try:
        with rest.lock:
            rest.wait(deadline, text)
            channel.driven.begin_save()
            while not channel.driven.is_saved():
                rest.wait_change(deadline, text, connected.WATCH)
    except NotReady:
        channel.kill("it could not be saved in time")
        raise SnapshotError(text) from None
