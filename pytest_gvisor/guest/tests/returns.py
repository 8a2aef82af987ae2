"""The files that go back to the host: found and sent by a sandbox's first process.

It lives on when pytest has died. The host has agreed to places, and checks all that comes. The
rules for names are here because both ends have them: what this end leaves out, it can name.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from pytest_gvisor.guest.wire import encoding, frames

MARK = b"\xff" * 16
"""It ends the messages of pytest, in whose midst it may have died. UTF-8 has no such bytes, and no
frame has such a number or length."""

PIECE = 512 * 1024
MOST_NAMES = 100
"""Names of a kind that one message has; others are counted."""

REASONS = {
    "name": "its name is too long, or has a character that is not printable",
    "suffix": "not one of the names of data, or directly in the project: name it in gvisor_returns",
    "size": "too large, or one file too many",
    "unreadable": "it could not be read",
}
_DATA = frozenset({
    ".ambr", ".bmp", ".csv", ".diff", ".err", ".gif", ".htm", ".html", ".jpeg", ".jpg", ".json",
    ".jsonl", ".log", ".ndjson", ".out", ".pdf", ".png", ".raw", ".snap", ".svg", ".tif", ".tiff",
    ".tsv", ".webp", ".xml",
})  # fmt: skip
_TEXTS = _DATA | {".markdown", ".md", ".rst", ".txt", ".yaml", ".yml"}
"""Of these, tools run some by their names, and pytest runs some as doctests."""

_COUNTING = 1.0
"""Seconds for files that nobody has asked for: a stat of one takes 0.1 ms."""

_SET_BACK = 10**9
"""Nanoseconds by which the two clocks of a sandbox do not differ by themselves."""

_PROBE = "/.pytest-gvisor-layer"
_LONGEST_NAME = 255
_LONGEST_PATH = 2048
_NOT_COUNTED = frozenset({
    ".git", ".hg", ".hypothesis", ".mypy_cache", ".nox", ".pytest_cache", ".ruff_cache", ".svn",
    ".tox", ".venv", "__pycache__", "node_modules", "venv",
})  # fmt: skip


def refusal(place: Place, path: str) -> str:
    """Return why a file of this path below its place stays inside, a key of `REASONS`, or
    nothing.
    """
    parts = path.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "name"
    plain = path.isprintable() and not {"", ".", ".."}.intersection(parts)
    if not plain or max(sizes) > _LONGEST_NAME or sum(sizes) > _LONGEST_PATH:
        return "name"
    if place.name or place.free:
        return ""
    parent, name = os.path.split(path)
    dotted = any(part.startswith(".") for part in parts)
    # Tools look for their settings in the project's folder and in those above it.
    settings = place.project is not None and (not parent or _within(place.project, parent))
    known = os.path.splitext(name)[1].lower() in (_TEXTS if place.own else _DATA)
    return "" if known and not dotted and not settings else "suffix"


@functools.cache
def pattern(glob: str) -> re.Pattern[str]:
    """Return the expression of a glob over paths: ``*`` stays in one folder, ``**`` does not."""
    found = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", glob, re.DOTALL):
        if token.startswith("[") and len(token) > 1:
            found.append("[" + token[1:-1].replace("\\", r"\\").replace("!", "^", 1) + "]")
        else:
            meant = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            found.append(meant.get(token) or re.escape(token))
    return re.compile("".join(found), re.DOTALL)


class Place(NamedTuple):
    """A file that the host has agreed to, or what matches a glob below a folder."""

    folder: str
    name: str = ""
    """The path of the only file of this place below its folder; empty for a glob."""

    glob: str = "**"
    free: bool = False
    """Whether names do not matter: the host imports and collects nothing from there."""

    own: bool = False
    """Whether a plugin writes there by an option that was given now. Then texts come back too, and
    replace other files."""

    project: str | None = None
    """The path of the project below the folder, empty for the folder itself; None if it is
    elsewhere."""

    merged: bool = False
    """Whether its file gets what every sandbox wrote, in the order in which sandboxes end."""

    failed_only: bool = False
    """Whether it holds a folder for each test, and those of failed ones are wanted."""

    most: int = 1024 * 1024 * 1024
    """Bytes of it that come back."""

    def relative(self, path: str) -> str:
        """Return the path of a file below this place; nothing if it does not belong to it."""
        head = self.folder.rstrip("/") + "/"
        below = path[len(head) :] if path.startswith(head) else ""
        return below if self.has(below) else ""

    def has(self, below: str) -> bool:
        """Whether a path below its folder belongs to it."""
        return below == self.name if self.name else bool(pattern(self.glob).fullmatch(below))


class Changes:
    """The files that were made or changed in the sandbox since this object was made."""

    def __init__(self, probe: str = _PROBE) -> None:
        self._since, self._begun = time.time_ns(), time.monotonic_ns()
        self._overlay, self._upper = os.lstat("/").st_dev, _upper_device(probe)

    @property
    def _oldest(self) -> int:
        """The time from which files are new: an earlier one, if the host's clock was set back."""
        ahead = time.time_ns() - self._since - time.monotonic_ns() + self._begun
        return self._since + (ahead if ahead < -_SET_BACK else 0)

    def has(self, path: str) -> bool:
        """Whether a path is a regular file that was made or changed."""
        try:
            return self._is_new_file(os.lstat(path), os.lstat(os.path.dirname(path)).st_dev)
        except OSError:
            return False

    def below(
        self, folder: str, skipped: frozenset[str] = frozenset(), until: float = math.inf
    ) -> Iterator[str]:
        """Yield the files that were made or changed below a folder, until a time (monotonic).

        An empty text at the end says that some were left out.

        Before the overlay changes a file of the host's, it copies the folders above it. Their times
        of change become new then. So a folder with an old one has nothing new below it.
        """
        stack = [folder]
        while stack:
            if time.monotonic() > until:
                yield ""
                return
            path = stack.pop()
            try:
                device = os.lstat(path).st_dev
                with os.scandir(path) as entries:
                    here = sorted(entries, key=lambda entry: entry.name)
            except OSError:
                continue
            folders = []
            for entry in here:
                with contextlib.suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if self._is_new_file(info, device):
                        yield entry.path
                    elif stat.S_ISDIR(info.st_mode) and info.st_ctime_ns >= self._oldest:
                        folders.append(entry.path)
            stack += (path for path in reversed(folders) if path not in skipped)

    def _is_new_file(self, info: os.stat_result, folder_device: int) -> bool:
        # A file that the host changes meanwhile is new too, and in the overlay's lower layer.
        lower = folder_device == self._overlay and info.st_dev != self._upper
        if self._upper and lower:
            return False
        return stat.S_ISREG(info.st_mode) and info.st_ctime_ns >= self._oldest


def _upper_device(path: str) -> int:
    """Return the device number of files in the overlay's upper layer; 0 where it tells nothing."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        device = os.lstat(path).st_dev
        os.unlink(path)
        return 0 if device == os.lstat(__file__).st_dev else device
    except OSError:
        return 0


class _Sender:
    """One sending of all files."""

    def __init__(
        self, fd: int, agreed: dict[str, Any], changes: Changes, failed: list[str]
    ) -> None:
        self._fd = fd
        self._encoder = frames.Encoder(max_json=frames.UNBOUNDED)
        self._places = [Place(**given) for given in agreed["places"]]
        self._left = [place.most for place in self._places]
        self._project: str = agreed["project"]
        self._written_through = frozenset(agreed["writable"])
        self._files: int = agreed["files"]
        self._bytes: int = agreed["bytes"]
        self._changes = changes
        self._failed = failed
        self._left_out: dict[str, list[str]] = {}
        self._others: list[str] = []
        self._seen: set[str] = set()

    def run(self) -> None:
        """Send files, what was left out and what else was written, and the end."""
        self._write(MARK)
        for place in self._places:
            path = os.path.join(place.folder, place.name)
            if place.name and self._changes.has(path):
                self._offer(path)
        whole = True
        for root in self._roots():
            wanted = any(_within(folder, root) for folder in self._folders())
            until = math.inf if wanted else time.monotonic() + _COUNTING
            for path in self._changes.below(root, self._written_through, until):
                whole = whole and bool(path)
                self._offer(path)
        for reason, paths in self._left_out.items():
            self._send("left out", why=reason, count=len(paths), paths=_first(paths))
        if self._others:
            paths = _first(self._others)
            self._send("wrote", count=len(self._others), paths=paths, whole=whole)
        self._send("end")

    def _folders(self) -> Iterator[str]:
        """Yield the folders of places that hold any number of files."""
        for place in self._places:
            if place.failed_only:
                yield from (path for path in self._failed if place.relative(path))
            elif not place.name:
                yield place.folder

    def _roots(self) -> list[str]:
        """Return the folders to walk, none of them below another."""
        found: list[str] = []
        for path in sorted({*self._folders(), self._project}):
            if not any(_within(path, other) for other in found):
                found.append(path)
        return found

    def _offer(self, path: str) -> None:
        """Send a file, as one of the first place that it belongs to, if it may go."""
        if not path or path in self._seen:
            return
        self._seen.add(path)
        for number, place in enumerate(self._places):
            relative = place.relative(path)
            if relative:
                why = refusal(place, relative) or self._read(path, number, relative)
                if why:
                    self._left_out.setdefault(why, []).append(path)
                return
        head = self._project.rstrip("/") + "/"
        if path.startswith(head) and not _NOT_COUNTED.intersection(path[len(head) :].split("/")):
            self._others.append(path)

    def _read(self, path: str, number: int, relative: str) -> str:
        """Send the content of a file; return why not, or nothing."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb", buffering=0) as file:
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    return "unreadable"
                if not self._files or info.st_size > min(self._bytes, self._left[number]):
                    return "size"
                self._files -= 1
                self._left[number] -= info.st_size
                self._send_content(file, number, relative)
        except OSError:
            return "unreadable"
        return ""

    def _send_content(self, file: Any, number: int, relative: str) -> None:
        more = True
        while more:
            data = file.read(min(PIECE, self._bytes))
            self._bytes -= len(data)
            text = base64.b64encode(data).decode()
            more = len(data) == PIECE
            self._send("file", place=number, path=relative, data=text, more=more)

    def _send(self, kind: str, **fields: Any) -> None:
        self._write(self._encoder.framed(encoding.encoded(kind, fields)))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]


def _within(path: str, folder: str) -> bool:
    return (path + "/").startswith(folder.rstrip("/") + "/")


def _first(paths: list[str]) -> list[str]:
    return [path[:_LONGEST_PATH] for path in paths[:MOST_NAMES]]


def send(fd: int, agreed: dict[str, Any], changes: Changes, failed: list[str]) -> None:
    """Send all files of the agreed places that were made or changed.

    ``failed`` are the folders of failed tests.

    Where that fails, the host misses the end and says so.
    """
    with contextlib.suppress(OSError, ValueError, MemoryError):
        os.set_blocking(fd, True)
        _Sender(fd, agreed, changes, failed).run()


def make_folders(agreed: dict[str, Any]) -> None:
    """Make the folders of places, which tests find on the host, for whoever runs them."""
    before = os.umask(0)
    try:
        for path in agreed["folders"]:
            with contextlib.suppress(OSError):
                os.makedirs(path, exist_ok=True)
    finally:
        os.umask(before)
