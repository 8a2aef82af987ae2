"""The gofer, which serves the sandbox its files: whether it died before the workload did.

Where it dies, the sentry kills the workload and reports that as it reports any other SIGKILL. In
any other end the sentry reports first, and the gofer goes after it. So a gofer that is dead before
any report was the first to die. What cannot be told any more is not claimed.
"""

from __future__ import annotations

import contextlib
import os

from pytest_gvisor.programs import proc


def find(runsc: int) -> int | None:
    """Return a pidfd of the gofer of the ``runsc run`` with this pid, or None.

    It is runsc's child; with ``--rootless`` its grandchild. Out of descriptors there is none.
    """
    level = [runsc]
    with contextlib.suppress(OSError):
        for _ in range(2):
            level = [child for pid in level for child in proc.children_of(pid)]
            for pid in level:
                if "gofer" in proc.words_of(pid):
                    return os.pidfd_open(pid)
    return None
