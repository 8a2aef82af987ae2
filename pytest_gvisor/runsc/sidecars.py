"""The folder ``gvisor-bin`` beside runsc, whose programs runsc executes by path.

Since August 2026 the sentry is such a program. runsc looks for the folder beside the file that
/proc/self/exe names, and starts the programs with its own rights. So each file there is checked by
the rules for runsc. A link is followed, and every folder that it leads through is checked. A runsc
that is called ``gvisor_sentry`` is its own sentry, as in the wheel: its own folder is checked.

runsc opens these files by their paths, so they are checked again before each start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from pytest_gvisor.base.errors import InsecureRunsc
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.trust import (
    Node,
    Trust,
    Way,
    add_problem,
    file_problems,
    folder_problem,
    follow,
    noexec_problem,
    text_of,
)
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.runsc import elf
from pytest_gvisor.sessions.places import RUNSC_FOLDER

SENTRY = "gvisor_sentry"

ONE_RELEASE = "sidecar-release-enforcement-policy"
"""The flag by which runsc and its sidecars must have one build label."""

MOST_ENTRIES = 256
"""A release has five files there."""

DEEPEST = 4
_SINCE = dt.date(2026, 8, 1)

_NEXT_STEP = (
    "{runsc} starts what lies there. Correct the owner and the mode, or install runsc and "
    "gvisor-bin anew, from one release: `pytest-gvisor install`."
)


class State(NamedTuple):
    """The state of one file or folder, as ``stat`` gives it, to tell it from every other."""

    dev: int
    ino: int
    mode: int
    uid: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> State:
        """Return the state in a stat result; for a folder, without its content."""
        state = cls(*(getattr(info, f"st_{name}") for name in cls._fields))
        if stat.S_ISDIR(info.st_mode):
            return state._replace(size=0, mtime_ns=0, ctime_ns=0)
        return state


@dataclass(frozen=True, kw_only=True)
class Sidecars:
    """The folder beside a runsc, checked; ``present`` is False if there is none.

    ``states`` has the folder under the name ``""``, and all in it by their paths in the folder.
    ``shared`` says why others could put a folder there, or is ``""``.
    """

    folder: str
    present: bool
    states: dict[str, State] = dataclasses.field(default_factory=dict, repr=False)
    shared: str = ""

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the executable files."""
        files = (name for name, state in self.states.items() if _is_program(state.mode))
        return tuple(sorted(files))

    @property
    def has_sentry(self) -> bool:
        """Whether runsc finds a sentry to boot in the folder."""
        return SENTRY in self.programs

    def changed(self, before: Sidecars) -> str:
        """Return the path of an entry that has changed, or ``""``."""
        for name in sorted({*self.states, *before.states}):
            if self.states.get(name) != before.states.get(name):
                return os.path.join(self.folder, name) if name else self.folder
        return ""


def _is_program(mode: int) -> bool:
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def looked_for(flags: Collection[str], date: dt.date | None) -> bool:
    """Whether a runsc of these features looks for the folder; True if that is unknown."""
    # The first releases that look for it have no flag for it. A build without a label has no date.
    return any(flag.startswith("sidecar-") for flag in flags) or date is None or date >= _SINCE


def beside(runsc: Way, trust: Trust) -> Sidecars:
    """Check the folder beside the file at the end of ``runsc``.

    Raises `InsecureRunsc` for a file that breaks a rule, and OSError if this process has too few
    descriptors or too little memory to check.
    """
    *above, binary = runsc.stack
    folder = above[-1]
    check = _FolderCheck(trust, binary.path)
    if len(above) > 1 and os.path.basename(binary.path) == SENTRY:
        check.entry(above[:-1], os.path.basename(folder.path), "")
        return Sidecars(folder=folder.path, present=True, states=check.states)
    path = os.path.join(folder.path, RUNSC_FOLDER)
    try:
        os.stat(RUNSC_FOLDER, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return Sidecars(folder=path, present=False, shared=add_problem(folder))
    check.entry(above, RUNSC_FOLDER, "")
    return Sidecars(folder=path, present=True, states=check.states)


def again(fd: int, trust: Trust) -> Sidecars | None:
    """Check the folder again beside the open runsc ``fd``; None if that has no path any more.

    Raises as `beside` does.
    """
    # runsc reads the same link of itself. For a file that was removed or replaced, the kernel
    # appends " (deleted)" to the path.
    path = os.readlink(f"/proc/self/fd/{fd}")
    with contextlib.ExitStack() as held:
        try:
            way = follow(path, held)
        except OSError as error:
            text_of(error)
            return None
        if not os.path.samestat(way.stack[-1].info, os.fstat(fd)):
            return None
        if reasons := distinct(folder_problem(lookup, trust) for lookup in way.lookups):
            raise refusal(path, reasons, way.stack[-1].info, path)
        return beside(way, trust)


class _FolderCheck:
    """One check of everything in a folder."""

    def __init__(self, trust: Trust, runsc: str) -> None:
        self.states: dict[str, State] = {}
        self._trust = trust
        self._runsc = runsc

    def entry(self, above: list[Node], name: str, known: str, depth: int = 0) -> None:
        """Check the entry ``name`` of the folder at the end of ``above``, with its content."""
        path = os.path.join(above[-1].path, name)
        with contextlib.ExitStack() as held:
            try:
                way = follow(name, held, above)
            except OSError as error:
                why = f"it cannot be reached: {text_of(error)}"
                raise refusal(path, why, None, self._runsc) from None
            node = way.stack[-1]
            is_folder = stat.S_ISDIR(node.info.st_mode)
            problems = [
                *(self._folder(node) if is_folder or not known else self._file(way)),
                *(folder_problem(lookup, self._trust) for lookup in way.lookups),
                *noexec_problem(node.fd),
            ]
            if reasons := distinct(problems):
                raise refusal(node.path, reasons, node.info, self._runsc)
            self.states[known] = State.of(node.info)
            if is_folder:
                self._entries(way.stack, node, known, depth)

    def _entries(self, stack: list[Node], folder: Node, known: str, depth: int) -> None:
        for name in self._names(folder):
            if depth == DEEPEST or len(self.states) > MOST_ENTRIES:
                why = f"it holds more than {MOST_ENTRIES} entries, or folders {DEEPEST} deep"
                raise refusal(folder.path, why, folder.info, self._runsc)
            self.entry(stack, name, os.path.join(known, name), depth + 1)

    def _names(self, folder: Node) -> list[str]:
        with closing(self._opened(folder, os.O_DIRECTORY)) as fd, os.scandir(fd) as entries:
            return sorted(entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1))

    def _folder(self, node: Node) -> Iterator[str]:
        if not stat.S_ISDIR(node.info.st_mode):
            yield "it is not a folder"
        if self._trust.sealed_in_store(node):
            return
        # Sticky or not: runsc looks for more names than there are files.
        if self._trust.others_write(node):
            yield "its group or others may write it"
        if not self._trust.owns(node):
            yield self._trust.stranger(node)

    def _file(self, way: Way) -> Iterator[str]:
        node = way.stack[-1]
        if not stat.S_ISREG(node.info.st_mode):
            yield "it is neither a regular file nor a folder"
        yield from file_problems(node, way.lookups[-1].folder, self._trust)
        if _is_program(node.info.st_mode):
            with closing(self._opened(node)) as fd:
                yield from elf.loading_problems(fd, node.path, self._trust)

    def _opened(self, node: Node, flags: int = 0) -> int:
        try:
            return os.open(f"/proc/self/fd/{node.fd}", os.O_RDONLY | os.O_CLOEXEC | flags)
        except OSError as error:
            why = f"it cannot be read, so it cannot be checked: {text_of(error)}"
            raise refusal(node.path, why, node.info, self._runsc) from None


def refusal(path: str, reason: str, info: os.stat_result | None, runsc: str = "") -> InsecureRunsc:
    """Return the refusal of a file, or of an entry beside ``runsc``."""
    return InsecureRunsc(
        path,
        reason,
        mode=stat.S_IMODE(info.st_mode) if info else None,
        owner=info.st_uid if info else None,
        next_step=_NEXT_STEP.format(runsc=escape(runsc)) if runsc else "",
    )


def distinct(problems: Iterable[str | None]) -> str:
    """Join the problems, each once."""
    return "; ".join(dict.fromkeys(filter(None, problems)))
