"""The remains of a sandbox: how they are recognised, and how they are removed.

The keeper uses it after each run, pytest if its keeper is gone, and the sweep for dead sessions.

A process belongs to a sandbox if its command line has ``--root`` with the state folder of the run,
if it is this user's, and if it has no-new-privs, as each process of runsc has. So a pid that was
used again, or a reader of the files, is never touched. A process that another user has started is
never waited for, even if its command line looks like that, and it is a set-uid program such as
sudo. A user who starts such processes again and again would keep each sweep busy.
Standard library and its siblings only.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence

from pytest_gvisor.programs import clock, linux, paths, proc

JOURNAL = "journal"
CGROUP_PREFIX = "pytest-gvisor-"
PATIENCE = 2.0
_DEEP = 100


def _is_between(pid: int) -> bool:
    """Whether a process without a command line is being executed, or has not ended yet.

    During execve(2), the new memory of a process has no command line at first. A process that ends
    gives up its memory first, and its children later: as long as it closes its files, nobody else
    has its children among their own (do_exit in kernel/exit.c). A killed fork bomb has thousands
    of threads that end one by one. A zombie with a single thread counts as gone.
    """
    with contextlib.suppress(OSError, KeyError):
        status = proc.status_of(pid)
        return not status["State"].startswith("Z") or int(status["Threads"]) > 1
    return False


def _names(words: list[str], root: str) -> bool:
    """Whether a command line has ``--root`` with a path at or under ``root``.

    runsc passes the flag on to gofer and sandbox, as ``--root=PATH``.
    """
    values = [after for word, after in itertools.pairwise(words) if word == "--root"]
    values += [word.removeprefix("--root=") for word in words if word.startswith("--root=")]
    return any(paths.within(value, root) for value in values)


def _is_own(pid: int) -> bool:
    """Whether a process may be of this user's runsc.

    It is asked before the command line is read. To read that waits for the memory map of the
    process, which its user can keep locked by a FUSE file system (mmap_lock in mm/memory.c). The
    status does not wait.
    """
    try:
        # In a user namespace, strangers have the number of nobody. The kernel knows them.
        os.kill(pid, 0)
        status = proc.status_of(pid)
        # With no-new-privs, no set-uid program has made it this user's.
        return int(status["Uid"].split()[0]) == os.geteuid() and status["NoNewPrivs"] == "1"
    except (OSError, KeyError):
        return False


def processes(root: str, *, everywhere: bool = False) -> list[int]:
    """Return the live processes of the sandboxes whose state folder is at or under ``root``.

    Looks among this process's children, where a subreaper finds all of its orphans. With
    ``everywhere``, it looks among all processes of this user. A child without a command
    line counts too, although it may belong to another sandbox: see `_is_between`.
    """
    found, seen = list[int](), {os.getpid()}
    # A parent that was alive in one look and a zombie when it was asked has left its children since
    # then: they are in the next look. All processes of the machine are in one; on a busy machine, a
    # further one would find new ones of others each time.
    while new := {*(proc.pids() if everywhere else proc.children_of_self())} - seen:
        seen |= new
        for pid in filter(_is_own, new):
            words = proc.words_of(pid)
            if _names(words, root) if words else not everywhere and _is_between(pid):
                found.append(pid)
        if everywhere:
            break
    return found


def kill(pids: list[int], root: str) -> None:
    """Send SIGKILL to each of ``pids`` that is still a process of the sandbox at ``root``."""
    for pid in pids:
        _kill_if(pid, lambda one: _is_own(one) and _names(proc.words_of(one), root))


def _kill_if(pid: int, is_one: Callable[[int], bool]) -> None:
    with contextlib.suppress(OSError), linux.closing(os.pidfd_open(pid)) as pidfd:
        # Asked again: before the descriptor was open, the pid may have gone to another process.
        if is_one(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def remove(folder: str, cgroups: Sequence[str]) -> list[str]:
    """Remove a run's folder and cgroups; return what could not be removed."""
    unmount(folder)
    leaks = [*(_undo(os.rmdir, cgroup) for cgroup in cgroups), _undo(_remove_tree, folder)]
    return list(filter(None, leaks))


def remove_session(session: str, cgroups: list[str]) -> list[str]:
    """Remove a session; its folder goes only if everything else could be removed.

    The journal names the cgroups, and the lock shows that the session is in use. They are removed
    last, in this order, so that the next sweep finds everything that this one leaves.
    """
    unmount(session)
    leaks = [_undo(os.rmdir, cgroup) for cgroup in cgroups]
    with contextlib.suppress(FileNotFoundError):
        names = set(os.listdir(session)) - {JOURNAL, paths.LOCK}
        leaks += [_undo(_remove_any, os.path.join(session, name)) for name in names]
    if not any(leaks):
        leaks = [_undo(_remove_any, os.path.join(session, name)) for name in (JOURNAL, paths.LOCK)]
        leaks.append(_undo(os.rmdir, session))
    return list(filter(None, leaks))


def _remove_any(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        _remove_tree(path)
    else:
        os.unlink(path)


def _remove_tree(path: str) -> None:
    """Remove a folder with all of its content, however deep it is. Raises OSError."""
    try:
        shutil.rmtree(path)
    except (OSError, RecursionError):
        # In a deep tree, rmtree runs out of stack or, since Python 3.13, of descriptors. A folder
        # without permissions lets its owner remove nothing in it.
        _flatten(path)
        shutil.rmtree(path)


def _flatten(top: str) -> None:
    """Move each folder that lies deep below ``top`` up to it, and let this user into all."""
    found = [top]
    _let_in(top)
    for begin in found:
        for path, folders, _files, fd in os.fwalk(begin):
            for name in folders:
                _let_in(name, fd)
            if path.count("/") - begin.count("/") == _DEEP:
                for name in folders:
                    found.append(f"{top}/{os.urandom(8).hex()}")
                    os.rename(name, found[-1], src_dir_fd=fd)
                folders.clear()


def _let_in(name: str, above: int | None = None) -> None:
    """Give this user all rights in a folder; a link is left alone."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.suppress(OSError), linux.closing(os.open(name, flags, dir_fd=above)) as folder:
        os.chmod(f"/proc/self/fd/{folder}", 0o700)


def _undo(remover: Callable[[str], object], path: str) -> str:
    """Call ``remover``; return why ``path`` is still there, or nothing."""
    try:
        remover(path)
    except OSError as error:
        # On a read-only file system, the error also comes for a path that does not exist. And
        # ENOENT may be of a file inside that another process has removed (rmtree before Python
        # 3.13), so it does not say that the folder itself is gone.
        if os.path.lexists(path):
            return f"{path}: {error}"
    return ""


def mount_points(folder: str) -> list[str]:
    """Return the mount points under ``folder``, in the order of their mounting."""
    return [mount.point for mount in proc.mounts() if paths.below(mount.point, folder)]


def unmount(folder: str) -> None:
    """Undo every mount under ``folder``: rmtree must not walk into one.

    Newer runsc releases bind a network namespace to ``null-netns`` in their state folder.
    """
    for path in reversed(mount_points(folder)):
        with contextlib.suppress(OSError):
            linux.umount_lazily(path)


def kill_cgroups(cgroups: Sequence[str]) -> None:
    """Kill everything in the cgroups: by cgroup.kill of version 2, else one by one."""
    for cgroup in cgroups:
        try:
            with open(os.path.join(cgroup, "cgroup.kill"), "w", encoding="ascii") as switch:
                switch.write("1")
        except OSError:
            _kill_members(cgroup)


def _members(cgroup: str) -> list[int]:
    return list(map(int, proc.text_in(os.path.join(cgroup, "cgroup.procs")).split()))


def _kill_members(cgroup: str) -> None:
    for pid in _members(cgroup):
        _kill_if(pid, lambda one: one in _members(cgroup))


def clear(
    folder: str, root: str, cgroups: Sequence[str], *, patience: float = PATIENCE
) -> list[str]:
    """Kill the sandboxes at or under ``root``, then remove folder and cgroups.

    For callers without a keeper: waits until nothing is left, and at most ``patience`` seconds.
    Returns a text for each thing that could not be removed.
    """

    def step(late: bool) -> list[str]:
        left = _kill(root, cgroups)
        return left if left and not late else left + remove(folder, cgroups)

    return _retried(folder, step, patience)


def clear_session(
    session: str, *, everywhere: bool = True, patience: float = PATIENCE
) -> list[str]:
    """`clear` a whole session and the cgroups in its journal; see `remove_session`.

    Looks for processes among all, or only among this process's children.
    """

    def step(_late: bool) -> list[str]:
        cgroups = journalled_cgroups(session)
        return _kill(session, cgroups, everywhere=everywhere) or remove_session(session, cgroups)

    return _retried(session, step, patience)


def _kill(root: str, cgroups: Sequence[str], *, everywhere: bool = True) -> list[str]:
    """Kill all of the sandboxes at or under ``root``; describe the killed ones."""
    left = processes(root, everywhere=everywhere)
    kill(left, root)
    kill_cgroups(cgroups)
    return [f"process {pid}" for pid in left]


def _retried(folder: str, step: Callable[[bool], list[str]], patience: float) -> list[str]:
    """Repeat ``step`` until nothing is left; its argument is whether it is the last try."""
    deadline = clock.monotonic() + patience
    while True:
        late = clock.monotonic() > deadline
        try:
            leaks = step(late)
        except OSError as error:  # this process may be out of descriptors for a moment
            leaks = [f"{folder}: {error}"]
        if not leaks or late:
            return leaks
        time.sleep(0.01)


def kill_children(patience: float = PATIENCE) -> None:
    """Kill and reap every child of this process, and each orphan that it gets by that."""
    deadline, pause = clock.monotonic() + patience, 0.0005
    while (pids := proc.children_of_self()) and clock.monotonic() < deadline:
        for pid in pids:  # a pid is not used again before it was waited for
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        # The end of a session waits for this loop. Most children die within a millisecond.
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


def journalled_cgroups(session: str) -> list[str]:
    """Return the cgroups that a session has made, or was about to make.

    Raises OSError where there is a journal that cannot be read.
    """
    found: list[str] = []
    with (
        contextlib.suppress(FileNotFoundError),
        open(os.path.join(session, JOURNAL), encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            # Programs import nothing of guest/wire/checked_json.py, which reads JSON elsewhere.
            with contextlib.suppress(ValueError, RecursionError):
                entry = json.loads(line)
                listed = entry.get("cgroups") if isinstance(entry, dict) else None
                if isinstance(listed, list):
                    found += [str(path) for path in listed if is_own_cgroup(str(path))]
    return found


def is_own_cgroup(path: str) -> bool:
    """Whether ``path`` is a cgroup folder with a name that only this package makes."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write
        return False
    return (
        possible
        and paths.below(path, "/sys/fs/cgroup")
        and os.path.normpath(path) == path
        and os.path.basename(path).startswith(CGROUP_PREFIX)
    )
