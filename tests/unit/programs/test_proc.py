"""Readers of /proc: processes that live, have ended, or bear odd names; mounts."""

import builtins
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs import proc
from pytest_gvisor.programs.paths import below, within
from pytest_gvisor.programs.proc import IdRange, Mount, Stat


@pytest.fixture
def odd_child(tmp_path: Path) -> Iterator[int]:
    """A child whose name, in /proc/PID/stat, looks like the fields after it."""
    program = tmp_path / "a) S 1 (b"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "100"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def zombie() -> Iterator[int]:
    """A child that has ended and is not waited for."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid
    process.wait()


def test_children_are_found_in_both_ways(odd_child: int, zombie: int) -> None:
    """The kernel's own list and the scan of /proc agree, zombies and odd names included."""
    listed = proc.children_of_self()
    assert {odd_child, zombie} <= set(listed)
    assert sorted(proc.children_by_scan(os.getpid())) == sorted(listed)


def test_the_children_of_every_thread_are_found() -> None:
    """The kernel lists them by the thread that forked."""
    started: list[subprocess.Popen[bytes]] = []
    forked, done = threading.Event(), threading.Event()

    def fork() -> None:
        started.append(subprocess.Popen(["sleep", "100"]))
        forked.set()
        done.wait()

    thread = threading.Thread(target=fork)
    thread.start()
    forked.wait()
    try:
        assert started[0].pid in proc.children_of_self()
        assert started[0].pid in proc.children_of(os.getpid())
    finally:
        done.set()
        thread.join()
        started[0].kill()
        started[0].wait()


def test_without_the_kernel_s_list_of_children_the_scan_is_used(
    monkeypatch: pytest.MonkeyPatch, odd_child: int
) -> None:
    """A kernel without CONFIG_PROC_CHILDREN has no such file."""

    def without(path: Any, *arguments: Any, **options: Any) -> Any:
        if str(path).endswith("/children"):
            raise FileNotFoundError(path)
        return builtins.open(path, *arguments, **options)

    monkeypatch.setattr(proc, "open", without, raising=False)
    assert odd_child in proc.children_of_self()


def test_the_words_of_a_process_are_those_of_its_argv() -> None:
    """Empty arguments, bytes that are not UTF-8 and a line feed are kept."""
    argv = ["sh", "-c", "read x; :", "", "a b\n", "\udcff", ""]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        while not (words := proc.words_of(process.pid)):
            pass  # in the middle of its execve
        assert words == argv
        process.kill()


def test_a_process_that_has_ended_has_neither_words_nor_state(zombie: int) -> None:
    """A zombie still has a state, and a parent."""
    process = subprocess.Popen(["true"])
    process.wait()
    assert (proc.words_of(process.pid), proc.stat_of(process.pid)) == ([], None)
    assert proc.words_of(zombie) == []
    assert proc.stat_of(zombie) == Stat("Z", os.getpid())


def test_a_name_may_look_like_the_fields_after_it(odd_child: int) -> None:
    """The name ends at the last bracket of the line."""
    stat = proc.stat_of(odd_child)
    assert stat is not None
    assert stat.parent == os.getpid()


def test_all_processes_are_listed(zombie: int) -> None:
    """The list has zombies too."""
    assert {os.getpid(), zombie} <= set(proc.pids())


MOUNTS = b"""\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:26 /a\\040b /mnt/x\\011y\\134z\\012 rw,nosuid - fuse.sshfs  rw,user_id=0
31 22 0:4 net:[4026531840] /run/\xff rw shared:2 master:3 propagate_from:4 - nsfs nsfs rw
"""


def test_a_line_of_mountinfo_is_taken_apart(tmp_path: Path) -> None:
    """Escaped characters, an empty source, and any number of optional fields are read."""
    (tmp_path / "mountinfo").write_bytes(MOUNTS)
    assert proc.mounts(str(tmp_path / "mountinfo")) == [
        Mount("8:1", "/", "/", "ext4", "rw,errors=remount-ro"),
        Mount("0:26", "/a b", "/mnt/x\ty\\z\n", "fuse.sshfs", "rw,user_id=0"),
        Mount("0:4", "net:[4026531840]", "/run/\udcff", "nsfs", "rw"),
    ]


def test_the_mounts_of_this_process_have_a_root_and_a_proc() -> None:
    """The kernel's own file is read by default; a missing file is an error."""
    kinds = {mount.point: mount.kind for mount in proc.mounts()}
    assert kinds["/proc"] == "proc"
    with pytest.raises(FileNotFoundError):
        proc.mounts("/nowhere/mountinfo")


def test_the_status_of_a_process_has_its_fields(zombie: int) -> None:
    """Values have no blanks around them; of a process that is gone there is none."""
    assert proc.status_of(zombie)["PPid"] == str(os.getpid()) == proc.status_of()["Pid"]
    assert proc.status_of()["Uid"].split()[1] == str(os.geteuid())
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(OSError):  # noqa: PT011 -- ENOENT or ESRCH
        proc.status_of(process.pid)


@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_the_ids_of_this_user_namespace_are_those_that_the_kernel_lists(kind: str) -> None:
    """One range a line: the first id inside, the first outside, how many."""
    lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
    assert list(proc.id_map(kind)) == [IdRange(*map(int, at.split())) for at in lines]


def test_without_user_namespaces_all_ids_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without CONFIG_USER_NS has no such file."""

    def without(path: str, **_: Any) -> Any:
        raise FileNotFoundError(path)

    monkeypatch.setattr(proc, "open", without, raising=False)
    assert proc.id_map() == (IdRange(0, 0, 2**32 - 1),)


@pytest.mark.parametrize(
    ("path", "folder", "in_it"),
    [
        ("/a/b", "/a", True), ("/a/b", "/a/", True), ("/ab", "/a", False), ("/", "/a", False),
        ("/a", "/", True), ("/a/../b", "/a", True), ("a/b", "a", True), ("/b/a/c", "/a", False),
    ],
)  # fmt: skip
def test_a_path_is_in_a_folder_by_whole_names(path: str, folder: str, in_it: bool) -> None:
    """A name that begins like the folder's is another one."""
    assert (below(path, folder), within(path, folder)) == (in_it, in_it)


def test_a_folder_is_within_itself_and_not_below() -> None:
    """A folder is within itself, and not below itself."""
    assert within("/a", "/a")
    assert not below("/a", "/a")
