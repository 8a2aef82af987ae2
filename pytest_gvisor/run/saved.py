"""The image of a saved sandbox: where there can be one, the command that writes it, its checks."""

from __future__ import annotations

import contextlib
import os
import shutil

from pytest_gvisor.errors import SnapshotError
from pytest_gvisor.run import logs
from pytest_gvisor.run.request import Request, Workspace
from pytest_gvisor.runsc.command import save_argv
from pytest_gvisor.runsc.rootless import Way
from pytest_gvisor.sessions.private import make_private
from pytest_gvisor.settings import Platform

LARGEST = 4 * 1024**3
"""Bytes of an image. The session folder may be in memory."""

WATCH = 0.05
"""Seconds between two looks at an image that is being written."""

_LOG = "save.log"
_PLATFORMS = (Platform.SYSTRAP, Platform.PTRACE)


def check(platform: Platform, way: Way) -> None:
    """Raise `SnapshotError` where no sandbox can be saved, nor be started from what was saved."""
    if platform not in _PLATFORMS:
        names = " and ".join(_PLATFORMS)
        raise SnapshotError(
            f"there are no snapshots on platform {platform}, only on {names}",
            next_step=f"Use platform={_PLATFORMS[0]}.",
        )
    if way is Way.FLAG:
        raise SnapshotError("runsc restores no sandbox with --rootless")


def begin(workspace: Workspace, request: Request) -> tuple[str, ...]:
    """Make the folder for an image, and return the command that saves the sandbox there.

    Raises `SnapshotError` where none can be saved.
    """
    check(request.platform, request.way)
    image = workspace.path("image")
    discard(workspace)
    try:
        make_private(image)
    except OSError as error:
        raise SnapshotError(f"cannot make {image}: {error.strerror}") from error
    return save_argv(workspace.id, workspace.folder)


def is_too_large(workspace: Workspace) -> bool:
    """Whether the image that is being written has more than `LARGEST` bytes by now.

    Its files are emptied then, so that they take no more room. The sentry writes to descriptors
    that it has got, also when the command is killed. It goes on after the last byte.
    """
    image = workspace.path("image")
    if size_of(image) <= LARGEST:
        return False
    with contextlib.suppress(OSError), os.scandir(image) as entries:
        for entry in entries:
            os.truncate(entry.path, 0)
    return True


def finish(workspace: Workspace, status: int | None, *, too_large: bool) -> str:
    """Return the folder of a whole image; ``status`` is the command's, None where it has not ended.

    It is removed with the run, unless it is moved before. ``too_large`` says that it had more than
    `LARGEST` bytes while it was written. Raises `SnapshotError` then, where the command failed, or
    if it has more now.
    """
    image = workspace.path("image")
    if too_large or size_of(image) > LARGEST:
        error = SnapshotError(f"the saved sandbox has more than {LARGEST} bytes")
    elif status != 0:
        records = logs.records(workspace.path(_LOG))
        error = SnapshotError("the sandbox could not be saved", records=records)
    else:
        return image
    discard(workspace)
    raise error


def discard(workspace: Workspace) -> None:
    """Remove an image, whole or not."""
    shutil.rmtree(workspace.path("image"), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(workspace.path(_LOG))


def size_of(image: str) -> int:
    """Return the number of bytes in the files of an image; 0 where it is gone."""
    try:
        with os.scandir(image) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0
