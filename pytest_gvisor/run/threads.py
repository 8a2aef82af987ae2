"""The start of a thread, or an error that names the exhausted resource."""

from __future__ import annotations

import errno
import mmap
import resource
import threading

from pytest_gvisor.errors import LaunchError, stage

_ROOM = (64 + 8) * 1024 * 1024
"""Bytes of addresses beside a thread's stack: glibc reserves 64 MiB, Python needs some more."""


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises `LaunchError`, stage ``channel``, without memory or a thread for it.

    `threading.Thread.start` waits for ever for a thread that has no memory for its first steps.
    """
    stack = threading.stack_size() or resource.getrlimit(resource.RLIMIT_STACK)[0]
    size = max(stack, 0) + _ROOM
    with stage("channel", f"no {size} bytes of memory for the thread that listens"):
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    try:
        thread.start()
    except RuntimeError as error:
        text = "no thread can be started that listens to the sandbox"
        raise LaunchError("channel", text, errno=errno.EAGAIN) from error
