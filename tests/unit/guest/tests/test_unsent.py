"""Frames in memory that the host reads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.guest.tests import unsent
from pytest_gvisor.guest.tests.unsent import HEAD, SIZE, Unsent

HERE = Path(unsent.__file__).parent


@pytest.fixture
def memory(file: int) -> Iterator[Unsent]:
    """A mapping of the file."""
    made = Unsent(file)
    yield made
    made._head.release()
    made._bytes.release()


@pytest.fixture
def file() -> int:
    """A file of the host, whose descriptor the memory closes."""
    fd = os.memfd_create("test")
    os.ftruncate(fd, SIZE)
    return fd


def test_the_host_reads_what_is_held_back() -> None:
    """Length and frames are in the file until they are sent; then another round begins."""
    host = os.memfd_create("test")
    os.ftruncate(host, SIZE)
    memory = Unsent(os.dup(host))
    assert memory.add(b"one")
    assert memory.add(b"two")
    length, cleared = HEAD.unpack(os.pread(host, HEAD.size, 0))
    assert (os.pread(host, length, HEAD.size), memory.frames()) == (b"onetwo", b"onetwo")
    memory.clear()
    assert HEAD.unpack(os.pread(host, HEAD.size, 0)) == (0, cleared + 1)
    memory._head.release()
    memory._bytes.release()
    os.close(host)


def test_a_program_of_a_test_gets_no_descriptor_of_it(file: int, memory: Unsent) -> None:
    """The memory stays mapped when its descriptor is closed."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)
    assert memory.add(b"x")
    done = subprocess.run(
        ["ls", "-l", "/proc/self/fd"], capture_output=True, close_fds=False, timeout=60, check=True
    )
    assert done.stdout
    assert b"memfd:test" not in done.stdout


def test_what_has_no_room_is_not_held_back(memory: Unsent) -> None:
    """All that was held back before it stays as it was."""
    assert memory.add(b"x")
    assert not memory.add(b"y" * SIZE)
    assert memory.frames() == b"x"
    assert memory.add(b"z" * (SIZE - HEAD.size - 1))


SCRIPT = """
import os, sys
from unsent import take_memory
fd = take_memory()
print(sys.stdout.seekable(), sys.stdout.name, sys.stdout is sys.__stdout__, flush=True)
if fd is not None:
    os.pwrite(fd, b"seen", 0)
"""


@pytest.mark.parametrize("given", [True, False])
def test_the_standard_output_is_that_of_errors(file: int, *, given: bool) -> None:
    """Where a file came as descriptor 1; a pipe stays as it is, and so do Python's streams."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=HERE,
        stdout=file if given else subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    told = done.stderr if given else done.stdout
    assert told == b"False <stdout> True\n"
    assert os.pread(file, 4, 0) == (b"seen" if given else bytes(4))
    os.close(file)


FORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from unsent import SIZE, Unsent

fd = os.memfd_create("test")
os.ftruncate(fd, SIZE)
memory = Unsent(os.dup(fd))
memory.add(b"mine")
if not (pid := os.fork()):
    memory.add(b"of a fork")
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), memory.frames(), os.pread(fd, 4, 8))
"""


def test_a_fork_that_adds_to_the_memory_is_killed() -> None:
    """A fork that no code of Python's has made cannot speak in its parent's name."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, HERE], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "-11 b'mine' b'mine'\n"
