"""``python -m pytest_gvisor``: doctor, run, sweep, and their common behaviour."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import is_gvisor_kernel
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli import run as run_command
from pytest_gvisor.oci.mounts import parse_mount
from pytest_gvisor.sessions.launcher import Launcher
from tests.plugin.conftest import DOCTOR


def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """One call of the command line tool."""
    options = {"input": b"", "timeout": 120, **options}
    return subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", *arguments], capture_output=True, **options
    )


def test_a_sandbox_s_output_and_status_are_the_tool_s() -> None:
    """The tool gives both streams' exact bytes and the exit status; a signal adds 128."""
    done = call("run", "--", "sh", "-c", "uname -r; printf '\\377'; echo err >&2; exit 3")
    release, output = done.stdout.split(b"\n")
    assert is_gvisor_kernel(release.decode())
    assert (output, done.stderr, done.returncode) == (b"\xff", b"err\n", 3)
    assert call("run", "sh", "-c", "kill -9 $$").returncode == 137


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_becomes_an_escape(encoding: str, tmp_path: Path) -> None:
    """A log of a CI may be in another encoding than UTF-8: in help, and in names of files."""
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    helped = call("run", "--help", env=env)
    assert (helped.returncode, helped.stderr) == (0, b"")
    assert b"[--] COMMAND\\u2026" in helped.stdout
    written = call("init", "docker", "--output", "\u65e5.Dockerfile", env=env, cwd=tmp_path)
    assert (written.stdout, written.stderr) == (b"wrote \\u65e5.Dockerfile\n", b"")


def test_input_is_read_while_it_comes() -> None:
    """The tool's standard input is the workload's, to its end."""
    assert call("run", "wc", "-c", input=b"x" * 1_000_000).stdout.strip() == b"1000000"
    with subprocess.Popen(
        [sys.executable, "-m", "pytest_gvisor", "run", "head", "-n1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(b"line\n")
        process.stdin.flush()
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"line\n"


def test_options_are_those_of_the_fixture(tmp_path: Path) -> None:
    """Platform, mounts, environment, folder and user inside."""
    (tmp_path / "file").write_text("hello ")
    script = "cat /data/file; echo $A; pwd; id -u; touch /data/new || echo refused"
    done = call(
        "run", "--platform=ptrace", f"--mount={tmp_path}:/data", "--env=A=1=2", "--cwd=/tmp",
        "--", "sh", "-c", script,
    )  # fmt: skip
    assert done.stdout == b"hello 1=2\n/tmp\n0\nrefused\n"


def test_the_deadline_is_status_124_with_the_output_so_far() -> None:
    """The sandbox is dead; input that never ends holds nothing up."""
    with subprocess.Popen(["sleep", "1000"], stdout=subprocess.PIPE) as endless:
        for seconds in (4, 40):  # a busy machine may take longer to start it
            done = subprocess.run(
                [sys.executable, "-m", "pytest_gvisor", "run", f"--timeout={seconds}", "sh", "-c",
                 "echo so far; sleep 1000"],
                capture_output=True, stdin=endless.stdout, timeout=seconds + 40,
            )  # fmt: skip
            if done.stdout:
                break
        endless.kill()
    assert (done.returncode, done.stdout) == (124, b"so far\n")
    assert b"pytest-gvisor run: " in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "a command is missing"),
        (["run", "--platform=sytrap", "true"], "is not one of systrap, kvm, ptrace"),
        (["run", "--env=A", "true"], "is not NAME=VALUE"),
        (["run", "--mount=/a", "true"], "is not SOURCE:TARGET"),
        (["run", "--user=me", "true"], "is not 'uid'"),
        (["run", "--timeout=0", "true"], "above 0"),
        (["nothing"], "invalid choice"),
        (["--"], "COMMAND"),
        (["vm", "--timeout=x", "true"], "seconds"),
        (["vm", "--cpus=0", "true"], "whole number above 0"),
        (["vm", "--share=/etc/hostname", "true"], "is not a folder"),
        (["vm", "--share=/tmp", "true"], "/tmp cannot be shared: it holds session folders"),
        (["vm", "--share=/usr", "true"], "a place where it is looked for"),
        (["vm"], "a command is missing"),
        (["sweep", "more"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_meant_is_status_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names it, and no traceback."""
    try:
        status = cli.main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert told in capsys.readouterr().err


def test_a_failure_around_the_command_is_status_125() -> None:
    """A missing runsc gives a message and status 125, which is no status of the command."""
    done = call("run", "--runsc=/nonexistent/runsc", "true")
    assert done.returncode == 125
    assert done.stderr.startswith(b"pytest-gvisor run: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["a", ":b", "a:", "a:b:c", "a:b:rw:c"])
def test_a_mount_is_source_and_target(text: str) -> None:
    """A mount is a source, a target and optionally a mode."""
    with pytest.raises(UsageError, match="--mount"):
        parse_mount(text, "--mount")


def test_the_doctor_says_that_tests_can_run() -> None:
    """The doctor shows the binary, each platform and the machine, with causes and status 0."""
    done = subprocess.run(
        [sys.executable, "-c", DOCTOR], capture_output=True, timeout=120,
        env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    text = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "\nTests can run.\n" in text
    for word in (
        "ok runsc ", "ok platform systrap", "platform kvm", "ok platform ptrace",
        "user namespaces", "cgroups", "docker", "Python", "sessions",
    ):  # fmt: skip
        assert word in text
    findings, _, _ = text.partition("\nTests can run.\n")
    assert all(len(line) <= 100 for line in findings.splitlines())
    assert len(text.splitlines()) <= 60


def test_the_doctor_says_that_tests_cannot_run(tmp_path: Path) -> None:
    """Without runsc, or with one that others may write, the doctor names cause and remedy."""
    done = call("doctor", "--runsc", str(tmp_path / "runsc"))
    assert done.returncode == 1
    assert b" NO runsc " in done.stdout
    runsc = tmp_path / "runsc"
    runsc.write_bytes(b"\x7fELF")
    runsc.chmod(0o777)
    done = call("doctor", "--runsc", str(runsc))
    assert done.returncode == 1
    assert b"refusing to run" in done.stdout
    assert b"Tests cannot run here" in done.stdout


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """A closed pipe, as of head, ends the tool without a message."""
    line = f"{sys.executable} -m pytest_gvisor run seq 1000000 | head -n1"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


@pytest.mark.parametrize(
    "words", [["run", "echo", "x"], ["cache", "list"], ["init", "--output", "-"]]
)
def test_output_that_cannot_be_written_is_status_125(words: list[str]) -> None:
    """Output that cannot be written, as on a full disk, is status 125 with one line."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_gvisor", *words],
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    told = f"pytest-gvisor {words[0]}: [Errno 28] No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (125, told)


def test_an_error_that_cannot_be_written_is_told_by_its_status() -> None:
    """An error that cannot be written is shown by the status, without a traceback."""
    with open("/dev/full", "wb") as full:
        for words, status in ((["run", "--mount=x", "true"], 2), (["run", "ls", "/none"], 125)):
            done = subprocess.run(
                [sys.executable, "-m", "pytest_gvisor", *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full, timeout=60,
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (status, b"")


def test_a_folder_that_is_gone_is_no_place_to_start_from(tmp_path: Path) -> None:
    """A VM begins in the folder that it is called from."""
    script = f"cd {tmp_path} && rmdir {tmp_path} && exec {sys.executable} -m pytest_gvisor vm true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, timeout=60)
    assert done.returncode == 125
    assert done.stderr.startswith(b"pytest-gvisor vm: the current folder has been removed\n")


@pytest.mark.parametrize("command", [["run", "true"], ["doctor"]])
def test_what_stays_of_the_session_is_a_plain_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that cannot be removed is one plain line, without a Python warning."""
    real = Launcher.close
    monkeypatch.setattr(Launcher, "close", lambda self: [*real(self), "/x: busy"])
    monkeypatch.setattr(run_command, "standard_input", lambda: iter(()))
    cli.main(command)
    assert capfd.readouterr().err == f"pytest-gvisor {command[0]}: not removed: /x: busy\n"


def test_the_session_ends_although_nobody_reads_what_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``run --debug … 2>&1 | head -1``, for one."""
    ended: list[str] = []

    def tell(_gvisor: object, _given: object) -> None:
        raise BrokenPipeError

    def close(launcher: Launcher) -> list[str]:
        assert launcher._session is not None
        ended.append(launcher._session.path)
        return real(launcher)

    real = Launcher.close
    monkeypatch.setattr(Launcher, "close", close)
    monkeypatch.setattr(run_command, "_tell", tell)
    monkeypatch.setattr(run_command, "standard_input", lambda: iter(()))
    with pytest.raises(BrokenPipeError):
        run_command.main(["true"])
    (path,) = ended
    assert not os.path.exists(path)
