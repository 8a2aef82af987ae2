"""The work of the sandbox's first process beside the pytest: reap orphans, send files, end like it.

Used by worker.py alone: standard library only.
"""

from __future__ import annotations

import os
import signal

from pytest_gvisor.guest import failed, returns
from pytest_gvisor.guest.channel import Channel
from pytest_gvisor.guest.gate import Gate


def attend(pytest_pid: int, channel: Channel, notes: failed.Notes, gate: Gate) -> None:
    """Act as the sandbox's first process: reap orphans, pass signals on, send files, end
    like pytest.

    pytest is not the first process itself. That one gets every orphan of the tests, and signals
    without a handler do not reach it. Before pytest goes on, the host names the files that come
    back.
    """
    os.chdir("/")  # see gate.py: a sandbox that is saved there uses as few folders as it can
    agreed = gate.agreed()
    # Before the pytest goes on, and after all that the host's collection has changed.
    changes = returns.Changes()
    if agreed is not None:
        returns.make_folders(agreed)
    gate.open()
    for passed_on in (signal.SIGTERM, signal.SIGINT):
        signal.signal(passed_on, lambda number, _frame: os.kill(pytest_pid, number))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == pytest_pid:
            break
    for passed_on in (signal.SIGTERM, signal.SIGINT):
        signal.signal(passed_on, signal.SIG_IGN)  # a number that is nobody's now
    if agreed is not None:
        returns.send(channel.socket, agreed, changes, notes.folders())
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
