"""A command under a warden: none of its processes outlives this one (``programs/warden.py``)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from pytest_gvisor.programs import warden

_PATIENCE = 10.0
"""Seconds for a warden to kill the command and to remove its folder."""


@contextlib.contextmanager
def start(
    command: Sequence[str],
    folder: str,
    *,
    seconds: float,
    env: Mapping[str, str],
    cwd: str,
    fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end it with the block; the warden removes ``folder`` then.

    Its standard output is the warden's, for its answer. ``seconds`` are the command's deadline, and
    it inherits ``fds``. Raises `OSError` if the warden cannot be started.
    """
    pidfd = os.pidfd_open(os.getpid())
    argv = [sys.executable, "-I", "-S", warden.__file__, str(pidfd), str(seconds), folder]
    try:
        process = subprocess.Popen(
            [*argv, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            pass_fds=(pidfd, *fds),
            start_new_session=True,
            cwd=cwd,
        )
    finally:
        os.close(pidfd)
    try:
        yield process
    finally:
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Let the warden kill the rest and end; its work is bounded."""
    # Ctrl-C, and a second signal, wait until that is over: the warden is in another session.
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
