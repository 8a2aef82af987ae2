"""Root file systems: the host's system folders, a folder, or nothing but given files.

A value says what the root is; `Rootfs.prepare` makes it. Nothing that a sandbox writes reaches any
of them: runsc gets ``--overlay2 root:memory``, and what is bound is read-only unless asked.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pytest_gvisor.base.errors import InvalidBundle, LaunchError, UsageError, stage
from pytest_gvisor.base.escape import shown
from pytest_gvisor.oci import host_paths, root_paths, skeleton, system_folders
from pytest_gvisor.oci.mounts import cover, shown_at
from pytest_gvisor.oci.spec import Mount, User, UserSpec
from pytest_gvisor.oci.vocabulary import normal
from pytest_gvisor.programs.paths import below
from pytest_gvisor.programs.sources import ANY

SHARED: Final = "host"
"""The start of the names of skeletons that several runs use."""

_MOST_SHARED: Final = 16
"""A skeleton has hundreds of files, and stays until the session's end."""


class Prepared(NamedTuple):
    """A prepared root file system, and the mounts that it needs."""

    root_path: str
    """Its folder."""
    mounts: tuple[Mount, ...]
    """Its own mounts and then the caller's."""
    path: tuple[str, ...] = ()
    """Folders of programs that belong in front of PATH."""
    notes: tuple[str, ...] = ()
    """Parts that are missing in the sandbox, and why."""
    identity: tuple[int, int] = ANY
    """The device and inode of the folder, where it must be the one that was checked."""


class ProgramDefaults(NamedTuple):
    """The user, environment and folder that a root file system sets for programs; images do."""

    entrypoint: tuple[str, ...] = ()
    """The words in front of every argv."""
    cmd: tuple[str, ...] = ()
    """The argv, if the caller gives none."""
    env: Mapping[str, str] = {}
    """The environment, which the caller's variables override."""
    cwd: str = "/"
    """The working folder, if the caller gives none."""
    user: str = ""
    """The user, if the caller gives none; empty is root."""
    stop_signal: int = signal.SIGTERM
    """The signal that ends the program in good order."""


@dataclass(frozen=True, kw_only=True)
class Rootfs(abc.ABC):
    """The root file system of a sandbox."""

    @property
    def folder(self) -> str | None:
        """The host's folder that is the root, where nothing may be made. None if it is made per
        run.
        """
        return None

    @property
    def defaults(self) -> ProgramDefaults | None:
        """The settings for programs; None if there are none."""
        return None

    def find_user(self, user: UserSpec | None) -> tuple[UserSpec | User, str | None]:
        """Return who a user is in it, and their home folder; None if it does not say.

        A ``user`` of None is the one that it sets for programs, or root.
        """
        return (0 if user is None else user), None

    @abc.abstractmethod
    def prepare(
        self,
        folder: str,
        *,
        mounts: Sequence[Mount] = (),
        shared: str | None = None,
        account: skeleton.Account | None = None,
    ) -> Prepared:
        """Make the root file system, under ``folder`` if it needs a folder of its own.

        ``mounts`` are the caller's: their mount points exist afterwards. ``shared`` is a folder for
        files that are made once, used by all runs, and never written to again.
        ``account`` gets entries in /etc/passwd and /etc/group, if these are made too. A root whose
        files are given uses neither of the two.
        """


@dataclass(frozen=True, kw_only=True)
class HostRootfs(Rootfs):
    """The host's system folders and the running Python, read-only."""

    whole: bool = False
    """Whether nothing of them is hidden, and ``localhost`` is what it is on the host.

    See `system_folders`.
    """

    links: tuple[tuple[str, str], ...] = ()
    """Links besides those of the system, with their targets."""

    folders: tuple[str, ...] = ()
    """Folders that are in it, empty unless a mount is there."""

    def prepare(
        self,
        folder: str,
        *,
        mounts: Sequence[Mount] = (),
        shared: str | None = None,
        account: skeleton.Account | None = None,
    ) -> Prepared:
        """See `Rootfs.prepare`."""
        # A virtual environment may be the project too, which is a mount of the caller's.
        taken = frozenset(normal(mount.destination) for mount in mounts)
        with _failing(folder):
            system = host_system(whole=self.whole)
            own = [shown_at(*bind) for bind in system.binds if bind[0] not in taken]
            hidden = [] if self.whole else [cover(p, p, folder) for p in system.covered(taken)]
            made = Prepared(
                root_path=os.path.join(folder, "rootfs"),
                mounts=(*own, *hidden, *mounts),
                path=system.path,
                notes=system.notes,
            )

            def make(root: str) -> None:
                names = skeleton.ipv6_names_here() if self.whole else skeleton.IPV6_LOOPBACK
                skeleton.make(root, system.links, account, ipv6_names=names)
                make_points(root, made.mounts)
                self._complete(root)

            # Other points, links or accounts make another skeleton, so that no run sees those of
            # another run.
            name = f"{SHARED}-{points_digest(made.mounts, self, account)}"
            if shared and (root := _made_once(shared, name, make)):
                check_points(root, made.mounts)
                return made._replace(root_path=root)
            make(made.root_path)
        return made

    def _complete(self, root: str) -> None:
        for folder in self.folders:
            _make_folder(root, folder)
        for link, target in self.links:
            above, name = os.path.split(link)
            place = os.path.join(_make_folder(root, above), name)
            if not os.path.lexists(place):
                os.symlink(target, place)


@dataclass(frozen=True, kw_only=True)
class DirectoryRootfs(Rootfs):
    """A folder of the host, as it is."""

    path: str
    """The folder, links resolved."""
    identity: tuple[int, int] = ANY
    """Its device and inode, as they were when it was checked."""

    @property
    def folder(self) -> str:
        """See `Rootfs.folder`."""
        return self.path

    def prepare(self, folder: str, *, mounts: Sequence[Mount] = (), **_: object) -> Prepared:
        """See `Rootfs.prepare`. Makes nothing: a missing mount point is an `InvalidBundle`."""
        del folder
        if not os.path.isdir(self.path):
            raise InvalidBundle([f"{shown(self.path)} is not a folder"], where="root file system")
        check_points(self.path, mounts, where=f"root file system {self.path}")
        return Prepared(root_path=self.path, mounts=tuple(mounts), identity=self.identity)


@dataclass(frozen=True, kw_only=True)
class EmptyRootfs(Rootfs):
    """Nothing but these files."""

    files: tuple[tuple[str, bytes], ...] = ()
    """Paths in the root, without a slash in front, and contents."""

    def __repr__(self) -> str:
        """Return the files' names and sizes: their contents may be whole programs."""
        files = ", ".join(f"{name!r}: {len(data)} bytes" for name, data in self.files)
        return f"EmptyRootfs({files})"

    def prepare(self, folder: str, *, mounts: Sequence[Mount] = (), **_: object) -> Prepared:
        """See `Rootfs.prepare`."""
        root = os.path.join(folder, "rootfs")
        with _failing(folder):
            for name in ("", "dev", "proc", "sys"):
                skeleton.point(folder, f"rootfs/{name}", is_folder=True)
            for name, data in self.files:
                if os.path.dirname(name):
                    skeleton.point(root, os.path.dirname(name), is_folder=True)
                runs = data.startswith((b"\x7fELF", b"#!"))
                skeleton.write(os.path.join(root, name), data, 0o755 if runs else 0o644)
            if not os.path.lexists(f"{root}/tmp"):
                skeleton.point(root, "tmp", is_folder=True)
            make_points(root, mounts)
        return Prepared(root_path=root, mounts=tuple(mounts))


def host() -> Rootfs:
    """The host's system folders and the running Python's prefix, read-only: the default.

    Its /etc has only the files that programs need to start. It has no home folder, apart from a
    Python that is installed in one.
    """
    return HostRootfs()


def directory(
    path: str | os.PathLike[str], *, dangerous: bool = False, follow: bool = False
) -> Rootfs:
    """Use a folder of the host as the root. ``/`` needs ``dangerous=True``.

    ``follow`` is that of `bind`.
    """
    asked = os.fspath(path)
    if not asked or "\0" in str(asked):
        raise UsageError(f"{shown(asked)} cannot be the path of a root file system")
    try:
        real = host_paths.canonical(os.fsdecode(asked), follow=follow)
        found = os.stat(real, follow_symlinks=False)
    except OSError:
        real, found = "", None
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{shown(asked)} is not a folder, so it cannot be a root file system")
    if real == "/" and not dangerous:
        raise UsageError(
            "refusing the host's whole file system as a sandbox's root",
            next_step="host() has its system folders. To use all of it: directory('/',"
            " dangerous=True).",
        )
    return DirectoryRootfs(path=real, identity=(found.st_dev, found.st_ino))


def empty(files: Mapping[str, bytes | str] | None = None) -> Rootfs:
    """A root with nothing but these files; programs and scripts get their execute bits."""
    made = []
    for name, data in (files or {}).items():
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if not parts or ".." in parts or "\0" in name or name.endswith("/"):
            raise UsageError(f"{shown(name)} cannot be the path of a file in a root file system")
        made.append(("/".join(parts), data.encode() if isinstance(data, str) else bytes(data)))
    names = {name for name, _ in made}
    for name in names:
        if above := next((other for other in names if below(name, other)), None):
            raise UsageError(f"{shown(above)} is a file, so {shown(name)} cannot be in it")
    if len(names) < len(made):
        raise UsageError("a file is given twice")
    return EmptyRootfs(files=tuple(made))


def has_python() -> bool:
    """Whether the running Python is in a root of `host`."""
    return not host_system(whole=True).notes and os.path.isabs(sys.executable)


def python() -> str:
    """Return the path of the running Python in a root of `host`. Raises `UsageError`."""
    if not has_python():
        known = host_system(whole=True).notes
        reason = "; ".join(known) or "it does not know the path of its own program"
        raise UsageError(
            f"the running Python is not in the sandbox: {reason}",
            next_step="Run pytest with a Python that is installed in a folder of its own.",
        )
    return os.path.normpath(sys.executable)


@functools.cache
def host_system(*, whole: bool) -> system_folders.System:
    """Return the host's folders for `host`, as they were when they were first asked for."""
    with stage("rootfs", "the system's folders cannot be looked into"):
        return system_folders.system(whole=whole)


def _made_once(shared: str, name: str, make: Callable[[str], None]) -> str | None:
    """Make a skeleton under a temporary name, then rename it: there whole or not at all.

    Returns its path; None where the folder has as many as it may have.
    """
    root = os.path.join(shared, name)
    if os.path.isdir(root):
        return root
    if sum(other.startswith(SHARED) for other in os.listdir(shared)) >= _MOST_SHARED:
        return None
    temporary = tempfile.mkdtemp(prefix=f".{SHARED}-", dir=shared)
    try:
        make(f"{temporary}/root")
        os.rename(f"{temporary}/root", root)
    except OSError:
        # The error of a rename onto a folder that is not empty: another process was faster.
        if not os.path.isdir(root):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def points_digest(mounts: Sequence[Mount], *others: object) -> str:
    """Return 16 hexadecimal digits that name the mount points of bind mounts, and these values."""
    points = sorted((normal(m.destination), os.path.isdir(m.source)) for m in mounts if m.is_bind)
    text = repr((points, *others))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def make_points(root: str, mounts: Sequence[Mount]) -> None:
    """Make the mount points of bind mounts in a root that was made for a run."""
    if found := root_paths.missing(root, mounts, makes=True):
        raise InvalidBundle(found, where="root file system")


def check_points(root: str, mounts: Sequence[Mount], where: str = "root file system") -> None:
    """Raise `InvalidBundle` unless the mount points of bind mounts are in a root."""
    if found := root_paths.missing(root, mounts):
        raise InvalidBundle(found, where=where)


def _make_folder(root: str, path: str) -> str:
    """Make a folder in a root file system, links in that resolved; return its path on the host."""
    inside = root_paths.resolve(root, path, {}).inside
    skeleton.point(root, inside, is_folder=True)
    return root + inside


@contextlib.contextmanager
def _failing(folder: str) -> Iterator[None]:
    detail = f"cannot make a root file system in {shown(folder)}"
    try:
        with stage("rootfs", detail):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                os.chmod(folder, 0o700)  # mkdir has applied the umask
            yield
    except ValueError as error:
        raise LaunchError("rootfs", detail, errno=0) from error
