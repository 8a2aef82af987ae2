"""The search for runsc, and the checks before it is executed.

The file at the end of a path is judged by ``fstat`` of one descriptor and executed by that
descriptor: what happens to the path afterwards is without effect. It is never executed from a copy,
because newer runsc looks for ``gvisor-bin/`` beside the file that /proc/self/exe names. What lies
there is judged with it: see `sidecars`.

Not here: what runsc can do (`features`), and any start of it for a workload.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

from pytest_gvisor.errors import InsecureRunsc, LaunchError, RunscNotFound, UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.runsc import elf, nix, sidecars
from pytest_gvisor.sessions.places import RUNSC_PATHS
from pytest_gvisor.trust import (
    MAX_SYMLINKS,
    SHORTAGES,
    Node,
    Trust,
    file_problems,
    folder_problem,
    follow,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_gvisor.runsc.sidecars import Sidecars

TRUSTED_PATHS = RUNSC_PATHS

_NEXT_STEP = (
    "Install it (Debian, Ubuntu: `apt-get install runsc`; elsewhere: `pytest-gvisor install`), "
    "or name it with --gvisor-runsc PATH."
)
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """The state of one file, as ``fstat`` gives it, to tell it from every other."""

    dev: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int

    @classmethod
    def of(cls, info: os.stat_result) -> Identity:
        """Return the identity in a stat result."""
        return cls(
            dev=info.st_dev,
            ino=info.st_ino,
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            ctime_ns=info.st_ctime_ns,
            mode=info.st_mode,
            uid=info.st_uid,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """A checked runsc, to be executed by ``fd`` and not by ``path``.

    ``path`` is canonical. ``fd`` is open for reading and close-on-exec, above 2, and belongs to
    whoever holds this value: `close` it once. ``identity`` is that of the file when it was judged,
    ``sidecars`` what lies beside it, and ``trust`` decided both.
    """

    path: str
    fd: int
    identity: Identity
    sidecars: Sidecars
    trust: Trust

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def find(
    explicit: str | None = None,
    *,
    trusted: Sequence[str] = TRUSTED_PATHS,
    search_path: str | None = None,
    euid: int | None = None,
    nix_store: str = nix.STORE,
) -> Judged:
    """Find the runsc to use: ``explicit`` only, or else the first one that the search meets.

    The search looks at ``trusted`` and then, only where ``euid`` (default: the process's) is not 0,
    at the absolute folders of ``search_path`` (default: the environment's PATH). What does not
    exist, is not a regular file or cannot be executed is passed over. An insecure one ends the
    search: a later one would hide it.

    Raises `RunscNotFound` where there is none, `InsecureRunsc` where the one that is there is
    refused (an explicit path that is no executable file included), `UsageError` for an ``explicit``
    that is no path, and `LaunchError` where this process is short of what it takes to look.
    """
    try:
        trust = Trust.here(os.geteuid() if euid is None else euid, nix_store)
        if explicit is not None:
            return _check_explicit(explicit, trust)
        if search_path is None:
            search_path = os.environ.get("PATH", "")
        return _search(trusted, search_path, trust)
    except OSError as error:
        raise LaunchError("runsc", "it cannot be looked for", errno=error.errno or 0) from error


def _search(trusted: Sequence[str], search_path: str, trust: Trust) -> Judged:
    """Return the first runsc that exists."""
    candidates = [*trusted, *(_on_path(search_path) if trust.euid else ())]
    passed: list[str] = []
    for candidate in candidates:
        try:
            return _judge(candidate, trust)
        except _PassedOver as found:
            if not found.missing:
                passed.append(f"{found.path} was passed over: {found.reason}")
    raise RunscNotFound(
        "\n".join([_searched(candidates, as_root=not trust.euid), *passed]),
        searched=candidates,
        next_step=_NEXT_STEP,
    )


def _check_explicit(explicit: str, trust: Trust) -> Judged:
    """Check the explicit path. The user has chosen it, so it may be relative."""
    if not explicit or "\0" in explicit:
        raise UsageError(f"no path of a runsc: {explicit!r}")
    try:
        path = explicit if explicit.startswith("/") else os.path.join(os.getcwd(), explicit)
        return _judge(path, trust)
    except _PassedOver as found:
        if not found.missing:
            raise found.refusal() from None
    except FileNotFoundError:  # the current folder itself is gone
        pass
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


class _PassedOver(Exception):
    """Raised for a path that is passed over: missing (``missing``), or nothing that is runsc."""

    def __init__(
        self, path: str, reason: str, *, missing: bool = False, info: os.stat_result | None = None
    ) -> None:
        self.path = path
        self.reason = reason
        self.missing = missing
        self.info = info
        super().__init__(f"{path}: {reason}")

    def refusal(self) -> InsecureRunsc:
        """The same as a refusal, for an explicit path."""
        return _refusal(self.path, self.reason, self.info)


def _refusal(path: str, reason: str, info: os.stat_result | None) -> InsecureRunsc:
    mode = stat.S_IMODE(info.st_mode) if info else None
    return InsecureRunsc(path, reason, mode=mode, owner=info.st_uid if info else None)


# --- the rules


def _judge(path: str, trust: Trust) -> Judged:
    """Check the file at the absolute ``path`` by every rule, or the target of its Nix wrapper."""
    judged, named = _judge_file(path, trust)
    if named is None:
        return judged
    judged.close()
    try:
        target, further = _judge_file(named, trust)
    except _PassedOver as found:
        raise _wrapper_refusal(judged, named, found.reason) from None
    if further is None and nix.may_name(judged.path, target.path, trust.store):
        return target
    target.close()
    why = "that is another script" if further else "that is no runsc of its own folder or store"
    raise _wrapper_refusal(judged, target.path, why)


def _wrapper_refusal(wrapper: Judged, target: str, why: str) -> InsecureRunsc:
    return InsecureRunsc(
        wrapper.path,
        f"it is a wrapper of {escape(target)}: {why}",
        mode=stat.S_IMODE(wrapper.identity.mode),
        owner=wrapper.identity.uid,
    )


def _judge_file(path: str, trust: Trust) -> tuple[Judged, str | None]:
    """Check one file; return it, and the target path if the file is a wrapper, else None."""
    with contextlib.ExitStack() as held:
        try:
            way = follow(path, held)
        except OSError as error:
            raise _unreachable(path, error) from None
        node, lookups = way.stack[-1], way.lookups
        fd = _open_regular(node)
        try:
            info = os.fstat(fd)
            head = os.pread(fd, nix.WRAPPER_LIMIT + 1, 0)
            named, problem = _content(head)
            problems = [
                *file_problems(node, lookups[-1].folder, trust),
                *(folder_problem(lookup, trust) for lookup in lookups),
                "its file system is mounted noexec" if _noexec(fd) else None,
                problem,
            ]
            if reasons := list(dict.fromkeys(filter(None, problems))):
                raise _refusal(node.path, "; ".join(reasons), info)
            if not os.access(f"/proc/self/fd/{fd}", os.X_OK, effective_ids=True):
                raise _PassedOver(node.path, "this user may not execute it", info=info)
            # A wrapper is not executed, so nothing is looked for beside it.
            found = sidecars.beside(way, trust) if named is None else sidecars.NONE
        except BaseException:
            os.close(fd)
            raise
    judged = Judged(path=node.path, fd=fd, identity=Identity.of(info), sidecars=found, trust=trust)
    if named is None:
        _check_libraries(judged, info)
    return judged, named


def _check_libraries(judged: Judged, info: os.stat_result) -> None:
    """Raise `InsecureRunsc`, and close the file, if other users could replace its libraries."""
    try:
        found = dict.fromkeys(elf.loading_problems(judged.fd, judged.path, judged.trust))
        if found:
            raise _refusal(judged.path, "; ".join(found), info)
    except BaseException:
        judged.close()
        raise


def _unreachable(path: str, error: OSError) -> Exception:
    """Return the exception for a failed walk to the path."""
    if error.errno in SHORTAGES:
        return error
    if error.errno in _MISSING:
        return _PassedOver(path, "it does not exist", missing=True)
    if error.errno == errno.ELOOP:
        reason = f"its symlinks form a loop, or are more than {MAX_SYMLINKS}"
        return _refusal(path, reason, None)
    reason = f"it cannot be reached: {error.strerror}"
    if error.errno == errno.EACCES:
        return _PassedOver(path, reason)
    return _refusal(path, reason, None)


def _open_regular(node: Node) -> int:
    """Open ``node`` for reading, whatever its path leads to now; the descriptor is above 2."""
    mode = node.info.st_mode
    if not stat.S_ISREG(mode):
        raise _PassedOver(node.path, "it is not a regular file", info=node.info)
    if not mode & 0o111:
        raise _PassedOver(node.path, "it has no execute bit", info=node.info)
    try:
        # O_NONBLOCK: whoever has a lease on the file could hold the open up.
        fd = os.open(f"/proc/self/fd/{node.fd}", os.O_NONBLOCK)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        reason = f"it cannot be read, so it cannot be checked: {error.strerror}"
        raise _refusal(node.path, reason, node.info) from None
    if fd > 2:
        return fd
    # With a standard stream closed, the number would be overwritten in the child that executes it.
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _noexec(fd: int) -> bool:
    return bool(os.fstatvfs(fd).f_flag & os.ST_NOEXEC)


def _content(head: bytes) -> tuple[str | None, str | None]:
    """Read the first bytes of a file: return the target path of a wrapper, and the problem."""
    if not head.startswith(b"#!"):
        return None, elf.head_problem(head)
    # runsc executes /proc/self/exe again for its gofer and sandbox: for a script that is the shell.
    try:
        return nix.named_binary(head), None
    except nix.NotAWrapper as error:
        return None, str(error)
