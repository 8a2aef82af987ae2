"""The logs of a run: read with limits, escaped, and without an error for any content."""

import json
from pathlib import Path

import pytest

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


def test_a_record_of_any_depth_is_no_error(log: Path) -> None:
    """A value that can just be read is too deep to be written."""
    for depth in range(700, 1000):
        log.write_text("[" * depth + "]" * depth)
        assert len(logs.records(str(log))) == 1


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
