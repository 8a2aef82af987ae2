"""The answers and the digest of a runsc, kept in the user's cache folder until the next boot.

The key is the whole state of the file, its ctime included, which no user can set. A file that has
changed within the last seconds is asked each time. Its next change could have the same ctime: a
clock tick of the kernel is up to 10 ms long. A file of another user is not read. If an answer
cannot be written, the next session asks again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import time
from typing import NamedTuple

from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.guest.wire.checked_json import loads
from pytest_gvisor.programs.paths import caches
from pytest_gvisor.runsc.features import QUESTIONS
from pytest_gvisor.runsc.sidecars import State
from pytest_gvisor.sessions import private

_SETTLED = 2_000_000_000
"""Nanoseconds since the last change of a file."""

_MAX = 1024 * 1024
_NAME = re.compile(r"a-[0-9a-f]{16}-([0-9a-f-]{13})-\w+\.json(\.[0-9a-f]{8})?", re.ASCII)
"""The name of a file with answers."""


class Answers(NamedTuple):
    """The hexadecimal SHA-256 of a binary, and its answer to each question of `features`."""

    sha256: str
    texts: tuple[str, ...]


def recall(identity: State) -> Answers | None:
    """Return the answers that are kept, or None."""
    with contextlib.suppress(LaunchError, OSError):
        return _decode(_read(_path(identity)))
    return None


def keep(identity: State, answers: Answers) -> None:
    """Keep the answers of a binary that was unchanged after them."""
    if time.time_ns() - identity.ctime_ns > _SETTLED:
        with contextlib.suppress(LaunchError, OSError):
            private.make_above(folder())
            private.write(_path(identity), json.dumps([answers.sha256, *answers.texts]))
            _sweep()


def _sweep() -> None:
    """Remove what was kept before this boot."""
    with contextlib.suppress(OSError):
        boot = boot_id()
        for name in os.listdir(folder()):
            match = _NAME.fullmatch(name)
            if match and match[1] != boot[:13]:
                os.unlink(os.path.join(folder(), name))


def _decode(text: str) -> Answers | None:
    with contextlib.suppress(ValueError, TypeError):
        digest, *texts = loads(text)
        texts_only = all(isinstance(part, str) for part in (digest, *texts))
        if texts_only and len(digest) == 64 and len(texts) == len(QUESTIONS):
            return Answers(sha256=digest, texts=tuple(texts))
    return None


def folder() -> str:
    """Return the folder for answers."""
    return caches("answers")


def boot_id() -> str:
    """Return the kernel's name for this boot. Raises `OSError` if it has none."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read(100).strip()


def _path(identity: State) -> str:
    """Return the path of a binary's answers. Raises `OSError`, and `LaunchError` for a folder that
    others can change.
    """
    os.close(private.open_private(folder()))
    digest = hashlib.sha256(repr((tuple(identity), QUESTIONS)).encode()).hexdigest()
    return os.path.join(folder(), f"a-{digest[:16]}-{boot_id()[:13]}-runsc.json")


def _read(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            return ""
        return file.read(_MAX).decode("utf-8", "replace")
