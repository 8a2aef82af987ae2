"""``python reaper.py PROGRAM ARGUMENT…``: runs a program as a good init would.

Every orphan below it becomes this process's child and is reaped at once. Where pid 1 takes its
time, as in many containers, whoever waits for an orphan to be gone waits for pid 1. Ends with the
program's exit status.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pytest_gvisor.programs import linux


def main(argv: list[str]) -> int:
    """Run ``argv`` and reap until it has ended."""
    linux.set_child_subreaper()
    program = subprocess.Popen(argv, close_fds=False)
    while True:
        pid, status = os.wait()
        if pid == program.pid:
            program.returncode = os.waitstatus_to_exitcode(status)
            return program.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
