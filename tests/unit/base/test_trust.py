"""Trust in files and folders by owner, mode and place, and the walk along a path."""

import contextlib
import dataclasses
import errno
import io
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_gvisor.base import trust
from pytest_gvisor.base.trust import Lookup, Node, Trust, Way, file_problems, folder_problem
from pytest_gvisor.programs import proc

ME, OTHER, OVERFLOW = 1000, 1001, 65534
FOLDER, FILE, LINK = stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK
STRANGER = "owned by uid 1001 (allowed: root, uid 1000)"
MINE = Trust(ME, "", None)
STORE = Trust(ME, "/nix/store", None)
MAPPED = Trust(ME, "/nix/store", OVERFLOW)


def node(path: str, mode: int = FOLDER | 0o755, uid: int = 0, fd: int = -1, gid: int = 0) -> Node:
    """A file or folder that does not exist."""
    return Node(path, fd, os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0)))


@pytest.mark.parametrize(
    ("uid", "owns"), [(0, True), (ME, True), (OTHER, False), (OVERFLOW, False)]
)
def test_root_and_this_user_are_trusted(uid: int, *, owns: bool) -> None:
    """No other user is trusted, for any path."""
    assert MINE.owns(node("/usr/bin", uid=uid)) is owns
    assert MAPPED.owns(node("/srv", uid=uid)) is owns


@pytest.mark.parametrize(
    ("path", "mode", "is_writable", "owns"),
    [
        ("/usr", FOLDER | 0o755, False, True), ("/usr/bin/runsc", FILE | 0o755, False, True),
        ("/opt/gvisor", FOLDER | 0o755, False, True), ("/", FOLDER | 0o755, False, True),
        ("/nix", FOLDER | 0o755, False, True), ("/nix/store", FOLDER | 0o1775, False, True),
        ("/nix/store/a", FOLDER | 0o555, False, True), ("/usr/bin", FOLDER | 0o755, True, False),
        ("/", FOLDER | 0o755, True, False), ("/srv", FOLDER | 0o755, False, False),
        ("/usrx", FOLDER | 0o755, False, False), ("/tmp", FOLDER | 0o1777, True, True),
        ("/home", FOLDER | 0o755, False, True), ("/run/user", FILE | 0o755, False, False),
        ("/tmp/x", FOLDER | 0o755, False, False),
    ],
)  # fmt: skip
def test_an_owner_without_a_number_is_root_in_the_system_s_folders(
    path: str, mode: int, *, is_writable: bool, owns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner is not root if this user can write there; elsewhere it may be any user."""
    asked = []

    def access(where: str, how: int, *, effective_ids: bool) -> bool:
        asked.append((where, how, effective_ids))
        return is_writable

    monkeypatch.setattr(os, "access", access)
    assert MAPPED.owns(node(path, mode, OVERFLOW, fd=7)) is owns
    assert set(asked) <= {("/proc/self/fd/7", os.W_OK, True)}


def test_without_a_store_no_folder_is_one() -> None:
    """An empty name would be the root folder."""
    without = Trust(ME, "", OVERFLOW)
    assert not without.sealed_in_store(node("/x", FILE | 0o444, OTHER))
    assert not without.owns(node("/nix/store/a", FOLDER | 0o555, OVERFLOW))


@pytest.mark.parametrize(
    ("path", "mode", "sealed"),
    [
        ("/nix/store/a", FOLDER | 0o555, True), ("/nix/store/a/f", FILE | 0o444, True),
        ("/nix/store/a", FOLDER | 0o755, False), ("/nix/store/a", FOLDER | 0o575, False),
        ("/nix/store/a", FOLDER | 0o557, False), ("/nix/store/l", LINK | 0o444, False),
        ("/nix/store", FOLDER | 0o555, False), ("/nix/storex", FOLDER | 0o555, False),
    ],
)  # fmt: skip
def test_what_nobody_may_write_in_the_store_is_sealed(
    path: str, mode: int, *, sealed: bool
) -> None:
    """The owner does not matter; a symlink has no mode that could seal it."""
    assert STORE.sealed_in_store(node(path, mode, OTHER)) is sealed


@pytest.mark.parametrize(
    ("folder", "entry", "problem"),
    [
        (node("/a"), node("/a/x", uid=OTHER), None),
        (node("/a", uid=ME), node("/a/x"), None),
        (node("/a", uid=OTHER), node("/a/x"), r"owner uid 1001\) .* neither root's nor uid 1000's"),
        (node("/a", FOLDER | 0o775), node("/a/x"), r"mode 0775, .* can be written by others\Z"),
        (node("/a", FOLDER | 0o757), node("/a/x"), r"can be written by others\Z"),
        (node("/a", FOLDER | 0o1777), node("/a/x", uid=ME), None),
        (node("/a", FOLDER | 0o1777), node("/a/x", uid=OTHER), "and its entry is uid 1001's"),
        (node("/nix/store/a", FOLDER | 0o555, OTHER), node("/nix/store/a/x", uid=OTHER), None),
        (
            node("/nix/store", FOLDER | 0o1775),
            node("/nix/store/a", FOLDER | 0o555, OTHER),
            None,
        ),
        (
            node("/nix/store", FOLDER | 0o1775),
            node("/nix/store/a", FOLDER | 0o755, OTHER),
            "and its entry is uid 1001's",
        ),
    ],
)  # fmt: skip
def test_a_folder_whose_entries_others_can_exchange_is_named(
    folder: Node, entry: Node, problem: str | None
) -> None:
    """The folder's owner and its mode count, and in a sticky one the entry's owner."""
    found = folder_problem(Lookup(folder, entry), STORE)
    if problem is None:
        assert found is None
    else:
        with pytest.raises(ValueError, match=problem):
            raise ValueError(found)


def test_a_stranger_is_named_with_who_is_allowed() -> None:
    """Root is named once where it is the user too."""
    file = node("/a/f", uid=OTHER)
    assert MINE.stranger(file) == STRANGER
    assert Trust(0, "", None).stranger(file) == "owned by uid 1001 (allowed: root)"


def test_who_is_lenient_takes_each_folder_for_sticky() -> None:
    """The folder's own owner still counts, and so does the entry's."""
    lenient = Trust(ME, "", None, lenient=True)
    shared = node("/a", FOLDER | 0o777)
    assert folder_problem(Lookup(shared, node("/a/x", uid=ME)), lenient) is None
    assert folder_problem(Lookup(shared, node("/a/x", uid=OTHER)), lenient)
    assert folder_problem(Lookup(node("/a", uid=OTHER), node("/a/x")), lenient)


@pytest.mark.parametrize(
    ("folder", "file", "problems"),
    [
        (FOLDER | 0o755, FILE | 0o755, [STRANGER]),
        (FOLDER | 0o555, FILE | 0o755, [STRANGER]),
        (FOLDER | 0o755, FILE | 0o555, [STRANGER]),
        (FOLDER | 0o555, FILE | 0o555, []),
        (FOLDER | 0o555, FILE | 0o4555, ["it is set-uid or set-gid"]),
        (FOLDER | 0o555, FILE | 0o2555, ["it is set-uid or set-gid"]),
    ],
)
def test_a_file_of_another_user_is_fine_where_it_is_sealed(
    folder: int, file: int, problems: list[str]
) -> None:
    """The folder has to be sealed as well, and no set-id bit may change the user."""
    above = node("/nix/store/a", folder, OTHER)
    assert list(file_problems(node("/nix/store/a/f", file, OTHER), above, STORE)) == problems


@pytest.mark.parametrize(("mode", "bad"), [(0o775, True), (0o757, True), (0o755, False)])
def test_a_file_that_others_may_write_is_not_executed(mode: int, *, bad: bool) -> None:
    """The group's bit can stand for an access list."""
    found = list(file_problems(node("/a/f", FILE | mode, ME), node("/a"), MINE))
    assert found == (["its group or others may write it"] if bad else [])


def test_the_last_folder_of_a_way_is_judged_too() -> None:
    """An entry of this user in the folder could be exchanged; each problem is listed once."""
    root, shared = node("/"), node("/a", FOLDER | 0o777)
    (problem,) = trust.way_problems(Way([root, shared], [Lookup(root, shared)]), MINE)
    assert "the folder /a (mode 0777" in problem
    inner = node("/a/b", uid=ME)
    way = Way([root, shared, inner], [Lookup(root, shared), Lookup(shared, inner)] * 2)
    assert trust.way_problems(way, MINE) == [problem]
    assert trust.way_problems(Way([root], []), MINE) == []


@pytest.mark.parametrize(
    ("uid_map", "euid", "overflow"),
    [
        ("0 0 4294967295\n", 0, None), ("0 0 4294967295\n", ME, None),
        ("0 0 4294967294\n", 0, OVERFLOW), ("0 1000 1\n", 0, OVERFLOW),
        ("1000 1000 1\n", ME, OVERFLOW), ("0 1000 1\n1 100000 65536\n", 0, OVERFLOW),
        ("0 1000 1\n1 100000 65536\n", ME, None), ("0 1000 1\n1 100000 65533\n", ME, OVERFLOW),
        ("0 1000 1\n1 100000 65534\n", ME, None), ("65534 1000 1\n", ME, None),
        ("0 100000 65536\n", OVERFLOW, OVERFLOW), ("65534 1000 1\n", OVERFLOW, OVERFLOW),
        ("65535 1000 1\n", ME, OVERFLOW), ("", ME, OVERFLOW), (None, ME, None),
    ],
)  # fmt: skip
def test_the_overflow_uid_can_stand_for_root_where_it_is_nobody_s(
    uid_map: str | None, euid: int, overflow: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace must lack some ids; if the uid is mapped there, only its root can tell."""

    def opened(path: str, **_: object) -> io.StringIO:
        if path == "/proc/self/uid_map" and uid_map is None:
            raise FileNotFoundError(path)
        return io.StringIO(uid_map if path == "/proc/self/uid_map" else "65534\n")

    for module in (trust, proc):
        monkeypatch.setattr(module, "open", opened, raising=False)
    assert Trust.here(euid) == Trust(euid, "", overflow, lenient=False)
    assert Trust.here(euid, "/s", lenient=True) == Trust(euid, "/s", overflow, lenient=True)


@pytest.mark.parametrize(("flags", "says"), [(os.ST_NOEXEC, True), (os.ST_NOSUID, False)])
def test_a_folder_without_execution_holds_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, *, says: bool
) -> None:
    """The kernel would refuse to start a program there."""

    def fstatvfs(fd: int) -> SimpleNamespace:
        assert os.path.samestat(os.fstat(fd), tmp_path.stat())
        return SimpleNamespace(f_flag=flags)

    monkeypatch.setattr(os, "fstatvfs", fstatvfs)
    found = trust.folder_problems(str(tmp_path), Trust.here(os.geteuid(), lenient=True))
    assert ("its file system is mounted noexec" in found) is says


def walked(path: str, *, start: str = "") -> tuple[str, int, int]:
    """The end of the walk, with its numbers of folders and lookups; nothing stays open."""
    with contextlib.ExitStack() as held:
        before = trust.follow(start, held).stack if start else ()
        way = trust.follow(path, held, before)
        assert os.path.samestat(os.fstat(way.stack[-1].fd), way.stack[-1].info)
        return way.stack[-1].path, len(way.stack), len(way.lookups)


def test_a_way_is_the_kernel_s_own(tmp_path: Path) -> None:
    """Dots, folders above the root and links are as in the kernel; each lookup can be checked."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "far").symlink_to(tmp_path / "a")
    (tmp_path / "a/near").symlink_to("./b")
    depth = len(tmp_path.parts)
    base = str(tmp_path)
    assert walked(f"{base}/a/b") == (f"{base}/a/b", depth + 2, depth + 1)
    assert walked(f"{base}/./a//b/..") == (f"{base}/a", depth + 1, depth + 1)
    assert walked(f"/../..{base}") == (base, depth, depth - 1)
    assert walked("/..") == ("/", 1, 0)
    assert walked(f"/{tmp_path.parts[1]}/..") == ("/", 1, 1)
    assert walked(f"{base}/far/near") == (f"{base}/a/b", depth + 2, 2 * depth + 2)
    assert walked("near/..", start=f"{base}/a") == (f"{base}/a", depth + 1, 2)


@pytest.mark.parametrize("name", ["file/x", "file/", "file/.."])
def test_a_file_is_no_folder_on_the_way(tmp_path: Path, name: str) -> None:
    """The error is the kernel's, with the path that is no folder."""
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        walked(f"{tmp_path}/{name}")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, f"{tmp_path}/file")


def test_a_way_has_as_many_links_as_the_kernel_follows(tmp_path: Path) -> None:
    """The kernel follows forty links in all, in any folders."""
    for number in range(41):
        (tmp_path / f"{number}").symlink_to(str(number - 1) if number else ".")
    assert walked(f"{tmp_path}/39")[0] == str(tmp_path)
    with pytest.raises(OSError, match="symbolic links") as caught:
        walked(f"{tmp_path}/40")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize(
    ("package", "mode", "gid", "bad"),
    [
        (0o775, 0o775, 5, False), (0o775, 0o775, 6, True), (0o755, 0o775, 5, True),
        (0o755, 0o755, 5, False), (0o777, 0o777, 5, False), (0o777, 0o777, 6, True),
        (0o777, 0o757, 6, False), (0o775, 0o757, 5, True), (0o1777, 0o777, 5, True),
        (0o1777, 0o755, 5, False),
    ],
)  # fmt: skip
def test_a_file_of_a_package_may_be_written_by_whom_the_package_may(
    package: int, mode: int, gid: int, *, bad: bool
) -> None:
    """Its group is the package's own, too. In a sticky folder nobody replaces another's file."""
    beside = dataclasses.replace(MINE, package=node("/p", FOLDER | package, gid=5))
    assert beside.others_write(node("/p/runsc", FILE | mode, gid=gid)) is bad


def test_a_package_is_known_by_its_path_and_mode(tmp_path: Path) -> None:
    """No descriptor is held of it."""
    found = MINE.beside(str(tmp_path)).package
    assert found == Node(str(tmp_path), -1, tmp_path.stat())


@pytest.mark.parametrize(
    ("overflow", "error", "own"),
    [
        (None, errno.EPERM, True), (ME + 1, errno.EPERM, True), (ME, errno.EPERM, False),
        (ME, 0, True),
    ],
)  # fmt: skip
def test_a_file_with_the_number_of_strangers_is_own_if_the_kernel_says_so(
    overflow: int | None, error: int, *, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its owner may open it without a new time of access. No FIFO makes it wait."""
    asked = []
    real = os.open

    def fake(path: str, flags: int) -> int:
        asked.append((path, flags))
        if error:
            raise OSError(error, os.strerror(error))
        return real("/dev/null", os.O_RDONLY)

    mine = Trust(ME, "", overflow)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fake)
        found = mine.is_own(node("/a/f", FILE | 0o600, ME, fd=7))
        other = mine.is_own(node("/a/f", FILE | 0o600, OTHER, fd=7))
    assert (found, other) == (own, False)
    flags = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC
    assert asked == [("/proc/self/fd/7", flags)] * (overflow == ME)


@pytest.mark.parametrize(
    ("mode", "uid", "strangers"),
    [(0o1777, OTHER, True), (0o755, OTHER, False), (0o1777, 0, False), (0o755, 0, False)],
)
def test_a_strangers_entry_is_one_that_a_stranger_could_make(
    mode: int, uid: int, *, strangers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry of root's own folder is there by root's will, whoever owns it."""
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    entry = Lookup(node("/a", FOLDER | mode), node("/a/x", uid=uid))
    assert trust.is_strangers(entry) is strangers


@pytest.mark.parametrize(("mode", "says"), [(0o755, ""), (0o1777, "1777"), (0o775, "0775")])
def test_a_folder_to_which_others_could_add_is_named(mode: int, says: str) -> None:
    """A sticky one is no better: it keeps others from replacing a file alone."""
    found = trust.add_problem(node("/a", FOLDER | mode))
    assert found == (says and f"the folder /a (mode {says}) can be written by others")


def test_a_shortage_says_nothing_about_a_file() -> None:
    """A shortage is raised, and the text of any other error is returned."""
    assert trust.text_of(OSError(errno.ENOENT, "")) == os.strerror(errno.ENOENT)
    assert trust.text_of(OSError()) == os.strerror(0)
    for number in trust.SHORTAGES:
        with pytest.raises(OSError, match="none left"):
            trust.text_of(OSError(number, "none left"))
