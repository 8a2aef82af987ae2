"""pytest's handlers of log records, which come and go without a lock while there is one thread.

pytest gives the root logger two handlers for each phase of a test. These are twelve locks a test,
and each reads a clock: see `byte_code`. Used by worker.py alone.
"""

from __future__ import annotations

import _thread
import sys
from typing import Any


class _Spared:
    """A lock that one thread does not take; all others do."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._owner = _thread.get_ident()

    def acquire(self) -> None:
        """Take the lock in another thread."""
        if _thread.get_ident() != self._owner:
            self._lock.acquire()

    def release(self) -> None:
        """Give the lock back in another thread, which may have taken it before."""
        if _thread.get_ident() != self._owner:
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()


def spare() -> None:
    """Replace what adds and removes the handlers, if pytest's plugin for logging is there."""
    log: Any = sys.modules.get("logging")
    usual: Any = getattr(sys.modules.get("_pytest.logging"), "catching_logs", None)
    if usual is None or not hasattr(log, "_lock"):
        return

    def unlocked(method: Any) -> Any:
        def call(*given: object) -> object:
            # A thread may hold the lock, or come to need it. Python counts its own alone.
            if _thread._count():
                return method(*given)
            lock, log._lock = log._lock, _Spared(log._lock)
            try:
                return method(*given)
            finally:
                log._lock = lock

        return call

    usual.__enter__, usual.__exit__ = unlocked(usual.__enter__), unlocked(usual.__exit__)
