"""The input of a workload: the bytes arrive exactly, and no input can hang the call."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_gvisor import Gvisor, UsageError, WorkloadTimeout
from pytest_gvisor.sessions import starts

MIB = 1024 * 1024


def pieces() -> Iterator[bytes]:
    """Bytes in pieces of every size, none at all among them."""
    yield b"a"
    yield b""
    yield b"b" * 100_000
    yield b"c\n"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("text: ä €\n", "text: ä €\n".encode()),
        (bytes(range(256)), bytes(range(256))),
        (b"", b""),
        ("", b""),
        ([b"one\n", b"two\n"], b"one\ntwo\n"),
        ([], b""),
        ([b"", b""], b""),
        ([bytearray(b"one"), memoryview(b"two")], b"onetwo"),
        (pieces, b"a" + b"b" * 100_000 + b"c\n"),
    ],
    ids=[
        "text", "bytes", "no-bytes", "no-text", "list", "empty-list", "empty-pieces", "buffers",
        "generator",
    ],
)  # fmt: skip
def test_input_arrives_as_it_was_given(gvisor: Gvisor, given: Any, read: bytes) -> None:
    """Text as UTF-8, bytes as they are, an iterable piece by piece; then comes the end of file."""
    done = gvisor.run(["cat"], input=given() if callable(given) else given)
    assert (done.returncode, done.stdout_bytes == read) == (0, True)


@pytest.mark.fault("E9")
def test_iterables_may_run_workloads_themselves(gvisor: Gvisor) -> None:
    """So many at once that each slot for a start is that of a run whose input starts another."""

    def pieces() -> Iterator[bytes]:
        yield gvisor.run(["echo", "inner"]).stdout_bytes

    def run(_number: int) -> str:
        return gvisor.run(["cat"], input=pieces(), timeout=300).stdout

    many = 2 * starts.PER_PROCESSOR * len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(many) as pool:
        assert list(pool.map(run, range(many))) == ["inner\n"] * many


def test_without_input_standard_input_is_at_its_end(gvisor: Gvisor) -> None:
    """A workload never reads pytest's own standard input."""
    done = gvisor.run(["sh", "-c", "cat; echo end"], timeout=30)
    assert done.stdout == "end\n"


def test_large_input_and_output_do_not_wait_for_each_other(gvisor: Gvisor) -> None:
    """32 MiB go through `cat` unharmed, which reads on only as its output is taken."""
    block = bytes(range(256)) * 4096
    data = b"".join(bytes([number]) * 16 + block[16:] for number in range(32))
    done = gvisor.run(["cat"], input=data, max_output=32 * MIB)
    assert (done.returncode, done.stdout_total, done.truncated) == (0, 32 * MIB, False)
    same = done.stdout_bytes == data
    assert same


@pytest.mark.parametrize("script", ["true", "sleep 0.3", "exec <&-; sleep 0.3"])
def test_a_workload_need_not_read(gvisor: Gvisor, script: str) -> None:
    """Unread input beyond the size of a pipe changes nothing."""
    done = gvisor.run(["sh", "-c", f"{script}; echo done; exit 6"], input=b"x" * (4 * MIB))
    assert (done.returncode, done.stdout) == (6, "done\n")


def endless() -> Iterator[bytes]:
    """Input without an end."""
    while True:
        yield b"x" * 1000


def test_endless_input_ends_with_the_workload(gvisor: Gvisor) -> None:
    """A workload that has read enough ends the run, however much there still is."""
    done = gvisor.run(["head", "-c", "1000000"], input=endless())
    assert (done.returncode, done.stdout_bytes == b"x" * 1_000_000) == (0, True)


def test_endless_input_does_not_hold_up_the_deadline(
    gvisor: Gvisor, no_process_left: Callable[[], None]
) -> None:
    """A workload that reads endless input ends at the deadline."""
    with pytest.raises(WorkloadTimeout):
        gvisor.run(["sh", "-c", "cat > /dev/null"], input=endless(), timeout=1)
    no_process_left()


def failing() -> Iterator[bytes]:
    """Input that breaks off."""
    yield b"some"
    raise LookupError("no more")


def test_an_error_of_the_iterable_is_the_callers(
    gvisor: Gvisor, no_process_left: Callable[[], None]
) -> None:
    """The call raises the generator's own error, and the workload is gone."""
    with pytest.raises(LookupError, match="no more"):
        gvisor.run(["sh", "-c", "cat; sleep 60"], input=failing())
    no_process_left()


@pytest.mark.parametrize("given", [5, object(), 1.5], ids=["int", "object", "float"])
def test_what_is_no_input_is_refused(gvisor: Gvisor, given: Any) -> None:
    """Text, bytes and iterables are input; another type is refused before anything starts."""
    with pytest.raises(UsageError, match="input"):
        gvisor.run(["cat"], input=given)
    assert gvisor.records == []


@pytest.mark.parametrize("piece", ["text", 7, None], ids=["text", "int", "none"])
def test_a_piece_of_an_iterable_is_bytes(
    gvisor: Gvisor, piece: Any, no_process_left: Callable[[], None]
) -> None:
    """A piece of another kind ends the run with an error that names it."""
    with pytest.raises(UsageError, match=repr(piece)):
        gvisor.run(["sh", "-c", "cat; sleep 60"], input=[b"bytes", piece])
    no_process_left()
