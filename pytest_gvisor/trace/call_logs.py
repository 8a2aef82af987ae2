"""System calls of tests, from the logs of strace(1) and of runsc, and the first that differs.

Only calls between the marks of `plugin.phase_marks` are kept. Lines are untrusted: a program can
forge one, by an argument of a call. So numbers have few digits, and the time for a line grows with
its length alone. Whoever shows a text of a call escapes it.
"""

from __future__ import annotations

import collections
import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

MOST_CALLS = 200_000
"""Calls that are kept of one log."""

_LONGEST_LINE = 16 * 1024
"""Characters; two paths and the data of a call have fewer."""

_LONGEST = 300
"""Characters of a text that is kept."""

_MOST_TESTS = 1000

_STRACE = re.compile(
    r"(\d{1,10}) +(\w{1,40})\((.*)\) += (-?\d{1,20}|0x[0-9a-f]{1,16})(?:<.*>)?(?:\(deleted\))?"
    r"(?: (E[A-Z0-9]+)| |\Z)"
)
_RUNSC = re.compile(
    r"[^[]*\[ *\d{1,10}: *(\d{1,10})\] .{0,60}? X (\w{1,40})\((.*)\) = (-?\d{1,20}) "
    r"(?:\(0x[0-9a-f]+\) )?(?:errno=(\d{1,4}) |\()"
)
"""The name of a thread, before ``X``, has 15 bytes, each of which may be shown as ``\\xff``."""

_BEGUN = re.compile(r"(\d+) +(\w+\(.*?),? <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)", re.DOTALL)

_AT = re.compile(
    r"(?:open|newfstat|faccess|mkdir|unlink|rename|link|readlink|fchmod|fchown|utimens|mknod|execve"
    r"|name_to_handle_)at2?|inotify_add_watch|statx"
)
"""The calls whose second argument is a path. Another call has it as its first, or has none."""

_HOST_FD = r"(?:AT_FDCWD|-?\d+)(?:<([^>]*)>)?(?:\(deleted\))?"
_HOST_PATH = r'"((?:[^"\\]|\\.)*)"'
_FD, _PATH = r"(?:AT_FDCWD|0x[0-9a-f]{1,5}(?![0-9a-f]))(?: ([^,]*))?", r'0x[0-9a-f]{6,} ([^,{"[]*)'
_ARGUMENTS = {
    True: (re.compile(f"{_HOST_FD}, {_HOST_PATH}"), re.compile(f"{_HOST_PATH}|{_HOST_FD}")),
    False: (re.compile(f"{_FD}, {_PATH}"), re.compile(f"{_PATH}|{_FD}")),
}
"""By whether the log is the host's: the arguments of `_AT`, and those of other calls."""

_COUNTED = re.compile(
    r"p?read(64|v2?)?|readlink(at)?|recv\w+|p?poll|p?select6?|epoll_p?wait2?|getdents64"
)
"""Calls whose result is a number that does not depend on a descriptor, an address or a process."""

_REPLACED = {"clone3", "close_range", "faccessat2", "membarrier", "openat2", "rseq", "statx"}
"""Calls that the C library, or Python, replaces by other ones where they fail."""

_NAMES = (
    "process_madvise", "epoll_pwait2", "mount_setattr", "quotactl_fd", "landlock_create_ruleset",
    "landlock_add_rule", "landlock_restrict_self", "memfd_secret", "process_mrelease",
    "futex_waitv", "set_mempolicy_home_node", "cachestat", "fchmodat2", "map_shadow_stack",
)  # fmt: skip
"""The calls from number 440 on, which is the same for each architecture. runsc's log, and that of
an older strace, has the number alone."""


class Call(NamedTuple):
    """A system call that has returned."""

    task: str
    name: str
    place: str
    """Its path, whole if the log has the folder, or that of its descriptor; below /tmp its last
    part alone."""

    shown: str
    """The call as its log has it."""

    result: int
    error: int
    """The number of its error, or 0."""

    @property
    def answer(self) -> str:
        """The end of a sentence on it: its success, or the error's name."""
        return f"fails with {errno.errorcode.get(self.error)}" if self.error else "succeeds"


class CallLog:
    """The calls of marked phases, by the numbers of their tests; one of each test is a phase."""

    def __init__(self, marks: str, *, host: bool) -> None:
        self.host = host
        self._mark = re.compile(rf"{re.escape(marks)}/([0-9a-f]{{1,200}})/(\w+)")
        self._begun: dict[str, str] = {}
        self._test = ""
        self._kept = 0
        self.calls: dict[str, list[Call]] = collections.defaultdict(list)
        self.raised: dict[str, bool] = {}
        """Whether an exception ended a phase. A test without a mark is not here."""

    def add(self, line: str) -> None:
        """Take a line of the log."""
        if len(line) > _LONGEST_LINE:
            return
        if self.host and (found := _BEGUN.match(line)):
            self._begun[found[1]] = found[2]
            return
        if self.host and (found := _RESUMED.match(line)):
            line = f"{found[1]} {self._begun.pop(found[1], '')}{found[2]}"
        found = (_STRACE if self.host else _RUNSC).match(line)
        if found is None:
            return
        task, name, arguments, result, error = found.groups()
        if unnamed := re.fullmatch(r"sys(?:call)?_([1-9]\d*|0x[0-9a-f]+)", name):
            name = dict(enumerate(_NAMES, 440)).get(int(unnamed[1], 0), name)
        if mark := self._mark.search(arguments):
            self._test = mark[1] if mark[2] == "begin" else ""
            if mark[1] in self.raised or len(self.raised) < _MOST_TESTS:
                known = self.raised.get(mark[1], False)
                self.raised[mark[1]] = known or mark[2] not in {"begin", "end"}
        elif self._test and self._kept < MOST_CALLS and not name.startswith("execve"):
            # Of execve, runsc's log has a success, whatever came of it.
            self._kept += 1
            number = int(error or 0) if not self.host else getattr(errno, error or "", 0)
            shown = f"{name}({arguments})"
            shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…)"
            place = self._place(name, arguments)[-_LONGEST:]
            value = int(result, 16 if "x" in result else 10)
            self.calls[self._test].append(Call(task, name, place, shown, value, number))

    def _place(self, name: str, arguments: str) -> str:
        at, other = _ARGUMENTS[self.host]
        second = _AT.fullmatch(name)
        found = (at if second else other).match(arguments)
        if found is None:
            return ""
        folder, path = found.groups() if second else reversed(found.groups())
        if not path:  # another kind of descriptor, and a file without a name, have no path
            return folder if folder and folder.startswith("/") and "/tmp/" not in folder else ""
        whole = os.path.join(folder or "", path.partition(", ")[0])
        return os.path.basename(whole) if whole.startswith(("/tmp/", "/var/tmp/")) else whole


def sentence(host: Call, gvisor: Call) -> str:
    """Return a sentence on a call with two answers, without a full stop: a log's text is in it."""
    one, two = host.answer, gvisor.answer
    if one == two:
        one, two = f"gives {host.result}", f"gives {gvisor.result}"
    return f"{host.shown} {one} on the host, and {two} in gVisor"


def first_difference(
    host: Sequence[Call], gvisor: Sequence[Call], message: str, *, fails_inside: bool
) -> tuple[Call, Call] | None:
    """Return the first call with another error, or else with another result.

    A call whose error the failure's ``message`` names comes before all others, and one that
    programs replace by another call comes last.
    """
    exact, loose = {}, {}
    for key, other, call in _numbered(host):
        exact[key] = call
        if call.place:
            loose[other] = call
    found = []
    for key, other, call in _numbered(gvisor):
        # runsc's log has no path of a call that gVisor does not know.
        pair = exact.get(key) or (None if call.place else loose.get(other))
        if pair is not None and (pair.error != call.error or _counts(pair, call)):
            found.append((pair, call))

    def rank(pair: tuple[Call, Call]) -> tuple[bool, bool, bool]:
        named = names(message, pair[fails_inside].error)
        return not named, pair[0].name in _REPLACED, pair[0].error == pair[1].error

    return min(found, key=rank, default=None)


def failed_as_told(calls: Iterable[Call], message: str) -> Call | None:
    """Return the last call whose error a failure's message names."""
    return next((call for call in reversed([*calls]) if names(message, call.error)), None)


def names(message: str, number: int) -> bool:
    """Whether a text names an error, by its number as Python does, or by its text."""
    return bool(number) and (f"[Errno {number}]" in message or os.strerror(number) in message)


def _counts(one: Call, two: Call) -> bool:
    if not _COUNTED.fullmatch(one.name) or one.error or one.result == two.result:
        return False
    return not one.result or not two.result or one.place.startswith(("/proc/", "/sys/", "/dev/"))


_Key = tuple[int, str, str, int]


def _numbered(calls: Iterable[Call]) -> Iterator[tuple[_Key, _Key, Call]]:
    """Yield each call with its task, name, path, and how many such calls were before it.

    The second key is without the path.
    """
    tasks: dict[str, int] = {}
    before: collections.Counter[tuple[int, str, str]] = collections.Counter()
    for call in calls:
        task = tasks.setdefault(call.task, len(tasks))
        key, other = (task, call.name, call.place), (task, call.name, "")
        before.update({key, other})
        yield (*key, before[key]), (*other, before[other]), call
