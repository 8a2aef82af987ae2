"""The output of a workload: byte for byte, or bounded and counted."""

import os
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, Outcome, Platform, Runsc, empty
from pytest_gvisor.base.settings import Settings
from pytest_gvisor.run import logs
from pytest_gvisor.sessions.launcher import Launcher

MIB = 1024 * 1024

BOTH_STREAMS = """
import os, threading

def write(fd):
    for number in range(64):
        rest = memoryview(bytes([number, fd]) * (512 * 1024))
        while rest:
            rest = rest[os.write(fd, rest):]

threads = [threading.Thread(target=write, args=[fd]) for fd in (1, 2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.fault("E5")
def test_both_streams_at_once_come_back_whole(gvisor: Gvisor) -> None:
    """64 MiB on each stream, written at the same time, arrive in order and unmixed."""
    done = gvisor.run(["python3", "-c", BOTH_STREAMS], max_output=64 * MIB)
    assert (done.returncode, done.truncated) == (0, False)
    assert (done.stdout_total, done.stderr_total) == (64 * MIB, 64 * MIB)
    for fd, data in ((1, done.stdout_bytes), (2, done.stderr_bytes)):
        assert len(data) == 64 * MIB
        wrong = [
            number
            for number in range(64)
            if data[number * MIB : (number + 1) * MIB] != bytes([number, fd]) * (512 * 1024)
        ]
        assert wrong == []


@pytest.mark.fault("E5")
@pytest.mark.parametrize("limit", [0, 1, 999, 1000])
def test_of_a_longer_stream_head_and_tail_are_kept(gvisor: Gvisor, limit: int) -> None:
    """The first and the last bytes are kept, the rest is counted, and the text shows the gap."""
    whole = "".join(f"{number:05}\n" for number in range(2000)).encode()
    done = gvisor.run(["seq", "-f", "%05.0f", "0", "1999"], max_output=limit)
    head, tail = limit - limit // 2, limit // 2
    assert done.stdout_bytes == whole[:head] + whole[len(whole) - tail :]
    assert (done.stdout_total, done.truncated, done.returncode) == (len(whole), True, 0)
    gap = f"\n[… {len(whole) - limit} bytes left out …]\n"
    assert done.stdout == whole[:head].decode() + gap + whole[len(whole) - tail :].decode()


BYTES = {
    "every-byte": bytes(range(256)),
    "newlines": b"a\r\nb\rc\n\n",
    "nul": b"a\0b\0",
    "broken-utf-8": b"caf\xc3",
    "surrogates": b"\xed\xa0\x80\xed\xb0\x80",
    "overlong": b"\xc0\xaf",
    "escapes": b"\x1b[2J\x1b]52;c;aGk=\x07",
    "not-even-a-newline": b"x",
    "nothing": b"",
}


@pytest.mark.fault("E7")
@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_bytes_are_bytes(gvisor: Gvisor, data: bytes) -> None:
    """Any bytes come back as they are on both streams, and the text view never fails."""
    code = f"import os; data = {data!r}; os.write(1, data); os.write(2, data)"
    done = gvisor.run(["python3", "-S", "-c", code])
    assert (done.stdout_bytes, done.stderr_bytes, done.truncated) == (data, data, False)
    assert (done.stdout_total, done.stderr_total) == (len(data), len(data))
    assert done.stdout == done.stderr == data.decode("utf-8", "backslashreplace")
    done.stdout.encode()  # text that can be printed: it has no lone surrogates


@pytest.mark.fault("E9")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_workload_may_close_its_streams(gvisor: Gvisor, closed: str) -> None:
    """A closed stream is at its end; the workload is waited for, and its status is its own."""
    done = gvisor.run(["sh", "-c", f"echo out; echo err >&2; exec {closed}; sleep 0.3; exit 5"])
    assert (done.returncode, done.outcome) == (5, Outcome.EXITED)
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert done.duration > 0.3


@pytest.mark.fault("E10")
def test_output_stands_beside_a_failing_status(gvisor: Gvisor) -> None:
    """A status other than 0, or a signal, takes nothing away from the output."""
    failed = gvisor.run(["sh", "-c", "printf out; printf err >&2; exit 1"])
    killed = gvisor.run(["sh", "-c", "printf out; printf err >&2; kill -KILL $$"])
    assert (failed.returncode, failed.stdout, failed.stderr) == (1, "out", "err")
    assert (killed.returncode, killed.stdout, killed.stderr) == (-9, "out", "err")


def test_what_is_remembered_of_earlier_runs_is_bounded(gvisor: Gvisor) -> None:
    """The newest run is kept whatever its size; earlier ones while their output is small."""
    size = 30 * 1024 * 1024
    for _ in range(4):
        done = gvisor.run(["head", "-c", str(size), "/dev/zero"], max_output=size)
        assert len(done.stdout_bytes) == size
    assert len(gvisor.records) == 2
    assert gvisor.records[-1].completed is done


BUSYBOX = Path("/bin/busybox").read_bytes()


def causes(gvisor: Gvisor) -> dict[str, str]:
    """The cause that each log of the last run would be given."""
    return {name: logs.cause(text) for name, text in gvisor.records[-1].debug_logs.items()}


@pytest.mark.parametrize("status", [0, 3])
def test_a_good_run_has_no_cause_in_its_logs(each_runsc: Runsc, status: int) -> None:
    """Each release logs no cause in a good run, with the host's folders, an image or a network."""
    launcher = Launcher()
    gvisor = Gvisor(
        runsc=each_runsc,
        platform=Platform.SYSTRAP,
        launcher=launcher,
        settings=Settings(debug=True),
    )
    try:
        done = gvisor.run(["sh", "-c", f"exit {status}"])
        assert (done.stdout, done.stderr, done.returncode) == ("", "", status)
        assert set(causes(gvisor).values()) == {""}
        script = ["/busybox", "sh", "-c", f"exit {status}"]
        done = gvisor.run(script, rootfs=empty({"busybox": BUSYBOX}))
        assert (done.stdout, done.stderr, done.returncode) == ("", "", status)
        assert set(causes(gvisor).values()) == {""}
        if os.geteuid() == 0:
            done = gvisor.run(["true"], network="sandbox")
            assert (done.stderr, done.returncode) == ("", 0)
            assert set(causes(gvisor).values()) == {""}
    finally:
        launcher.close()
