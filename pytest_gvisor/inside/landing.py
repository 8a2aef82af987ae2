"""The files that came back from the sandboxes of one process: kept, counted, written at the end.

They wait in an unnamed file until the plugins of the host have written theirs. They wait, too,
until it is known that no two sandboxes differ. On the way to a path of the host nothing may lead
elsewhere. The kernel holds each path below its folder (openat2(2)), and follows no link. A file is
written under no name, and gets its name when it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from pytest_gvisor.errors import ProtocolError
from pytest_gvisor.escape import escape
from pytest_gvisor.programs import linux

MOST_FILES = 100_000
MOST_BYTES = 1024 * 1024 * 1024
"""Of the files of one process's sandboxes."""

_MOST_LINES = 1000
_MOST_DIGESTS = 10_000
_FEW = 5
_KEY = "gvisor_returned"
_BELOW = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_NO_MAGICLINKS
_MODE = 0o666  # less the umask
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_UNNAMED_REFUSED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
_CHUNK = 1024 * 1024
_NO_FILE = "there is something on the host that is no regular file"


@dataclass(kw_only=True)
class Tally:
    """The result for the terminal summary."""

    written: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)
    count: int = 0
    """Number of files that were written."""

    more: int = 0
    """Number of other files that tests wrote in the project."""

    whole: bool = True
    """Whether the number of other files is not the least one."""

    digests: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Of files that were written: the digest and the sandbox, for other workers to compare."""

    def say(self, kind: str, *texts: str) -> None:
        """Add lines to one of the lists, escaped and of bounded length, as far as it has room."""
        lines = getattr(self, kind)
        lines += map(line, texts[: _MOST_LINES - len(lines)])

    def add(self, other: Tally, source: str = "") -> None:
        """Add the result of another process, a worker of xdist."""
        for path, (digest, sandbox) in other.digests.items():
            known = self.digests.setdefault(path, [digest, source + sandbox])
            if known[0] != digest:
                self.errors.append(
                    f"{path} came back with different content, and is that of the worker which "
                    f"ended last: from {known[1]} and {source}{sandbox}"
                )
        self.say("written", *other.written)
        for kind in ("errors", "notes", "others"):
            self.say(kind, *(source + text for text in getattr(other, kind)))
        self.count += other.count
        self.more += other.more
        self.whole = self.whole and other.whole


_tally_key = pytest.StashKey[Tally]()


@dataclass(kw_only=True)
class Arriving:
    """A file as one sandbox has sent it: a piece of the unnamed file."""

    folder: str
    path: str
    """Its path below the folder."""

    merged: bool
    """Whether it is added to what is there."""

    sandbox: str
    offset: int
    size: int = 0
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)


class Store:
    """The files of the sandboxes of this process."""

    def __init__(self, *, files: int = MOST_FILES, size: int = MOST_BYTES) -> None:
        self.files_left, self.bytes_left = files, size
        self.tally = Tally()
        self._spool: IO[bytes] | None = None
        self._end = 0
        self._files: dict[str, list[Arriving]] = {}

    def begin(self, folder: str, path: str, *, merged: bool, sandbox: str) -> Arriving:
        """Begin to keep a file. Raises `ProtocolError` if it is one too many."""
        if not self.files_left:
            raise ProtocolError("more files from inside than are kept")
        self.files_left -= 1
        return Arriving(folder=folder, path=path, merged=merged, sandbox=sandbox, offset=self._end)

    def add(self, file: Arriving, data: bytes) -> None:
        """Keep the next bytes of a file. Raises `ProtocolError` for more than are kept."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise ProtocolError("files from inside with more bytes than are kept")
        file.digest.update(data)
        file.size += len(data)
        try:
            if self._spool is None:
                self._spool = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- see write()
            view = memoryview(data)
            while view:
                count = os.pwrite(self._spool.fileno(), view, self._end)
                self._end += count
                view = view[count:]
        except OSError as error:
            raise ProtocolError(f"no place to keep a file from inside: {error}") from error

    def keep(self, file: Arriving) -> None:
        """Keep a file that is whole."""
        self._files.setdefault(os.path.join(file.folder, file.path), []).append(file)

    def write(self) -> Tally:
        """Write all files to the host; return what came of it. Later calls write what is new."""
        for path, files in self._files.items():
            try:
                self._write(path, files)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                self.tally.say("errors", f"{path} could not be written: {reason}")
        self._files.clear()
        self.close()
        return self.tally

    def close(self) -> None:
        """Drop the content of all files."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._end = 0

    def _write(self, path: str, files: list[Arriving]) -> None:
        spool = -1 if self._spool is None else self._spool.fileno()
        first, tally = files[0], self.tally
        if first.merged:
            for file in files:
                append(first.folder, first.path, spool, file.offset, file.size)
        elif len({file.digest.digest() for file in files}) > 1:
            names = " and ".join(dict.fromkeys(file.sandbox for file in files))
            tally.say(
                "errors",
                f"{path} came back with different content, and is not written: from {names}",
            )
            return
        else:
            if len(tally.digests) < _MOST_DIGESTS:
                tally.digests[line(path)] = [first.digest.hexdigest(), line(first.sandbox)]
            if not land(first.folder, first.path, spool, first.offset, first.size):
                return
        tally.count += 1
        tally.say("written", path)


def line(text: str) -> str:
    """Return a text as one escaped line of bounded length."""
    return escape(text).replace("\n", "\\n").replace("\t", "\\t")[:1000]


class Landing:
    """The plugin of a process that has files of sandboxes or workers. A controller has no store."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Write the files that came back, when the plugins of the host have written theirs."""
        yield
        finish(session, self._store)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Report which files came back, and which did not."""
        show(terminalreporter, config)


def finish(session: pytest.Session, store: Store | None) -> None:
    """Write the files of this process, and fail a session of which one could not be written.

    A worker of xdist sends its controller what came of them. ``store`` is None in a controller.
    """
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    tally = session.config.stash.setdefault(_tally_key, Tally())
    if store is not None and output is not None:
        output[_KEY] = dataclasses.asdict(store.write())
    elif store is not None:
        tally.add(store.write())
    if tally.errors and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def take_worker(config: pytest.Config, worker: str, output: dict[str, Any]) -> None:
    """Add what a worker of xdist has sent."""
    if _tally_key not in config.stash:
        config.pluginmanager.register(Landing())
    config.stash.setdefault(_tally_key, Tally()).add(Tally(**output[_KEY]), f"{worker}: ")


def show(reporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report which files came back, and which did not."""
    tally = config.stash.get(_tally_key, Tally())
    verbose = config.get_verbosity() > 0
    if tally.count and config.get_verbosity() >= 0:
        reporter.write_line(f"gvisor: {_files(tally.count)} came back from inside")
        _show_names(reporter, tally.written if verbose else [], tally.count)
    if tally.more and config.get_verbosity() >= 0:
        least = "" if tally.whole else "at least "
        hint = "" if verbose else ", -v names them"
        count = least + _files(tally.more, "other file")
        reporter.write_line(
            f"gvisor: {count} that tests wrote in the project stayed inside (gvisor_returns brings "
            f"files back{hint})"
        )
        _show_names(reporter, tally.others if verbose else [], tally.more)
    notes = tally.notes if verbose else tally.notes[:_FEW]
    for text in notes:
        reporter.write_line(f"gvisor: {text}", yellow=True)
    if len(notes) < len(tally.notes):
        reporter.write_line(f"gvisor: {len(tally.notes) - len(notes)} more such lines with -v")
    for text in tally.errors:
        reporter.write_line(f"gvisor: ERROR: {text}", red=True, bold=True)


def _show_names(reporter: pytest.TerminalReporter, names: list[str], count: int) -> None:
    for name in names:
        reporter.write_line(f"gvisor:   {name}")
    if names and count > len(names):
        reporter.write_line(f"gvisor:   and {count - len(names)} more")


def _files(count: int, word: str = "file") -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


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
                raise FileExistsError(errno.EEXIST, _NO_FILE)
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
    """Whether the file is there with these bytes. Raises `OSError` for what is no regular file."""
    try:
        info = os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(info.st_mode):
        raise FileExistsError(errno.EEXIST, _NO_FILE)
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
    try:
        with _opened(_new_file(here, other)) as fd:
            _copy(fd, source, offset, size)
            with contextlib.suppress(FileExistsError):
                # Under no name so far, so that nothing is left if this process is killed.
                os.link(f"/proc/self/fd/{fd}", other, dst_dir_fd=here, follow_symlinks=True)
        os.rename(other, name, src_dir_fd=here, dst_dir_fd=here)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(other, dir_fd=here)


def _new_file(here: int, name: str) -> int:
    """Open a new file without a name, or with this one where the file system wants one."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        return os.open(".", flags | os.O_TMPFILE, _MODE, dir_fd=here)
    except OSError as error:
        if error.errno not in _UNNAMED_REFUSED:
            raise
    return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE, dir_fd=here)


def _copy(fd: int, source: int, offset: int, size: int) -> None:
    end = offset + size
    while offset < end:
        data = memoryview(os.pread(source, min(_CHUNK, end - offset), offset))
        if not data:
            raise OSError(errno.EIO, "the kept content is gone")
        offset += len(data)
        while data:
            data = data[os.write(fd, data) :]
