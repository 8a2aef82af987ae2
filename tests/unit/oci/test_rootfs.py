import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pytest_gvisor.base.errors import InvalidBundle, LaunchError, UsageError
from pytest_gvisor.oci import rootfs, skeleton, system_folders
from pytest_gvisor.oci.mounts import bind, tmpfs
from pytest_gvisor.oci.skeleton import account_of
from tests.mounts import masked


@pytest.fixture
def shared(tmp_path: Path) -> str:
    (tmp_path / "shared").mkdir()
    return str(tmp_path / "shared")


def test_a_mount_of_the_caller_s_is_in_the_place_of_the_root_s_own(tmp_path: Path) -> None:
    """A project that is a virtual environment has the path of the running Python's folder."""
    mine = bind(tmp_path, "/usr/")
    found = rootfs.host().prepare(str(tmp_path / "run"), mounts=[mine]).mounts
    assert [mount for mount in found if mount.destination.rstrip("/") == "/usr"] == [mine]


def test_the_host_root_is_made_once_and_shared(tmp_path: Path, shared: str) -> None:
    """Runs with the same mount points have the same skeleton, and nothing else is left."""
    for mounts in ([], [bind("/srv", "/mnt/a")], [bind("/usr", "/mnt/a")]):
        one, two = (
            rootfs.host().prepare(str(tmp_path / name), mounts=mounts, shared=shared)
            for name in "12"
        )
        assert one == two
    names = os.listdir(shared)
    assert len(names) == 2
    assert all(name.startswith("host-") for name in names)


def test_a_run_that_lacks_a_system_s_folder_takes_it_from_no_other(
    tmp_path: Path, shared: str
) -> None:
    """A file system in memory in its place needs no mount point, and the folder itself does."""
    over = [tmpfs(place) for place, _source in rootfs.host_system(whole=False).binds]
    rootfs.host().prepare(str(tmp_path / "1"), mounts=over, shared=shared)
    made = rootfs.host().prepare(str(tmp_path / "2"), shared=shared)
    assert os.path.isdir(f"{made.root_path}/usr")


def test_so_many_skeletons_are_shared_and_no_more(
    tmp_path: Path, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite may have a thousand mount points, and a skeleton hundreds of files."""
    monkeypatch.setattr(rootfs, "_MOST_SHARED", 2)
    made = [
        rootfs.host().prepare(
            str(tmp_path / name), mounts=[bind("/srv", f"/mnt/{name}")], shared=shared
        )
        for name in "abc"
    ]
    homes = [os.path.dirname(one.root_path) for one in made]
    assert homes == [shared, shared, str(tmp_path / "c")]
    assert len(os.listdir(shared)) == 2


def test_other_mount_points_never_reach_the_shared_skeleton(
    tmp_path: Path, shared: str, tree: Callable[[Path], Any]
) -> None:
    """A run with a point of its own gets another skeleton; the first stays as it was."""
    plain = rootfs.host().prepare(str(tmp_path / "1"), shared=shared)
    before = tree(Path(plain.root_path))
    mounts = [bind("/usr", "/new/point"), bind("/etc/passwd", "/new/file")]
    for name, where in (("2", shared), ("3", None)):
        made = rootfs.host().prepare(str(tmp_path / name), mounts=mounts, shared=where)
        home = os.path.dirname(made.root_path)
        assert home == (where or str(tmp_path / name))
        assert made.root_path != plain.root_path
        assert Path(made.root_path, "new/point").is_dir()
        assert Path(made.root_path, "new/file").is_file()
    assert tree(Path(plain.root_path)) == before


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("127.0.0.1 localhost\n# ::1 localhost\n\n", []),
        (
            "::1 ip6-loopback ip6-localhost a.name.of.this.machine\n",
            ["ip6-localhost", "ip6-loopback"],
        ),
        ("::1 ip6-localhost\n::1\tlocalhost # of Fedora\n", ["localhost", "ip6-localhost"]),
    ],
)
def test_localhost_has_an_ipv6_address_where_the_host_gives_it_one(
    tmp_path: Path, lines: str, names: list[str]
) -> None:
    """Without a line there is none, and a name of the machine stays on it."""
    (tmp_path / "hosts").write_text(lines)
    found = skeleton.ipv6_names_here(str(tmp_path / "hosts"))
    assert found == names
    skeleton.make(str(tmp_path / "root"), (), ipv6_names=found)
    made = (tmp_path / "root/etc/hosts").read_text().splitlines()[1:]
    assert made == ([f"::1\t{' '.join(names)}"] if names else [])
    assert skeleton.ipv6_names_here(str(tmp_path / "none")) == []


def test_a_user_has_entries_in_another_skeleton(
    tmp_path: Path, shared: str, tree: Callable[[Path], Any]
) -> None:
    """The skeleton of runs without a user stays as it was."""
    plain = Path(rootfs.host().prepare(str(tmp_path / "1"), shared=shared).root_path)
    before = tree(plain)
    made = rootfs.host().prepare(str(tmp_path / "2"), shared=shared, account=account_of(1000, 1001))
    root = Path(made.root_path)
    assert root != plain
    assert "user:x:1000:1001:" in (root / "etc/passwd").read_text()
    assert "user:x:1001:" in (root / "etc/group").read_text()
    assert tree(plain) == before


def test_a_point_in_a_system_folder_must_be_there(tmp_path: Path, shared: str) -> None:
    """A mount into /usr, where runsc would make its point on the host, is refused."""
    for name, where in (("1", shared), ("2", None)):
        with pytest.raises(InvalidBundle, match="does not exist"):
            rootfs.host().prepare(
                str(tmp_path / name), mounts=[bind("/srv", "/usr/no-such-point")], shared=where
            )
    assert not os.path.exists("/usr/no-such-point")


def test_keys_and_shadow_files_are_left_out_whoever_may_read_them(tmp_path: Path) -> None:
    """Secrets are left out by name and by a link's target; unreachable files are left out too."""
    etc, other = tmp_path / "etc", tmp_path / "other"
    for folder in (etc, other, etc / "private", etc / "certs", etc / "closed"):
        folder.mkdir(mode=0o755)
    secret = ("shadow", "shadow-", "gshadow", "server.key", "private/a.pem", "certs/b.key",
        "certs/ssl-cert-snakeoil.pem", "closed/c.pem")  # fmt: skip
    for path in [*(etc / name for name in secret), etc / "certs/ca.pem", other / "host.key"]:
        path.write_text("all may read this")
        path.chmod(0o644)
    (etc / "certs/linked.pem").symlink_to(other / "host.key")
    (etc / "closed").chmod(0o700)
    (tmp_path / "root").mkdir()
    skeleton._copy(str(etc), str(tmp_path / "root"))
    copy = Path(f"{tmp_path}/root{etc}")
    assert {str(path.relative_to(copy)) for path in copy.rglob("*")} == {"certs", "certs/ca.pem"}


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    """Folders can be entered after a test with an odd umask."""
    with masked(0o777):
        root = Path(rootfs.host().prepare(str(tmp_path / "r")).root_path)
    assert stat.S_IMODE((root / "etc").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((root / "etc/passwd").stat().st_mode) == 0o644


def test_environments_below_the_running_one_are_in_the_host_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``uv run --with`` adds the project's packages by a .pth file; PYTHONPATH is no such layer."""
    paths = [tmp_path / f"{name}/lib/python3.12/site-packages" for name in ("a", "b", "c", "d")]
    for path in paths:
        path.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (tmp_path / name / "pyvenv.cfg").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, *map(str, paths), str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", f"/nowhere:{paths[2]}")
    found = system_folders.prefixes()
    assert [path for path in found if path.startswith(str(tmp_path))] == [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
    ]
    assert found[0] == sys.prefix


def test_a_python_that_is_not_in_the_host_root_has_no_path_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error has the reason."""
    assert rootfs.python() == os.path.normpath(sys.executable)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(UsageError, match="does not know the path"):
        rootfs.python()
    monkeypatch.setattr(system_folders, "prefixes", lambda: ["/root"])
    system = system_folders.system()
    monkeypatch.setattr(rootfs, "host_system", lambda **_: system)
    with pytest.raises(UsageError, match="home folder"):
        rootfs.python()


def test_a_python_that_was_started_by_a_relative_path_is_mounted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its own path has ``..`` in it then, which no mount may have."""
    program = f"{sys.prefix}/lib/../bin/{os.path.basename(sys.executable)}"
    monkeypatch.setattr(sys, "executable", program)
    assert not [path for path in system_folders.prefixes() if ".." in path]


@pytest.mark.parametrize("prefix", ["/", "/root", "/home", "/home/someone"])
def test_a_home_folder_is_never_taken_for_a_python(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefix that is or holds a home folder is left out, and a note says so."""
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr(system_folders, "prefixes", lambda: [prefix])
    system = system_folders.system()
    assert prefix not in dict(system.binds)
    assert len(system.notes) == 1


def test_a_directory_is_checked(tmp_path: Path) -> None:
    """A root folder is there, is a folder, and is not the host's root."""
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "none", tmp_path / "file", "", "a\0", "/", "/usr/.."):
        with pytest.raises(UsageError):
            rootfs.directory(wrong)
    assert rootfs.directory("/", dangerous=True).prepare("/unused").root_path == "/"


def test_a_directory_is_not_written_to(tmp_path: Path, tree: Callable[[Path], Any]) -> None:
    """A point that is missing in a given folder is reported, not made."""
    root = tmp_path / "root"
    (root / "there").mkdir(parents=True)
    before = tree(root)
    made = rootfs.directory(root).prepare(str(tmp_path / "b"), mounts=[bind("/usr", "/there")])
    assert made.root_path == str(root)
    with pytest.raises(InvalidBundle, match=r"make that folder .* first"):
        rootfs.directory(root).prepare(str(tmp_path / "b"), mounts=[bind("/usr", "/gone")])
    assert tree(root) == before


def test_an_empty_root_has_the_files(tmp_path: Path) -> None:
    """Files come with their content; programs and scripts can be executed."""
    files: dict[str, bytes | str] = {"/a/b": "text", "c": b"\x7fELF", "d/e": "#!/c\n", "tmp/f": ""}
    made = rootfs.empty(files).prepare(str(tmp_path / "b"), mounts=[bind("/usr", "/x/y")])
    root = Path(made.root_path)
    assert (root / "a/b").read_text() == "text"
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("a/b", "c", "d/e")}
    assert modes == {"a/b": 0o644, "c": 0o755, "d/e": 0o755}
    assert (root / "x/y").is_dir()
    rootfs.empty().prepare(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "files",
    [{"../x": ""}, {"a/../../x": ""}, {"": ""}, {"/": ""}, {"a\0": ""}, {"a/": ""},
     {"a": "", "a/b": ""}, {"a": "", "/a": ""}],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_refused(files: dict[str, bytes | str]) -> None:
    """No file of an empty root can be outside of it, within a file, or there twice."""
    with pytest.raises(UsageError):
        rootfs.empty(files)


@pytest.mark.parametrize("kind", ["file", "mount"])
def test_no_folder_is_made_that_is_too_deep_to_be_removed(tmp_path: Path, kind: str) -> None:
    """A mount point or a file below thousands of folders is an error before anything is made."""
    for depth, good in ((120, True), (1500, False)):
        deep = "/d" * depth
        files = {deep[1:]: ""} if kind == "file" else {}
        mounts = [] if files else [bind("/usr", deep)]
        folder = tmp_path / str(depth)
        folder.mkdir()
        with contextlib.nullcontext() if good else pytest.raises(InvalidBundle, match="deep"):
            rootfs.empty(files).prepare(str(folder), mounts=mounts)
        assert (folder / "rootfs/d").exists() is good
        shutil.rmtree(folder)


def test_a_full_disk_or_memory_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal of the kernel is a LaunchError with the stage and the number."""
    with pytest.raises(LaunchError, match="rootfs") as caught:
        rootfs.empty({"a": ""}).prepare(str(tmp_path / "no/such/parent"))
    assert caught.value.errno == errno.ENOENT
    monkeypatch.setattr(skeleton, "write", Mock(side_effect=MemoryError))
    with pytest.raises(LaunchError, match="rootfs") as caught:
        rootfs.host().prepare(str(tmp_path / "b"))
    assert caught.value.errno == errno.ENOMEM
