"""The files that come back from the sandboxes of one process: checked, kept, written at the end.

The sender is untrusted. Its files wait in an unnamed file until the plugins of the host have
written theirs. They wait, too, until it is known that no two sandboxes differ.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from pytest_gvisor.errors import GvisorError, ProtocolError
from pytest_gvisor.escape import escape
from pytest_gvisor.guest import returns
from pytest_gvisor.inside import landing
from pytest_gvisor.inside.link import Died, Hangs, gone

if TYPE_CHECKING:
    from pytest_gvisor.inside.return_places import Agreed, Place

MOST_FILES = 100_000
MOST_BYTES = 1024 * 1024 * 1024
"""Of the files of one process's sandboxes."""

MOST_LINES = 1000
MOST_DIGESTS = 10_000
LAST_ACTS = 10.0
"""Seconds that plugins inside may take after the last fixture has been torn down."""

_PATIENCE = 30.0
_SLOWEST = 256 * 1024
"""Bytes a second: whoever sends less is taken to hang."""


class Source(Protocol):
    """The connection to a sandbox."""

    attended: bool

    def receive_of_first(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the first process."""


@dataclass(kw_only=True)
class _Arriving:
    """A file as one sandbox has sent it: a piece of the unnamed file."""

    place: Place
    path: str
    offset: int
    size: int = 0
    digest: str = ""
    sandbox: str


@dataclass(kw_only=True)
class Tally:
    """The result for the terminal summary: lines of text, each bounded and escaped."""

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


class Store:
    """The files of the sandboxes of this process."""

    def __init__(self, *, files: int = MOST_FILES, size: int = MOST_BYTES) -> None:
        self.files_left, self.bytes_left = files, size
        self.tally = Tally()
        self._spool: IO[bytes] | None = None
        self._end = 0
        self._files: dict[str, list[_Arriving]] = {}

    def begin(self, place: Place, path: str, sandbox: str) -> _Arriving:
        """Begin to keep a file. Raises `ProtocolError` if it is one too many."""
        if not self.files_left:
            raise ProtocolError("more files from inside than are kept")
        self.files_left -= 1
        return _Arriving(place=place, path=path, offset=self._end, sandbox=sandbox)

    def add(self, data: bytes) -> None:
        """Keep the next bytes of the file. Raises `ProtocolError` for more than are kept."""
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise ProtocolError("files from inside with more bytes than are kept")
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

    def keep(self, file: _Arriving) -> None:
        """Keep a file that is whole."""
        self._files.setdefault(os.path.join(file.place.folder, file.path), []).append(file)

    def paths(self) -> list[str]:
        """Return the paths of all files that are kept."""
        return list(self._files)

    def lose(self, sandbox: str, agreed: Agreed, why: str) -> None:
        """Note that files of a sandbox may be lost."""
        if agreed.places:
            places = dict.fromkeys(os.path.join(p.folder, p.name or p.glob) for p in agreed.places)
            self.note(
                f"the sandbox of {sandbox} is lost, and files that tests wrote in it may be: "
                f"{', '.join(places)} ({why})"
            )

    def note(self, text: str) -> None:
        """Keep a line for the summary."""
        if len(self.tally.notes) < MOST_LINES:
            self.tally.notes.append(_line(text))

    def write(self) -> Tally:
        """Write all files to the host; return what came of it. Later calls write what is new."""
        for path, files in self._files.items():
            try:
                self._write(path, files)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                self._fail(f"{path} could not be written: {reason}")
        self._files.clear()
        self.close()
        return self.tally

    def close(self) -> None:
        """Drop the content of all files."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self._end = 0

    def _write(self, path: str, files: list[_Arriving]) -> None:
        first = files[0]
        if first.place.merged:
            for file in files:
                landing.append(first.place.folder, first.path, *self._where(file))
        elif len({file.digest for file in files}) > 1:
            names = " and ".join(dict.fromkeys(file.sandbox for file in files))
            self._fail(f"{path} came back with different content, and is not written: from {names}")
            return
        else:
            if len(self.tally.digests) < MOST_DIGESTS:
                self.tally.digests[_line(path)] = [first.digest, _line(first.sandbox)]
            if not landing.land(first.place.folder, first.path, *self._where(first)):
                return
        self.tally.count += 1
        if len(self.tally.written) < MOST_LINES:
            self.tally.written.append(_line(path))

    def _where(self, file: _Arriving) -> tuple[int, int, int]:
        spool = -1 if self._spool is None else self._spool.fileno()
        return spool, file.offset, file.size

    def _fail(self, text: str) -> None:
        if len(self.tally.errors) < MOST_LINES:
            self.tally.errors.append(_line(text))


class Taker:
    """The receiver of one sandbox's files."""

    def __init__(self, store: Store, agreed: Agreed) -> None:
        self.agreed = agreed
        self._sandbox = ""
        self._store = store
        self._file: _Arriving | None = None
        self._hash = hashlib.sha256()
        self._said: set[str] = set()
        self._rules = [returns.Place(dataclasses.asdict(place)) for place in agreed.places]

    def name_sandbox(self, nodeid: str) -> None:
        """Take the node id of the first test as the name of the sandbox."""
        self._sandbox = self._sandbox or nodeid

    def _name(self) -> str:
        return self._sandbox or "no test"

    def command(self) -> dict[str, Any]:
        """Return what the first process is to send."""
        return self.agreed.command(self._store.files_left, self._store.bytes_left)

    def receive(self, link: Source, start: float) -> bool:
        """Take all that the first process sends; return whether its pytest has ended.

        That has to be within ``start`` seconds. Bytes extend the deadline.
        """
        began, had = time.monotonic(), self._store.bytes_left
        try:
            while True:
                patience = _PATIENCE if link.attended else start
                came = (had - self._store.bytes_left) / _SLOWEST
                if not self.take(link.receive_of_first(began + patience + came)):
                    return True
        except (Died, Hangs, GvisorError) as error:
            self.lose(gone(error))
        return link.attended

    def lose(self, why: str) -> None:
        """Note that files of this sandbox may be lost, if a test has begun in it."""
        if self._sandbox:
            self._store.lose(self._sandbox, self.agreed, why)

    def take(self, message: dict[str, Any]) -> bool:
        """Take a message; return whether another one is to come. Raises `ProtocolError`."""
        kind = message["type"]
        if kind == "file":
            self._take_file(message)
            return True
        if self._file is not None:
            raise ProtocolError("half a file from inside")
        if kind == "end":
            return False
        if kind == "wrote":
            self._take_others(*self._counted(message, "wrote"), whole=message.get("whole") is True)
        elif kind == "left out":
            self._take_left_out(message)
        else:
            raise ProtocolError(f"a message {kind!r:.50} from inside that does not belong here")
        return True

    def _take_file(self, message: dict[str, Any]) -> None:
        number, path = message.get("place"), message.get("path")
        data, more = message.get("data"), message.get("more")
        places = self.agreed.places
        if not isinstance(path, str) or not isinstance(data, str) or not isinstance(more, bool):
            raise ProtocolError("a file from inside of another form")
        if type(number) is not int or not 0 <= number < len(places):
            raise ProtocolError("a file from inside of a place that was not agreed")
        place = places[number]
        if self._file is None:
            self._check(self._rules[number], path)
            self._file = self._store.begin(place, path, self._name())
            self._hash = hashlib.sha256()
        elif self._file.place is not place or self._file.path != path:
            raise ProtocolError("half a file from inside, and then another one")
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise ProtocolError("a file from inside that is no base64") from None
        self._store.add(content)
        self._hash.update(content)
        self._file.size += len(content)
        if not more:
            self._file.digest = self._hash.hexdigest()
            self._store.keep(self._file)
            self._file = None

    @staticmethod
    def _check(place: returns.Place, path: str) -> None:
        """Raise `ProtocolError` for a path that its place does not allow."""
        why = returns.refusal(path, guarded=place.guarded)
        if why or not place.has(path):
            raise ProtocolError(
                f"a file from inside that was not agreed: {path!r:.200} "
                f"({returns.REASONS.get(why, 'it belongs to no place')})"
            )

    def _counted(self, message: dict[str, Any], what: str) -> tuple[int, list[str]]:
        """Return a number of files, and the first names. Each kind may come once."""
        count, paths = message.get("count"), message.get("paths")
        right = type(count) is int and 0 < count < 2**53 and isinstance(paths, list)
        if not right or what in self._said:
            raise ProtocolError("a number of files from inside that is none")
        assert isinstance(paths, list)
        assert isinstance(count, int)
        if len(paths) > returns.MOST_NAMES or not all(isinstance(path, str) for path in paths):
            raise ProtocolError("names of files from inside that are none")
        self._said.add(what)
        return count, [_line(path) for path in paths]

    def _take_others(self, count: int, paths: list[str], *, whole: bool) -> None:
        tally = self._store.tally
        tally.more += count
        tally.whole = tally.whole and whole
        tally.others += paths[: MOST_LINES - len(tally.others)]

    def _take_left_out(self, message: dict[str, Any]) -> None:
        why = message.get("why")
        if not isinstance(why, str) or why not in returns.REASONS:
            raise ProtocolError("a reason from inside that there is not")
        count, paths = self._counted(message, why)
        for path in paths:
            self._store.note(f"{path} stayed inside: {returns.REASONS[why]}")
        if count > len(paths):
            self._store.note(f"{count - len(paths)} more stayed inside: {returns.REASONS[why]}")


def _line(text: str) -> str:
    """Return a text as one escaped line of bounded length."""
    return escape(text).replace("\n", "\\n").replace("\t", "\\t")[:1000]
