"""The search for runsc, and the checks before it is executed.

The file at the end of a path is checked by ``fstat`` of one descriptor and executed by that
descriptor. A later change of the path is without effect. The programs in ``gvisor-bin/`` beside it
are checked with it: see `sidecars`. A wrapper of Nix is read and never executed.

The distribution pytest-gvisor-runsc is a wheel with a runsc. It counts if it is installed beside
the package that runs, and is trusted as that package is.

`features` asks runsc for its features; this module never starts it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_gvisor.base.errors import InsecureRunsc, RunscNotFound, UsageError, stage
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.setting_table import spellings
from pytest_gvisor.base.trust import (
    MAX_SYMLINKS,
    Node,
    Trust,
    Way,
    file_problems,
    folder_problem,
    follow,
    noexec_problem,
    text_of,
)
from pytest_gvisor.programs.linux import closing
from pytest_gvisor.programs.paths import below
from pytest_gvisor.runsc import elf, sidecars
from pytest_gvisor.runsc.sidecars import Sidecars, State
from pytest_gvisor.sessions.places import RUNSC_PATHS

PACKAGE = os.path.realpath(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The folder of this package."""

WHEEL = "pytest-gvisor-runsc"
"""The name of the distribution with a runsc."""

WHEEL_PATH = f"pytest_gvisor_runsc/bin/{sidecars.SENTRY}"
"""Its runsc, from the folder that it was installed to."""

NIX_STORE = "/nix/store"
WRAPPER_LIMIT = 4096

# nixpkgs' makeWrapper ends its script with
#     exec -a "$0" "/nix/store/<hash>-gvisor/bin/.runsc-wrapped"  "$@"
# Only characters that a shell takes literally, quoted or bare: what is read here is then what the
# shell would have started.
_EXEC = re.compile(
    rb"""exec [ \t]*(?:-a[ \t]+(?:"[^"]*"|'[^']*'|[^\s"']+)[ \t]+)?"""
    rb"""(?P<quote>["']?)(?P<path>/[A-Za-z0-9/._+=@,:%-]*)(?P=quote)(?=[ \t]|$)"""
)

_NEXT_STEP = (
    "Install it (`pip install 'pytest-gvisor[runsc]'`, `pytest-gvisor install`, or on Debian 13 "
    f"`apt-get install runsc`), or name it with {spellings('runsc')}."
)
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class Origin(enum.StrEnum):
    """The reason for which a runsc was taken."""

    NAMED = "named by a setting"
    WHEEL = f"from the wheel {WHEEL}"
    SEARCH = "found by the search"


@dataclass(frozen=True, kw_only=True)
class CheckedBinary:
    """A checked runsc, to be executed by ``fd`` and not by ``path``."""

    path: str
    """The canonical path."""

    fd: int = dataclasses.field(repr=False)
    """A descriptor of the checked file, open for reading and above 2. The owner of this value has
    to close it."""

    identity: State = dataclasses.field(repr=False)
    """The device, inode, size and times of the checked file."""

    sidecars: Sidecars = dataclasses.field(repr=False)
    """The programs in ``gvisor-bin`` beside it."""

    _trust: Trust = dataclasses.field(repr=False, compare=False)

    origin: Origin = dataclasses.field(default=Origin.NAMED, repr=False)
    """The reason for which it was taken."""

    passed: str = dataclasses.field(default="", repr=False)
    """The wheel that was passed over before it, with the reason, or ``""``."""

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def find(
    explicit: str | None = None,
    *,
    trusted: Sequence[str] = RUNSC_PATHS,
    search_path: str | None = None,
    euid: int | None = None,
    nix_store: str = NIX_STORE,
    package: str = PACKAGE,
) -> CheckedBinary:
    """Find the runsc to use: ``explicit`` only, or else the first one that the search meets.

    The search looks for the wheel beside the folder ``package`` first, then at ``trusted``. Where
    ``euid`` (default: the process's) is not 0, it then looks at the absolute folders of
    ``search_path``, by default those of PATH. A path is passed over if it does not exist, is not a
    regular file or cannot be executed; as root, also a wheel of another owner. Any other insecure
    file ends the search, so that the user learns of it even if a later path has a good one.

    Raises `RunscNotFound` if there is none. Raises `InsecureRunsc` for a file that is refused, and
    for an explicit path that is no executable file. Raises `UsageError` for an ``explicit`` that is
    no path. Raises `LaunchError` if this process has too few descriptors or too little memory to
    look.
    """
    with stage("runsc", "it cannot be looked for"):
        trust = Trust.here(os.geteuid() if euid is None else euid, nix_store)
        if explicit is not None:
            return _check_explicit(explicit, trust)
        if search_path is None:
            search_path = os.environ.get("PATH", "")
        return _search(trusted, search_path, trust, package)


def _search(trusted: Sequence[str], search_path: str, trust: Trust, package: str) -> CheckedBinary:
    """Return the first runsc that exists."""
    candidates = [*dict.fromkeys([*trusted, *(_on_path(search_path) if trust.euid else ())])]
    wheel = os.path.join(os.path.dirname(package), WHEEL_PATH)
    stranger = "" if trust.euid else _stranger(wheel, trust, os.path.dirname(package))
    note = f"{wheel} was passed over: it is {stranger}" if stranger else ""
    passed = [note] if note else []
    places = [(candidate, trust, Origin.SEARCH) for candidate in candidates]
    if not note and os.path.lexists(wheel):
        places.insert(0, (wheel, trust.beside(package), Origin.WHEEL))
    for candidate, rules, origin in places:
        verdict = _check(candidate, rules)
        if verdict.checked:
            return dataclasses.replace(verdict.checked, origin=origin, passed=note)
        if verdict.fault is _Fault.INSECURE:
            raise verdict.refusal()
        if verdict.fault is _Fault.UNFIT:
            passed.append(f"{verdict.path} was passed over: {verdict.reason}")
    raise RunscNotFound(
        "\n".join([_searched(candidates, as_root=not trust.euid), *passed]),
        searched=candidates,
        next_step=_NEXT_STEP,
    )


def _stranger(path: str, trust: Trust, folder: str) -> str:
    """Return whose the way from ``folder`` to ``path`` is, if its owner is not trusted."""
    with contextlib.ExitStack() as held:
        try:
            lookups = follow(path, held).lookups
        except OSError as error:
            text_of(error)
            return ""
        entries = [lookup.entry for lookup in lookups if below(lookup.entry.path, folder)]
        return next((trust.stranger(one) for one in entries if not trust.owns(one)), "")


def _check_explicit(explicit: str, trust: Trust) -> CheckedBinary:
    """Check the explicit path. The user has chosen it, so it may be relative."""
    if not explicit or "\0" in explicit:
        raise UsageError(f"no path of a runsc: {explicit!r}")
    with contextlib.suppress(FileNotFoundError):  # the current folder itself is gone
        path = explicit if explicit.startswith("/") else os.path.join(os.getcwd(), explicit)
        verdict = _check(path, trust)
        if verdict.checked:
            return verdict.checked
        if verdict.fault is not _Fault.MISSING:
            raise verdict.refusal()
    raise RunscNotFound(
        f"there is no runsc at {explicit}, and an explicit path is not searched for",
        searched=[explicit],
        explicit=True,
        next_step=_NEXT_STEP,
    )


def _on_path(search_path: str) -> Iterator[str]:
    """Yield the candidates of a PATH, without its empty and relative elements."""
    for folder in search_path.split(":"):
        if folder.startswith("/") and "\0" not in folder:
            yield os.path.join(folder, "runsc")


def _searched(candidates: Sequence[str], *, as_root: bool) -> str:
    where = (
        "the trusted system paths were searched, and PATH was not because this is root"
        if as_root
        else "the trusted system paths and the absolute folders of PATH were searched"
    )
    return f"runsc was not found: {where} ({', '.join(candidates) or 'none'})"


class _Fault(enum.Enum):
    """A kind of reason for which a path gives no runsc."""

    MISSING = "nothing is there"
    UNFIT = "this is no program that this user may execute: a search goes on"
    INSECURE = "others could replace it, or it cannot be checked: a search ends"


class _Verdict(NamedTuple):
    """The verdict on one path: ``checked``, or the target that a wrapper ``names``, or a fault."""

    path: str
    info: os.stat_result | None = None
    checked: CheckedBinary | None = None
    names: str = ""
    fault: _Fault | None = None
    reason: str = ""

    def refusal(self) -> InsecureRunsc:
        """The fault as an error."""
        return sidecars.refusal(self.path, self.reason, self.info)


# --- the rules


def _check(path: str, trust: Trust) -> _Verdict:
    """Check the file at the absolute ``path`` by every rule, or the target of its Nix wrapper.

    Raises `InsecureRunsc` for what lies beside it, and OSError where this process is short of what
    it takes to look.
    """
    wrapper = _check_file(path, trust)
    if not wrapper.names:
        return wrapper
    target = _check_file(wrapper.names, trust)
    if target.fault is _Fault.INSECURE:
        return target
    named, why = target.path, target.reason
    if target.fault:
        named = wrapper.names
    elif target.names:
        why = "that is another script"
    elif target.checked:
        if may_name(wrapper.path, target.path, trust.store):
            return target
        target.checked.close()
        why = "that is no runsc of its own folder or store"
    return _insecure(wrapper.path, wrapper.info, [f"it is a wrapper of {escape(named)}: {why}"])


def _check_file(path: str, trust: Trust) -> _Verdict:
    with contextlib.ExitStack() as unless_good:
        with contextlib.ExitStack() as held:
            try:
                way = follow(path, held)
            except OSError as error:
                return _unreachable(path, error)
            node = way.stack[-1]
            if unfit := _unfit(node.info.st_mode):
                return _Verdict(path=node.path, info=node.info, fault=_Fault.UNFIT, reason=unfit)
            try:
                fd = _open_regular(node)
            except OSError as error:
                why = f"it cannot be read, so it cannot be checked: {text_of(error)}"
                return _insecure(node.path, node.info, [why])
            unless_good.callback(os.close, fd)
            verdict = _check_open(fd, way, trust)
        if verdict.checked:
            # Without the descriptors of its own way: the ways to libraries take as many.
            if problems := [*elf.loading_problems(fd, verdict.path, trust)]:
                return _insecure(verdict.path, verdict.info, problems)
            unless_good.pop_all()
        return verdict


def _check_open(fd: int, way: Way, trust: Trust) -> _Verdict:
    """Check the file ``fd`` at the end of ``way``, without its libraries."""
    node, info = way.stack[-1], os.fstat(fd)
    named, problem = named_binary(os.pread(fd, WRAPPER_LIMIT + 1, 0))
    problems = [
        *file_problems(node, way.lookups[-1].folder, trust),
        *(folder_problem(lookup, trust) for lookup in way.lookups),
        *noexec_problem(fd),
        problem,
    ]
    if any(problems):
        return _insecure(node.path, info, problems)
    if not os.access(f"/proc/self/fd/{fd}", os.X_OK, effective_ids=True):
        why = "this user may not execute it"
        return _Verdict(path=node.path, info=info, fault=_Fault.UNFIT, reason=why)
    if named:
        # A wrapper is not executed, so nothing is looked for beside it.
        return _Verdict(path=node.path, info=info, names=named)
    checked = CheckedBinary(
        path=node.path,
        fd=fd,
        identity=sidecars.State.of(info),
        sidecars=sidecars.beside(way, trust),
        _trust=trust,
    )
    return _Verdict(path=node.path, info=info, checked=checked)


def _insecure(path: str, info: os.stat_result | None, problems: Iterable[str | None]) -> _Verdict:
    reason = sidecars.distinct(problems)
    return _Verdict(path=path, info=info, fault=_Fault.INSECURE, reason=reason)


def _unreachable(path: str, error: OSError) -> _Verdict:
    """Return the verdict on a path that cannot be walked.

    `text_of` raises an ``error`` that this process has for lack of descriptors or memory.
    """
    if error.errno in _MISSING:
        return _Verdict(path=path, fault=_Fault.MISSING, reason="it does not exist")
    reason = f"it cannot be reached: {text_of(error)}"
    if error.errno == errno.ELOOP:
        reason = f"its symlinks form a loop, or are more than {MAX_SYMLINKS}"
    fault = _Fault.UNFIT if error.errno == errno.EACCES else _Fault.INSECURE
    return _Verdict(path=path, fault=fault, reason=reason)


def _unfit(mode: int) -> str:
    if not stat.S_ISREG(mode):
        return "it is not a regular file"
    return "" if mode & 0o111 else "it has no execute bit"


def _open_regular(node: Node) -> int:
    """Open ``node`` for reading, even if its path leads elsewhere by now, at a number above 2."""
    # O_NONBLOCK: a process with a lease on the file (fcntl(2)) could hold up the open.
    fd = os.open(f"/proc/self/fd/{node.fd}", os.O_NONBLOCK)
    if fd > 2:
        return fd
    # If pytest has a standard stream closed, the descriptor gets its number, and the child would
    # put the stream in its place.
    with closing(fd):
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def named_binary(head: bytes) -> tuple[str, str | None]:
    """Return the path in the last `exec` of a wrapper, or ``""``, and why the file is refused.

    ``head`` is the file's first ``WRAPPER_LIMIT + 1`` bytes or all of it. The path is absolute, not
    canonical.
    """
    if not head.startswith(b"#!"):
        return "", elf.head_problem(head)
    # runsc executes /proc/self/exe again for its gofer and sandbox: for a script that is the shell.
    if len(head) > WRAPPER_LIMIT:
        return "", f"it is a script of more than {WRAPPER_LIMIT} bytes, not a wrapper"
    lines = [line for line in head.split(b"\n") if line.startswith(b"exec ")]
    if not lines:
        return "", "it is a script without a line that starts runsc by `exec`"
    match = _EXEC.match(lines[-1])
    if match is None or b"runsc" not in match["path"]:
        return "", "it is a script whose last `exec` does not name runsc by a plain path"
    return os.fsdecode(match["path"]), None


def may_name(wrapper: str, target: str, store: str = NIX_STORE) -> bool:
    """Whether the wrapper may hand over to ``target``; both are canonical paths.

    They must share the store or the folder, and the target must be called runsc. The store also
    holds every shell and interpreter of the machine.
    """
    together = below(wrapper, store) and below(target, store)
    beside = os.path.dirname(wrapper) == os.path.dirname(target)
    return (together or beside) and "runsc" in os.path.basename(target)
