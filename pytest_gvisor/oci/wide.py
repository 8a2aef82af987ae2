"""Folders that are nobody's own: they hold home folders, or what all programs share."""

from __future__ import annotations

import os
import pwd

from pytest_gvisor.programs.paths import within

_SHARED = frozenset({"/", "/home", "/tmp", "/var", "/etc", "/run", "/var/tmp"})
_NOT_SHOWN = ("/proc", "/sys", "/dev")


def is_wide(path: str) -> bool:
    """Whether a folder is nobody's own: it holds home folders, or what all programs share."""
    real = os.path.realpath(path)
    return real in _SHARED or within(home(), real) or any(within(real, p) for p in _NOT_SHOWN)


def home() -> str:
    """Return this user's home folder by the system: $HOME may be a test's own."""
    try:
        return os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return os.path.realpath(os.path.expanduser("~"))
