"""Handlers of log records without a lock: tried in a pytest here, with a count of the locks."""

from __future__ import annotations

import threading

import pytest

from pytest_gvisor.guest import log_locks

PLUGIN = """
import logging, threading
import pytest
from pytest_gvisor.guest import log_locks

class Counted:
    def __init__(self):
        self.lock, self.taken = threading.RLock(), 0

    def acquire(self):
        self.taken += 1
        return self.lock.acquire()

    def release(self):
        self.lock.release()

    def __enter__(self):
        self.acquire()

    def __exit__(self, *error):
        self.release()

lock = logging._lock = Counted()
log_locks.spare()

def pytest_runtest_logstart():
    lock.taken = 0

def pytest_runtest_logfinish(nodeid):
    with open("locks", "a") as file:
        print(nodeid.rpartition("_")[2], lock.taken, logging._lock is lock, file=file)
"""

SUITE = """
import logging, threading

release = threading.Event()
thread = threading.Thread(target=release.wait)

def test_alone():
    pass

def test_logs(caplog):
    logging.getLogger().warning("said")
    assert caplog.messages == ["said"]

def test_starts():
    thread.start()

def test_beside(caplog):
    logging.getLogger().warning("said")
    assert caplog.messages == ["said"]
    release.set()
    thread.join()
"""


def test_another_thread_takes_a_spared_lock() -> None:
    """A thread of C code, which Python does not count, may have taken it before."""
    lock = threading.Lock()
    spared = log_locks._Spared(lock)
    with spared:
        assert not lock.locked()
    lock.acquire()
    thread = threading.Thread(target=spared.release)
    thread.start()
    thread.join()
    assert not lock.locked()
    thread = threading.Thread(target=spared.acquire)
    thread.start()
    thread.join()
    assert lock.locked()


def test_handlers_come_and_go_without_a_lock_while_there_is_one_thread(
    pytester: pytest.Pytester,
) -> None:
    """The handlers catch the same records. Beside another thread, which may use it, they lock."""
    pytester.makepyfile(plugin=PLUGIN)
    pytester.makepyfile(SUITE)
    environment = ("-p", "no:gvisor", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "plugin")
    pytester.runpytest_subprocess(*environment).assert_outcomes(passed=4)
    found = dict[str, int]()
    for line in (pytester.path / "locks").read_text().splitlines():
        name, taken, is_back = line.split()
        found[name] = int(taken)
        assert is_back == "True"
    assert found["alone"] == 0
    assert found["starts"] > 0
    assert found["beside"] > found["logs"]
