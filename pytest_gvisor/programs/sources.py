"""Files and folders of the host that a run is given, each opened once and bound where runsc looks.

runsc looks the name of a mount's source up three times before it mounts it. A user who may write to
a folder above could put a link there meanwhile. So config.json has only names below the run's own
folder, and the child binds the sources there, by the descriptors that it has checked.
"""

import errno
import os
import stat
from typing import NamedTuple

from pytest_gvisor.programs import linux

ANY = (0, 0)
"""The identity of a source that may be another file than when its path was checked."""


class Source(NamedTuple):
    """One file or folder of the host, and the place of the run that shows it."""

    path: str
    """Its canonical path: a link in it is refused."""

    target: str
    """The place, which exists already: a folder for a folder, else a file."""

    readonly: bool = True
    """Whether the kernel refuses writes through the place, for runsc itself too."""

    identity: tuple[int, int] = ANY
    """The device and inode that it must have, or `ANY`."""


def bind(sources: tuple[Source, ...]) -> None:
    """Bind each source to its place, in a mount namespace of this process's own.

    All are opened before the first is bound. A descriptor from before `unshare` cannot be bound:
    its mount belongs to the namespace that was left. A place may lie in what is bound before it,
    such as a folder of a project. So a place is opened without links too, when its turn comes.

    A mount that config.json lists has no overlay of its own: with ``--overlay2 root:memory`` only
    the root has one. A place below the root is part of the root, so writes to it stay in the
    sandbox's memory.

    runsc's gofer binds every source writable and refuses writes by its own checks. With directfs,
    its default, the sentry of 20240729 truncates a file that is opened with O_TRUNC before it has
    checked. A workload could empty files of the host. Here the kernel refuses.

    Raises `OSError`, whose text names the path.
    """
    held = []
    for source in sources:
        fd = _opened(source.path, source.identity)
        held.append(linux.clone_mounts(fd))
        os.close(fd)
        linux.set_apart(held[-1], readonly=source.readonly)
    for source, mounts in zip(sources, held, strict=True):
        place = _opened(source.target)
        is_folder = stat.S_ISDIR(os.fstat(mounts).st_mode)
        if is_folder != stat.S_ISDIR(os.fstat(place).st_mode):
            kind = "file" if is_folder else "folder"
            text = f"{source.path} is no {kind}, as it was when it was checked"
            raise OSError(errno.ENOTDIR, text)
        linux.attach_mounts(mounts, place)
        os.close(place)
        os.close(mounts)


def _opened(path: str, identity: tuple[int, int] = ANY) -> int:
    """Open a source or a place without links. Raises `OSError`."""
    try:
        fd = linux.openat2(linux.AT_FDCWD, os.fsencode(path), os.O_PATH, linux.NO_LINKS)
    except OSError as error:
        text = os.strerror(error.errno or 0)
        if error.errno == errno.ELOOP:
            text = "a part of this path has become a link since it was checked"
        raise OSError(error.errno, f"{path}: {text}") from error
    found = os.fstat(fd)
    if identity not in (ANY, (found.st_dev, found.st_ino)):
        raise OSError(errno.ESTALE, f"{path} is another one than was checked")
    return fd
