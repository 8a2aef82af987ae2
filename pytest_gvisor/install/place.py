"""Installation of a new runsc: checked and tried in a folder beside its place, then renamed.

A file alone is renamed. A folder of runsc and ``gvisor-bin`` stays a folder, and the symlink
``runsc`` is renamed. So one release's runsc never lies beside another's ``gvisor-bin``.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pytest_gvisor.base.errors import GvisorError, InstallFailed
from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.trust import Trust, folder_problems
from pytest_gvisor.runsc.binary import Runsc
from pytest_gvisor.runsc.locate import NIX_STORE
from pytest_gvisor.sessions import private

MACHINES = ("x86_64", "aarch64")
BINARY = "runsc"

_STAGING = ".pytest-gvisor-install."
_LINK = "link"
_HOME = re.compile(r"gvisor-[\w.]+-[0-9a-f]{8}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Installed:
    """An installed file and its version."""

    path: str
    version: str
    real: str
    """The file itself, where ``path`` is a symlink; else the same."""


def folder_for(uid: int, home: str) -> str:
    """Return the default folder: one that the plugin searches for this user."""
    return "/usr/local/bin" if uid == 0 else os.path.join(home, ".local/bin")


def put(folder: str, make: Callable[[str], str], release: str = "") -> Installed:
    """Install the runsc that ``make`` makes in ``folder``; make the folder if it is missing.

    ``make`` is given an empty folder. It returns the path of a runsc in it, or in a new folder
    there that is to stay whole. If a runsc says it is another than ``release``, it is refused.
    Raises `InstallFailed`, and what ``make`` raises; nothing is left then, and a runsc that was
    there is as it was.
    """
    if (machine := platform.machine()) not in MACHINES:
        raise InstallFailed(f"gVisor has no releases for {machine}: {', '.join(MACHINES)}")
    try:
        _make_folder(os.path.join(os.getcwd(), folder))
        folder = os.path.realpath(folder)  # each link in it was checked
        if os.path.isdir(target := os.path.join(folder, BINARY)):
            step = "Remove it, or give another --to."
            raise InstallFailed(f"{target} is a folder", next_step=step)
        _remove_stale(folder)
        with _staging(folder) as staging:
            binary = make(staging)
            version = _try(binary, release)
            return _place(binary, staging, folder, version)
    except OSError as error:
        # A disk that is full, a folder that this user may not write to.
        raise InstallFailed(
            f"{folder}: {error.strerror or error}",
            next_step="Name a folder of this user's with --to DIR.",
        ) from error


def _make_folder(folder: str) -> None:
    """Make the missing folders of a path, each in one that was checked; check the last too.

    Under any umask, this user alone may write them. Raises `InstallFailed`.
    """
    if not os.path.isdir(folder):
        _make_folder(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
    problems = folder_problems(folder, Trust.here(os.geteuid(), NIX_STORE))
    if problems:
        raise InstallFailed(
            f"a runsc in {escape(folder)} would be refused: {'; '.join(problems)}",
            next_step="Name a folder that only root and this user can write to, with --to DIR.",
        )


@contextlib.contextmanager
def _staging(folder: str) -> Iterator[str]:
    """Yield a temporary folder beside the final one, locked while this process lives."""
    with contextlib.ExitStack() as stack:
        path = ""
        # Another installation may take it for a stale one before it is locked, and remove it.
        while not (path and _is_locked(path, stack)):
            made = tempfile.TemporaryDirectory(
                prefix=_STAGING, dir=folder, ignore_cleanup_errors=True
            )
            path = stack.enter_context(made)
        stack.callback(_clear, path, folder)
        yield path


def _is_locked(path: str, stack: contextlib.ExitStack) -> bool:
    """Lock a staging folder until the stack ends; return whether it is there and was free."""
    try:
        fd = os.open(path, private.FOLDER)
    except FileNotFoundError:
        return False
    stack.callback(os.close, fd)
    return private.take_lock(fd) and os.path.exists(path)


def _clear(staging: str, folder: str) -> None:
    """Remove the remains of an installation: its folder, and a release without a link to it."""
    # The link is made before the release moves out, and moves last: see `_place`.
    with contextlib.suppress(OSError):
        home = os.path.dirname(os.readlink(os.path.join(staging, _LINK)))
        if _HOME.fullmatch(home):
            shutil.rmtree(os.path.join(folder, home), ignore_errors=True)
    shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(folder: str) -> None:
    """Remove the unlocked folder of a killed installation."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            ours = name.startswith(_STAGING) and os.lstat(path).st_uid == os.geteuid()
            if ours and _is_locked(path, stack):
                _clear(path, folder)


def _try(binary: str, release: str) -> str:
    """Check a runsc by the plugin's rules, ask for its features, and return its version."""
    try:
        runsc = Runsc.find(binary)
    except GvisorError as error:
        raise InstallFailed(f"the new runsc cannot be used: {error.message}") from error
    runsc.close()
    # YYYYMMDD.N says that it is that, and YYYYMMDD stands for each of that day.
    if release and runsc.version != release and not runsc.version.startswith(f"{release}."):
        raise InstallFailed(
            f"asked for release {release}, the server gave runsc {escape(runsc.version)}",
            next_step="If its digest is right and the release is not, do not use this server.",
        )
    return runsc.version


def _place(binary: str, staging: str, folder: str, version: str) -> Installed:
    path = os.path.join(folder, BINARY)
    if os.path.dirname(binary) == staging:
        os.rename(binary, path)
        return Installed(path=path, version=version, real=path)
    word = re.sub(r"[^\w.]", "_", version, flags=re.ASCII)[:40]
    name = f"gvisor-{word}-{secrets.token_hex(4)}"
    home = os.path.join(folder, name)
    # The link first: as long as it lies in the staging folder, the release is nobody's (`_clear`).
    link = os.path.join(staging, _LINK)
    os.symlink(f"{name}/{BINARY}", link)
    os.rename(os.path.dirname(binary), home)
    os.rename(link, path)
    return Installed(path=path, version=version, real=os.path.join(home, BINARY))
