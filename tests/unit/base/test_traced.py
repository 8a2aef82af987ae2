"""A trace as a value: its sets, its check, and how it is shown."""

import sys
import time
from dataclasses import replace

import pytest

from pytest_gvisor.base.errors import TraceError, UsageError
from pytest_gvisor.base.traced import Change, Command, Connection, File, Trace, TracedProcess


def read(path: str, **more: object) -> File:
    """A file that was read."""
    return File(**{"path": path, "read": True, "written": False, "confirmed": True, **more})  # type: ignore[arg-type]


def wrote(path: str, **more: object) -> File:
    """A file that was written."""
    return read(path, **{"read": False, "written": True, **more})


def violations(trace: Trace, **allowed: object) -> list[str]:
    """The violations in the error of a check; none if it passes."""
    try:
        trace.check(**allowed)  # type: ignore[arg-type]
    except AssertionError as error:
        return str(error).split("\n  ")[1:]
    return []


@pytest.mark.parametrize(
    "path",
    [
        "/usr/lib/x.so", "/usr", "/lib64/ld.so", "/bin/sh", "/etc/ld.so.cache",
        "/etc/python3.11/x.py", "/app/__pycache__/x.pyc", f"{sys.prefix}/bin/python3",
        f"{sys.prefix}/pyvenv.cfg", "/proc/sys/vm/overcommit_memory",
    ],
)  # fmt: skip
def test_paths_of_the_system_are_read_by_each_program(path: str) -> None:
    """So they are left out of `read`, and of its check; `files` has them."""
    trace = Trace(files=(read(path), read("/app/x")))
    assert trace.read == {"/app/x"}
    assert violations(trace, read=["/app/x"]) == []
    assert path in {one.path for one in trace.files}


@pytest.mark.parametrize("path", ["/usrx/a", "/app/usr/a", "/etc/passwd", "/home/a", "/library"])
def test_other_paths_are_not_the_system_s(path: str) -> None:
    """Only whole parts of a path count."""
    assert Trace(files=(read(path),)).read == {path}


def test_a_write_to_the_system_is_not_left_out() -> None:
    """Few programs do that; byte code is left out."""
    trace = Trace(files=(wrote("/usr/bin/python3"), wrote("/app/__pycache__/x.pyc")))
    assert trace.written == {"/usr/bin/python3"}
    assert len(violations(trace, write=[])) == 1


def test_what_failed_was_neither_read_nor_written() -> None:
    """The check has it: a program that looks for a key says so by the attempt."""
    trace = Trace(files=(read("/k", error="ENOENT"), wrote("/w", error="EROFS")))
    assert trace.read == trace.written == frozenset()
    assert violations(trace, read=[], write=[]) == [
        "read: /k (ENOENT), by process 1", "written: /w (EROFS), by process 1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a/**", "/a/b/c", True), ("/a/**", "/a", True), ("/a/**", "/ab", False),
        ("/a/*", "/a/b", True), ("/a/*", "/a/b/c", False), ("/a/**/c", "/a/c", True),
        ("/a/**/c", "/a/x/y/c", True), ("/a/?", "/a/b", True), ("/a/?", "/a//", False),
        ("**", "/x\ny", True), ("/[a]", "/[a]", True), ("/[a]", "/a", False),
        ("/a.b", "/axb", False), ("/a*/**/c", "/ab/x/c", True), ("/**/a*/**/c", "/x/ab/c", True),
        ("/**/a/**/b/**/c", "/a/a/b/b/c", True), ("/**/a/**/b", "/x/ac/b", False),
        ("**a**b", "/a/c/b", True), ("/**/a**/c", "/x/ab/c", True), ("/**/b/c", "/b/x/b/c", True),
        ("/a*b*/**", "/axbxb/c", True), ("/*-*.py", "/a-b-c.py", True),
        ("/*-?*.py", "/-.py", False), ("/**/a*b", "/ac/b/axb", True), ("**a*b", "a/axbxb", True),
    ],
)  # fmt: skip
def test_a_pattern_of_paths(pattern: str, path: str, matches: bool) -> None:
    """A star ends at a slash, two do not, and nothing else is special."""
    assert (violations(Trace(files=(read(path),)), read=["/no", pattern]) == []) == matches


def test_no_path_makes_a_pattern_slow() -> None:
    """A workload may have 100,000 paths, and each would take seconds."""
    trace = Trace(files=(read("/a" + "/b/c" * 200 + "/d"), read("/tmp/" + "-" * 2000 + "/x")))
    begun = time.thread_time()
    trace.check(forbid=["read:/a/**/b/**/c/**/b/**/e", "read:**b**c**b**e", "read:/tmp/*-*-*.py"])
    assert time.thread_time() - begun < 0.25


def test_a_pattern_of_programs_may_be_a_name() -> None:
    """The file that was executed has that name; argv[0] is what the caller likes."""
    first = Command(argv=("sh",), program="sh", process=1)
    lie = Command(argv=("true",), program="/usr/bin/curl", process=2)
    trace = Trace(
        executed=(first, lie),
        processes=(
            TracedProcess(pid=1, parent=0, command=("sh",)),
            TracedProcess(pid=2, parent=1, command=("true",)),
        ),
    )
    for allowed in (["curl"], ["/usr/bin/*"], ["c*"]):
        assert violations(trace, execute=allowed) == []
    for allowed in ([], ["true"], ["/curl"]):
        (line,) = violations(trace, execute=allowed)
        assert line == "executed: /usr/bin/curl, by process 2 below 1 (sh)"


def test_an_attempt_to_execute_counts() -> None:
    """A success may be kept from the trace: the file's own name need not be UTF-8."""
    one = Command(argv=("sh", "-c"), program="/tmp/sh", process=1, reported=False)
    trace = Trace(attempts=(one,))
    assert violations(trace, execute=["sh"]) == []
    assert violations(trace, execute=[]) == ["tried to execute: /tmp/sh -c, by process 1"]
    assert "tried to execute: /tmp/sh" in str(trace)


def test_none_allows_all_and_an_empty_list_nothing() -> None:
    """The default is to look at nothing."""
    trace = Trace(
        files=(read("/a"), wrote("/a")),
        connections=(Connection(address="[::1]:80", kind="stream", process=3),),
        datagrams=2,
    )
    assert violations(trace) == []
    assert len(violations(trace, read=[])) == len(violations(trace, write=[])) == 1
    assert violations(trace, connect=[]) == [
        "connected: [::1]:80, by process 3",
        "sent: 2 datagrams to addresses that are not known",
    ]
    assert violations(trace, connect=["[::1]:*", "datagrams"]) == []


def test_a_text_in_place_of_a_list_is_an_error() -> None:
    """Its letters would be patterns."""
    with pytest.raises(UsageError, match="a list of patterns"):
        Trace().check(read="/app/**")
    with pytest.raises(UsageError, match="is not a list such as"):
        Trace().check(forbid="exec")


BUSY = Trace(
    files=(read("/usr/x"), read("/app/k", error="ENOENT"), wrote("/app/a"), wrote("/tmp/a")),
    executed=(
        Command(argv=("sh",), program="sh", process=1),
        Command(argv=("id",), program="/usr/bin/id", process=2),
    ),
    attempts=(Command(argv=("sh",), program="/tmp/sh", process=2, reported=False),),
    connections=(
        Connection(address="10.0.0.1:80", kind="stream", process=1),
        Connection(address="unix:/run/x", kind="stream", process=1),
    ),
)


@pytest.mark.parametrize(
    ("rules", "shown"),
    [
        (["read"], ["read: /app/k (ENOENT)"]),
        (["read:/**"], ["read: /usr/x", "read: /app/k (ENOENT)"]),
        (["write"], ["written: /app/a", "written: /tmp/a"]),
        (["write:/app/**"], ["written: /app/a"]),
        (["write:/a/**", "write:/t*/*"], ["written: /tmp/a"]),
        (["exec"], ["executed: /usr/bin/id", "tried to execute: /tmp/sh"]),
        (["exec:sh"], ["tried to execute: /tmp/sh"]),
        (["exec:/usr/**"], ["executed: /usr/bin/id"]),
        (["connect"], ["connected: 10.0.0.1:80", "connected: unix:/run/x"]),
        (["connect:*:80"], ["connected: 10.0.0.1:80"]),
        (["connect:unix:/run/*"], ["connected: unix:/run/x"]),
        (["read:/no", "write:/no/*", "exec:curl", "connect:*:443", "connect:unix:@*"], []),
    ],
)
def test_a_forbidden_act_is_a_violation(rules: list[str], shown: list[str]) -> None:
    """A kind forbids all of its acts, and a pattern what it matches, whatever else is allowed."""
    found = [line.partition(", by")[0] for line in violations(BUSY, forbid=rules)]
    assert found == shown
    every = {"read": ["**"], "write": ["**"], "execute": ["**"], "connect": ["**"]}
    assert [line.partition(", by")[0] for line in violations(BUSY, forbid=rules, **every)] == shown


@pytest.mark.parametrize(
    ("rule", "counts"),
    [("connect", True), ("connect:10.0.0.9:*", True), ("connect:unix:**", False), ("exec", False)],
)
def test_a_datagram_may_have_gone_to_a_forbidden_address(rule: str, counts: bool) -> None:
    """Its address is not known, and it is none of the file system."""
    assert bool(violations(Trace(datagrams=1), forbid=[rule])) == counts


def test_nothing_is_forbidden_of_a_trace_with_a_gap() -> None:
    """The check is an error, and no pass."""
    with pytest.raises(TraceError, match="not complete"):
        Trace(gaps=("3 events were dropped",)).check(forbid=["connect"])


def test_a_strict_check_counts_files_of_the_system_too() -> None:
    """A lie may name any file; a folder, and a file that could not be opened, hold nothing."""
    trace = Trace(
        files=(
            read("/usr/a", confirmed=False),
            read("/b", confirmed=False, error="ENOENT"),
            read("/c", confirmed=False, read=False, listed=True),
        )
    )
    assert violations(trace, read=["/b"], strict=True) == [
        "not confirmed, read: /usr/a, by process 1"
    ]


def test_untrusted_text_is_shown_in_one_line_of_its_own() -> None:
    """A newline in a name forges no line, and nothing moves the cursor."""
    evil = "/x\n  read: /forged\t\x1b[2J\u202e"
    trace = Trace(files=(read(evil),), gaps=())
    (line,) = violations(trace, read=[])
    assert line == "read: /x\\n  read: /forged\\t\\x1b[2J\\u202e, by process 1"
    assert str(trace).split("\n")[1:] == [f"  {line}"]


def test_much_is_shown_in_part() -> None:
    """A thousand lines, and how many more there are."""
    trace = Trace(files=tuple(read(f"/{number}") for number in range(1500)))
    assert violations(trace, read=[])[-1] == "… and 500 more"
    assert str(trace).split("\n")[-1] == "  … and 500 more"
    assert len(violations(Trace(files=(read("/" + "x" * 10_000),)), read=[])[0]) < 400


def process(pid: int, parent: int, *command: str) -> TracedProcess:
    return TracedProcess(pid=pid, parent=parent, command=command)


def test_many_acts_of_a_process_with_many_arguments_are_told_soon() -> None:
    """Each line shows 80 characters of the arguments, also of empty ones."""
    begin = time.process_time()
    for command, shown in ((("a",) * 60_000, "a " * 40), (("",) * 60_000, " " * 80)):
        files = tuple(read(f"/{number}") for number in range(5000))
        trace = Trace(files=files, processes=(process(1, 0, *command),))
        assert violations(trace, read=[])[0] == f"read: /0, by process 1 ({shown}…)"
    assert time.process_time() - begin < 2


def test_a_tree_has_each_process_below_its_parent() -> None:
    """Acts come before children, both in their order. A process without a parent here is a root."""
    trace = Trace(
        files=(read("/a"), replace(read("/\n  forged"), process=4), read("/usr/lib/x")),
        connections=(Connection(address="unix:/s", kind="stream", process=3),),
        changes=(Change(call="unlink", process=1, count=2),),
        processes=(
            process(1, 0, "sh", "-c"), process(2, 1, "cat"), process(3, 1, "tee"),
            process(4, 2, "ls"), process(9, 8, "left"),
        ),
    )  # fmt: skip
    assert trace.tree().split("\n")[1:] == [
        "  process 1: sh -c", "    read: /a", "    called 2x: unlink", "    process 2: cat",
        "      process 4: ls", "        read: /\\n  forged", "    process 3: tee",
        "      connected: unix:/s", "  process 9: left",
    ]  # fmt: skip


def test_a_tree_of_much_is_cut() -> None:
    """A chain of processes goes no deeper into the page than twenty."""
    files = tuple(replace(read(f"/{n}"), process=n) for n in range(3000))
    trace = Trace(files=files, processes=tuple(process(n + 1, n, "x") for n in range(3000)))
    lines = trace.tree().split("\n")
    assert (len(lines), lines[-1]) == (2002, "  … and 2000 more")
    assert max(len(line) - len(line.lstrip()) for line in lines) == 42


def test_a_short_form_has_the_counts_and_the_gaps() -> None:
    """pytest shows this form of ``assert done.trace.complete``."""
    assert (
        repr(Trace()) == "<Trace read=0 written=0 commands=0 connections=0 processes=0 datagrams=0>"
    )
    trace = Trace(files=(read("/a"),), gaps=("3 events were dropped",))
    assert repr(trace) == (
        "<Trace read=1 written=0 commands=0 connections=0 processes=0 datagrams=0 NOT COMPLETE: "
        "3 events were dropped>"
    )
    assert not trace.complete
