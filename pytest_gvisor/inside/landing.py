"""Write a file that came from inside to the host, where nothing on the way may lead elsewhere.

The kernel holds each path below its folder (openat2(2)), and follows no link. A file is written
under no name, and gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

from pytest_gvisor.programs import linux

_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_MODE = 0o666  # less the umask
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_UNNAMED_REFUSED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
_CHUNK = 1024 * 1024
_NO_FILE = "there is something on the host that is no regular file"


class Refused(OSError):
    """Raised where a folder, a link or a device of the host has the name of a file."""


def land(folder: str, path: str, source: int, offset: int, size: int) -> bool:
    """Write ``size`` bytes of the file ``source`` to a path below a folder; return whether it was
    another file before.

    Raises `OSError`.
    """
    os.makedirs(folder, exist_ok=True)
    with _opened(os.open(folder, _FOLDER | os.O_CLOEXEC)) as base:
        parent, name = os.path.split(path)
        with _opened(_make_folders(base, parent)) as here:
            if _is_same(here, name, source, offset, size):
                return False
            _write(here, name, source, offset, size)
            return True


def append(folder: str, name: str, source: int, offset: int, size: int) -> None:
    """Add bytes to the end of a file that the host has begun itself. Raises `OSError`."""
    os.makedirs(folder, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK
    with _opened(os.open(folder, _FOLDER | os.O_CLOEXEC)) as base:
        try:
            fd = linux.openat2(base, os.fsencode(name), flags, _BELOW)
        except FileNotFoundError:
            _write(base, name, source, offset, size)
            return
        with _opened(fd):
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Refused(errno.EEXIST, _NO_FILE)
            _copy(fd, source, offset, size)


@contextlib.contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _make_folders(base: int, path: str) -> int:
    """Open a folder below another one, and make what is missing of it."""
    encoded = os.fsencode(path or ".")
    with contextlib.suppress(FileNotFoundError):
        return linux.openat2(base, encoded, _FOLDER, _BELOW)
    parts = encoded.split(b"/")
    fd = os.dup(base)
    for part in parts:
        with _opened(fd) as here:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=here)
            fd = linux.openat2(here, part, _FOLDER, _BELOW)
    return fd


def _is_same(here: int, name: str, source: int, offset: int, size: int) -> bool:
    """Whether the file is there with these bytes. Raises `Refused` for what is no regular file."""
    try:
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(info.st_mode):
        raise Refused(errno.EEXIST, _NO_FILE)
    if info.st_size != size:
        return False
    try:
        fd = linux.openat2(here, os.fsencode(name), os.O_RDONLY | os.O_NONBLOCK, _BELOW)
    except OSError:
        return False
    with _opened(fd):
        for start in range(0, size, _CHUNK):
            count = min(_CHUNK, size - start)
            if os.pread(fd, count, start) != os.pread(source, count, offset + start):
                return False
    return True


def _write(here: int, name: str, source: int, offset: int, size: int) -> None:
    other = f".pytest-gvisor-{secrets.token_hex(8)}"
    with contextlib.ExitStack() as undo:
        fd = _new_file(here, other)
        undo.callback(_unlink, here, other)
        with _opened(fd):
            _copy(fd, source, offset, size)
            with contextlib.suppress(FileExistsError):
                # Under no name so far, so that nothing is left if this process is killed.
                os.link(f"/proc/self/fd/{fd}", other, dst_dir_fd=here, follow_symlinks=True)
        os.rename(other, name, src_dir_fd=here, dst_dir_fd=here)


def _new_file(here: int, name: str) -> int:
    """Open a new file without a name, or with this one where the file system wants one."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        return os.open(".", flags | os.O_TMPFILE, _MODE, dir_fd=here)
    except OSError as error:
        if error.errno not in _UNNAMED_REFUSED:
            raise
    return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE, dir_fd=here)


def _unlink(here: int, name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=here)


def _copy(fd: int, source: int, offset: int, size: int) -> None:
    end = offset + size
    while offset < end:
        data = memoryview(os.pread(source, min(_CHUNK, end - offset), offset))
        if not data:
            raise OSError(errno.EIO, "the kept content is gone")
        offset += len(data)
        while data:
            data = data[os.write(fd, data) :]
