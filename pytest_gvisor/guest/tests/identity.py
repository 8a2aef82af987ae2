"""The user of a pytest inside: the change from root before anything of the project runs.

Where an ordinary user has started the sandbox, runsc maps one id. There 0 inside is that user
outside, and all others of the host are 65534. A user namespace inside gives these two the numbers
that they have on the host: root's are all the others. So the user's files are the tests' own. As
root it is a plain setuid.

The first process stays in the sandbox's first namespace. It writes the maps, which needs rights
there, and makes root's what is root's on the host.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, NamedTuple

from pytest_gvisor.guest.tests import program
from pytest_gvisor.guest.wire import checked_json

_OTHERS = 65534
"""The id in the sandbox of everybody but the caller: overflowuid of the kernel."""

_OFFSET = 1 << 20
_IDS = (1 << 32) - 1 - _OFFSET
_SHADOW = "/etc/shadow"
_SHADOW_TEXT = b"root:*:19000:0:99999:7:::\n"


class Identity(NamedTuple):
    """A user, and what the sandbox has to be like for them."""

    uid: int
    gid: int
    groups: list[int]
    home: str

    nested: bool
    """Whether it needs a user namespace: the sandbox's 0 is then this user."""

    others: int
    """The group that files of all groups but the user's are shown with, in a namespace."""

    roots: list[str]
    """Paths that are root's on the host, and belong to the sandbox's 0 so far."""


def wanted(arguments: list[str]) -> Identity | None:
    """Return the identity that the host has put on the command line; None to stay root."""
    return Identity(**checked_json.loads(arguments[0])) if arguments else None


def uid_map(who: Identity) -> str:
    """Return the lines for uid_map (user_namespaces(7))."""
    return f"{who.uid} 0 1\n0 {_OTHERS} 1\n"


def gid_map(who: Identity) -> str:
    """Return the lines for gid_map: gVisor takes five at most.

    Groups that the user is in besides are within ranges that lead to numbers without files.
    """
    points = {who.gid: 0}
    points.setdefault(who.others, _OTHERS)
    lines = [f"{inside} {outside} 1" for inside, outside in points.items()]
    if set(who.groups) - set(points):
        edges = sorted(edge for edge in points if edge < _IDS)
        for first, end in zip([0, *(edge + 1 for edge in edges)], [*edges, _IDS], strict=True):
            if first < end:
                lines.append(f"{first} {first + _OFFSET} {end - first}")
    return "".join(f"{line}\n" for line in lines)


def outer_groups(who: Identity) -> list[int]:
    """Return the numbers in the sandbox's own namespace of the groups that a user is in."""
    points = {who.others: _OTHERS} | {who.gid: 0}
    return [points.get(gid, gid + _OFFSET) for gid in who.groups if gid in points or gid < _IDS]


def kernel_calls() -> Any:
    """Return the module of kernel calls."""
    return program.beside("../../programs/linux")


class Refused(OSError):
    """Raised where the sandbox's kernel refuses a step on the way to the user."""


class Change:
    """The change of user, in two processes: `serve` in the first one, `become` in its child."""

    def __init__(self, who: Identity) -> None:
        self._who = who
        self._linux = kernel_calls()
        self._first, self._child = socket.socketpair()

    def serve(self, pid: int) -> None:
        """Map the ids of the child that asks, and hand out what is root's and what is theirs."""
        self._child.close()
        # The child is gone if a step of its own was refused: the host knows why.
        with self._first, contextlib.suppress(BrokenPipeError):
            if self._first.recv(1):
                answer = "0"
                try:
                    self._map(pid)
                    self._settle()
                except OSError as error:
                    answer = f"{error.errno or 0} {error}"
                self._first.sendall(answer.encode("utf-8", "backslashreplace"))
        if self._who.nested:
            self._keep_root_apart()

    def _map(self, pid: int) -> None:
        if self._who.nested:
            for name, text in (("uid_map", uid_map(self._who)), ("gid_map", gid_map(self._who))):
                with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                    file.write(text)

    def _settle(self) -> None:
        who = self._who
        # One that is there is the user's already, or the host's: what it holds is theirs to see.
        with contextlib.suppress(FileExistsError):
            os.makedirs(who.home, 0o755)
        if not who.nested:
            os.chown(who.home, who.uid, who.gid)
        with contextlib.suppress(FileExistsError), open(_SHADOW, "xb", opener=_closed) as file:
            file.write(_SHADOW_TEXT)
        if who.nested:
            for path in (*who.roots, _SHADOW):
                os.chown(path, _OTHERS, _OTHERS, follow_symlinks=False)

    def _keep_root_apart(self) -> None:
        """Become what tests see as root: they may not signal or trace the first process."""
        self._linux.prctl(self._linux.PR_SET_KEEPCAPS, 1)
        os.setresgid(_OTHERS, _OTHERS, _OTHERS)
        os.setresuid(_OTHERS, _OTHERS, _OTHERS)
        # For the SIGTERM at a deadline, which it passes on, and for the files that it sends.
        self._linux.set_capabilities(self._linux.CAP_KILL, self._linux.CAP_DAC_OVERRIDE)

    def become(self) -> None:
        """Become the user. Raises `Refused`, for the first process's steps too."""
        try:
            self._become()
        except OSError as error:
            raise Refused(error.errno or 0, error.strerror or str(error)) from error

    def _become(self) -> None:
        self._first.close()
        who, linux = self._who, self._linux
        if who.nested:
            os.setgroups(outer_groups(who))
            linux.unshare(linux.CLONE_NEWUSER)
        with self._child, self._child.makefile(encoding="utf-8") as answers:
            self._child.sendall(b"x")
            number, _, text = answers.read().partition(" ")
        if number != "0" or text:
            raise OSError(int(number or 0), f"the ids, the home folder or root's files: {text}")
        linux.empty_bounding_set()
        if not who.nested:
            os.setgroups(who.groups)
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
        linux.set_capabilities()
        self._verify()

    def _verify(self) -> None:
        who = self._who
        seen = (*os.getresuid(), *os.getresgid())
        if seen != (who.uid,) * 3 + (who.gid,) * 3:
            raise OSError(0, f"the ids are {seen}")
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            held = [line.split() for line in file if line.startswith(("CapEff", "CapPrm"))]
        if any(int(bits, 16) for _, bits in held):
            raise OSError(0, f"capabilities are left: {held}")


def _closed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
