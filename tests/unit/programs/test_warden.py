"""The warden ends a command with all its processes in each case, and removes the folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.programs import paths, warden
from pytest_gvisor.programs.proc import children_of, pids, words_of
from tests.waiting import PATIENCE, wait_for


class Warden:
    """A warden with a command, whose caller is a process of its own or this one."""

    def __init__(
        self,
        folder: Path,
        *command: str,
        seconds: float = 60,
        parent: int = 0,
        before: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir()
        self.pidfd = os.pidfd_open(parent or os.getpid())
        argv = [*before, *paths.command(warden.__file__, self.pidfd, seconds, folder, *command)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[self.pidfd]
        )

    def told(self) -> str:
        """The warden's report about the command, after its end."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()

    def close(self) -> None:
        """Let it end."""
        os.close(self.pidfd)
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(PATIENCE)
        assert not self.folder.exists()


def running(mark: str) -> list[int]:
    """The processes that have this mark in their command lines."""
    return [pid for pid in pids() if mark in words_of(pid)]


@pytest.fixture
def mark() -> str:
    """A number of seconds to sleep that no other process has."""
    return f"{3000 + os.getpid() % 1000}.{time.monotonic_ns()}"


@pytest.fixture
def children(mark: str) -> Iterator[tuple[str, ...]]:
    """A command that starts a child which leaves its session, and waits."""
    yield "sh", "-c", f"setsid sleep {mark} & setsid -f sleep {mark}; exec sleep {mark}"
    assert running(mark) == []


@pytest.mark.parametrize(
    ("script", "told"), [("exit 3", "3"), ("kill -9 $$", "-9"), ("kill -TERM $$", "-15")]
)
def test_the_commands_end_is_told_and_what_it_left_is_dead(
    script: str, told: str, tmp_path: Path, mark: str
) -> None:
    """Status or signal; a child of the command that would go on does not."""
    ward = Warden(tmp_path / "folder", "sh", "-c", f"setsid -f sleep {mark}; {script}")
    assert ward.told() == told
    assert running(mark) == []
    assert ward.folder.exists()
    ward.close()


def test_a_command_has_no_descriptor_of_its_caller_s(tmp_path: Path) -> None:
    """The command inherits none, neither the warden's lock nor one above a lowered limit."""
    lower = (
        "import os, resource, sys\n"
        "os.dup2(os.open(os.devnull, os.O_RDONLY), 700)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    listing = tmp_path / "listing"
    look = ("sh", "-c", f"exec ls /proc/self/fd >{listing}")
    ward = Warden(tmp_path / "folder", *look, before=(sys.executable, "-c", lower))
    assert ward.told() == "0"
    ward.close()
    assert set(listing.read_text().split()) <= {"0", "1", "2", "3"}


def test_a_commands_output_is_no_word_of_the_wardens(tmp_path: Path) -> None:
    """vng prints on its standard output; the caller reads the command's end there."""
    ward = Warden(tmp_path / "folder", "sh", "-c", "echo late; exit 3")
    assert ward.told() == "3"
    ward.close()


def test_the_deadline_kills_all_of_it(tmp_path: Path, mark: str, children: tuple[str, ...]) -> None:
    """Descendants in sessions of their own included."""
    ward = Warden(tmp_path / "folder", *children, seconds=0.5)
    assert ward.told() == "late"
    assert running(mark) == []
    ward.close()


def test_the_end_of_its_input_kills_all_of_it(
    tmp_path: Path, mark: str, children: tuple[str, ...]
) -> None:
    """The caller's end closes the warden's input, and the warden kills all processes."""
    ward = Warden(tmp_path / "folder", *children)
    wait_for(lambda: len(running(mark)) >= 3, "three processes")
    ward.close()


def test_the_death_of_its_caller_kills_all_of_it(
    tmp_path: Path, mark: str, children: tuple[str, ...]
) -> None:
    """Seen through the pidfd, although somebody else still holds its input."""
    with subprocess.Popen(["sleep", "100"]) as caller:
        ward = Warden(tmp_path / "folder", *children, parent=caller.pid)
        wait_for(lambda: len(running(mark)) >= 3, "three processes")
        caller.kill()
        caller.wait()
        ward.process.wait(PATIENCE)
    assert running(mark) == []
    ward.close()


def test_its_own_death_kills_all_of_it(
    tmp_path: Path, mark: str, children: tuple[str, ...]
) -> None:
    """The guard sees it."""
    ward = Warden(tmp_path / "folder", *children)
    wait_for(lambda: len(running(mark)) >= 3, "three processes")
    ward.process.kill()
    ward.process.wait()
    wait_for(lambda: not running(mark), "their end")
    ward.folder.rmdir()
    ward.close()


def test_its_death_before_the_command_has_begun_is_seen(
    tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent-death signal, set a moment too late, is sent no more: the command does not run."""
    own = tmp_path / "launch"
    own.mkdir()
    for module in Path(warden.__file__).parent.glob("*.py"):
        shutil.copy(module, own)
    go, begun = tmp_path / "go", tmp_path / "begun"
    with (own / "linux.py").open("a") as file:
        file.write(LATE.format(go=str(go), begun=str(begun)))
    monkeypatch.setattr(warden, "__file__", str(own / "warden.py"))
    ran = tmp_path / "ran"
    ward = Warden(tmp_path / "folder", "sh", "-c", f"touch {ran}", mark)
    wait_for(begun.exists, "the command")
    ward.process.kill()
    ward.process.wait()
    go.touch()
    wait_for(lambda: not running(mark), "their end")
    assert not ran.exists()
    ward.folder.rmdir()
    ward.close()


LATE = """

_early = set_parent_death_signal


def set_parent_death_signal(number):
    import time
    open({begun!r}, "w").close()
    while not os.path.exists({go!r}):
        time.sleep(0.01)
    _early(number)
"""


def test_the_death_of_its_guard_kills_all_of_it(
    tmp_path: Path, mark: str, children: tuple[str, ...]
) -> None:
    """The warden tells how the guard ended."""
    ward = Warden(tmp_path / "folder", *children)
    wait_for(lambda: len(running(mark)) >= 3, "three processes")
    (guard,) = children_of(ward.process.pid)
    os.kill(guard, signal.SIGKILL)
    assert ward.told() == "-9"
    assert running(mark) == []
    ward.close()


def test_the_terminals_signals_do_not_reach_it(
    tmp_path: Path, mark: str, children: tuple[str, ...]
) -> None:
    """The warden ignores the terminal's signals until its work is done."""
    ward = Warden(tmp_path / "folder", *children)
    wait_for(lambda: len(running(mark)) >= 3, "three processes")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        ward.process.send_signal(number)
    time.sleep(0.1)
    assert len(running(mark)) >= 3
    ward.close()


def test_a_caller_that_ignores_the_end_of_children_changes_nothing(tmp_path: Path) -> None:
    """A program keeps an ignored SIGCHLD, and could then wait for no child."""
    warden = Warden(tmp_path / "w", "sh", "-c", "exit 7", before=("env", "--ignore-signal=CHLD"))
    assert warden.told() == "7"
    assert warden.folder.exists()
    warden.close()


def test_a_command_that_is_not_there_is_status_127(tmp_path: Path) -> None:
    """A missing command is status 127, as in a shell."""
    ward = Warden(tmp_path / "folder", "/nonexistent/command")
    assert ward.told() == "127"
    ward.close()
