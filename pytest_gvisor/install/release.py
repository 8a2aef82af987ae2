"""A release of runsc: fetched, compared with its digest, tried, and put in its place at once.

gVisor's bucket has had two layouts. Up to August 2026 a release is the file ``runsc``; the later
ones are ``gvisor.tar.bz2`` alone, with ``runsc`` and the folder ``gvisor-bin`` that must lie beside
it. Each has its SHA-512 next to it. A file takes its place by a rename. An archive becomes a folder
of its own, and the symlink ``runsc`` is what is renamed: never one release's runsc beside
another's ``gvisor-bin``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator

from pytest_gvisor.errors import GvisorError, InstallFailed, UsageError
from pytest_gvisor.escape import escape
from pytest_gvisor.install import archive
from pytest_gvisor.install.fetch import Client, NotThere, Progress
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.trust import Trust, folder_problems

BASE_URL = "https://storage.googleapis.com/gvisor/releases/release"
MAX_DOWNLOAD = 1024 * 1024 * 1024
MACHINES = ("x86_64", "aarch64")
ARCHIVE = "gvisor.tar.bz2"
BINARY = "runsc"

_MAX_DIGEST = 64 * 1024
_STAGING = ".pytest-gvisor-install."
_LINK = "link"
_HOME = re.compile(r"gvisor-[\w.]+-[0-9a-f]{8}", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Installed:
    """What was put where."""

    path: str
    version: str
    real: str
    """The file itself, where ``path`` is a symlink; else the same."""

    previous: str = ""
    """The folder of an earlier release that ``path`` led to until now, or ``""``."""


def folder_for(uid: int, home: str) -> str:
    """Where it goes by default: a place where the plugin's search looks for this user."""
    return "/usr/local/bin" if uid == 0 else os.path.join(home, ".local/bin")


def release_name(text: str) -> str:
    """``latest`` or a release as gVisor names it. Raises `UsageError`."""
    name = text.removeprefix("release-")
    if name != "latest" and not re.fullmatch(r"\d{8}(\.\d+)?", name, re.ASCII):
        raise UsageError(f"--release {text!r} is neither latest nor YYYYMMDD nor YYYYMMDD.N")
    return name


def install(client: Client, release: str, folder: str, progress: Progress) -> Installed:
    """Fetch a release and make it ``folder``'s runsc; the folder is made if it is not there.

    Raises `InstallFailed`; nothing is left then, and a runsc that was there is as it was.
    """
    machine = platform.machine()
    if machine not in MACHINES:
        raise InstallFailed(f"gVisor has no releases for {machine}: {', '.join(MACHINES)}")
    folder = os.path.realpath(folder)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        _check_folder(folder)
        _remove_stale(folder)
        with _staging(folder) as staging:
            binary = _fetch(client, f"{release}/{machine}", staging, progress)
            version = _tried(binary)
            return _place(binary, staging, folder, version)
    except OSError as error:
        # A disk that is full, a folder that this user may not write to.
        raise InstallFailed(
            f"{folder}: {error.strerror or error}",
            next_step="Name a folder of this user's with --to DIR.",
        ) from error


def _check_folder(folder: str) -> None:
    problems = folder_problems(folder, Trust.here(os.geteuid()))
    if problems:
        raise InstallFailed(
            f"a runsc in {escape(folder)} would be refused: {'; '.join(problems)}",
            next_step="Name a folder that only root and this user can write to, with --to DIR.",
        )
    target = os.path.join(folder, BINARY)
    if os.path.isdir(target):
        raise InstallFailed(f"{target} is a folder", next_step="Remove it, or give another --to.")


@contextlib.contextmanager
def _staging(folder: str) -> Iterator[str]:
    """A folder for what is not there yet, beside it; locked while this process lives."""
    path, lock = _made_staging(folder)
    try:
        yield path
    finally:
        _clear(path, folder)
        os.close(lock)


def _made_staging(folder: str) -> tuple[str, int]:
    """A new folder, and the descriptor that locks it."""
    while True:
        path = tempfile.mkdtemp(prefix=_STAGING, dir=folder)
        # Another installation may take it for a stale one before it is locked, and remove it.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.path.samestat(os.stat(path), os.fstat(lock)):
                    return path, lock
            except BaseException:
                os.close(lock)
                shutil.rmtree(path, ignore_errors=True)
                raise
            os.close(lock)


def _clear(staging: str, folder: str) -> None:
    """Remove what an installation has left: its folder, and a release that no link leads to."""
    # The link is made before the release moves out, and moves last: see `_place`.
    with contextlib.suppress(OSError):
        home = os.path.dirname(os.readlink(os.path.join(staging, _LINK)))
        if _HOME.fullmatch(home):
            shutil.rmtree(os.path.join(folder, home), ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(folder: str) -> None:
    """Remove what an installation that was killed has left: its folder, which nobody has locked."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            if not name.startswith(_STAGING) or os.lstat(path).st_uid != os.geteuid():
                continue
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _clear(path, folder)
            finally:
                os.close(lock)


def _fetch(client: Client, place: str, staging: str, progress: Progress) -> str:
    """The path of the release's runsc in ``staging``, executable; its digest was right."""
    for name in (ARCHIVE, BINARY):
        try:
            text = client.text(f"{place}/{name}.sha512", _MAX_DIGEST)
        except NotThere:
            continue
        wanted = _digest_in(text, name, f"{client.base_url}/{place}/{name}.sha512")
        path = os.path.join(staging, f"{name}.part")
        _download(client, f"{place}/{name}", path, wanted, progress)
        if name == BINARY:
            os.chmod(path, 0o755)
            return path
        release = os.path.join(staging, "release")
        archive.unpack(path, release)
        os.unlink(path)
        return os.path.join(release, BINARY)
    raise InstallFailed(
        f"{client.base_url}/{place}/ has neither {ARCHIVE}.sha512 nor {BINARY}.sha512",
        next_step="Releases are listed at https://github.com/google/gvisor/releases; name one with "
        "--release YYYYMMDD.",
    )


def _digest_in(text: str, name: str, url: str) -> str:
    """The digest that a line of sha512sum gives for ``name``."""
    for line in text.splitlines():
        digest, _, named = line.partition(" ")
        # "*" is the mark of a binary file (sha512sum(1)); a digest may stand alone.
        about = named.strip().lstrip("*").rpartition("/")[2]
        if about in {name, ""} and re.fullmatch(r"[0-9a-fA-F]{128}", digest, re.ASCII):
            return digest.lower()
    raise InstallFailed(f"{url} holds no SHA-512 of {name}: {escape(text[:200])}")


def _download(client: Client, place: str, path: str, wanted: str, progress: Progress) -> None:
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w+b") as to:
        client.save(place, to, MAX_DOWNLOAD, progress)
        to.flush()
        to.seek(0)
        found = hashlib.file_digest(to, "sha512").hexdigest()
        os.fsync(to.fileno())
    if found != wanted:
        raise InstallFailed(
            f"{client.base_url}/{place} is not what its SHA-512 says: {found} instead of {wanted}",
            next_step="Try again; if it stays so, do not use this server.",
        )


def _tried(binary: str) -> str:
    """The version of a runsc that was judged as the plugin would, and asked what it can do."""
    try:
        runsc = Runsc.at(binary)
    except GvisorError as error:
        raise InstallFailed(f"what was fetched cannot be used: {error.message}") from error
    runsc.close()
    return runsc.version


def _place(binary: str, staging: str, folder: str, version: str) -> Installed:
    path = os.path.join(folder, BINARY)
    previous = _previous(folder, path)
    if os.path.dirname(binary) == staging:
        os.rename(binary, path)
        return Installed(path=path, version=version, real=path, previous=previous)
    word = re.sub(r"[^\w.]", "_", version, flags=re.ASCII)[:40]
    name = f"gvisor-{word}-{secrets.token_hex(4)}"
    home = os.path.join(folder, name)
    # The link first: as long as it lies in the staging folder, the release is nobody's (`_clear`).
    link = os.path.join(staging, _LINK)
    os.symlink(f"{name}/{BINARY}", link)
    os.rename(os.path.dirname(binary), home)
    os.rename(link, path)
    return Installed(path=path, version=version, real=os.path.join(home, BINARY), previous=previous)


def _previous(folder: str, path: str) -> str:
    """The folder of an earlier archive that ``path`` leads to: sandboxes may still run from it."""
    try:
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            return ""
        home = os.path.join(folder, os.path.dirname(os.readlink(path)))
    except OSError:
        return ""
    return home if _HOME.fullmatch(os.path.basename(home)) else ""
