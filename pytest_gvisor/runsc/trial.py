"""The program for the trial of a platform: it forks, runs a thread, reads a file and waits.

`uname -r` alone does not tell a build of runsc whose sentry panics under other programs. This one
ends by printing the kernel's release, which proves that it ran under gVisor.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
from collections.abc import Callable

# The program's own executable is the one file that is in every root, and the gofer has it. A thread
# that fails must end the wait for it. Forking comes first: Python warns of it where threads are.
_PROGRAM = """
import _thread, os, time
child = os.fork()
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
done, sizes = _thread.allocate_lock(), []
done.acquire()
def work():
    try:
        with open("/proc/self/exe", "rb", 0) as file:
            for _ in range(4):
                sizes.append(len(file.read(65536)))
    finally:
        done.release()
_thread.start_new_thread(work, ())
done.acquire()
assert sum(sizes), sizes
time.sleep(0.001)
print(os.uname().release)
"""

PYTHON = (os.path.realpath(sys.executable), "-I", "-S", "-E", "-c", _PROGRAM)
"""For a root that has the running Python. Neither ``site`` nor another module is imported."""

WITHOUT = ("uname", "-r")
"""For a root that has not: less is tried, and no platform is refused for want of a Python."""

NOT_STARTED = 127
"""The exit status of a Python whose loader finds not all of its libraries."""

WHAT = "a program that forks, runs a thread and reads a file"

# Go 1.25 moved the fields of a goroutine. The releases of gVisor up to 2024 read the id of one at
# its old place: on ptrace they panic at once, on systrap when the scheduler happens to have queued
# the goroutine with others, which one short program does not make sure of.
_MOVED = (1, 25)
_KNOWS = dt.date(2025, 1, 1)


def is_doubtful(date: dt.date | None, go: Callable[[], str]) -> bool:
    """Whether a build that works on systrap needs a trial on ptrace too: only a run shows it.

    ``go`` gives the version of Go that it was built with; it is not called for a young release.
    """
    if date is None or date >= _KNOWS:
        return False
    match = re.match(r"(\d+)\.(\d+)", go(), re.ASCII)
    return match is not None and (int(match[1]), int(match[2])) >= _MOVED
