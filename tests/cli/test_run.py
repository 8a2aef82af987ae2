"""``pytest-gvisor run``: the abilities of ``gvisor.run`` at a shell."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import is_gvisor_kernel
from pytest_gvisor.cli import main as cli
from pytest_gvisor.cli import parsers
from pytest_gvisor.cli import run as tool
from tests.unit.images.conftest import configuration, item, saved, tar

RUN = (sys.executable, "-m", "pytest_gvisor", "run")


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """One call of the command line tool."""
    options = {"input": "", "timeout": 120, "text": True, **options}
    return subprocess.run([*RUN, *map(str, arguments)], capture_output=True, **options)


@pytest.mark.parametrize(("closed", "status"), [("<&-", 3), (">&-", 3), ("2>&-", 3)])
def test_a_standard_stream_may_be_closed(closed: str, status: int) -> None:
    """A closed standard input is at its end, and a closed output discards the bytes."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *RUN, "--", "sh", "-c", "cat; uname -r; exit 3"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (status, "")
    release = done.stdout.removesuffix("\n")
    assert release == "" if closed == ">&-" else is_gvisor_kernel(release)


@pytest.mark.parametrize("limit", ["ulimit -n 100", "ulimit -f 1"])
def test_a_low_limit_on_files_is_named(limit: str) -> None:
    """runsc says `bad file descriptor` of the first, and no container's profile helps."""
    limited = ["sh", "-c", f'{limit}; exec "$@"', "sh", *RUN, "--", "true"]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125
    assert f"is reached: see `{limit[:9]}`" in done.stderr
    assert "docker" not in done.stderr


@pytest.mark.parametrize("names", ["systrap,ptrace", "all", "ptrace,native"])
def test_more_than_one_platform_is_refused(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of platforms is refused, because a command runs once."""
    assert cli.main(["run", f"--platform={names}", "true"]) == 2
    assert f"--platform {names}: a command runs on one platform" in capsys.readouterr().err


def test_two_roots_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An image beside a root file system is refused, with and without a command."""
    for command in (["true"], []):
        words = ["run", f"--rootfs={tmp_path}", f"--image={tmp_path}/image.tar", *command]
        assert cli.main(words) == 2
        assert "--image and --rootfs exclude each other" in capsys.readouterr().err


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with busybox, a user, a folder, and a command of its own."""
    busybox = item("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    passwd = item("etc/passwd", b"app:x:7:8::/:/bin/sh\n")
    layers = [tar([busybox, passwd])]
    config = configuration(
        layers, {"Cmd": ["/bin/busybox", "id", "-u"], "User": "app", "WorkingDir": "/bin"}
    )
    path = tmp_path / "image.tar"
    path.write_bytes(saved(layers, config))
    return path


def test_an_image_is_the_root_and_says_the_rest(image: Path, tmp_path: Path) -> None:
    """The image gives command, folder and user, unless arguments give others."""
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert run("--image", image, env=cache).stdout == "7\n"
    words = ("--", "/bin/busybox", "sh", "-c", "pwd; id -u")
    assert run("--image", image, *words, env=cache).stdout == "/bin\n7\n"
    others = ("--cwd=/etc", "--user=0")
    assert run("--image", image, *others, *words, env=cache).stdout == "/etc\n0\n"
    whole = run("--image", image, "--user=app", "--entrypoint=/bin/busybox", "echo", "x", env=cache)
    assert (whole.stdout, whole.stderr) == ("x\n", "")


def test_host_name_write_protection_and_the_bound_on_output_are_options() -> None:
    """The options for host name, read-only root and output limit act as in the fixture."""
    script = "hostname; touch /new || echo refused; seq 100000"
    done = run("--hostname=other", "--readonly", "--max-output=1000", "--", "sh", "-c", script)
    assert done.stdout.startswith("other\nrefused\n1\n")
    assert len(done.stdout) == 1000
    assert "is cut in the middle" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a limit on memory")
def test_a_reached_limit_on_memory_is_named() -> None:
    """Its status is that of each program that SIGKILL ends, so standard error says the rest."""
    done = run("--memory=64M", "--", "python3", "-c", "bytearray(10**9)")
    assert (done.returncode, done.stderr) == (137, "pytest-gvisor run: out of memory\n")
    assert run("--", "sh", "-c", "kill -9 $$").stderr == ""


def test_a_program_that_cannot_be_started_has_a_shells_status() -> None:
    """A missing program has status 127, a refused one 126. Standard error says the cause once."""
    missing, refused = run("--", "pyton3"), run("--", "/etc/hostname")
    assert missing.returncode == 127
    assert re.fullmatch(
        r'pytest-gvisor run: program "pyton3" was not found in the sandbox \(PATH=\S+\)\n'
        r'Did you mean "python3"\?\n',
        missing.stderr,
    )
    assert refused.returncode == 126
    assert refused.stderr == (
        'pytest-gvisor run: program "/etc/hostname" cannot be executed in the sandbox: '
        "permission denied\n"
    )


def test_processors_are_limited() -> None:
    """The option reaches the settings; tests/runsc/test_limits.py tries the limit itself."""
    given = tool.parser().parse_args(["--cpus=0.5", "true"])
    assert parsers.settings_of(given, "run").cpus == 0.5


def test_rootless_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    """The option `--rootless` takes on, off or auto."""
    assert is_gvisor_kernel(run("--rootless=on", "--", "uname", "-r").stdout.removesuffix("\n"))
    assert cli.main(["run", "--rootless=maybe", "true"]) == 2
    assert "auto, on, off" in capsys.readouterr().err


def test_a_trace_is_written_to_a_file_of_this_user(tmp_path: Path) -> None:
    """A link in its place is replaced, and not followed. A run at its deadline has a trace too."""
    file, other = tmp_path / "trace.json", tmp_path / "other"
    other.write_text("theirs")
    file.symlink_to(other)
    for seconds in (1, 40):  # a busy machine may take longer to start it
        words = ("sh", "-c", ": > /tmp/made; echo made; exec sleep 60")
        done = run(f"--timeout={seconds}", "--trace", file, "--", *words)
        assert done.returncode == 124
        if done.stdout:
            break
    assert (file.is_symlink(), other.read_text()) == (False, "theirs")
    assert file.stat().st_uid == os.getuid()
    trace = json.loads(file.read_text())
    assert trace["outcome"] == "timed out"
    assert [one["created"] for one in trace["files"] if one["path"] == "/tmp/made"] == [True]


def test_a_trace_has_paths_and_values_where_they_are_asked_for(tmp_path: Path) -> None:
    """And without the option it has neither."""
    file = tmp_path / "trace.json"
    for more in (["--trace-with=paths,values"], []):
        done = run("--trace", file, *more, "--", "sh", "-c", "KEY=a=b mkdir /tmp/x")
        trace = json.loads(file.read_text())
        paths = [one["paths"] for one in trace["unverified"]]
        assert (paths, trace["complete"]) == ([["/tmp/x"]] if more else [], True)
        assert ("KEY=a=b" in trace["executed"][1]["environment"]) == bool(more)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_trace_with_a_gap_says_so(tmp_path: Path) -> None:
    """In the file, and on standard error."""
    file = tmp_path / "trace.json"
    done = run("--trace", file, "--", "sh", "-c", "/bin/true $(printf '\\377')")
    (gap,) = json.loads(file.read_text())["gaps"]
    assert done.stderr == f"pytest-gvisor run: the trace is not complete: {gap}\n"
    assert "no UTF-8" in gap


WRONG = {
    "--format=json": "--format json needs --trace FILE.json",
    "--trace-with=paths": "--trace-with paths needs --trace FILE.json",
    "--trace=trace.html": "--trace trace.html: the name of the file ends with .json",
    "--trace=/dev/null/trace.json": "/dev/null/trace.json cannot be written: Not a directory",
}


@pytest.mark.parametrize("option", WRONG)
def test_a_file_for_a_trace_is_checked_first(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is started then."""
    assert cli.main(["run", option, "--", "true"]) in (2, 125)
    assert WRONG[option] in capsys.readouterr().err


def test_debug_shows_the_boot_and_the_calls_on_standard_error() -> None:
    """Debug output is escaped, marked, and apart from the command's own output."""
    done = run("--debug", "--", "sh", "-c", "echo hello >&2; : </nonexistent")
    assert done.stdout == ""
    assert "hello\n" in done.stderr
    assert "\ngvisor: sh -c" in done.stderr
    assert "strace" in done.stderr
    assert "/nonexistent" in done.stderr
