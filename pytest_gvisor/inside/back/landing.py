"""The files that came back from the sandboxes of one process: kept, counted, written at the end.

They wait in an unnamed file until the plugins of the host have written theirs. They wait, too,
until it is known that no two sandboxes differ. A file of the host is replaced if it is as it came
back from inside. So is one that an option updates which was given now, unless the host has written
it in this session: it may be a report of the host's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from pytest_gvisor.base.errors import LaunchError, ProtocolError
from pytest_gvisor.base.escape import escape
from pytest_gvisor.guest.tests.returns import Place
from pytest_gvisor.inside.back import anchors
from pytest_gvisor.inside.back.anchors import MOST_BYTES, Anchor, Anchors
from pytest_gvisor.inside.back.records import Records
from pytest_gvisor.plugin import machines
from pytest_gvisor.programs import clock
from pytest_gvisor.sessions import private

MOST_FILES = 100_000
_COARSE = 0.1
"""Seconds that a file system's clock may be behind."""

_NOW = ": it was written on the host in this session"
_MOST_LINES = 1000
_FEW = 5
_PATIENCE = 60.0
_KEY = "gvisor_returned"
PLUGIN = "gvisor-returned"


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

    failed: bool = False
    """Whether the session fails for another reason, of which the user is warned."""

    stands: bool = False
    """Whether a test inside has failed, and no hook there has let that pass."""

    digests: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Of files that were written: the digest and the sandbox, for other workers to compare."""

    def say(self, kind: str, *texts: str) -> None:
        """Add lines to one of the lists, escaped and of bounded length, as far as it has room."""
        lines = getattr(self, kind)
        lines += map(line, texts[: _MOST_LINES - len(lines)])

    def add(self, other: Tally, source: str = "", place: str = "") -> None:
        """Add the result of another process, a worker of xdist; ``place`` begins its paths."""
        for path, (digest, sandbox) in other.digests.items():
            known = self.digests.setdefault(place + path, [digest, source + sandbox])
            if known[0] != digest:
                told = f"{path} came back with different content, and is that of the worker which"
                self.say("errors", f"{told} ended last: from {known[1]} and {source}{sandbox}")
        self.say("written", *(place + path for path in other.written))
        for kind in ("errors", "notes", "others"):
            self.say(kind, *(source + text for text in getattr(other, kind)))
        self.count += other.count
        self.more += other.more
        self.whole = self.whole and other.whole
        self.failed |= other.failed
        self.stands |= other.stands


@dataclass(kw_only=True)
class Arriving:
    """A file as one sandbox has sent it: a piece of the unnamed file."""

    place: Place
    path: str
    """Its path below the folder of the place."""

    anchor: Anchor
    sandbox: str
    wanted: bool
    """Whether it is to land; else it counts and is dropped."""

    offset: int = 0
    size: int = 0
    digest: Any = dataclasses.field(default_factory=hashlib.sha256)


class Store:
    """The files of the sandboxes of this process, and the anchors of their places: a plugin."""

    def __init__(self, found: Anchors, *, files: int = MOST_FILES, size: int = MOST_BYTES) -> None:
        self.files_left, self.bytes_left = files, size
        self.anchors = found
        self.tally = Tally()
        self.began = time.time()
        """A file of the host that has changed since then is not replaced."""

        # Of the wall clock, by which files have their times, before the one that nobody sets.
        self._ahead = time.time() - clock.monotonic()
        self._spool: IO[bytes] | None = None
        self._end = 0
        self._files: dict[str, list[Arriving]] = {}

    def begin(self, file: Arriving) -> Arriving:
        """Begin to keep a file. Raises `ProtocolError` if it is one too many."""
        if not self.files_left:
            raise ProtocolError("more files from inside than are kept")
        self.files_left -= 1
        file.offset = self._end
        return file

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
            # Though nobody wants it: those after it are lost.
            path = os.path.join(file.place.folder, file.path)
            self._fail(path, f"could not be kept until the end: {error.strerror}")
            raise ProtocolError(f"no place to keep a file from inside: {error}") from error

    def read(self, file: Arriving) -> bytes:
        """Return the bytes of a file that is whole."""
        assert self._spool is not None
        return os.pread(self._spool.fileno(), file.size, file.offset)

    def keep(self, file: Arriving) -> None:
        """Keep a file that is whole."""
        if file.wanted:  # by its own path: a sandbox may reach it by a link, and another not
            path = os.path.join(file.anchor.folder, file.path)
            self._files.setdefault(path, []).append(file)

    def write(self) -> Tally:
        """Write all files to the host; return what came of it. Later calls write what is new."""
        free = {path for path, files in self._files.items() if files[0].place.free}
        for path in filter(self._may_land, free):
            self._land(path)
        others = [path for path in self._files if path not in free]
        try:
            with locked() if others else contextlib.nullcontext(Records()) as known:
                # They are recorded first: a later pytest collects none, whatever happens here.
                others = [path for path in others if self._may_land(path, known)]
                known.save(private.write)
                for path in others:
                    self._land(path)
        except (LaunchError, OSError, MemoryError) as error:
            why = str(error) or "there is no memory for it."
            told = f"{len(others)} files stay inside, because they cannot be recorded: {why}"
            self.tally.say("errors", f"{told} Set XDG_CACHE_HOME to a folder of this user's.")
        self._files.clear()
        self.close()
        return self.tally

    def _may_land(self, path: str, known: Records | None = None) -> bool:
        """Whether a file is to be written, which is noted in ``known``."""
        files, tally = self._files[path], self.tally
        first, new = files[0], "-"
        if not first.place.merged:
            new = first.digest.hexdigest()
            try:
                there, changed = anchors.found(first.anchor, first.path)
            except OSError as error:
                return self._fail(path, f"could not be written: {error.strerror}")
            if any(file.digest.digest() != first.digest.digest() for file in files):
                names = " and ".join(dict.fromkeys(file.sandbox for file in files))
                why = f"came back with different content, and is not written: from {names}"
                return self._fail(path, why)
            tally.digests[escape(path)] = [new, line(first.sandbox)]
            if there == new:
                return False
            before = known.digests(f"{first.anchor.folder}/{first.path}") if known else set()
            if there in before:
                new = f"{new}+{there}"  # if it cannot be written, this one is still from inside
            elif there:
                why = "is not replaced: as it is on the host, it did not come back from inside"
                if not (first.place.own or first.place.free):
                    return self._fail(path, f"{why}. Remove it, or give the option for updates")
                set_back = max(0.0, self._ahead - (time.time() - clock.monotonic()))
                if changed >= self.began - set_back - _COARSE:
                    tally.say("notes" if first.place.free else "errors", f"{path} {why}{_NOW}")
                    return False
        if known is not None:
            known.note(first.anchor.folder, first.path, new)
        return True

    def _land(self, path: str) -> None:
        files, spool = self._files[path], -1 if self._spool is None else self._spool.fileno()
        merged = files[0].place.merged
        try:
            for one in files if merged else files[:1]:
                anchors.land(one.anchor, one.path, spool, one.offset, one.size, adds=merged)
        except OSError as error:
            self._fail(path, f"could not be written: {error.strerror}")
        else:
            self.tally.count += 1
            self.tally.say("written", path)

    def _fail(self, path: str, why: str) -> bool:
        self.tally.say("errors", f"{path} {why}")
        return False

    def close(self) -> None:
        """Drop the content of all files, and close the anchors."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._end = 0
        self.anchors.close()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Write the files that came back, when the plugins of the host have written theirs.

        A session of which one cannot be written fails. A worker of xdist sends its controller what
        came of them.
        """
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is None:
            self._judge(session)  # hooks that report see it
        yield
        tally = self.write()
        if output is None:
            self._judge(session)
        else:
            output[_KEY] = dataclasses.asdict(tally)

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_sessionfinish")
    def pytest_gvisor_stands(self, session: pytest.Session) -> Iterator[None]:
        """Fail the session if a hook has let failures pass here, and none has done so inside."""
        try:
            yield
        except pytest.exit.Exception as error:
            if self.tally.stands and error.returncode == pytest.ExitCode.OK:
                error.returncode = pytest.ExitCode.TESTS_FAILED
            raise
        if self.tally.stands and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            terminal = session.config.pluginmanager.get_plugin("terminalreporter")
            if terminal is not None:
                told = "a hook let the failures pass here, and none did so inside (by a variable?)"
                terminal.write_line(f"gvisor: ERROR: {told}", red=True, bold=True)

    def _judge(self, session: pytest.Session) -> None:
        fails = self.tally.errors or self.tally.failed
        if fails and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, config: pytest.Config
    ) -> None:
        """Report which files came back, and which did not."""
        tally, verbosity = self.tally, config.get_verbosity()
        write = terminalreporter.write_line
        if tally.count and verbosity >= 0:
            write(f"gvisor: {_files(tally.count)} came back from inside")
        if verbosity > 0:
            _show_names(write, tally.written, tally.count)
        if tally.more and verbosity >= 0:
            least = "" if tally.whole else "at least "
            hint = "" if verbosity else ", -v names them"
            write(
                f"gvisor: {least}{_files(tally.more, 'other file')} that tests wrote in the "
                f"project stayed inside (gvisor_returns brings files back{hint})"
            )
        if verbosity > 0:
            _show_names(write, tally.others, tally.more)
        notes = tally.notes if verbosity > 0 else tally.notes[:_FEW]
        for text in notes:
            write(f"gvisor: {text}", yellow=True)
        if len(notes) < len(tally.notes):
            write(f"gvisor: {len(tally.notes) - len(notes)} more such lines with -v")
        for text in tally.errors:
            write(f"gvisor: ERROR: {text}", red=True, bold=True)


@contextlib.contextmanager
def locked() -> Iterator[Records]:
    """Yield the records, which no other process changes meanwhile.

    Raises `LaunchError` where another user could change them, and `OSError`.
    """
    records = Records()
    private.make_above(records.folder)
    with private.closing_lock(private.open_private(records.folder)) as fd:
        if not private.take_lock_in(_PATIENCE, fd):
            raise TimeoutError(f"another process has held {records.folder} for {_PATIENCE:g} s")
        yield records


def line(text: str) -> str:
    """Return a text as one escaped line of bounded length."""
    return escape(text).replace("\n", "\\n").replace("\t", "\\t")[:1000]


def take_worker(config: pytest.Config, worker: str, output: dict[str, Any]) -> None:
    """Add what a worker of xdist has sent. A controller has no files and no session of its own."""
    store: Store | None = config.pluginmanager.get_plugin(PLUGIN)
    if store is None:
        store = Store(Anchors(str(config.rootpath)))
        config.pluginmanager.register(store, PLUGIN)
    place = f"{host}:" if (host := machines.host_of(config, worker)) else ""
    store.tally.add(Tally(**output[_KEY]), f"{worker}: ", place)


def _show_names(write: Callable[[str], None], names: list[str], count: int) -> None:
    for name in names:
        write(f"gvisor:   {name}")
    if names and count > len(names):
        write(f"gvisor:   and {count - len(names)} more")


def _files(count: int, word: str = "file") -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
