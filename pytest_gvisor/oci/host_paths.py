"""Checks of the host's paths: which links are followed, and which folders no sandbox writes.

A workload that writes a folder can put a link there. A path below that folder would then lead
elsewhere. So no link is followed where a workload, a test or a checkout may have put it, and none
that another user may have put somewhere.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import sys
from collections.abc import Iterator, Sequence

from pytest_gvisor.base import trust
from pytest_gvisor.base.errors import LaunchError, UsageError, stage
from pytest_gvisor.programs.paths import below, caches, projects, within
from pytest_gvisor.sessions import private

VERSION_CONTROL = (".git", ".hg")
ENVIRONMENT = "pyvenv.cfg"
"""A file that a virtual environment has."""

MOST_LOOKED_AT = 200_000
"""The files and folders of a folder that are looked at for a hard link to a module of the host."""

_planted: set[str] = set()
written_now: list[str] = []
"""The sources that runs of this process which are going on may write."""


def note_writable(folder: str) -> None:
    """Remember a canonical folder in which workloads or tests of this session may put links."""
    _planted.add(folder)


@contextlib.contextmanager
def writing(sources: Sequence[str]) -> Iterator[None]:
    """Say that a run which is going on may write these canonical sources."""
    _planted.update(sources)
    private.written.update(sources)
    written_now.extend(sources)
    try:
        yield
    finally:
        for source in sources:
            written_now.remove(source)


def canonical(path: str, *, follow: bool = False) -> str:
    """Return the absolute path of an existing file or folder, without links.

    A link at or below a noted folder or the current one is followed with ``follow`` alone. So is
    one of another user. Without, it is a `UsageError` that names the target. Raises `OSError` where
    a part is missing, and `LaunchError` where there are no descriptors or no memory for the way.
    """
    held = tuple(_held())
    # Not by `os.path.abspath`: a `..` after a link leaves the folder that the link leads to.
    whole = path if path.startswith("/") else f"{os.getcwd()}/{path}"
    with contextlib.ExitStack() as opened:
        try:
            way = trust.follow(whole, opened)
        except OSError as error:
            if error.errno in trust.SHORTAGES:
                raise LaunchError("mounts", f"cannot follow {path!a}", errno=error.errno) from error
            raise
        links = [lookup for lookup in way.lookups if stat.S_ISLNK(lookup.entry.info.st_mode)]
        for lookup in () if follow else links:
            entry = lookup.entry
            if any(within(entry.path, folder) for folder in held):
                why = "in a folder where a workload, a test or a checkout may have put it"
            elif trust.is_strangers(lookup):
                why = f"and uid {entry.info.st_uid} has put it there"
            else:
                continue
            target = os.readlink("", dir_fd=entry.fd)
            raise UsageError(
                f"{entry.path!a} is a link to {target!a}, {why}",
                next_step="Name the target itself, or say that it is meant: bind(…, follow=True).",
            )
    return way.stack[-1].path


def _held() -> Iterator[str]:
    yield from projects
    yield from [*_planted]  # which other threads change
    with contextlib.suppress(OSError):  # it may be gone
        if (here := os.getcwd()) != "/":
            yield here


def executed(source: str) -> str:
    """Return why the host executes or trusts what is at this canonical path; empty if it does not.

    A sandbox that writes there would decide what the host does next.
    """
    for root in projects:
        if within(root, source):
            return f"holds the project {root!a}, whose code the host runs"
    for name in VERSION_CONTROL:
        if f"/{name}/" in f"{source}/" or os.path.lexists(os.path.join(source, name)):
            return f"is or holds a {name}, whose hooks and settings the host obeys"
    for folder in {sys.prefix, sys.exec_prefix, sys.base_prefix, *_environments(source)}:
        real = os.path.realpath(folder)
        # The folder for temporary files that tox and nox have in an environment.
        temporary = within(source, os.path.join(real, "tmp")) or real in {"/", "/usr"}
        if within(real, source) or (below(source, real) and not temporary):
            return f"is or holds a part of {real!a}, a Python that the host runs"
    if sys.pycache_prefix and within(source, os.path.realpath(sys.pycache_prefix)):
        return f"lies in {sys.pycache_prefix!a}, from which the host runs byte code"
    for entry in sys.path:
        real = os.path.realpath(entry or ".")
        if within(real, source):
            return f"holds {real!a}, from which the host imports"
    ours = os.path.realpath(os.path.dirname(caches("")))
    if within(source, ours) or within(ours, source):
        return "is or holds what pytest-gvisor keeps for later sessions"
    if other := _second_name(source):
        return f"has another name of {other!a}, which the host has imported"
    return ""


def _second_name(source: str) -> str:
    """Return the file of a module that has a hard link in a folder; empty if there is none.

    uv links the files of its cache into environments. A write by one name shows by the other.
    """
    linked: dict[tuple[int, int], str] = {}
    for module in [*sys.modules.values()]:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(file := str(getattr(module, "__dict__", {}).get("__file__")))
            if status.st_nlink > 1:
                linked[status.st_dev, status.st_ino] = file
    if not linked:
        return ""
    folders = itertools.islice(walk(source), MOST_LOOKED_AT)
    below = (os.path.join(top, name) for top, _, names in folders for name in names)
    for path in itertools.chain([source], itertools.islice(below, MOST_LOOKED_AT)):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if found := linked.get((status.st_dev, status.st_ino)):
                return found
    return ""


def walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Do as `os.walk`, which calls itself for each folder in a folder before Python 3.12.

    Raises `LaunchError` where there are no descriptors or no memory for a look.
    """
    found = [folder]
    for path in found:
        with stage("mounts", f"cannot look into {path!a}"):
            for top, folders, files in itertools.islice(os.walk(path, onerror=trust.text_of), 1):
                yield top, folders, files
                paths = (os.path.join(top, name) for name in folders)
                found += (path for path in paths if not os.path.islink(path))


def _environments(source: str) -> Iterator[str]:
    """Yield the virtual environments that a path is or lies in."""
    while source.strip("/"):
        if os.path.lexists(os.path.join(source, ENVIRONMENT)):
            yield source
        source = os.path.dirname(source)
