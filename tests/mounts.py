"""Mounts of this process's namespace, its umask, and a state folder for a runsc of a test's own."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_gvisor.programs import leftovers, proc
from pytest_gvisor.programs.paths import within


def points(below: str | Path) -> list[str]:
    """The mount points at or below a folder."""
    folder = os.path.realpath(below)
    return [mount.point for mount in proc.mounts() if within(mount.point, folder)]


@contextlib.contextmanager
def masked(umask: int) -> Iterator[None]:
    """Have this umask for a while."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def harmless(folder: str | Path, *, options: str = "nosuid,nodev") -> Iterator[None]:
    """Mount an empty file system over a folder, if root: no program there is then set-uid."""
    if os.geteuid() == 0:
        argv = ["mount", "-t", "tmpfs", "-o", f"{options},mode=0777", "tmpfs", str(folder)]
        subprocess.run(argv, check=True)
    try:
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def state_folder() -> Iterator[str]:
    """A folder for ``--root`` of bare runsc, short enough for its sockets.

    Releases from 2026-08 on leave a network namespace mounted there, which nobody else unmounts.
    """
    folder = tempfile.mkdtemp(prefix="pgf-", dir="/tmp")
    try:
        yield folder
    finally:
        leftovers.unmount(folder)
        shutil.rmtree(folder)
