"""The host's parts that a test inside sees: its project, and its imports."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence

import pytest

from pytest_gvisor.errors import UsageError
from pytest_gvisor.inside import configuration
from pytest_gvisor.programs.paths import within

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_NOT_SHOWN = ("/proc", "/sys", "/dev")


def folders(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Return the folders shown at their own paths: the project, and folders of its imports.

    Raises `UsageError` where that would be a whole home folder or the root folder.
    """
    wanted = [str(config.rootpath), str(config.invocation_params.dir)]
    if config.inipath is not None:
        wanted.append(str(config.inipath.parent))
    wanted += [str(item.path.parent) for item in items]
    wanted += map(os.path.dirname, configuration.files(items))
    wanted += [path for path in map(os.path.abspath, filter(None, sys.path)) if os.path.isdir(path)]
    found: list[str] = []
    for path in sorted(set(map(os.path.realpath, wanted)) | set(map(os.path.abspath, wanted))):
        if not any(within(path, other) for other in (*found, *_SYSTEM, *_prefixes())):
            _check(path)
            found.append(path)
    return found


def _prefixes() -> list[str]:
    """Return the folders of Python that the host's root file system already has."""
    return [os.path.realpath(path) for path in {sys.prefix, sys.base_prefix}]


def readable(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    """Return all folders with code that a test may import. Raises `UsageError` like `folders`."""
    return [*folders(config, items), *_SYSTEM, *_prefixes()]


def _check(path: str) -> None:
    home = _home()
    wide = {"/", "/home", "/tmp", "/var", "/etc", "/run", "/var/tmp"}
    if path in wide or within(home, path) or any(within(path, p) for p in _NOT_SHOWN):
        raise UsageError(
            f"the tests would need all of {path} inside the sandbox",
            next_step="Move the project into a folder of its own, or set --rootdir to one.",
        )


def _home() -> str:
    """Return this user's home folder by the system: $HOME may be a test's own."""
    try:
        return os.path.realpath(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return os.path.realpath(os.path.expanduser("~"))
