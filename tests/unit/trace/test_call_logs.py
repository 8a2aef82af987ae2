"""Logs of system calls, as strace(1) and runsc write them, and the first call that differs."""

import time

import pytest

from pytest_gvisor.trace import call_logs
from pytest_gvisor.trace.call_logs import Call, CallLog, failed_as_told, first_difference, sentence

RUNSC = "I1129 18:50:53.042098       1 strace.go:601] [   2:   {task}] a b X {call} (13.286µs)"
BEGIN, END = "/marks/74/begin", "/marks/74/end"


def of_strace(*lines: str) -> list[Call]:
    """The calls of a phase in a log of strace's."""
    log = CallLog("/marks", host=True)
    for line in (f'1 access("{BEGIN}", F_OK) = -1 ENOENT (x)', *lines):
        log.add(line)
    return log.calls["74"]


def of_runsc(*calls: str, task: int = 2) -> list[Call]:
    """The calls of a phase in a log of runsc's."""
    log = CallLog("/marks", host=False)
    for call in (f"access(0x7ee288da43b0 {BEGIN}, 0o0) = -1 errno=2 (x)", *calls):
        log.add(RUNSC.format(task=task, call=call))
    return log.calls["74"]


def facts(calls: list[Call]) -> list[tuple[str, str, int, str]]:
    """The facts on each call that are compared."""
    return [(call.name, call.place, call.result, call.answer) for call in calls]


def test_both_logs_tell_the_same_facts() -> None:
    """Paths are whole, of descriptors too; those below /tmp have their last part alone."""
    host = of_strace(
        '1 openat(AT_FDCWD</home>, "x", O_RDONLY) = 3</home/x>',
        '1 openat(AT_FDCWD</home>, "/proc/x", O_RDONLY) = -1 ENOENT (No such file or directory)',
        '1 read(3</proc/meminfo>, "Mem = 1"..., 8192) = 1503',
        '1 mkdir("/tmp/pytest-1/a0", 0700) = 0',
        '1 sendto(4<socket:[7]>, "x", 1, MSG_OOB, NULL, 0) = 1',
        '1 newfstatat(5</tmp/#7>(deleted), "", {st_size=0, ...}, AT_EMPTY_PATH) = 0',
        '1 memfd_create("huge", MFD_HUGETLB) = 12</memfd:huge>(deleted)',
        "1 poll([{fd=3, events=POLLIN}], 1, 10) = 0 (Timeout)",
        "1 syscall_0x1c3(0xc, 0x7f) = 0",
        "1 brk(0x2dddb000) = 0x2dddb000",
    )
    runsc = of_runsc(
        "openat(AT_FDCWD /home, 0x7ee288db3390 x, O_RDONLY, 0o0) = 3 (0x3)",
        "openat(AT_FDCWD /home, 0x7ee288db3390 /proc/x, O_RDONLY, 0o0) = -1 errno=2 (no such file)",
        'read(0x3 /proc/meminfo, 0x1068580 "Mem = 1", 0x2000) = 1503 (0x5df)',
        "mkdir(0x7ee289ecf5c0 /tmp/pytest-2/a0, 0o700) = 0 (0x0)",
        "sendto(0x4 socket:[2], 0xa5f170, 0x1, 0x1, null, 0x0) = 1 (0x1)",
        "newfstatat(0x5 /tmp/tmpx (deleted), 0x7ee28a7a3dd5 , 0x7ebf04 {size=0}, 0x1000) = 0 (0x0)",
        "memfd_create(0x7eeb6173ce90 huge, 0x4) = 12 (0xc)",
        "poll(0x7ee288db3390 [{FD: 3}], 0x1, 0xa) = 0 (0x0)",
        "sys_451(0xc, 0x7f) = 0 (0x0)",
        "brk(0x2dddb000) = 769503232 (0x2dddb000)",
    )
    assert facts(host) == facts(runsc)
    assert [call.place for call in host] == [
        "/home/x", "/proc/x", "/proc/meminfo", "a0", "", "", "huge", "", "", "",
    ]  # fmt: skip
    assert host[1].answer == "fails with ENOENT"
    assert host[8].name == "cachestat"


def test_the_log_of_an_older_runsc_has_a_result_before_an_error() -> None:
    """The error counts."""
    calls = of_runsc("access(0x7ef3cf8822a0 /x, 0o4) = 0 (0x0) errno=2 (no such file)")
    assert [(call.place, call.answer) for call in calls] == [("/x", "fails with ENOENT")]


def test_a_call_that_strace_writes_in_two_parts_is_one() -> None:
    """Another thread's call may come between them."""
    calls = of_strace(
        "1 wait4(-1,  <unfinished ...>",
        "2 getpid() = 2",
        "1 <... wait4 resumed>[{WIFEXITED(s)}], 0, NULL) = 2",
    )
    assert facts(calls) == [("getpid", "", 2, "succeeds"), ("wait4", "", 2, "succeeds")]


def test_only_calls_between_marks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark at the end of a phase has the exception's name. Any other line is no call."""
    monkeypatch.setattr(call_logs, "MOST_CALLS", 2)
    log = CallLog("/marks", host=True)
    lines = [
        "1 getpid() = 1", f'1 access("{BEGIN}", F_OK) = -1 ENOENT (x)', "--- SIGCHLD ---",
        '1 execve("/a", ["a"], 0x1) = 0', "1 getppid() = 1", "1 exit_group(0) = ?",
        '1 access("/marks/74/ValueError", F_OK) = -1 ENOENT (x)', "1 getuid() = 1",
        f'1 access("{BEGIN}", F_OK) = -1 ENOENT (x)', f'1 write(1, "{"y" * 900}", 500) = 500',
        "1 beyond() = 1", f'1 access("{END}", F_OK) = -1 ENOENT (x)',
    ]  # fmt: skip
    for line in lines:
        log.add(line)
    assert [call.name for call in log.calls["74"]] == ["getppid", "write"]
    assert len(log.calls["74"][1].shown) == 302
    assert log.raised == {"74": True}


def call(name: str, error: int = 0, *, task: str = "1", place: str = "", result: int = 0) -> Call:
    """A call of a log."""
    return Call(task, name, place, f"{name}(…)", -1 if error else result, error)


def told_of(found: tuple[Call, Call] | None) -> str:
    """The sentence on a difference; nothing if there is none."""
    return "" if found is None else sentence(*found)


def test_the_call_whose_error_the_failure_names_comes_first() -> None:
    """Without one it is the first; a call that programs replace comes last."""
    host = [call("rseq"), call("a"), call("b"), call("b"), call("c")]
    inside = [call("rseq", 38), call("a", 22), call("x", 2), call("b"), call("b", 2), call("c", 2)]

    def told(message: str) -> str:
        return told_of(first_difference(host, inside, message, fails_inside=True))

    assert told("AssertionError") == ("a(…) succeeds on the host, and fails with EINVAL in gVisor")
    assert told("OSError: [Errno 2] x") == (
        "b(…) succeeds on the host, and fails with ENOENT in gVisor"
    )
    assert told("cat: No such file or directory").startswith("b(…)")
    assert "rseq" in told_of(first_difference(host[:1], inside[:1], "", fails_inside=True))
    assert first_difference(host, host, "[Errno 2]", fails_inside=True) is None


def test_calls_of_the_same_thread_and_path_are_compared() -> None:
    """Threads have other numbers on each side, and count in their order."""
    host = [call("a", place="/x"), call("a", 2, place="/y"), call("a", 2, task="7")]
    inside = [call("a", 2, place="/y"), call("a", place="/x"), call("a", 2, task="3")]
    assert first_difference(host, inside, "", fails_inside=True) is None
    unknown = [call("a", place="/x"), call("a", 1)]  # runsc does not know its arguments
    assert told_of(first_difference(host, unknown, "", fails_inside=False)) == (
        "a(…) fails with ENOENT on the host, and fails with EPERM in gVisor"
    )


def test_a_count_differs_where_errors_do_not() -> None:
    """One side has nothing, or the file is the kernel's own; other numbers vary by themselves."""

    def told(one: Call, two: Call) -> str:
        return told_of(first_difference([one], [two], "", fails_inside=True))

    assert told(call("poll", result=1), call("poll")) == (
        "poll(…) gives 1 on the host, and gives 0 in gVisor"
    )
    assert told(call("read", result=5), call("read", result=3)) == ""
    assert told(call("getpid", result=5), call("getpid")) == ""
    proc = [call("read", place="/proc/x", result=number) for number in (5, 3)]
    assert told(*proc).startswith("read(…) gives 5 on the host")


def test_without_the_host_s_log_only_a_named_error_tells() -> None:
    """The last call that failed so is named."""
    calls = [call("a", 2), call("b", 2), call("c", 22)]
    assert failed_as_told(calls, "[Errno 2] x") == calls[1]
    assert failed_as_told(calls, "AssertionError") is None


@pytest.mark.parametrize(
    ("call", "number", "result"),
    [
        ("sys_0123(0x1) = 0 (0x0)", 1, 0),
        ("sys_0x1c3(0x1) = 007 (0x7)", 1, 7),
        (f"read(0x1) = {'9' * 5000} (0x0)", 0, None),
        (f"read(0x1) = -1 errno={'9' * 5000} (x)", 0, None),
        (f"read(0x1) = -1 errno={'9' * 30} (x)", 0, None),
    ],
)
def test_no_number_of_a_forged_line_is_an_error(call: str, number: int, result: int | None) -> None:
    """A call with a number that no kernel gives is none."""
    calls = of_runsc(call)
    assert len(calls) == number
    assert {one.result for one in calls} <= {result}
    assert failed_as_told(calls, "[Errno 1]") is None


def test_the_time_for_a_line_grows_with_its_length_alone() -> None:
    """A line that almost matches, again and again, took hours; one that is too long is no call."""
    log = CallLog("/marks", host=False)
    begin = time.process_time()
    for size in (900, 10_000):
        log.add("[1:1] " * size + " X a(" * size + ") = 1 " * size)
    log.add("[1:1] a" + " X a(" * 1500 + ") = 1 " * 1200)
    assert time.process_time() - begin < 5


def test_forged_calls_and_marks_take_bounded_memory() -> None:
    """Texts of a call and lines are short, and no more than a thousand tests have marks."""
    assert not of_runsc(f"access(0x7ef3cf8822a0 /{'x' * 17_000}, 0o4) = 0 (0x0)")
    (call,) = of_runsc(f"access(0x7ef3cf8822a0 /{'x' * 9000}, 0o4) = 0 (0x0)")
    assert len(call.place) <= len(call.shown) <= 302
    log = CallLog("/marks", host=False)
    for number in range(2000):
        mark = f"access(0x7ef3cf8822a0 /marks/{number}/E{'x' * 900}, 0o0) = -1 errno=2 (x)"
        log.add(RUNSC.format(task=2, call=mark))
    assert len(log.raised) == 1000
