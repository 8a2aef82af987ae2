"""The temporary folders of failed tests, as the first process hears of them."""

import mmap
import os
import resource
from collections.abc import Iterator

import pytest

from pytest_gvisor.guest.tests import first, program
from pytest_gvisor.guest.tests.first import Notes


def test_the_running_test_and_the_failed_ones_count_once() -> None:
    """A test that passes is forgotten when the next one begins."""
    notes = Notes()
    assert notes.folders() == []
    notes.begin("/tmp/a long name that passes")
    notes.begin("/tmp/é")
    notes.keep("/tmp/é")
    notes.keep("/tmp/é")
    notes.keep("/tmp/é2")
    notes.begin("/tmp/c")
    assert notes.folders() == ["/tmp/c", "/tmp/é", "/tmp/é2"]
    notes.begin()
    assert notes.folders() == ["/tmp/é", "/tmp/é2"]


def test_memory_that_no_name_is_in_is_not_read() -> None:
    """A sandbox makes each page of it at the first access, and the host waits meanwhile."""
    notes = Notes()
    notes.keep("/tmp/one")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert notes.folders() == ["/tmp/one"]
    made = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert made < first._SIZE // mmap.PAGESIZE // 2


def test_there_is_an_end_to_it() -> None:
    """Folders beyond the room are left out, and none is cut."""
    notes = Notes()
    names = [f"/{number:08}" for number in range(first._SIZE // 10 + 10)]
    for name in names[:3]:
        notes.keep(name)
    notes._memory[first._SLOT : first._SIZE - 20] = (
        b"/" + b"x" * (first._SIZE - 20 - first._SLOT - 2) + b"\0"
    )
    notes.keep("/fits")
    notes.keep("/does/not/fit")
    notes.begin("/" + "y" * 10_000)
    running, full, last = notes.folders()
    assert (len(running), full[:2], last) == (first._SLOT - 2, "/x", "/fits")


def test_another_process_hears_of_them() -> None:
    """The pytest inside may die at any time."""
    notes = Notes()
    if not (pid := os.fork()):
        notes.begin("/tmp/a")
        notes.keep("/tmp/b")
        os._exit(0)
    os.waitpid(pid, 0)
    assert notes.folders() == ["/tmp/a", "/tmp/b"]


@pytest.fixture
def watch() -> Iterator[program.Watch]:
    """A watch over the names A and B, in this process until the test's end."""
    environ = vars(os.environ)
    data = environ["_data"]
    try:
        yield program.Watch(["NOT_HERE_A", "NOT_HERE_B"])
    finally:
        environ["_data"] = data
        vars(os.environb)["_data"] = data


def test_a_name_that_a_test_looks_for_is_recorded(watch: program.Watch) -> None:
    """Each once, by any way to look, and none that the host has not."""
    assert os.environ.get("NOT_HERE_B") is None
    assert "NOT_HERE_A" not in os.environ
    assert os.getenv("NOT_HERE_B") is None
    assert os.getenv("NOT_HERE_C") is None
    assert watch.missed() == ["NOT_HERE_B", "NOT_HERE_A"]
    watch.begin()
    assert watch.missed() == []


def test_a_name_that_a_plugin_looks_for_while_it_reports_is_not(watch: program.Watch) -> None:
    """The hint in a failure would name a variable that the test never read."""
    watch.in_test = False
    assert os.getenv("NOT_HERE_A") is None
    watch.in_test = True
    assert os.getenv("NOT_HERE_B") is None
    assert watch.missed() == ["NOT_HERE_B"]
