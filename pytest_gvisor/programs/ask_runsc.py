"""A program that becomes a question to runsc, such as ``runsc --version``.

Started by bootstrap.py, with ``PARENT EXECUTABLE_FD ERROR_FD LIMIT WORDS…``. pytest has threads, so
no Python code may run between its fork and an execve. So pytest executes this program, which then
takes the steps of the keeper's child. None of them can be left out: without no-new-privs and the
parent-death signal it ends. The kernel ends a runsc that prints more bytes than the limit. A failed
step is a line ``stage errno text`` in the error pipe.

It has few lines and imports, and not those of `child`, because a session's first run waits for it.
"""

from __future__ import annotations

import os
import resource
import signal

from pytest_gvisor.programs import linux
from pytest_gvisor.programs.paths import SYSTEM_PATH

_ENVIRONMENT = {"PATH": SYSTEM_PATH, "HOME": "/root"}


def main(arguments: list[str]) -> None:
    """Become runsc, or report the error and exit with status 127."""
    parent, executable, error_pipe, limit = map(int, arguments[:4])
    stage = "session"
    try:
        # Sent when the thread that started this ends: it waits for the answer.
        linux.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != parent:
            raise OSError(0, "the process that asks is gone")
        stage = "descriptors"
        for fd in (executable, error_pipe):
            os.set_inheritable(fd, False)
        stage = "signals"
        linux.reset_signals()
        stage = "no_new_privs"
        linux.set_no_new_privs()
        stage = "limit"
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        stage = "execve"
        os.execve(executable, ["runsc", *arguments[4:]], _ENVIRONMENT)
    except OSError as error:
        report = f"{stage} {error.errno or 0} {error.strerror}\n"
        os.write(error_pipe, report.encode("utf-8", "backslashreplace"))
    os._exit(127)
