"""Notes for later sessions of this user, kept in a private folder until the next boot.

A note is a small text under a name. A note of another owner is not read. A note that cannot be
written is none: each session can find out by itself again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_gvisor.sessions import private

_MAX = 1024 * 1024
_NAME = re.compile(r"[av]-[0-9a-f]{16}-([0-9a-f-]{13})-\w+\.json(\.[0-9a-f]{8})?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Note:
    """A note: its folder, a letter for its kind, a hexadecimal digest, and a name."""

    folder: str
    kind: str
    digest: str
    name: str

    def read(self) -> str | None:
        """Return the text, or None. Raises `LaunchError` for a folder that others can change."""
        path = self._path()
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                return None
            return file.read(_MAX).decode("utf-8", "replace")

    def write(self, text: str) -> None:
        """Write the text; nothing is there after a failure. Raises `LaunchError`."""
        path = self._path()
        if not path:
            return
        new = f"{path}.{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as file:
                    file.write(text)
                os.replace(new, path)
            except BaseException:
                os.unlink(new)
                raise

    def remove(self) -> None:
        """Remove the note. Raises `LaunchError`."""
        path = self._path()
        with contextlib.suppress(OSError):
            os.unlink(path)

    def _path(self) -> str:
        """Return the path; ``""``, at which nothing can be, if no boot has a name."""
        boot = boot_id()
        if not boot:
            return ""
        os.close(private.open_private(self.folder))
        file = f"{self.kind}-{self.digest[:16]}-{boot[:13]}-{self.name}.json"
        return os.path.join(self.folder, file)


def boot_id() -> str:
    """Return the kernel's name for this boot; ``""`` if it has none, and nothing is kept."""
    with (
        contextlib.suppress(OSError),
        open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file,
    ):
        return file.read(100).strip()
    return ""


def sweep(folders: Iterable[str]) -> None:
    """Remove the notes of earlier boots from private folders."""
    boot = boot_id()
    for folder in folders if boot else ():
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                match = _NAME.fullmatch(name)
                if match and match[1] != boot[:13]:
                    os.unlink(os.path.join(folder, name))
