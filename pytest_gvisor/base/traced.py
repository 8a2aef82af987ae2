"""The trace of a run, as values: files, commands, connections and processes, and their check."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from pytest_gvisor.base import setting_values
from pytest_gvisor.base.errors import TraceError, UsageError
from pytest_gvisor.base.escape import escape

_SYSTEM = re.compile(r"/(?:usr|lib|lib32|lib64|libx32|bin|sbin|etc/python3[.0-9]*)(?:/|\Z)")
_STARTS = re.compile(r"/etc/(ld\.so\.cache|localtime|locale\.alias)|/proc/sys/vm/overcommit_memory")
"""mimalloc, the allocator of Python 3.13 and later, reads the last one."""

_INTERPRETER = tuple(
    f"{prefix}/{part}/"
    for prefix in (sys.prefix, sys.base_prefix)
    for part in ("bin", f"lib/python{sys.version_info[0]}.{sys.version_info[1]}", "pyvenv.cfg")
)
"""The folders of this Python, which `host()` shows."""

_SHOWN = 1000
"""Lines of a trace or of its violations that are printed."""

_FIRST = 20
"""Lines of a trace in the report of a failure."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file or folder, and one way in which it was opened."""

    path: str
    """Its absolute path in the workload's root, without ``.`` and ``..``."""

    read: bool
    """Whether it was opened for reading. Reads are not counted."""

    written: bool
    """Whether it was opened for writing, or emptied. Writes are not counted."""

    listed: bool = False
    """Whether it was opened as a folder (``O_DIRECTORY``), which is neither read nor written."""

    created: bool = False
    """Whether the call would create it where it was missing."""

    error: str = ""
    """The error's name if it could not be opened, such as ``ENOENT``; else ``""``."""

    confirmed: bool = False
    """Whether each descriptor that was opened so was closed, and the sentry then gave its path. If
    that is another path, it is a `File` too."""

    process: int = 1
    """The first process that opened it so."""

    def __str__(self) -> str:
        """Return one line: the ways, the path and the error."""
        ways = [name for name in ("read", "written", "created", "listed") if getattr(self, name)]
        return f"{', '.join(ways) or 'opened'}: {_line(self.path)}{_failed(self.error)}"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program that a process became."""

    argv: tuple[str, ...]
    program: str
    """The path of the file that was executed, without links. Of the first process it is argv[0]."""

    process: int
    called: str = ""
    """The path that the process gave, which may be one of a link, such as ``/bin/sh``; ``""`` for
    the first process, and for an attempt, whose `program` it is."""

    environment: tuple[str, ...] = ()
    """The names of its variables, sorted; none for the first process. With ``trace="values"`` each
    is ``NAME=VALUE``."""

    reported: bool = True
    """Whether the kernel reported that it was executed. An attempt is not."""

    def __str__(self) -> str:
        """Return one line: the program, and its arguments without the name."""
        name, called = self.program, self.called
        if called and os.path.basename(called) != os.path.basename(name):
            name += f" (as {called})"
        shown = _line(" ".join([name, *self.argv[1:]]))
        return f"{'executed' if self.reported else 'tried to execute'}: {shown}"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An address that a socket was connected to, or tried to be."""

    address: str
    """``127.0.0.1:80``, ``[::1]:80``, ``unix:/path``, ``unix:@name``, or ``family 16``."""

    kind: str
    """``stream``, ``datagram``, or ``""`` if unknown. A datagram socket sends nothing by it."""

    error: str = ""
    """The error's name, such as ``EINPROGRESS``, which has no later result; else ``""``."""

    process: int

    def __str__(self) -> str:
        """Return one line: the address and the error."""
        return f"connected: {_line(self.address)}{_failed(self.error)}"


@dataclass(frozen=True, kw_only=True)
class ListeningSocket:
    """An address where a process waited for connections or datagrams."""

    address: str
    kind: str
    process: int

    def __str__(self) -> str:
        """Return one line."""
        return f"listened: {_line(self.address)}"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A call that changes files without opening them."""

    call: str
    """``unlink``, ``rename``, ``mkdir``, ``chmod``, ``link`` or one of their like."""

    paths: tuple[str, ...] = ()
    """None in `Trace.changes`. A path is relative if the call has no folder's descriptor."""

    error: str = ""
    """The error's name; ``""`` for calls that succeeded."""

    process: int
    count: int
    """How often the process has called it."""

    def __str__(self) -> str:
        """Return one line: the call, the paths, how often, and the error."""
        shown = _line(" ".join([self.call, *self.paths]))
        how = "unverified, called" if self.paths else "called"
        return f"{how} {self.count}x: {shown}{_failed(self.error)}"


_Act = Connection | ListeningSocket | Command | File | Change


@dataclass(frozen=True, kw_only=True)
class TracedProcess:
    """A process of the workload."""

    pid: int
    parent: int
    """The process that made it; 0 for the first one."""

    command: tuple[str, ...]
    """The arguments of what it executed last, or of its parent's; of long ones of a parent, the
    beginnings of five and a sign that it is cut."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Trace:
    """The files, commands and connections of a run, as gVisor's kernel reported them.

    Paths and addresses are what the calling thread's memory held when the event was made. A hostile
    program can make them lie.
    """

    files: tuple[File, ...] = ()
    """The files and folders, each once for each way in which it was opened."""

    executed: tuple[Command, ...] = ()
    """The programs that were executed, the first process's first."""

    attempts: tuple[Command, ...] = ()
    """The programs that a process tried to execute, where no success was reported. A search of
    ``PATH`` that ends well leaves none."""

    connections: tuple[Connection, ...] = ()
    """The addresses that sockets were connected to, or tried to be, each once."""

    listeners: tuple[ListeningSocket, ...] = ()
    """The addresses where a process waited for connections or datagrams."""

    datagrams: int = 0
    """How many calls could send a datagram, or by MSG_FASTOPEN connect, to an address of their own,
    which is not known.
    """

    changes: tuple[Change, ...] = ()
    """The calls that remove, rename, make, link or truncate files, or change their rights."""

    unverified: tuple[Change, ...] = ()
    """Such calls with their paths, as the lines of runsc's strace have them; none without
    ``trace="paths"``. A newline in the name of a file forges a line, or hides one."""

    unsupported: tuple[str, ...] = ()
    """The names of system calls that this runsc does not implement, and that a process made."""

    processes: tuple[TracedProcess, ...] = ()
    """The processes, in the order of their start."""

    dropped: int = 0
    """How many events did not arrive."""

    gaps: tuple[str, ...] = ()
    """The reasons why the trace is not whole, as sentences; none if it is."""

    @property
    def complete(self) -> bool:
        """Whether nothing is known to be missing, and the end of the first process is known."""
        return not self.gaps

    @property
    def commands(self) -> list[list[str]]:
        """The arguments of each program that was executed."""
        return [[*one.argv] for one in self.executed]

    @functools.cached_property
    def read(self) -> frozenset[str]:
        """The paths that were opened for reading, without those of the system: ``/usr``, ``/lib``
        and the like, the interpreter's own folders and ``__pycache__``. `files` has them all.
        """
        return frozenset(
            one.path for one in self.files if one.read and not one.error and not _folded(one.path)
        )

    @functools.cached_property
    def written(self) -> frozenset[str]:
        """The paths that were opened for writing, or created, without ``__pycache__``."""
        return frozenset(
            one.path for one in self.files if _writes(one) and not one.error and not _cached(one)
        )

    def check(
        self,
        *,
        read: Iterable[str] | None = None,
        write: Iterable[str] | None = None,
        execute: Iterable[str] | None = None,
        connect: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
        strict: bool = False,
    ) -> None:
        """Raise `AssertionError` that names each act that no pattern allows, and its process.

        None allows all, and an empty list nothing. Attempts that failed count. In ``read`` and
        ``write`` are patterns of paths: ``*`` and ``?`` end at a slash, ``/a/**`` is ``/a`` and all
        below it. The paths that `read` and `written` leave out are allowed. In ``execute`` they are
        of the program's path, or without a slash of its name. The first process's program is always
        allowed. In ``connect`` they are of addresses, and ``datagrams`` allows `datagrams`.

        ``forbid`` has kinds: ``read``, ``write``, ``exec`` and ``connect``. A kind alone is as an
        empty list. With a pattern, as in ``write:/app/**``, it forbids what matches, and leaves no
        path out. One of programs may match the path of a link, too. A pattern of addresses forbids
        `datagrams` too, since each may have gone there.

        With ``strict``, each file that was opened and is not confirmed is a violation.

        Raises `TraceError` if the trace is not complete. Raises `UsageError` for a text in place of
        a list, and for another kind.
        """
        if self.gaps:
            raise TraceError(
                f"the trace is not complete, so it cannot be checked: {'; '.join(self.gaps)}",
                next_step="Trace.files and the others have the part that arrived.",
            )
        rules = [one.partition(":") for one in setting_values.acts(forbid)]
        allowed = {"read": read, "write": write, "exec": execute, "connect": connect}
        allowed |= {kind: [] for kind, _, pattern in rules if not pattern}
        # A test inside begins when the first process has long been there.
        first = self.processes[0].pid if self.processes else 1
        own = [one.process for one in self.executed[:1]] == [first]
        acts: Mapping[str, list[tuple[str, bool, File | Command | Connection]]] = {
            "read": [(one.path, _folded(one.path), one) for one in self.files if one.read],
            "write": [(one.path, _cached(one), one) for one in self.files if _writes(one)],
            "exec": [
                *((one.program, False, one) for one in (*self.executed[own:], *self.attempts)),
                *((one.called, True, one) for one in self.executed[own:]),  # forbidden or not
            ],
            "connect": [(one.address, False, one) for one in self.connections],
        }
        found: list[str] = []
        for kind, patterns in allowed.items():
            allows = _allows(patterns, names=kind == "exec")
            denied = [pattern for one, _, pattern in rules if one == kind and pattern]
            denies = _allows(denied, names=kind == "exec")
            found += self._told(
                one
                for name, left_out, one in acts[kind]
                if denies(name) or not (left_out or allows(name))
            )
        sends = any(kind == "connect" and not name.startswith("unix:") for kind, _, name in rules)
        if self.datagrams and (sends or not _allows(connect)("datagrams")):
            found.append(f"sent: {self.datagrams} datagrams to addresses that are not known")
        if strict:
            opened = (one for one in self.files if (one.read or _writes(one)) and not one.error)
            doubtful = self._told(one for one in opened if not one.confirmed)
            found += (f"not confirmed, {line}" for line in doubtful)
        if found:
            more = [f"… and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            lines = "\n  ".join([*dict.fromkeys(found[:_SHOWN]), *more])
            raise AssertionError(f"the workload did what is not allowed:\n  {lines}")

    def _told(self, acts: Iterable[File | Command | Connection]) -> Iterator[str]:
        """Yield a line for each act, with the process that did it."""
        known = {one.pid: one for one in self.processes}
        for one in acts:
            by, process = f"by process {one.process}", known.get(one.process)
            if isinstance(one, Command) and process is not None:
                # The process is this command now: its parent tells more.
                by, process = f"{by} below {process.parent}", known.get(process.parent)
            # Each act of a process shows 80 characters of its arguments, which may be many.
            command = _line(" ".join(process.command[:82]), 80) if process else ""
            yield f"{one}, {by}{f' ({command})' if command else ''}"

    def __repr__(self) -> str:
        """Return how many there are of each, and the gaps."""
        names = ("read", "written", "commands", "connections", "processes")
        shown = " ".join(f"{name}={len(getattr(self, name))}" for name in names)
        gaps = f" NOT COMPLETE: {'; '.join(self.gaps)}" if self.gaps else ""
        return f"<Trace {shown} datagrams={self.datagrams}{gaps}>"

    def __str__(self) -> str:
        """Return a line for each connection, listener, command, file that `read` leaves in, and
        change.
        """
        acts, more = self._acts()
        lines = [f"  {one}, by process {one.process}" for one in acts]
        return "\n".join([repr(self), *lines, *more])

    def _acts(self) -> tuple[list[_Act], list[str]]:
        """Return the acts that are shown, and a line on the number of others."""
        files = (
            one for one in self.files if not (_cached(one) if _writes(one) else _folded(one.path))
        )
        acts: list[_Act] = [
            *self.connections, *self.listeners, *self.executed, *self.attempts, *files,
            *self.changes, *self.unverified,
        ]  # fmt: skip
        more = [f"  … and {len(acts) - _SHOWN} more"] if len(acts) > _SHOWN else []
        return acts[:_SHOWN], more

    def tree(self) -> str:
        """Return a line for each process below its parent, with those for what it did below it."""
        acts, more = self._acts()
        keys: dict[int, tuple[int, ...]] = {}
        lines = []
        for number, process in enumerate(self.processes[:_SHOWN]):
            key = keys[process.pid] = (*keys.get(process.parent, ()), number)
            lines.append((key, f"process {process.pid}: {_line(' '.join(process.command))}"))
        lines += [(keys.get(one.process, (_SHOWN,)), f"  {one}") for one in acts]
        lines.sort(key=lambda line: line[0])
        shown = ["  " * min(len(key), 20) + text for key, text in lines]
        return "\n".join([repr(self), *shown, *more])

    def first_lines(self) -> str:
        """Return some lines for the report of a failure; the counts only where there are gaps."""
        lines = str(self).split("\n")[not self.gaps :]
        return "\n".join([*lines[:_FIRST], *(["  …"] if lines[_FIRST:] else [])])


def _writes(one: File) -> bool:
    return one.written or one.created


def _cached(one: File) -> bool:
    return "__pycache__" in one.path.split("/")


def _folded(path: str) -> bool:
    """Whether a path is one that nearly each program reads."""
    system = _SYSTEM.match(path) or _STARTS.fullmatch(path) or "__pycache__" in path.split("/")
    return bool(system) or f"{path}/".startswith(_INTERPRETER)


def _allows(patterns: Iterable[str] | None, *, names: bool = False) -> Callable[[str], bool]:
    """Return whether any pattern matches a text, or with ``names`` a path's last part; None does
    each.
    """
    if isinstance(patterns, str):
        raise UsageError(f"a list of patterns is wanted, not the text {patterns!r}")
    if patterns is None:
        return lambda _text: True
    given = [(_pattern(one), names and "/" not in one) for one in patterns]
    return lambda text: any(
        pattern.fullmatch(text.rpartition("/")[2] if last else text) for pattern, last in given
    )


_WILD = {"/**": "(?:/.*?)??", "**": ".*?"}


def _pattern(glob: str) -> re.Pattern[str]:
    """Compile a pattern. The text is untrusted: without the atomic groups, the time for it would
    grow by its length for each star. The first place of what stands between two is as good as any.
    """
    begin, *more = re.split(r"(/\*\*(?=/|\Z)|\*\*)", glob)
    found = _piece(begin, _ends(more))
    while more:
        folders, piece, *more = more
        found += f"(?>{_WILD[folders]}{_piece(piece, _ends(more))})"
    return re.compile(found, re.DOTALL)


def _ends(more: list[str]) -> str:
    """Return the end of what stands before others: ``/**`` begins at the end of a folder's name."""
    return "" if more and more[0] == "**" else r"(?=/|\Z)" if more else r"\Z"


def _piece(glob: str, ends: str) -> str:
    """Return the pattern of what has no two stars together."""
    parts = [re.escape(part).replace(r"\?", "[^/]") for part in glob.split("*")]
    parts[-1] += ends
    return parts[0] + "".join(f"(?>[^/]*?{part})" for part in parts[1:])


def _failed(error: str) -> str:
    return f" ({error})" if error else ""


def _line(text: str, most: int = 300) -> str:
    """Return untrusted text for one line, at most some 300 characters of it."""
    short = text if len(text) <= most else f"{text[:most]}…"
    return escape(short).replace("\n", "\\n").replace("\t", "\\t")
