"""``replay.sh``: each release and each end of it leaves nothing."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.programs import proc
from tests.faults.little import eventually
from tests.mounts import points
from tests.plugin.conftest import Project

TEST = """
    def test_hangs(gvisor):
        gvisor.run(["sh", "-c", "echo up; echo err >&2; sleep 100"], timeout=4)

    def test_ends(gvisor):
        assert gvisor.run(["sh", "-c", "echo out; exit 7"]).returncode == 0
"""
ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -9}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for a script's files, in a path that is short enough for runsc's sockets."""
    with tempfile.TemporaryDirectory(prefix="pgf-", dir="/tmp") as folder:
        yield Path(folder)


def running(folder: Path) -> list[str]:
    """The processes that have the folder on their command line."""
    lines = [" ".join(proc.words_of(pid)) for pid in proc.pids()]
    return [line for line in lines if str(folder) in line]


def kept(project: Project, each_release: tuple[str, ...]) -> list[Path]:
    """The kept runs of both tests."""
    ran = project.test(TEST).run("--gvisor-keep=failed", *each_release).ends(failed=2)
    return ran.kept()


def test_a_replay_leaves_nothing(
    alone: Project, each_release: tuple[str, ...], temporary: Path
) -> None:
    """A replay leaves no file and no mount, and has the run's status; also through a link."""
    ends = kept(alone, each_release)[1]
    link = alone.folder / "link"
    link.symlink_to(ends)
    for folder in (ends, link):
        done = subprocess.run(
            [folder / "replay.sh"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary)},
            timeout=60,
        )
        assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"", 7)
        assert points(temporary) == []
        assert os.listdir(temporary) == []


def test_a_replay_that_is_interrupted_leaves_nothing(
    alone: Project, each_release: tuple[str, ...], temporary: Path
) -> None:
    """Ctrl-C reaches all of the terminal's processes, other signals the script alone.

    After SIGKILL, which no script sees, the folder stays, and no mount in it.
    """
    hangs = kept(alone, each_release)[0]
    for number, status in ENDS.items():
        with subprocess.Popen(
            [hangs / "replay.sh"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "TMPDIR": str(temporary)},
            start_new_session=True,
        ) as script:
            assert script.stdout is not None
            assert script.stdout.readline() == b"up\n"
            assert running(temporary)
            to_all = number in (signal.SIGINT, signal.SIGKILL)
            (os.killpg if to_all else os.kill)(script.pid, number)
            assert script.wait(60) == status
        assert eventually(lambda: not running(temporary)) is not None, running(temporary)
        assert points(temporary) == []
        assert bool(os.listdir(temporary)) == (number == signal.SIGKILL)


def test_a_replay_changes_no_file_of_a_read_only_bind(
    alone: Project, each_release: tuple[str, ...]
) -> None:
    """Neither a replay nor the run empties the file, as the sentry of 2024 would with directfs."""
    file = alone.folder / "data/file"
    alone.write({"data/file": "kept"}).test("""
        import sys
        from pytest_gvisor import bind

        CODE = "import os; os.open('/data/file', os.O_RDONLY | os.O_TRUNC)"

        def test_it(gvisor, request):
            mounts = [bind(request.config.rootpath / "data", "/data")]
            gvisor.run([sys.executable, "-c", CODE], mounts=mounts)
    """)
    file.chmod(0o666)
    (run,) = alone.run("--gvisor-keep=all", *each_release).ends(passed=1).kept()
    assert file.read_text() == "kept"
    done = subprocess.run([run / "replay.sh"], capture_output=True, timeout=60)
    assert b"OSError" in done.stderr
    assert file.read_text() == "kept"
