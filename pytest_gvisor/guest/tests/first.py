"""The work of the sandbox's first process beside the pytest: reap orphans, send files, end like it.

It sends the temporary folders of failed tests too, which the pytest has noted for it. Used by
worker.py alone: standard library only.
"""

from __future__ import annotations

import mmap
import os
import signal

from pytest_gvisor.guest.tests import returns
from pytest_gvisor.guest.tests.gate import Gate
from pytest_gvisor.guest.tests.link import Link

_SIZE = 1024 * 1024
_SLOT = 4096


class Notes:
    """The noted folders, in memory that both processes share: the pytest may die at any time."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)

    def begin(self, path: str = "") -> None:
        """Note the folder of the test that runs, which may be its last."""
        data = os.fsencode(path)[: _SLOT - 2]
        self._memory[: len(data) + 1] = data + b"\0"

    def keep(self, path: str) -> None:
        """Note the folder of a test that has failed, if there is room for it."""
        data = os.fsencode(path) + b"\0"
        held = self._memory.find(b"\0\0", _SLOT)
        end = held + 1 if held > _SLOT else _SLOT
        known = self._memory.find(b"\0" + data, _SLOT - 1, end) >= 0
        if not known and end + len(data) < _SIZE - 1:
            self._memory[end : end + len(data)] = data

    def folders(self) -> list[str]:
        """Return all of them."""
        running = self._memory[:_SLOT].partition(b"\0")[0]
        # No further than needed: in a sandbox, a page that nobody has used takes long to read.
        failed = self._memory[_SLOT : self._memory.find(b"\0\0", _SLOT)].split(b"\0")
        return [os.fsdecode(path) for path in dict.fromkeys([running, *failed]) if path]


def attend(pytest_pid: int, link: Link, notes: Notes, gate: Gate) -> None:
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
        returns.send(link.socket, agreed, changes, notes.folders())
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
