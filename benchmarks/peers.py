"""Peers to install: the official gvisor package, used as documented, and pytest-forked."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.results import Unavailable
from pytest_gvisor.programs import linux

PACKAGE = "gvisor==2026.10.22.0"
_INSTALL_DEADLINE = 120.0

_PACKAGE_DRIVER = """\
import os, sys

import gvisor

orders = int(sys.argv[1])
while os.read(orders, 1):
    with gvisor.Sandbox() as sandbox:
        sandbox.exec("true")
    print("done", flush=True)
"""


class OfficialPackage:
    """The gvisor package in a virtual environment of its own, driven by a byte for each sandbox.

    Its interpreter is started and its modules are imported before anything is timed. It gets the
    same runsc, by ``RUNSC_PATH``.
    """

    def __init__(self, process: subprocess.Popen[bytes], orders: int, log: str) -> None:
        self._process = process
        self._orders = orders
        self._log = log

    def run(self) -> None:
        """One sandbox from its start to its removal, with ``true`` run in it."""
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(self._orders, b"x")
        if self._process.stdout.readline() != b"done\n":
            with open(self._log, encoding="utf-8", errors="replace") as log:
                last = log.read().strip().splitlines()[-1:]
            raise RuntimeError(f"the gvisor package failed: {''.join(last)}")

    @classmethod
    @contextlib.contextmanager
    def started(cls, python: str, runsc: str, *, reaped: bool) -> Iterator[OfficialPackage]:
        """Start the package's driver; with ``reaped``, under `benchmarks.reaper`.

        Raises `Unavailable` where the package cannot run a sandbox here.
        """
        reaper = [sys.executable, "-m", "benchmarks.reaper"] if reaped else []
        with contextlib.ExitStack() as stack:
            # Not in our session folder: with what the package adds, no socket's path would fit.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="b-"))
            # runsc leaves mounts of network namespaces in its state folder, which nothing removes.
            stack.callback(_unmount_below, folder)
            log = stack.enter_context(open(os.path.join(folder, "log"), "wb"))
            # Not standard input: the package hands that to its sandboxes.
            theirs, ours = os.pipe()
            process = stack.enter_context(
                subprocess.Popen(
                    [*reaper, python, "-c", _PACKAGE_DRIVER, str(theirs)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={"PATH": os.defpath, "RUNSC_PATH": runsc, "TMPDIR": folder},
                    cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                    pass_fds=(theirs,),
                )
            )
            stack.callback(os.close, ours)
            os.close(theirs)
            package = cls(process, ours, os.path.join(folder, "log"))
            try:
                package.run()
            except RuntimeError as error:
                raise Unavailable(str(error)) from error
            yield package


def _unmount_below(folder: str) -> None:
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in points:
        if point.startswith(f"{folder}/"):
            linux.umount_lazily(point)


def install_package(folder: str) -> str:
    """Install the gvisor package into a new virtual environment; returns its Python.

    Raises `Unavailable`.
    """
    python = os.path.join(folder, "venv", "bin", "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    _installing([sys.executable, "-m", "venv", "--without-pip", os.path.join(folder, "venv")])
    _installing([*pip, "--python", python, "install", "--no-deps", PACKAGE])
    return python


def install_forked(folder: str) -> None:
    """Install pytest-forked, and a pytest that it works with, into a folder for PYTHONPATH.

    pytest 9.2 gives reports a node id that pytest-forked cannot marshal. Raises `Unavailable`.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    _installing([*pip, "install", "--target", folder, "pytest==8.4.*", "pytest-forked", "py"])


def _installing(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_DEADLINE,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[-1]} cannot be installed: it takes too long") from None
    if done.returncode:
        why = (done.stderr.strip() or "no word why").splitlines()[-1]
        raise Unavailable(f"{command[-1]} cannot be installed: {why}")
