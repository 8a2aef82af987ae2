"""A look at the host's files with a deadline: a dead network file system answers nobody.

The kernel does not interrupt a stat(2) there, so a thread looks, and is left behind if it hangs. It
keeps nobody from ending: daemon threads are not waited for, and the kernel kills those that wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.run import threads

DEADLINE = 5.0
"""Seconds for one look. It takes milliseconds, and a busy machine may take longer than a second."""

_Answer = TypeVar("_Answer")
_hung: list[threading.Thread] = []


def look(at: Callable[[], _Answer], otherwise: _Answer) -> _Answer:
    """Return what ``at`` returns, or ``otherwise`` if that takes longer than `DEADLINE`.

    As long as one look hangs, no other is begun.
    """
    _hung[:] = [thread for thread in _hung if thread.is_alive()]
    if _hung:
        return otherwise
    answers: list[_Answer] = []
    thread = threading.Thread(target=lambda: answers.append(at()), name="gvisor-look", daemon=True)
    try:
        threads.start(thread)
    except LaunchError:
        return otherwise
    thread.join(DEADLINE)
    if thread.is_alive():
        _hung.append(thread)
    return answers[0] if answers else otherwise
