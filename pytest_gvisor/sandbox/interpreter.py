"""The Python for the guest: the host's, at its own path or mounted at a private one.

A root file system may have no Python, and no library. So the running interpreter's prefix and the
folders of its libraries are bound read-only under one private path. It is started through its own
loader, which gets their paths. The interpreter itself, started with the guest's flags, lists them.
Nothing is assumed about machine, C library or distribution.

Loader, C library and interpreter must read no file of an untrusted root file system. A library from
there could send messages in the guest's name, and a locale can name a library. The flags leave out
sites and environment, and `Start` fixes locale and time zone. A root file system with preloaded
libraries is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pytest_gvisor.guest
from pytest_gvisor.base.egress import places
from pytest_gvisor.base.errors import LaunchError, UsageError, stage
from pytest_gvisor.base.escape import shown
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.oci import root_paths, skeleton, system_folders
from pytest_gvisor.oci.mounts import cover, shown_at
from pytest_gvisor.oci.rootfs import HostRootfs, Rootfs, empty, host_system
from pytest_gvisor.oci.spec import Mount
from pytest_gvisor.oci.vocabulary import normal
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.run.specification import hosts_mount
from pytest_gvisor.run.workload import Workload, make_workload
from pytest_gvisor.runsc import elf
from pytest_gvisor.sessions.private import make_private

PRIVATE = "/.pytest-gvisor"
# Links resolved: if uv has installed the package, its files may be links into a cache, which a
# sandbox does not see.
_FOLDER = os.path.dirname(os.path.realpath(pytest_gvisor.guest.__file__))
_FLAGS = ("-I", "-S", "-E")
_DEADLINE = 20.0
# Folders that images have, and that are empty in most. Nothing may be made in a folder of the host,
# so one of these serves as the mount point.
_EMPTY = ("/boot", "/media", "/srv", "/mnt", "/opt", "/home")
_PRELOAD = "/etc/ld.so.preload"
_PROC = "/proc"

_QUESTION = """
import binascii, collections, contextlib, errno, fcntl, heapq, json, os, resource, selectors, signal
import socket, stat, struct, sys, termios, time, typing
with open("/proc/self/maps") as maps:
    files = {line.split(None, 5)[5].rstrip() for line in maps if "/" in line}
print(json.dumps({"files": sorted(files), "prefix": sys.base_prefix}))
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """The running Python without an environment, as files of the host."""

    program: str
    prefix: str
    """The folder whose ``lib`` holds its modules."""

    loader: str
    """The dynamic loader that it names, links resolved; empty for a static program."""

    libraries: tuple[str, ...]
    """Folders of the libraries that it has open when the guest's modules are imported."""

    folders: tuple[str, ...]
    """Folders that hold all of it."""

    files: tuple[str, ...] = ()
    """The libraries themselves, and modules that are such, under each of their names."""

    is_musl: bool = False
    """Whether the loader is musl's, and not glibc's."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The command and mounts that start the guest in a root file system."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    under: str = ""
    """The place of the private folder, if a folder with the mount points has to be bound there."""

    points: tuple[str, ...] = ()


@functools.cache
def interpreter() -> Interpreter:
    """Return the running Python's files. Raises `LaunchError` if it does not answer."""
    # Not sys.executable, if that is a copy in a virtual environment: a copy finds its modules by
    # pyvenv.cfg, which is not mounted.
    program = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    # If it finds its libraries by this variable here, it needs the variable for the question too.
    env = {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
    try:
        answer = subprocess.run(
            [program, *_FLAGS, "-c", _QUESTION],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE,
            check=True,
        )
        known = loads(answer.stdout)
        loader = elf.loader_of(program)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise LaunchError("python", f"{program} cannot be asked about itself: {error}") from error
    is_musl = os.path.basename(loader).startswith("ld-musl")  # it may be a link to libc.so
    loader = os.path.realpath(loader) if loader else ""
    prefix = os.path.realpath(known["prefix"])
    outside = [file for file in known["files"] if not within(file, prefix) and ".so" in file]
    inside = [file for file in known["files"] if within(file, prefix) and ".so" in file]
    # The system may have a library of the same name, such as libpython's.
    libraries = tuple(dict.fromkeys(os.path.dirname(file) for file in (*inside, *outside)))
    modules = [f"{prefix}/{name}" for name in ("lib", sys.platlibdir)]
    needed = [*filter(os.path.isdir, modules), *map(os.path.dirname, (program, *outside))]
    if loader:
        needed.append(os.path.dirname(loader))
    return Interpreter(
        program=program,
        prefix=prefix,
        loader=loader,
        libraries=libraries,
        # The fewest that hold all of them.
        folders=tuple(sorted({f for f in needed if not any(below(f, one) for one in needed)})),
        files=tuple(name for file in (*outside, *inside) for name in _names(file)),
        is_musl=is_musl,
    )


def _names(file: str) -> list[str]:
    """Return the paths by which a loader may name a library: its own, and those of links to it."""
    folder, name = os.path.split(file)
    begin = f"{name.partition('.so')[0]}.so"
    with stage("python", f"cannot look into {folder!a}"):
        beside = [f"{folder}/{one}" for one in os.listdir(folder) if one.startswith(begin)]
    return [file, *(path for path in beside if path != file and os.path.realpath(path) == file)]


def _private(known: Interpreter) -> list[str]:
    """Return private files beside libraries that lie elsewhere than in what `host` shows.

    Raises `UsageError` where such a folder, or Python's prefix, is or holds a home folder.
    """
    others = [one for one in known.folders if not host_system(whole=False).holds(one)]
    for one in others:
        top = known.prefix if within(one, known.prefix) else one
        if system_folders.is_too_wide(top):
            raise UsageError(
                f"a warm sandbox would see all of {one}: {top} is or holds a home folder",
                next_step="Install Python and its libraries into folders of their own.",
            )
    with stage("rootfs", "the folders of Python's libraries cannot be looked into"):
        beside = [one for one in others if not within(one, known.prefix)]
        found = [path for one in beside for path in system_folders.private(one)]
    return [path for path in found if path not in known.files and system_folders.has_files(path)]


def _bind(source: str, destination: str) -> Mount:
    return shown_at(destination, os.path.realpath(source))


def _has_it(rootfs: Rootfs, mounts: Sequence[Mount]) -> bool:
    """Whether the root file system has the running Python at its own path."""
    if not isinstance(rootfs, HostRootfs):
        return False
    known = interpreter()
    binds = [destination for destination, _source in host_system(whole=False).binds]
    # The links of this root, such as /lib, are the host's.
    order = sorted(mounts, key=lambda mount: mount.destination.count("/"))
    covered = root_paths.places("/", order, {})
    return all(
        any(within(folder, bind) for bind in binds)
        and not any(within(folder, over) or within(over, folder) for over in covered)
        for folder in known.folders
    ) and not any(within("/etc/ld.so.cache", over) for over in covered)


def _place(rootfs: Rootfs) -> str:
    """Return the place for the private folder. Raises `UsageError` where there is none."""
    folder = rootfs.folder
    if folder is None:
        return PRIVATE
    for path in (PRIVATE, *_EMPTY):
        with contextlib.suppress(OSError):  # such as: it is no folder
            place = root_paths.resolve(folder, path, {})
            # Root in the sandbox can exchange a link, or rename a folder above what it leads to.
            if place.inside == path and not os.listdir(place.host):
                return path
    raise UsageError(
        f"{folder} has no mount point for the Python that starts a warm sandbox's programs",
        next_step=f"Make an empty folder {PRIVATE.lstrip('/')} in it.",
    )


def start(rootfs: Rootfs, mounts: Sequence[Mount], program: str = "warm/init_process.py") -> Start:
    """Return the start of the guest, or of another of its programs, in a root file system.

    Raises `UsageError` if nothing can be mounted there.
    """
    has_it, known = _has_it(rootfs, mounts), interpreter()
    base = PRIVATE if has_it else _place(rootfs)
    guest = _bind(_FOLDER, f"{base}/guest")
    # A locale names a character set, whose converter is a library. A time zone that names a missing
    # file is UTC. Only the guest's own folder is sure to get no such file: it is read-only.
    env = {"LC_ALL": "C", "TZ": f"{guest.destination}/utc"}
    words = [*_FLAGS, f"{guest.destination}/{program}"]
    if has_it:
        return Start(argv=(known.program, *words), env=env, mounts=(guest,))
    if not within(known.program, known.prefix):
        # Python looks for its modules beside its own path, and then at the path that it was built
        # with, which would be in the root file system.
        detail = f"{known.program} has its modules in {known.prefix}, where it is not itself"
        raise LaunchError("python", detail)
    words.insert(0, f"{base}{known.program}")
    if known.loader:
        search = ":".join(f"{base}{folder}" for folder in known.libraries)
        rpaths = list[str]()
        if not known.is_musl:
            # glibc looks in an object's RPATH first, as Spack's programs have one: it may name a
            # folder of the root. The first name, which is empty, is the program's (ld.so(8)).
            rpaths = ["--inhibit-rpath", ":".join(["", *(f"{base}{file}" for file in known.files)])]
        words = [f"{base}{known.loader}", *rpaths, "--library-path", search, *words]
    return Start(
        argv=tuple(words),
        env=env,
        mounts=(guest, *(_bind(folder, f"{base}{folder}") for folder in known.folders)),
        under=base,
        points=("/guest", *known.folders),
    )


def relay(allow: Sequence[str]) -> Workload:
    """Return the relay of an allow-list as the workload of a container of its own."""
    rootfs = empty()
    begin = start(rootfs, (), "warm/relay_process.py")
    made = make_workload([*begin.argv, *places(allow)], env=begin.env, rootfs=rootfs)
    return dataclasses.replace(made, mounts=begin.mounts)


def check_root(root: str, mounts: Sequence[Mount], start: Start, ours: Collection[Mount]) -> None:
    """Refuse a root in which the guest would run libraries or modules from there, or see no /proc.

    glibc's loader maps what /etc/ld.so.preload names into every program, and nothing forbids it. A
    link of the root may lead another mount than ``ours`` over the guest's files, or over /proc.
    Raises `UsageError`.
    """
    over: dict[str, str] = {}
    targets = [normal(mount.destination) for mount in mounts]
    made = dict(zip(targets, root_paths.places(root, mounts, over), strict=True))
    kept = {_PROC, *(made.get(mount.destination, _PROC) for mount in start.mounts)}
    for to in made.keys() - {mount.destination for mount in ours}:
        there = made[to]
        lies_over = any(within(there, one) or within(one, there) for one in kept)
        if (lies_over or to == _PROC) and (to, there) != (_PROC, _PROC):
            raise UsageError(
                f"a link leads the mount at {shown(to)} to {shown(there)}: it would change the "
                "program that starts those of a warm sandbox",
                next_step="Mount it elsewhere, or run its programs with gvisor.run().",
            )
    folder = root_paths.resolve(root, os.path.dirname(_PRELOAD), over)
    place = root_paths.resolve(root, _PRELOAD, over)
    own = f"{folder.inside.rstrip('/')}/{os.path.basename(_PRELOAD)}"
    if not place.exists and place.inside == own and not place.loop:
        return
    with contextlib.suppress(OSError):
        status = os.lstat(place.host)
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            return
    raise UsageError(
        f"the root file system has {_PRELOAD}: its libraries would run in the program that says "
        "how the others have ended, so there can be no warm sandbox of it",
        next_step="Run its programs with gvisor.run(), each in a sandbox of its own.",
    )


def guest(workload: Workload, start: Start, folder: str, allow: Sequence[str] = ()) -> Workload:
    """Return a sandbox's workload with the guest as its program.

    Missing mount points of ``start`` are made in ``folder``, and the names of an allow-list.
    """
    mounts = [*workload.mounts, *start.mounts]
    if allow:
        mounts.append(hosts_mount(allow, workload.hostname, mounts, folder))
    if start.under:
        points = os.path.join(folder, "points")
        make_private(points)
        os.chmod(points, 0o755)
        for point in start.points:
            skeleton.point(points, point, is_folder=True)
        mounts.insert(len(workload.mounts), _bind(points, start.under))
        covered = (*host_system(whole=False).covered(), *_private(interpreter()))
        hidden = (p for p in covered if any(below(p, f) for f in start.points))
        mounts += [cover(start.under + path, path, folder) for path in hidden]
    args = (*start.argv, *places(allow))
    return dataclasses.replace(
        workload, args=args, env=start.env, cwd="/", user=0, entry=workload.user,
        home=None, mounts=tuple(mounts),
    )  # fmt: skip
