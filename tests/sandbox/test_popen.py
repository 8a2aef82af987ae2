"""`Sandbox.popen`: programs that run while the test goes on."""

import array
import re
import signal
import time
from typing import Any

import pytest

from pytest_gvisor import InsideError, NotReady, Sandbox
from tests.sandbox.conftest import alive

TALKER = "import sys\nfor line in sys.stdin:\n    print('got', line.strip(), flush=True)\n"


def test_a_program_is_talked_to(gvisor_sandbox: Sandbox) -> None:
    """Line by line, in turns, until its input ends."""
    process = gvisor_sandbox.popen(["python3", "-c", TALKER])
    for word in ("one", "two"):
        process.stdin.write(f"{word}\n")
        assert process.stdout.readline() == f"got {word}\n".encode()
    assert process.poll() is None
    process.stdin.close()
    assert process.wait() == 0
    assert (process.poll(), process.returncode) == (0, 0)
    assert process.stdout.read() == b""
    assert process.stdout.captured == b"got one\ngot two\n"


def test_output_is_read_in_every_way(gvisor_sandbox: Sandbox) -> None:
    """Each stream can be read by size, by lines, to the end, or as far as it has come."""
    script = "printf 'abcdef\\nline\\nlast'; echo err >&2"
    process = gvisor_sandbox.popen(["sh", "-c", script])
    process.wait()
    assert process.stdout.read(3) == b"abc"
    assert process.stdout.readline() == b"def\n"
    assert list(process.stdout) == [b"line\n", b"last"]
    assert process.stdout.read() == process.stdout.read1() == process.stdout.readline() == b""
    assert process.stderr.read1() == b"err\n"


def test_nothing_is_lost_when_a_read_is_too_early(gvisor_sandbox: Sandbox) -> None:
    """Output that came before a passed deadline stays for the next read."""
    process = gvisor_sandbox.popen(["sh", "-c", "printf half; read x; echo ' and half'"])
    process.wait_for_output("half")
    with pytest.raises(NotReady, match="no output within"):
        process.stdout.readline(timeout=0.05)
    process.stdin.write("\n")
    assert process.stdout.readline() == b"half and half\n"


def test_who_reads_slowly_gets_everything(gvisor_sandbox: Sandbox) -> None:
    """The program waits for a slow reader after the first read: nothing is left out."""
    size = 6_000_000
    script = "import os\nos.write(1, b'go\\n')\n"
    script += f"for _ in range({size} // 1000): os.write(1, b'x' * 1000)\n"
    process = gvisor_sandbox.popen(["python3", "-c", script])
    assert process.stdout.readline() == b"go\n"
    time.sleep(0.3)
    assert process.poll() is None  # held up by us
    done = gvisor_sandbox.exec(["echo", "not held up"])
    assert done.stdout == "not held up\n"
    assert len(process.stdout.read(size)) == size
    assert process.wait() == 0


def test_who_does_not_read_holds_nobody_up(gvisor_sandbox: Sandbox) -> None:
    """Unread output is kept within bounds, and the program runs to its end."""
    process = gvisor_sandbox.popen(["head", "-c", "40000000", "/dev/zero"])
    assert process.wait() == 0
    assert len(process.stdout.captured) <= 16 << 20


def test_a_signal_is_the_return_code(gvisor_sandbox: Sandbox) -> None:
    """The return code is the negative signal, as with `subprocess`; a caught signal is none."""
    process = gvisor_sandbox.popen(["sleep", "60"])
    process.terminate()
    assert process.wait() == -signal.SIGTERM
    process.terminate()  # nothing happens
    script = "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    process = gvisor_sandbox.popen(["sh", "-c", script])
    process.wait_for_output("ready")
    process.send_signal(signal.SIGUSR1)
    assert (process.wait(), process.stdout.captured) == (5, b"ready\ncaught\n")


def test_kill_gets_what_was_started(gvisor_sandbox: Sandbox) -> None:
    """A kill ends the whole tree, as does the end of a with block."""
    process = gvisor_sandbox.popen(["sh", "-c", "setsid sleep 888 & echo up; sleep 888"])
    process.wait_for_output("up")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert alive(gvisor_sandbox, "888") == []
    with gvisor_sandbox.popen(["sh", "-c", "setsid sleep 889 & echo up"]) as process:
        process.wait()
        assert len(alive(gvisor_sandbox, "889")) == 1  # it is left running by one that has ended
    assert alive(gvisor_sandbox, "889") == []


def test_a_wait_has_a_deadline(gvisor_sandbox: Sandbox) -> None:
    """`NotReady` is a TimeoutError, and the program runs on."""
    with gvisor_sandbox.popen(["sleep", "60"]) as process:
        for timeout in (0, 0.05):
            with pytest.raises(NotReady, match="no end within the deadline"):
                process.wait(timeout)
        with pytest.raises(TimeoutError):
            process.stdout.read1(timeout=0)
        assert process.poll() is None


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"port (\d+)\n", "8080"),
        (re.compile(rb"port (\d+)\n"), b"8080"),
        (r"(?m)^warn(ing)$", "ing"),
        (r"(\\xff)", "\\xff"),
    ],
    ids=["text", "bytes", "stderr", "not-utf-8"],
)
def test_output_is_waited_for(
    gvisor_sandbox: Sandbox, pattern: str | re.Pattern[bytes], found: str | bytes
) -> None:
    """Output is awaited in either stream and across its pieces, and stays for the reader."""
    script = "printf 'a po'; sleep 0.1; printf 'rt 80'; sleep 0.1; echo 80; sleep 0.1"
    script += "; printf '\\377'; echo warning >&2; sleep 60"
    with gvisor_sandbox.popen(["sh", "-c", script]) as process:
        match = process.wait_for_output(pattern)
        assert match[1] == found
        assert process.wait_for_output(pattern)[1] == found  # it is still there
        assert process.stdout.readline() == b"a port 8080\n"


def test_output_that_does_not_come_is_not_waited_for_longer(gvisor_sandbox: Sandbox) -> None:
    """The deadline, or the program's end, ends the wait; an end comes at once."""
    with gvisor_sandbox.popen(["sleep", "60"]) as process, pytest.raises(NotReady, match="never"):
        process.wait_for_output("never", timeout=0.1)
    process = gvisor_sandbox.popen(["echo", "something else"])
    with pytest.raises(NotReady, match="ended without 'never'"):
        process.wait_for_output("never", timeout=30)


def test_output_is_found_in_a_flood(gvisor_sandbox: Sandbox) -> None:
    """No match is missed, however fast the output comes and however much is kept."""
    script = (
        "import os\nb = b'x' * 100_000\nos.write(1, b'y')\nfor _ in range(300): os.write(1, b)\n"
        "os.write(1, b'needle')\nfor _ in range(300): os.write(1, b)\n"
    )
    process = gvisor_sandbox.popen(["python3", "-c", script])
    match = process.wait_for_output("nee(dle)")
    assert match[1] == "dle"
    assert process.wait() == 0


def test_the_beginning_of_output_is_where_it_begins(gvisor_sandbox: Sandbox) -> None:
    """``^`` matches there and at lines, and not where a search in pieces goes on."""
    script = "printf y; head -c 1000000 /dev/zero | tr '\\0' x; sleep 0.1; echo needle"
    process = gvisor_sandbox.popen(["sh", "-c", script])
    process.wait_for_output("^yx")
    with pytest.raises(NotReady, match="ended without"):
        process.wait_for_output("^x*needle")


def test_input_can_be_closed_by_the_program(gvisor_sandbox: Sandbox) -> None:
    """A write after the program closed its input is an error, at once or soon."""
    process = gvisor_sandbox.popen(["sh", "-c", "exec <&-; echo closed; sleep 60"])
    process.wait_for_output("closed")

    def write() -> None:
        while True:
            process.stdin.write(b"x" * 100_000)

    with pytest.raises(InsideError, match="EPIPE"):
        write()
    process.kill()
    with pytest.raises(InsideError, match="EPIPE"):
        process.stdin.write("x")


def test_a_write_that_nobody_reads_has_a_deadline(gvisor_sandbox: Sandbox) -> None:
    """A program that does not read holds the writer up, not for ever."""
    with gvisor_sandbox.popen(["sleep", "60"]) as process, pytest.raises(NotReady):
        process.stdin.write(b"x" * 10_000_000, timeout=0.3)


def test_input_of_larger_items_is_written_as_its_bytes(gvisor_sandbox: Sandbox) -> None:
    """The length of an array is not its number of bytes."""
    with gvisor_sandbox.popen(["wc", "-c"]) as process:
        numbers: Any = memoryview(array.array("I", range(200_000)))
        process.stdin.write(numbers)
        process.stdin.close()
        assert process.stdout.read() == b"800000\n"
