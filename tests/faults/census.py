"""A census of the remains that a run of the suite could leave, and the facts of a file tree."""

import contextlib
import glob
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_gvisor.programs import proc
from pytest_gvisor.sessions import session_folder

Facts = tuple[tuple[object, ...], ...]

WORDS = ("runsc", "pytest_gvisor", "pytest-gvisor", "pgf-")
"""A process is of interest if one of these is on its command line."""
SOCKETS = ("pytest-gvisor", "pgf-")
"""A unix socket is of interest if one of these is in its path."""
DOCKER = {"container": ("ps", "--all"), "image": ("images", "--all"), "volume": ("volume", "ls"),
          "network": ("network", "ls")}  # fmt: skip


def canary_tree(folder: Path) -> None:
    """Fill an empty folder with files of each kind, whose `facts` must not change."""
    (folder / "d").mkdir(mode=0o750)
    (folder / "d/file").write_bytes(bytes(range(256)))
    (folder / "d/script").write_text("#!/bin/sh\n")
    (folder / "d/script").chmod(0o4755)
    (folder / "link").symlink_to("d/file")
    (folder / "nowhere").symlink_to("/nowhere")
    os.mkfifo(folder / "fifo")


def facts(folder: Path, *, without: Path | None = None) -> Facts:
    """The facts of each file of a tree: name, kind and mode, owner, time of change, and content.

    ``without`` is a folder in it that may change.
    """
    paths = [folder]
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(place, name) != without]
        paths += [Path(place, name) for name in (*folders, *files)]
    found = []
    for path in sorted(paths):
        status = path.lstat()
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        owner = (status.st_uid, status.st_gid)
        found.append((str(path), status.st_mode, *owner, status.st_mtime_ns, content))
    return tuple(found)


def census() -> frozenset[str]:
    """A line for each process, mount, cgroup, socket, session, sandbox, docker object, /tmp entry.

    What belongs to a session whose pytest lives is left out: it is not over. Of what else others do
    on this machine, with docker or pip for instance, there may be lines.
    """
    living = _living()
    found = [*_processes(), *_mounts(), *_cgroups(), *_sockets(), *_sessions(), *_temporary(),
             *_sandboxes(living), *_docker()]  # fmt: skip
    return frozenset(line for line in found if not any(path in line for path in living))


def _living() -> list[str]:
    """The folders of sessions whose keeper or warden still has its starter as a parent.

    That is a Python, pytest's or an xdist worker's; orphans get init or a subreaper.
    """
    found = []
    for pid in proc.pids():
        words = proc.words_of(pid)
        if any(word.endswith(("/keeper.py", "/warden.py")) for word in words[:5]):
            stat = proc.stat_of(pid)
            parent = proc.words_of(stat.parent) if stat else []
            if os.path.basename(parent[0] if parent else "").startswith("python"):
                found += [word for word in words if "/s-" in word]
    return found


def _processes() -> Iterator[str]:
    own = {os.getpid(), os.getppid()}
    for pid in proc.pids():
        words = proc.words_of(pid) if pid not in own else []
        if any(word in part for word in WORDS for part in words):
            yield f"process {pid}: {' '.join(words).strip()}"


def _mounts() -> Iterator[str]:
    yield from (f"mount {mount.point} ({mount.kind})" for mount in proc.mounts())


def _cgroups() -> Iterator[str]:
    for depth in ("*", "*/*", "*/*/*", "*/*/*/*"):
        for path in glob.glob(f"/sys/fs/cgroup/{depth}/pytest-gvisor-*"):
            yield f"cgroup {path}"


def _sessions() -> Iterator[str]:
    with contextlib.suppress(OSError):
        base = session_folder.base_folder()
        yield from (f"session {base}/{name}" for name in os.listdir(base) if name[:2] == "s-")


def _temporary() -> Iterator[str]:
    folder = tempfile.gettempdir()
    # pytest's own folders of the last runs stay, as pytest has it; pip is no part of any test here.
    names = (name for name in os.listdir(folder) if not name.startswith(("pytest-of-", "pip-")))
    yield from (f"temporary {folder}/{name}" for name in names)


def _sockets() -> Iterator[str]:
    """Unix sockets that are bound to a path of this package, in any process."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            path = " ".join(line.split()[7:])
            if any(word in path for word in SOCKETS):
                yield f"socket {path}"


def _sandboxes(living: list[str]) -> Iterator[str]:
    """The sandboxes of ``runsc list`` in its default folder, and in those of finished sessions."""
    runsc = shutil.which("runsc", path="/usr/local/bin:/usr/bin:/opt/gvisor")
    if not runsc:
        return
    roots = [""]
    with contextlib.suppress(OSError):
        roots += glob.glob(f"{session_folder.base_folder()}/s-*/g*/root")
    for depth in ("", "*/"):
        roots += glob.glob(f"/tmp/pgf-*/{depth}s-*/g*/root")
    for root in roots:
        if not any(path in root for path in living):
            words = ["--root", root] if root else []
            listed = _lines(runsc, *words, "list", "-quiet")
            yield from (f"runsc list: {line} {root}".strip() for line in listed)


def _docker() -> Iterator[str]:
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if shutil.which("docker") and os.path.exists(host.removeprefix("unix://")):
        for kind, words in DOCKER.items():
            yield from (f"docker {kind} {line}" for line in _lines("docker", *words, "--quiet"))


def _lines(*argv: str) -> list[str]:
    """The lines that a command prints, or none if it fails, as docker does without a daemon."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20
        )
        return done.stdout.splitlines() if done.returncode == 0 else []
    return []
