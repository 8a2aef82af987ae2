"""The exact end of a workload, never confused with the end of runsc or the sandbox."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_gvisor import Completed, Gvisor, Outcome, ProgramNotStarted, WorkloadFailed, empty
from tests.faults.little import STRICT


@pytest.mark.fault("E1", "E2", "E3")
def test_every_exit_status_comes_back_as_it_is(gvisor: Gvisor) -> None:
    """Exit N is N, also with sandboxes in several threads at once.

    runsc itself ends with 128 if it fails, and with 137 for SIGKILL too. A unit test of the verdict
    has all 256.
    """
    codes = (0, 1, 2, 127, 128, 129, 137, 255)

    def run(code: int) -> Completed:
        return gvisor.run(["sh", "-c", f"echo {code}; exit {code}"])

    with ThreadPoolExecutor(4) as threads:
        found = [
            (done.returncode, done.outcome, done.exact, done.stdout)
            for done in threads.map(run, codes)
        ]
    assert found == [(code, Outcome.EXITED, True, f"{code}\n") for code in codes]


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT, signal.SIGUSR1, 37, 64],
    ids=["KILL", "SEGV", "TERM", "ABRT", "USR1", "RTMIN+3", "RTMAX"],
)
def test_a_signal_is_its_negative_number(gvisor: Gvisor, number: int) -> None:
    """A workload that dies of signal S has the return code -S, real-time signals included."""
    done = gvisor.run(["sh", "-c", f"echo before; kill -{int(number)} $$; echo after"])
    assert (done.returncode, done.outcome, done.exact) == (-number, Outcome.SIGNALLED, True)
    assert done.stdout == "before\n"


@pytest.mark.fault("E2")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["/no/such/program"], ["/no/such/program", "no such file or directory"]),
        (["no-such-program"], ["no-such-program", "no such file or directory"]),
        (["/etc/passwd"], ["/etc/passwd", "permission denied"]),
        (["/etc"], ["/etc", "permission denied"]),
    ],
    ids=["path", "name", "no-program", "folder"],
)
def test_a_program_that_cannot_start_is_no_verdict(
    gvisor: Gvisor, args: list[str], words: list[str]
) -> None:
    """A missing program is runsc's failure with runsc's record, not the workload's status."""
    with pytest.raises(ProgramNotStarted) as caught:
        gvisor.run(args)
    assert len(caught.value.records) == 1
    for word in words:
        assert word in caught.value.records[0]
    assert f'program "{args[0]}" ' in str(caught.value)
    assert gvisor.runsc.path in caught.value.command
    record = gvisor.records[-1]
    assert record.error is caught.value
    assert record.completed is not None
    assert record.completed.outcome is Outcome.RUNSC_FAILED


@pytest.mark.fault("E10")
def test_check_raises_for_another_status_than_0(gvisor: Gvisor) -> None:
    """With `check=True` a status other than 0 is an error with the output."""
    with pytest.raises(WorkloadFailed, match="exit status 3") as caught:
        gvisor.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=True)
    assert (caught.value.stdout, caught.value.stderr) == ("out\n", "err\n")
    assert caught.value.completed.returncode == 3


THREADS = """
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void *other(void *argument) {
    usleep(100000);
    exit(STATUS);
}

int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, other, 0);
    FIRST;
}
"""


@pytest.mark.parametrize("first", ["pause()", "pthread_exit(0)"])
@pytest.mark.parametrize("status", [0, 3, 128, 137])
def test_a_thread_may_end_the_process(
    gvisor: Gvisor, compile_c: Callable[[str], Path], status: int, first: str
) -> None:
    """exit() in another thread gives the status, while the first one waits or has ended with 0."""
    source = THREADS.replace("STATUS", str(status)).replace("FIRST", first)
    done = gvisor.run(["/p"], rootfs=empty({"p": compile_c(source).read_bytes()}))
    assert (done.returncode, done.outcome, done.exact) == (status, Outcome.EXITED, True)


@pytest.mark.fault("E11")
@pytest.mark.parametrize("how", ["", "setsid ", "nohup "])
def test_a_daemon_does_not_outlive_the_workload(
    gvisor: Gvisor, how: str, no_process_left: Callable[[], None]
) -> None:
    """The end of the first process ends all, at once, however much it left running still writes."""
    daemon = "echo x; echo x; : > /tmp/up; while :; do echo x; done"
    script = f"{how}sh -c '{daemon}' & while [ ! -e /tmp/up ]; do :; done; exit 4"
    started = time.monotonic()
    done = gvisor.run(["sh", "-c", script], max_output=1000)
    # It writes until the deadline otherwise, which is 60 s. An emulated processor takes 6 s.
    assert time.monotonic() - started < (2 if STRICT else 50)
    no_process_left()
    assert (done.returncode, done.stdout_bytes[:4]) == (4, b"x\nx\n")
