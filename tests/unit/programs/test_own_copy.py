"""A copy of runsc on huge pages: used after some runs, sealed, and never stale."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_gvisor.programs import child, linux, own_copy
from pytest_gvisor.programs.order import Order
from pytest_gvisor.programs.own_copy import (
    LINKS,
    MAX_SIZE,
    PREWARMER,
    RUNS_BEFORE,
    SENTRY,
    VARIABLE,
    available,
)
from pytest_gvisor.programs.proc import children_of
from tests.unit.programs.test_keeper import Caller, caller, eventually, hear_out

__all__ = ["caller"]

BASH = shutil.which("bash") or "/bin/bash"
LOOK = 'readlink /proc/$$/exe > "$1"'
LOOK_AT_SENTRY = f"""
exec > "$1"
echo "${VARIABLE.decode()}"
"${VARIABLE.decode()}/{SENTRY}" -c 'readlink /proc/$$/exe; :'
"""
COPIED = "/memfd:runsc (deleted)"
HUGE = 2 * 1024 * 1024
LEAST = Order(id="", argv=(), term=(), env={}, folder="", root="")


def is_possible() -> bool:
    """Whether this kernel makes huge pages of a file in memory."""
    fd = linux.memfd_create_executable("x")
    os.ftruncate(fd, HUGE)
    try:
        with linux.mapped(fd, HUGE, alignment=HUGE) as (address, memory):
            memory[0] = 1
            memory.release()
            linux.madvise(address, HUGE, linux.MADV_COLLAPSE)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def is_at_rest(keeper: int) -> bool:
    """Whether a keeper's child of the next run waits at its descriptor 3, and is the only one."""
    with contextlib.suppress(OSError):
        files = [os.listdir(f"/proc/{pid}/fd") for pid in children_of(keeper)]
        return [max(map(int, names), default=0) for names in files] == [3]
    return False


class Runs:
    """Runs of one executable, one after the other."""

    def __init__(self, caller: Caller, executable: str) -> None:
        self.caller = caller
        self.executable = executable
        self.count = 0

    def run(self, script: str = LOOK, **fields: bool | str) -> str:
        """Run a script; return the text that it has left."""
        self.count += 1
        path = Path(f"{self.caller.session}/text")
        request = self.caller.request("bash", "-c", script, "x", str(path), name=f"g{self.count}")
        request |= {"copied": True, **fields}
        said = self.caller.send(json.dumps(request).encode(), executable=self.executable)
        assert [message["state"] for message in hear_out(said)] == ["spawned", "exited", "cleaned"]
        text = path.read_text()
        path.unlink()
        assert eventually(lambda: is_at_rest(self.caller.keeper.pid))
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
    """The copy is used where the kernel has huge pages, and for runs that allow it alone."""
    expected = COPIED if is_possible() else copied.executable
    assert [copied.run() for _ in range(2)] == [expected] * 2
    assert copied.run(copied=False) == copied.executable


def test_a_changed_file_is_not_run_from_its_copy(copied: Runs) -> None:
    """The file as it is now is executed."""
    os.chmod(copied.executable, 0o700)
    assert copied.run() == copied.executable


def test_another_file_is_not_run_from_the_copy(copied: Runs) -> None:
    """A copy is of one file."""
    assert Runs(copied.caller, BASH).run() == os.path.realpath(BASH)


def test_nobody_can_change_the_copy(copied: Runs) -> None:
    """The copy is sealed against writing, and against a change of its size or seals."""
    held = Path(f"/proc/{copied.caller.keeper.pid}/fd").iterdir()
    (*copies,) = [fd for fd in held if os.readlink(fd).startswith("/memfd:runsc")]
    assert len(copies) == is_possible()
    for path in copies:
        fd = os.open(path, os.O_RDONLY)
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & 15 == 15
        os.close(fd)


def test_a_copy_that_does_not_run_is_not_used(caller: Caller, tmp_path: Path) -> None:
    """The copy is executed once before. dash ends with 2 for the option that runsc has."""
    path = tmp_path / "dash"
    shutil.copy("/bin/dash", path)
    runs = Runs(caller, str(path))
    assert {runs.run() for _ in range(RUNS_BEFORE + 2)} == {str(path)}


def test_a_large_file_is_not_copied(caller: Caller, tmp_path: Path) -> None:
    """Memory is not spent on it."""
    path = tmp_path / "bash"
    shutil.copy(BASH, path)
    os.truncate(path, MAX_SIZE + 1)
    runs = Runs(caller, str(path))
    assert {runs.run() for _ in range(RUNS_BEFORE + 2)} == {str(path)}


def test_no_copy_is_made_of_a_file_that_takes_much_of_the_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container's limit counts, with what it uses already, and ``max`` is none."""
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
        own_copy.Copy(file.fileno(), LEAST, str(tmp_path))


@dataclass
class Release:
    """An executable that looks for a sentry beside itself, and its runs."""

    runs: Runs
    folder: Path

    @property
    def sentry(self) -> Path:
        """The sentry's file."""
        return self.folder / SENTRY

    def look(self) -> list[str]:
        """Return the folder in a run's variable, and the file that its sentry is executed from."""
        return self.runs.run(LOOK_AT_SENTRY, sidecars=str(self.folder)).split("\n")

    def begin(self) -> None:
        """Run as often as a copy takes."""
        found = {self.runs.run(sidecars=str(self.folder)) for _ in range(RUNS_BEFORE)}
        assert found == {self.runs.executable}
        # The keeper compares the sentry when it has seen the copy's end, before another run's.
        self.runs.run(sidecars=str(self.folder))

    @property
    def in_place(self) -> list[str]:
        """The answer of `look` if the sentry is executed where it is."""
        return [str(self.folder), str(self.sentry)]


@pytest.fixture
def release(caller: Caller, tmp_path: Path) -> Release:
    """A release whose sentry has the same bytes."""
    if not is_possible():
        pytest.skip("no huge pages for files in memory")
    path = tmp_path / "runsc"
    shutil.copy(BASH, path)
    with open(path, "ab") as file:
        file.write(VARIABLE)  # behind the program's end, where it does nothing
    folder = tmp_path / "gvisor-bin"
    folder.mkdir()
    shutil.copy(path, folder / SENTRY)
    return Release(Runs(caller, str(path)), folder)


def test_a_sentry_with_the_same_bytes_is_executed_from_the_copy(release: Release) -> None:
    """The variable names an open folder of links: one to the copy, the others to the sidecars."""
    (release.folder / "checkpointgofer").touch()
    release.begin()
    links = Path(release.runs.caller.session) / LINKS
    assert release.look() == [f"/proc/self/fd/{child.LINKS_FD}", COPIED]
    assert os.readlink(links / "checkpointgofer") == str(release.folder / "checkpointgofer")


def test_another_sentry_is_executed_from_its_file(release: Release) -> None:
    """One byte decides. The executable itself is a copy."""
    with open(release.sentry, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"_")
    release.begin()
    assert release.look() == release.in_place
    assert release.runs.run(sidecars=str(release.folder)) == COPIED


def test_with_a_prewarmer_the_sentry_is_executed_from_its_file(release: Release) -> None:
    """The prewarmer reads the sentry's file before the sentry starts."""
    (release.folder / PREWARMER).touch()
    release.begin()
    assert release.look() == release.in_place


def test_a_changed_sentry_is_not_executed_from_the_copy(release: Release) -> None:
    """The file as it is now is executed."""
    release.begin()
    release.sentry.chmod(0o700)
    assert release.look() == release.in_place


def test_a_copy_needs_no_sidecars(release: Release) -> None:
    """A release whose folder is not there boots itself."""
    shutil.rmtree(release.folder)
    release.begin()
    assert release.runs.run(sidecars=str(release.folder)) == COPIED


def test_a_release_that_cannot_be_told_its_folder_is_not_copied(release: Release) -> None:
    """Such a release would look for sidecars beside the copy."""
    with open(release.runs.executable, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"_")
    release.begin()
    assert release.runs.run(sidecars=str(release.folder)) == release.runs.executable


def test_a_copy_is_for_one_folder_of_sidecars(release: Release) -> None:
    """A run with another folder executes the file."""
    release.begin()
    assert release.runs.run(sidecars="/elsewhere") == release.runs.executable


def test_a_mapping_is_aligned_and_is_of_the_file() -> None:
    """Bytes that are written to the memory are in the file."""
    fd = linux.memfd_create_executable("x")
    os.ftruncate(fd, mmap.PAGESIZE)
    with linux.mapped(fd, mmap.PAGESIZE, alignment=HUGE) as (address, memory):
        memory[:2] = b"ab"
        memory.release()
    assert (address % HUGE, os.pread(fd, 2, 0)) == (0, b"ab")
    os.close(fd)
