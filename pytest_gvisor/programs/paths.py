"""Paths of the system and of this package, and whether a path lies in a folder by its name.

Standard library only, because the keeper runs with ``-I -S``. Small and without further imports,
because an idle pytest session imports it too.
"""

from __future__ import annotations

import errno
import os
import sys

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The PATH of every program that must not see this user's."""

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
"""The environment of a program of this folder."""

KEEPER = "keeper.py"
"""The name of the keeper's program."""

SIDECARS_VARIABLE = "GVISOR_SIDECAR_BINARIES_DIR"
"""Names the folder of sidecars in the environment of a runsc that looks for one."""

SHARED = frozenset({"/dev", "/dev/shm", "/home", "/run", "/run/user", "/tmp", "/var", "/var/tmp"})
"""Folders that are root's on every system. Files in them may be anybody's."""

LOCK = "lock"
"""The name of the file in a session's folder whose lock says that the session is alive."""

projects: list[str] = []
"""Root folders of the pytest sessions of this process, without links. Each session adds its own,
an idle one too."""


_START = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")


def command(program: str, *words: object) -> list[str]:
    """Return the command that runs a program of this folder: see bootstrap.py.

    Flags -I -S: no site-packages, no user site, no environment. That takes 10 ms instead of 30, and
    nothing that a project has put on ``sys.path`` can run in the program.
    """
    return [sys.executable, "-I", "-S", _START, program, *map(str, words)]


def below(path: str, folder: str) -> bool:
    """Whether ``path`` lies in ``folder``, and is not the folder itself.

    Links and ``..`` are not resolved.
    """
    return path.startswith(folder.rstrip("/") + "/")


def within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it."""
    return path == folder or below(path, folder)


def check_way(path: str) -> None:
    """Raise `OSError` (ELOOP) if a link has come to be above the absolute ``path``."""
    above = os.path.dirname(path)
    if os.path.realpath(above) != above:
        raise OSError(errno.ELOOP, "a part of its path has become a link", path)


def caches(name: str) -> str:
    """Return a folder of this package in the user's cache folder.

    As the XDG Base Directory Specification defines it, a variable with a relative path is ignored.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return os.path.join(base, "pytest-gvisor", name)
