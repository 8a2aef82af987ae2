"""A copy of runsc on huge pages: used after some runs, sealed, and never stale."""

import contextlib
import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from pytest_gvisor.programs import linux, own_copy
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.own_copy import MAX_SIZE, RUNS_BEFORE, available
from pytest_gvisor.programs.paths import SIDECARS_VARIABLE
from pytest_gvisor.programs.proc import children_of
from tests.unit.programs.test_keeper import Caller, caller, hear, hear_out
from tests.waiting import wait_for

__all__ = ["caller"]

BASH = shutil.which("bash") or "/bin/bash"
LOOK = 'readlink /proc/$$/exe > "$1"'
COPIED = "/memfd:runsc (deleted)"
HUGE = 2 * 1024 * 1024
LEAST = Order(id="", argv=(), term=(), env={}, folder="", root="")


def is_possible(size: int = HUGE) -> bool:
    """Whether this kernel makes huge pages of a file in memory now, of this size in bytes.

    It finds none where small pages lie in each 2 MiB of the memory, until root has them moved. A
    copy that was made may have taken the last ones.
    """
    with contextlib.suppress(PermissionError):
        Path("/proc/sys/vm/compact_memory").write_text("1")
    whole = -(-size // HUGE) * HUGE
    fd = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, whole)
    try:
        for start in range(0, whole, HUGE):
            os.pwrite(fd, b"x", start)
        linux.collapse(fd, whole, HUGE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def copies_of(keeper: int) -> list[Path]:
    """Return the descriptors of a keeper that are a copy of an executable."""
    found = []
    for fd in Path(f"/proc/{keeper}/fd").iterdir():
        # The keeper still closes those of the child whose end it has just seen.
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(fd).startswith("/memfd:runsc"):
                found.append(fd)
    return found


def is_at_rest(keeper: int) -> bool:
    """Whether a keeper has no child: neither a run nor a copy goes on."""
    return not children_of(keeper)


class Runs:
    """Runs of one executable, one after the other."""

    def __init__(self, caller: Caller, executable: str) -> None:
        self.caller = caller
        self.executable = executable
        self.count = 0
        self.could_copy = is_possible()

    def copies(self) -> list[Path]:
        """Return the descriptors of the keeper that are a copy: one, or none without huge pages."""
        found = copies_of(self.caller.keeper.pid)
        assert len(found) == 1 or not (found or (self.could_copy and is_possible()))
        return found

    def run(self, script: str = LOOK, **fields: object) -> str:
        """Run a script; return the text that it has left."""
        self.count += 1
        path = Path(f"{self.caller.session}/text")
        request = self.caller.request("bash", "-c", script, "x", str(path), name=f"g{self.count}")
        request |= fields
        said = self.caller.send(json.dumps(request).encode(), executable=self.executable)
        assert [message["state"] for message in hear_out(said)] == ["spawned", "exited", "cleaned"]
        assert not hear(said)  # the keeper has begun a copy by now, if this was the run before it
        text = path.read_text()
        path.unlink()
        wait_for(lambda: is_at_rest(self.caller.keeper.pid), "the end of the run")
        return text.strip()


@pytest.fixture
def copied(caller: Caller, tmp_path: Path) -> Runs:
    """An executable that has run often enough."""
    path = tmp_path / "bash"
    shutil.copy(BASH, path)
    runs = Runs(caller, str(path))
    assert {runs.run() for _ in range(RUNS_BEFORE)} == {str(path)}
    return runs


def test_later_runs_execute_the_copy(copied: Runs) -> None:
    """The copy is used where the kernel has huge pages."""
    expected = COPIED if copied.copies() else copied.executable
    assert [copied.run() for _ in range(2)] == [expected] * 2


def test_a_changed_file_is_not_run_from_its_copy(copied: Runs) -> None:
    """The file as it is now is executed."""
    os.chmod(copied.executable, 0o700)
    assert copied.run() == copied.executable


def test_another_file_is_not_run_from_the_copy(copied: Runs) -> None:
    """A copy is of one file."""
    assert Runs(copied.caller, BASH).run() == os.path.realpath(BASH)


def test_nobody_can_change_the_copy(copied: Runs) -> None:
    """The copy is sealed against writing, and against a change of its size or seals."""
    for path in copied.copies():
        fd = os.open(path, os.O_RDONLY)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & 15 == 15
        os.close(fd)


def test_a_copy_that_does_not_run_is_not_used(caller: Caller, tmp_path: Path) -> None:
    """The copy is executed once before. dash ends with 2 for the option that runsc has."""
    path = tmp_path / "dash"
    shutil.copy("/bin/dash", path)
    runs = Runs(caller, str(path))
    assert {runs.run() for _ in range(RUNS_BEFORE + 2)} == {str(path)}


def test_no_copy_is_made_of_a_file_that_takes_much_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A large file is none, and a container's limit counts, with what it uses already.

    ``max`` is no limit.
    """
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_SIZE + 1)
    monkeypatch.setattr(own_copy, "available", lambda: 2**50)
    with open(tmp_path / "large", "rb") as file, pytest.raises(OSError, match="another size"):
        own_copy.Copy(file.fileno(), LEAST)
    monkeypatch.undo()
    limit, usage = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(own_copy, "_LIMITS", ((str(limit), str(usage)),))
    without = available()
    assert without > HUGE
    usage.write_text("1000\n")
    limit.write_text("max\n")
    assert available() > HUGE
    limit.write_text("5000\n")
    assert available() == 4000
    with open(BASH, "rb") as file, pytest.raises(OSError, match="another size"):
        own_copy.Copy(file.fileno(), LEAST)


TOLD = {SIDECARS_VARIABLE: "/opt/gvisor-bin"}
"""The environment of a run whose executable looks for sidecars."""


@pytest.mark.parametrize("knows", [True, False])
def test_an_executable_with_sidecars_is_copied_if_it_can_be_told_their_folder(
    knows: bool, caller: Caller, tmp_path: Path
) -> None:
    """Any other one would look for them beside the copy."""
    path = tmp_path / "bash"
    shutil.copy(BASH, path)
    if knows:
        with open(path, "ab") as file:
            # Behind the program's end, where it does nothing.
            file.write(SIDECARS_VARIABLE.encode())
    runs = Runs(caller, str(path))
    assert {runs.run(env=TOLD) for _ in range(RUNS_BEFORE)} == {str(path)}
    may_copy = knows and runs.copies()
    assert runs.run(env=TOLD) == (COPIED if may_copy else str(path))
    assert runs.run() == str(path)


def test_a_copy_without_sidecars_is_not_for_a_run_with_sidecars(copied: Runs) -> None:
    """Nobody has searched the file for the name of the variable."""
    assert copied.run(env=TOLD) == copied.executable
