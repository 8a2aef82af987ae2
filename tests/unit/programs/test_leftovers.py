"""The remains of a sandbox are found and removed; others' processes and files are not touched."""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.programs import leftovers, linux, proc
from pytest_gvisor.sessions import stopped_keepers
from tests.waiting import stop, wait_for

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and cgroups")
ROOT = "/nowhere/s-1/g1/root"
NO_NEW_PRIVS = ("setpriv", "--no-new-privs")

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a sleeping process with these arguments on its command line; return its pid."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, user: int | None = None, privs: bool = False) -> int:
        argv = [*([] if privs else NO_NEW_PRIVS), "sh", "-c", "read x; :", *words]
        started.append(subprocess.Popen(argv, stdin=subprocess.PIPE, user=user, cwd="/"))
        pid = started[-1].pid
        while proc.words_of(pid)[:1] != ["sh"]:  # in the middle of its execve
            time.sleep(0.001)
        return pid

    yield run
    for process in started:
        process.kill()
        process.communicate()


def alive(pid: int) -> bool:
    """Whether a child runs; one that has ended and waits for its parent does not."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.mark.parametrize(
    "words",
    [
        ("runsc", "--root", ROOT, "run", "x"),
        ("runsc-sandbox", "--log=x", f"--root={ROOT}", "boot"),
        ("runsc", "--root", ROOT),
    ],
)
@pytest.mark.parametrize("root", [ROOT, "/nowhere/s-1/g1", "/nowhere/s-1"])
def test_a_process_of_the_sandbox_is_found(start: Start, words: tuple[str, ...], root: str) -> None:
    """A sandbox's process has ``--root`` in either form, with this folder or one below."""
    pid = start(*words)
    assert leftovers.processes(root) == [pid]
    assert leftovers.processes(root, everywhere=True) == [pid]


@pytest.mark.parametrize(
    "words",
    [
        ("tail", "-f", f"{ROOT}/log"),
        ("sh", f"--log={ROOT}"),
        ("runsc", "--root", f"{ROOT}2"),
        ("runsc", f"--root={ROOT}-other"),
        ("runsc", "--root", "/nowhere/s-11/g1/root"),
        ("runsc", f"--root=/x{ROOT}"),
        ("runsc", "run", "--root"),
        ("grep", "--", f"--root {ROOT}"),
    ],
)
def test_anybody_else_s_process_is_not(start: Start, words: tuple[str, ...]) -> None:
    """A reader of the files does not match, nor does a folder whose name begins alike."""
    pid = start(*words)
    assert leftovers.processes(ROOT, everywhere=True) == []
    leftovers.kill([pid], ROOT)
    assert alive(pid)


@needs_root
@pytest.mark.parametrize(("user", "is_one"), [(0, True), (65534, False), (12345, False)])
def test_to_root_a_process_of_root_s_alone_is_one(start: Start, user: int, is_one: bool) -> None:
    """Any other user, nobody too, could hold up each sweep."""
    pid = start("runsc-sandbox", f"--root={ROOT}", user=user)
    assert leftovers.processes(ROOT, everywhere=True) == [pid] * is_one
    assert alive(pid)


def test_another_user_s_process_is_none(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user could hold up every sweep by such a command line."""
    pid, me = start("runsc", "--root", ROOT), os.geteuid()
    assert leftovers.processes(ROOT, everywhere=True) == [pid]
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert leftovers.processes(ROOT, everywhere=True) == []
    assert alive(pid)


def test_a_process_that_a_set_uid_program_may_have_made_ours_is_none(start: Start) -> None:
    """Another user's sudo is root's by each id, and waits for a password as long as they like."""
    pid = start("sudo", "true", f"--root={ROOT}", privs=True)
    assert leftovers.processes(ROOT, everywhere=True) == []
    leftovers.kill([pid], ROOT)
    assert alive(pid)


def test_one_look_at_all_processes_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, each further look would find new ones of others."""
    looks = iter([[os.getppid()]])
    monkeypatch.setattr(proc, "pids", lambda: next(looks))
    assert leftovers.processes(ROOT, everywhere=True) == []


def test_a_process_that_ends_counts_until_its_children_have_another_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its memory is gone by then. Here the first of a pid namespace waits for one that came in."""
    with contextlib.ExitStack() as undo:

        def run(*argv: str) -> subprocess.Popen[bytes]:
            process = undo.enter_context(subprocess.Popen(argv, stdin=subprocess.PIPE))
            undo.callback(process.kill)
            return process

        spaces = ("unshare", "--user", "--map-root-user", "--pid")
        maker = run(*NO_NEW_PRIVS, *spaces, "sh", "-c", "sh -c 'read x; :'; :")
        monkeypatch.setattr(proc, "children_of_self", lambda: proc.children_of(maker.pid))
        wait_for(proc.children_of_self, "the namespace")
        (pid,) = proc.children_of_self()
        wait_for(lambda: proc.words_of(pid)[:1] == ["sh"], "its first process")
        visitor = run("nsenter", "-U", "--preserve-credentials", "-p", "-t", str(pid), "cat")
        wait_for(lambda: proc.children_of(visitor.pid), "the one that comes in")
        for parent in (visitor, maker):  # so they take no status of their children
            stop(parent.pid)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: proc.words_of(pid) == [], "its memory to go")
        assert leftovers.processes(ROOT) == [pid]
        visitor.kill()
        wait_for(lambda: (stat := proc.stat_of(pid)) and stat.state == "Z", "its end")
        assert leftovers.processes(ROOT) == []


def test_a_child_that_comes_from_a_parent_that_ends_meanwhile_is_found(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent was in the first look, and has ended when it is asked."""
    with subprocess.Popen(["true"]) as parent:
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        child = start("runsc-sandbox", f"--root={ROOT}")
        looks = iter([[parent.pid], [parent.pid, child], [parent.pid, child]])
        monkeypatch.setattr(proc, "children_of_self", lambda: next(looks))
        assert leftovers.processes(ROOT) == [child]


@needs_root
def test_no_command_line_of_another_user_s_process_is_read(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of a process can have its readers wait for ever."""
    pid, read = start("runsc", "--root", ROOT, user=12345), set[int]()
    words_of = proc.words_of

    def noted(one: int) -> list[str]:
        read.add(one)
        return words_of(one)

    monkeypatch.setattr(proc, "words_of", noted)
    assert leftovers.processes(ROOT, everywhere=True) == []
    assert stopped_keepers.sessions("/nowhere") == []
    leftovers.kill([pid], ROOT)
    assert pid not in read


@pytest.mark.fault("F6")
def test_only_what_is_still_ours_is_killed(start: Start) -> None:
    """A pid that was used again for something else, or is free by now, is left alone."""
    ours, other = start("runsc", "--root", ROOT), start("innocent")
    done = subprocess.Popen(["true"])
    done.wait()
    leftovers.kill([done.pid, ours, other], ROOT)
    wait_for(lambda: not alive(ours), "the end of ours")
    assert alive(other)


def test_a_child_that_is_just_being_executed_is_not_overlooked(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty command line, as during an execve, is left to the next look."""
    pid = start("runsc", "--root", ROOT)
    monkeypatch.setattr(proc, "children_of_self", lambda: [pid])
    monkeypatch.setattr(proc, "words_of", lambda _pid: [])
    assert leftovers.processes(ROOT) == [pid]
    assert leftovers.processes(ROOT, everywhere=True) == []
    leftovers.kill([pid], ROOT)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid), "its end")
    assert leftovers.processes(ROOT) == []


def test_a_command_line_is_read_whatever_comes_first(start: Start) -> None:
    """An argument of any length may come before the folder's path."""
    pid = start("runsc", "--log=" + "x" * 50_000, "--root", ROOT)
    assert leftovers.processes(ROOT) == [pid]


def test_a_process_that_ends_meanwhile_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may end after the list of processes, and its number may be used again."""
    done = subprocess.Popen(["true"])
    done.wait()
    monkeypatch.setattr(proc, "children_of_self", lambda: [done.pid])
    monkeypatch.setattr(os, "kill", lambda *_: None)
    assert leftovers.processes(ROOT) == []


CHILDREN = """
import time
pids = []
for number in range(3):
    pid = os.fork()
    if not pid:
        os.setsid()
        time.sleep(60)
        os._exit(0)
    pids.append(pid)
began = time.monotonic()
leftovers.kill_children(patience=15)
result = [leftovers.proc.children_of_self(), time.monotonic() - began < 12]
"""


def test_every_child_is_killed_and_collected(alone: Callable[..., Any]) -> None:
    """Children of other process groups are killed too, without a longer wait."""
    assert alone(CHILDREN) == [[], True]


HALF_DEAD = """
import ctypes, threading
threading.Thread(target=input).start()
ctypes.CDLL(None).syscall(EXIT, 0)
"""


def test_a_killed_process_counts_until_its_last_thread_has_ended() -> None:
    """A process whose first thread is a zombie, and which still has threads, is not gone yet."""
    number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]  # exit(2), of one thread alone
    argv = [*NO_NEW_PRIVS, sys.executable, "-c", HALF_DEAD.replace("EXIT", str(number))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        while (stat := proc.stat_of(process.pid)) and stat.state != "Z":
            time.sleep(0.001)
        assert proc.words_of(process.pid) == []
        assert process.pid in leftovers.processes(ROOT)
        process.kill()
        while len(os.listdir(f"/proc/{process.pid}/task")) > 1:
            time.sleep(0.001)
        assert process.pid not in leftovers.processes(ROOT)


def test_removing_says_what_stays(tmp_path: Path) -> None:
    """A second time, there is nothing to remove and nothing to say."""
    folder = tmp_path / "g1"
    (folder / "root").mkdir(parents=True)
    (tmp_path / "not-empty" / "x").mkdir(parents=True)
    assert leftovers.remove(str(folder), [str(tmp_path / "nowhere")]) == []
    assert not folder.exists()
    (leak,) = leftovers.remove(str(folder), [str(tmp_path / "not-empty")])
    assert leak.startswith(f"{tmp_path}/not-empty: ")


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A session's folder with a run in it."""
    folder = tmp_path / "s-1"
    (folder / "g1/root").mkdir(parents=True)
    (folder / "lock").touch()
    (folder / "journal").write_text('{"id": "g1"}')
    (folder / "link").symlink_to(tmp_path)
    return folder


def test_a_session_s_folder_stays_as_long_as_anything_else_does(
    session: Path, tmp_path: Path
) -> None:
    """The folder's journal names the cgroups for the next sweep."""
    (tmp_path / "cgroup/x").mkdir(parents=True)
    (leak,) = leftovers.remove_session(str(session), [str(tmp_path / "cgroup")])
    assert leak.startswith(f"{tmp_path}/cgroup: ")
    assert sorted(os.listdir(session)) == ["journal", "lock"]
    (tmp_path / "cgroup/x").rmdir()
    for _ in range(2):
        assert leftovers.remove_session(str(session), [str(tmp_path / "cgroup")]) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limit", [200, 4096], ids=["descriptors", "stack"])
def test_a_tree_of_any_depth_is_removed(session: Path, limit: int) -> None:
    """A VM can leave one in its folder. Python runs out of descriptors in it, or of stack."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.open(session / "g1/root", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=fd)
        os.symlink("/", "link", dir_fd=fd)
        above, fd = fd, os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        assert leftovers.clear_session(str(session), patience=0) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not session.exists()


def test_a_tree_without_permissions_is_removed(session: Path) -> None:
    """A VM of an ordinary user may leave folders that deny their owner the way."""
    (session / "g1/root/below").mkdir()
    (session / "g1/root/link").symlink_to("../../..")
    mode = session.parent.stat().st_mode
    for folder in ("g1/root", "g1"):
        (session / folder).chmod(0)
    program = "import sys; from pytest_gvisor.programs import leftovers as left; "
    argv = [sys.executable, "-c", f"{program} print(left.clear_session(sys.argv[1], patience=0))"]
    if os.geteuid() == 0:
        # Without capabilities, permissions hold for root as well.
        argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *argv]
    done = subprocess.run([*argv, str(session)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert not session.exists()
    assert session.parent.stat().st_mode == mode


def test_a_session_s_lock_goes_last(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session without a lock counts as dead, so another sweep could remove it meanwhile."""
    order: list[str] = []
    real = os.unlink, shutil.rmtree

    def note(which: int, path: str) -> None:
        order.append(os.path.basename(path))
        real[which](path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda path, **_: note(0, path))
        patch.setattr(shutil, "rmtree", lambda path: note(1, path))
        assert leftovers.clear_session(str(session)) == []
    assert set(order[:-2]) == {"g1", "link"}
    assert order[-2:] == ["journal", "lock"]


def test_a_session_that_has_a_process_left_keeps_its_folder(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sweep finds a process that the kernel still holds by the folder's name."""
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "processes", lambda *_, **__: [7])
        patch.setattr(leftovers, "kill", lambda *_: None)
        assert leftovers.clear_session(str(session), patience=0) == ["process 7"]
    assert (session / "g1").is_dir()
    assert leftovers.clear_session(str(session)) == []


def test_a_journal_that_cannot_be_read_for_the_moment_is_read_later(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unread journal is not removed, because it names the cgroups."""
    real, real_rmdir, removed = open, os.rmdir, list[str]()
    refusals = [errno.ENFILE]

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).endswith("/journal") and refusals:
            raise OSError(refusals.pop(), "Too many open files in system")
        return real(path, *args, **options)

    def rmdir(path: str, **options: Any) -> None:
        removed.append(path)
        real_rmdir(path, **options)

    cgroup = "/sys/fs/cgroup/pytest-gvisor-never"
    (session / "journal").write_text(json.dumps({"cgroups": [cgroup]}))
    monkeypatch.setattr("pytest_gvisor.programs.leftovers.open", refuse, raising=False)
    (leak,) = leftovers.clear_session(str(session), patience=-1)
    assert "Too many open files" in leak
    assert (session / "journal").exists()
    monkeypatch.setattr(os, "rmdir", rmdir)
    assert leftovers.clear_session(str(session)) == []
    assert cgroup in removed


def test_a_file_that_goes_first_by_itself_is_no_end_of_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older rmtree says ENOENT of it, and leaves the rest: then it is done again."""
    folder = tmp_path / "g1"
    (folder / "root").mkdir(parents=True)
    real, calls = shutil.rmtree, []

    def rmtree(path: str) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise FileNotFoundError(errno.ENOENT, "No such file", f"{path}/root/x")
        real(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert leftovers.clear(str(folder), ROOT, []) == []
    assert not folder.exists()


@needs_root
def test_a_cgroup_that_was_never_made_is_no_leak_on_a_read_only_file_system(
    alone: Callable[..., Any],
) -> None:
    """The kernel refuses rmdir on a read-only file system before it looks for the folder."""
    assert (
        alone(
            """
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SLAVE)
        os.mkdir("cgroup")
        here = os.getcwd()
        linux.mount("none", f"{here}/cgroup", "tmpfs", linux.MS_RDONLY)
        result = leftovers.remove("/nowhere", [f"{here}/cgroup/pytest-gvisor-x"])
        """
        )
        == []
    )


def test_mount_points_are_undone_from_the_last_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel writes the names in octal; only mount points below the folder are undone."""
    mounts = rb"""21 1 0:19 / /a/b rw - tmpfs none rw
22 1 0:19 / /a/b/one\040two\134 rw shared:1 - tmpfs none rw
23 1 0:19 / /a/bc rw - tmpfs none rw
24 1 0:19 / /a/b/one\040two\134/in rw - tmpfs none rw
"""
    undone: list[str] = []
    monkeypatch.setattr(proc, "open", lambda *_: io.BytesIO(mounts), raising=False)
    monkeypatch.setattr(linux, "umount_lazily", undone.append)
    leftovers.unmount("/a/b/")
    assert undone == ["/a/b/one two\\/in", "/a/b/one two\\"]


def test_clearing_kills_and_removes(start: Start, tmp_path: Path) -> None:
    """Processes first, then the folder; afterwards there is nothing of it."""
    folder = tmp_path / "s-1"
    (folder / "g1" / "root").mkdir(parents=True)
    pid, other = start("runsc", "--root", f"{folder}/g1/root"), start("innocent", str(folder))
    assert leftovers.clear(str(folder), str(folder), []) == []
    assert not folder.exists()
    assert not alive(pid)
    assert alive(other)


@pytest.mark.parametrize("clear", ["run", "session"])
def test_clearing_looks_among_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clear: str
) -> None:
    """A process without its keeper has another parent."""
    asked = []

    def processes(root: str, *, everywhere: bool = False) -> list[int]:
        asked.append((root, everywhere))
        return []

    monkeypatch.setattr(leftovers, "processes", processes)
    folder = str(tmp_path / "s-1")
    assert (
        leftovers.clear(folder, ROOT, []) if clear == "run" else leftovers.clear_session(folder)
    ) == []
    assert asked == [(ROOT if clear == "run" else folder, True)]


def test_a_folder_goes_after_its_processes_or_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is being killed may still write there; one that stays is reported."""
    folder = tmp_path / "g"
    seen: list[bool] = []
    naps: list[float] = []
    left = [[7], [7], []]

    def processes(*_: object, **__: object) -> list[int]:
        seen.append(folder.exists())
        return left.pop(0)

    folder.mkdir()
    monkeypatch.setattr(leftovers, "processes", processes)
    monkeypatch.setattr(time, "sleep", naps.append)
    assert leftovers.clear(str(folder), ROOT, []) == []
    assert (seen, folder.exists()) == ([True] * 3, False)
    assert sum(naps) < 0.5
    left[:] = [[7]]
    folder.mkdir()
    assert leftovers.clear(str(folder), ROOT, [], patience=-1) == ["process 7"]
    assert not folder.exists()


def test_a_shortage_of_descriptors_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan of /proc that fails once is done again."""
    (tmp_path / "g").mkdir()
    real, calls = os.listdir, []

    def listdir(path: str = ".") -> list[str]:
        calls.append(path)
        if len(calls) == 1:
            raise OSError(24, "Too many open files")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    assert leftovers.clear(str(tmp_path / "g"), ROOT, []) == []
    assert not (tmp_path / "g").exists()


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("/sys/fs/cgroup/pids/pytest-gvisor-0123", True),
        ("/sys/fs/cgroup/pytest-gvisor-x", True),
        ("/sys/fs/cgroup/memory/system.slice", False),
        ("/sys/fs/cgroup/pytest-gvisor-x/inner", False),
        ("/sys/fs/cgroup/../pytest-gvisor-x", False),
        ("/sys/fs/cgroup/memory/../pytest-gvisor-x", False),
        ("/tmp/pytest-gvisor-x", False),
        ("pytest-gvisor-x", False),
        ("/sys/fs/cgroup/pytest-gvisor-\0", False),
        ("/sys/fs/cgroup/\0/pytest-gvisor-x", False),
        ("/sys/fs/cgroup/pytest-gvisor-\ud800", False),
        ("/sys/fs/cgroup/\ud800/pytest-gvisor-x", False),
        ("/sys/fs/cgroup/\udcff/pytest-gvisor-x", True),
        ("/sys/fs/cgroup/" + "x/" * 5000 + "pytest-gvisor-x", True),
    ],
)
def test_a_cgroup_of_ours_has_a_name_that_only_we_make(path: str, own: bool) -> None:
    """A path of a journal with any other name is not removed."""
    assert leftovers.is_own_cgroup(path) is own


def test_a_journal_is_read_whatever_is_in_it(tmp_path: Path) -> None:
    """Damaged lines, other paths and other shapes are ignored."""
    mine = [f"/sys/fs/cgroup/pids/pytest-gvisor-{number}" for number in range(3)]
    lines = [
        "",
        json.dumps({"id": "g1", "cgroups": [mine[0]]}),
        '{"id": "g2", "cgroups": ["/sys/fs/cg',
        "[" * 100_000,
        "7",
        json.dumps({"cgroups": "x"}),
        json.dumps({"cgroups": ["/sys/fs/cgroup/other", 5, mine[1]]}),
        "\udcff",
        json.dumps({"cgroups": [mine[2]]}),
    ]
    (tmp_path / "journal").write_text("\n".join(lines), errors="surrogateescape")
    assert leftovers.journalled_cgroups(str(tmp_path)) == mine
    assert leftovers.journalled_cgroups(str(tmp_path / "nowhere")) == []


def test_a_cgroup_is_killed_by_its_switch(tmp_path: Path, start: Start) -> None:
    """The kernel kills all members at once, so none is listed."""
    pid = start("a")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(f"{pid}\n")
    leftovers.kill_cgroups([str(tmp_path / "none"), str(tmp_path / "one"), str(tmp_path / "two")])
    assert [(tmp_path / name / "cgroup.kill").read_text() for name in ("one", "two")] == ["1", "1"]
    assert alive(pid)


def test_without_a_switch_each_member_of_a_cgroup_is_killed(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has left the cgroup before its kill is spared."""
    pids, moved = [start("a"), start("b")], start("c")
    answers = [[*pids, moved], pids, pids, pids]
    monkeypatch.setattr(leftovers, "open", without_switch, raising=False)
    (tmp_path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in answers[0]))
    assert leftovers._members(str(tmp_path)) == answers[0]
    monkeypatch.setattr(leftovers, "_members", lambda _cgroup: answers.pop(0))
    leftovers.kill_cgroups([str(tmp_path)])
    wait_for(lambda: not any(map(alive, pids)), "the end of its members")
    assert alive(moved)


def without_switch(path: str, *arguments: Any, **options: Any) -> Any:
    """`open` on a kernel whose cgroups have no cgroup.kill."""
    if path.endswith("cgroup.kill"):
        raise FileNotFoundError(path)
    return open(path, *arguments, **options)
