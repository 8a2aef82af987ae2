"""The logs of a run: read with limits, escaped, and without an error for any content."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.escape import escape
from pytest_gvisor.base.traced import Change, Trace
from pytest_gvisor.run import logs
from pytest_gvisor.run.capture import Capture

MOST = 256 * 1024


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file to be written."""
    return tmp_path / "log"


def record(message: object) -> str:
    """A record as runsc writes it."""
    return json.dumps({"msg": message, "level": "error", "time": "2026-01-01T00:00:00Z"})


def test_records_have_nothing_between_them(log: Path) -> None:
    """One object right after the other, or with white space."""
    log.write_text(record("one") + record("two") + "\n  " + record('th"{ree'))
    assert logs.records(str(log)) == ("one", "two", 'th"{ree')


def test_no_file_is_no_record(log: Path) -> None:
    """A missing or unreadable file has no records and no text."""
    assert logs.records(str(log)) == ()
    assert logs.panic(str(log)) == ""
    log.mkdir()
    assert logs.records(str(log)) == ()


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ()),
        ("not json", ("not json",)),
        (record("one") + '{"msg": ', ("one", '{"msg": ')),
        ('{"level": "error"}', ('{"level": "error"}',)),
        ('{"msg": null}', ('{"msg": null}',)),
        ('{"msg": 7}[1]"x"', ("7", "[1]", '"x"')),
        ("[" * 100_000, ("[" * 2000,)),
        ("1" * 10_000, ("1" * 2000,)),
        (record("\x1b[2J\u202e::error::\udcff"), ("\\x1b[2J\\u202e::error::\\udcff",)),
        (record("x\n::error::y"), ("x\n\\x3a:error::y",)),
    ],
)
def test_what_is_no_record_is_a_message_of_its_own(
    log: Path, text: str, messages: tuple[str, ...]
) -> None:
    """No line is lost, and each is escaped."""
    log.write_text(text)
    assert logs.records(str(log)) == messages


@given(data=st.binary(max_size=300))
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes become escaped text, which a second escape does not change."""
    file = tmp_path_factory.getbasetemp() / "any-log"
    file.write_bytes(data)
    for found in (*logs.records(str(file)), logs.panic(str(file))):
        assert found == escape(found)


def test_of_a_panic_log_the_beginning_is_read(log: Path) -> None:
    """The beginning has the cause."""
    log.write_bytes(b"fatal error: fault\n" + b"goroutine\n" * 100_000)
    assert logs.panic(str(log)).startswith("fatal error: fault\ngoroutine\n")
    assert len(logs.panic(str(log))) == 4096


def test_debug_logs_of_any_length_take_a_bounded_room(tmp_path: Path) -> None:
    """Nothing is on disk, beginning and end are in memory, and the report has the cut."""
    debug_logs = logs.DebugLogs(str(tmp_path / "logs"))
    debug_logs.drains[0].capture = Capture(2 * MOST)
    (tmp_path / "logs/run").write_bytes(b"run\x1b")
    with open(tmp_path / "logs/boot", "wb", buffering=0) as log:
        for number in range(96):
            log.write(b"%d" % (number // 48) * (MOST // 16))
            debug_logs.drains[0].read()
    ends = {name: logs.end(log) for name, log in debug_logs.captured().items()}
    assert ends == {"boot": f"[… {5 * MOST:,} bytes before …]\n" + "1" * MOST, "run": "run\\x1b"}
    assert logs.debugged(ends["boot"])[0][0].startswith("[… ")
    assert (tmp_path / "logs/boot").stat().st_size == 0
    debug_logs.keep(str(tmp_path / "kept"))
    debug_logs.close()
    assert (tmp_path / "kept/boot.log").read_bytes() == b"0" * MOST + b"1" * MOST
    assert (tmp_path / "kept/run.log").read_bytes() == b"run\x1b"


def test_of_a_boot_log_the_telling_lines_are_shown() -> None:
    """Warnings and errors where there are any, else the last lines; a bounded number of them."""
    quiet = [f"I0101 line {number}" for number in range(100)]
    assert logs.relevant("\n".join(quiet)) == quiet[-30:]
    loud = "\n".join([*quiet, "W0101 warned", "D0101 x", "D0101 panic: y", "E0101 failed", *quiet])
    assert logs.relevant(loud) == ["W0101 warned", "D0101 panic: y", "E0101 failed"]
    assert len(logs.relevant("\n".join(["E0101 x"] * 100))) == 30


def test_a_strace_is_apart_from_what_a_boot_log_tells() -> None:
    """The last lines of the strace are bounded, whatever text the system calls have."""
    strace = [f"I0101 1 strace.go:1] write(fatal error {number})" for number in range(100)]
    log = "\n".join([*strace[:50], "W0101 warned", *strace[50:]])
    assert logs.debugged(log) == (["W0101 warned"], strace[-40:])
    assert logs.debugged("") == ([], [])


STRACE = {
    "unlink(0x7e c d)": ("c d",),
    "rename(0xa5ee10 f, 0xa5ee40 /g/../h)": ("f", "/h"),
    "mkdir(0x7e x y, z) = 0 (0x0) (1us), 0o777)": ("x y, z) = 0 (0x0) (1us)",),
    "mkdir(0x7e a\nb, 0o777)": ("a\nb",),
    "chmod(0xa5ee40 /g, 0o600)": ("/g",),
    "fchmod(0x3 /tmp/a, 0o700)": ("/tmp/a",),
    "symlink(0x1 ../text, 0x2 /s)": ("../text", "/s"),
    "symlinkat(0x1 text, AT_FDCWD /tmp, 0x2 s)": ("text", "/tmp/s"),
    "unlinkat(0x3 /tmp/a, 0x7e h, 0x200)": ("/tmp/a/h",),
    "mkdirat(AT_FDCWD /x y, 0x7e z, 0o777)": ("/x y/z",),
    "renameat2(AT_FDCWD /, 0x1 a, 0x4 /b, 0x2 /c, 0x0)": ("/a", "/c"),
    "linkat(0x3 /a, 0x1 , AT_FDCWD /, 0x2 b, 0x1000)": ("/a", "/b"),
}


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[logs.DebugLogs]:
    """Debug logs whose boot log is to be written."""
    written = logs.DebugLogs(str(tmp_path / "logs"))
    yield written
    written.close()


def traced(boot: logs.DebugLogs, folder: Path, text: str) -> Trace:
    """A trace with the changes in a boot log of this text."""
    with open(folder / "logs/boot", "wb", buffering=0) as log:
        log.write(text.encode("utf-8", "surrogateescape"))
    return logs.with_changes(Trace(), boot)


@pytest.mark.parametrize(
    ("call", "paths"), STRACE.items(), ids=[one.partition("(")[0] for one in STRACE]
)
def test_the_strace_has_the_paths_of_a_change(
    boot: logs.DebugLogs, tmp_path: Path, call: str, paths: tuple[str, ...]
) -> None:
    """The end of a call has its error, of 20240729 beside another result."""
    name = call.partition("(")[0]
    begin = "I1129 18:51:19.101321       1 strace.go:604] [  12:  13] python3"
    ends = {"0 (0x0)": "", "-1 errno=2 (no such file)": "ENOENT", "0 (0x0) errno=13 (x)": "EACCES"}
    text = "".join(f"{begin} {way} {call} = {end} (2µs)\n" for end in ends for way in "EXX")
    trace = traced(
        boot,
        tmp_path,
        f"I1129 18:00:00.1 1 boot.go:1] x\n{text}{begin} X read(0x0) = 1 (0x1) (1µs)\n",
    )
    assert trace.complete
    assert trace.unverified == tuple(
        Change(call=name, paths=paths, error=error, process=12, count=2) for error in ends.values()
    )


def test_a_strace_without_its_middle_is_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No log is an empty one. A torn entry has no change."""
    monkeypatch.setattr(logs, "_KEPT", 1000)
    boot = logs.DebugLogs(str(tmp_path / "logs"))
    assert traced(boot, tmp_path, "") == logs.with_changes(Trace(), None) == Trace()
    torn = "I1129 18:51:19.1 1 strace.go:604] [   1:   1] x X unlink(0x1 /a\n"
    trace = traced(boot, tmp_path, torn * 100)
    boot.close()
    assert (len(trace.gaps), trace.unverified) == (1, ())
    assert trace.gaps[0].startswith("the strace has more than ")


@given(text=st.text() | st.from_regex(logs._END))
def test_any_strace_is_read(text: str) -> None:
    """A text that is no change is None."""
    found = logs._change(text)
    assert found is None or found.call in text


BOOT = """\
I1124 22:39:10.682445   16076 main.go:199] Args: [runsc-sandbox --panic-log=/x]
W1124 22:39:10.721963   16076 boot.go:261] Not setting product_name: open /sys/x: no such file
W1124 22:39:10.800000   16076 subprocess.go:586] unable to get registers: no such process
"""


def test_the_cause_is_the_last_words_before_the_end() -> None:
    """The cause is the first log's fatal error or panic, or else the last unusual warning."""
    fatal = "W1124 22:39:08.394391       1 util.go:64] FATAL ERROR: creating loader: no KVM\n"
    assert logs.cause("", BOOT + fatal) == "creating loader: no KVM"
    assert logs.cause(BOOT, "panic: operation not permitted\n\ngoroutine 1:\n") == (
        "operation not permitted"
    )
    assert logs.cause("nothing", BOOT) == "unable to get registers: no such process"
    assert logs.cause("", "\n".join(BOOT.splitlines()[:2])) == ""
    assert logs.cause() == ""


def test_a_usual_warning_is_no_cause() -> None:
    """A warning of every good run is neither a cause nor shown."""
    usual = [
        'W0905 10:00:00.000000  1 config.go:1] No precompiled program found for config A="b"',
        'W0905 10:00:00.000000  1 sidecar.go:1] Sidecar "gvisor-sentry-prewarmer" not found',
        "W0905 10:00:00.000000  1 loader.go:1] Cannot pin files to the pin ring: EPERM. This slows",
        "W0905 10:00:00.000000  1 gofer.go:1] Sandbox still running 500ms after its gofer",
        (
            'W0905 10:00:00.000000  1 sandbox.go:1] Wait RPC to container "g1" failed: EOF. '
            "Will try waiting on the sandbox process instead."
        ),
    ]
    assert logs.cause("\n".join(usual)) == ""
    fault = "W0905 10:00:00.000000  1 x.go:1] out of ring"
    assert logs.cause("\n".join([fault, *usual])) == "out of ring"
    assert logs.relevant("\n".join([fault, *usual])) == [fault]
