"""The parts of the host that a sandbox can see and change: the named ones, and no others."""

import contextlib
import errno
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, UsageError, bind, directory, empty, tmpfs
from pytest_gvisor.run.request import Hooks

BUSYBOX = Path("/bin/busybox")


def python(gvisor: Gvisor, code: str, **options: Any) -> str:
    """The output of this code in a sandbox."""
    return gvisor.run(["python3", "-I", "-c", code], check=True, **options).stdout


def _above_python(path: str) -> bool:
    """Whether a path leads to the running Python or is in it: a sandbox shows those."""
    return any(
        prefix == path or prefix.startswith(f"{path}/") or path.startswith(f"{prefix}/")
        for prefix in (sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix))
    )


def test_secrets_of_the_host_are_not_there(gvisor: Gvisor, tmp_path: Path) -> None:
    """The default root has no shadow file, key, machine id, host name or folder of the test."""
    (tmp_path / "canary").write_text("secret")
    hidden = [
        "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/machine-id", "/etc/ssh",
        "/etc/ssl/private", "/var/lib/dbus/machine-id", "/var/lib/dpkg", "/var/log/lastlog",
        "/proc/1/root/etc/shadow", "/run/pytest-gvisor", "/sys/firmware/acpi", "/dev/kvm",
        "/dev/sda", "/dev/mem", "/boot/grub", str(tmp_path), str(tmp_path / "canary"),
    ]  # fmt: skip
    code = f"import os; print([path for path in {hidden!r} if os.path.lexists(path)])"
    assert python(gvisor, code) == "[]\n"


def test_no_file_of_a_home_folder_is_there(gvisor: Gvisor) -> None:
    """/root, /home, /var, /srv, /mnt and /opt hold only files of the running Python."""
    code = (
        "import os\n"
        "for top in ('/root', '/home', '/var', '/srv', '/mnt', '/opt', '/media', '/run'):\n"
        "    for folder, folders, files in os.walk(top):\n"
        "        print(*[os.path.join(folder, file) for file in files], sep='\\n')"
    )
    found = [line for line in python(gvisor, code).splitlines() if line]
    assert [path for path in found if not _above_python(path)] == []


def test_the_root_has_nothing_but_system_folders(gvisor: Gvisor) -> None:
    """The root has the top-level folders that programs need; others are names only."""
    usual = {
        "bin", "boot", "dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "sbin",
        "srv", "sys", "tmp", "usr", "var",
    }  # fmt: skip
    found = python(gvisor, "import os; print(*os.listdir('/'), sep='\\n')").split()
    assert {
        name
        for name in found
        if name not in usual and not name.startswith("lib") and not _above_python(f"/{name}")
    } == set()


def test_of_etc_there_is_what_programs_need(gvisor: Gvisor) -> None:
    """The sandbox's /etc has no password, and no file that only some users of the host may read."""
    code = (
        "import os\n"
        "for folder, folders, files in os.walk('/etc'):\n"
        "    print(*[os.path.join(folder, file) for file in files], sep='\\n')"
    )
    found = [line for line in python(gvisor, code).splitlines() if line]
    assert "/etc/passwd" in found
    private = [
        path
        for path in found
        if os.path.isfile(path) and not os.stat(path).st_mode & 0o004 and path != "/etc/passwd"
    ]
    assert private == []
    accounts = gvisor.run(["cat", "/etc/passwd", "/etc/group"]).stdout
    assert {line.split(":")[0] for line in accounts.split()} <= {"root", "nobody", "tty", "nogroup"}


@pytest.fixture
def canary() -> Iterator[str]:
    """A name that the host has nowhere, before and after."""
    name = f"pytest-gvisor-canary-{uuid.uuid4().hex}"
    places = ("/", "/usr", "/usr/bin", "/etc", "/tmp", "/var/tmp", "/root", "/home", "/opt", "/run")
    yield name
    written = [place for place in places if os.path.lexists(os.path.join(place, name))]
    assert written == []


@pytest.mark.fault("G3")
def test_writes_stay_in_the_sandboxs_memory(gvisor: Gvisor, canary: str) -> None:
    """The root, /etc and /tmp can be written to inside, and nothing of it is on the host."""
    code = (
        "import os\n"
        "for place in ('/', '/etc', '/tmp', '/var/tmp', '/root', '/opt', '/run'):\n"
        f"    path = os.path.join(place, {canary!r})\n"
        "    open(path, 'w').write(place)\n"
        "    assert open(path).read() == place\n"
        "os.remove('/etc/passwd')\n"
        "print('done')"
    )
    assert python(gvisor, code) == "done\n"
    again = f"import os; print(os.path.lexists('/tmp/{canary}'), os.path.exists('/etc/passwd'))"
    assert python(gvisor, again) == "False True\n"


def test_a_read_only_root_takes_no_write(gvisor: Gvisor, canary: str) -> None:
    """readonly=True leaves /tmp as the place to write to."""
    script = f"touch /{canary}; touch /etc/{canary}; touch /tmp/{canary} && echo wrote"
    done = gvisor.run(["sh", "-c", script], readonly=True)
    assert done.stdout == "wrote\n"
    assert done.stderr.count("Read-only file system") == 2


def test_a_bind_is_read_only_unless_asked(gvisor: Gvisor, tmp_path: Path) -> None:
    """A folder and a file of the host are seen inside and cannot be changed there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kept").write_text("kept\n")
    mounts = [bind(tmp_path / "data", "/data"), bind(tmp_path / "data/kept", "/etc/one")]
    script = (
        "cat /data/kept /etc/one; echo x > /data/kept; echo x > /etc/one; rm /data/kept;"
        "touch /data/new; mount -o remount,rw /data"
    )
    done = gvisor.run(["sh", "-c", script], mounts=mounts)
    assert done.stdout == "kept\nkept\n"
    assert done.stderr.count("Read-only file system") == 4
    assert {path.name: path.read_text() for path in (tmp_path / "data").iterdir()} == {
        "kept": "kept\n"
    }


WAYS_TO_CHANGE = {
    "O_TRUNC": "os.open(path, os.O_WRONLY | os.O_TRUNC)",
    "O_TRUNC|O_CREAT": "os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)",
    "O_TRUNC|O_RDONLY": "os.open(path, os.O_RDONLY | os.O_TRUNC)",
    "O_TRUNC-by-descriptor": "os.open(f'/proc/self/fd/{fd}', os.O_RDWR | os.O_TRUNC)",
    "O_APPEND": "os.write(os.open(path, os.O_WRONLY | os.O_APPEND), b'x')",
    "truncate": "os.truncate(path, 0)",
    "ftruncate": "os.ftruncate(fd, 0)",
    "mmap": "mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_WRITE)[0:1] = b'x'",
    "unlink": "os.unlink(path)",
    "rename": "os.rename(path, path + '2')",
    "link": "os.link(path, path + '2')",
    "chmod": "os.chmod(path, 0o777)",
    "fchmod": "os.chmod(fd, 0o777)",
    "chown": "os.chown(path, 1, 1)",
    "utime": "os.utime(path, (1, 1))",
    "futimens": "os.utime(fd, (1, 1))",
    "create": "os.open(path + '2', os.O_CREAT | os.O_WRONLY)",
    "mkdir": "os.mkdir(path + '2')",
    "mkfifo": "os.mkfifo(path + '2')",
    "symlink": "os.symlink('x', path + '2')",
    "bind": "socket.socket(socket.AF_UNIX).bind(path + '2')",
}


def test_nothing_changes_what_is_read_only(gvisor: Gvisor, tmp_path: Path) -> None:
    """No system call changes a file, its attributes or the folder of a read-only bind.

    Its owner may write to the file, and the sandbox runs as this owner. Nothing but the mount is in
    the way.
    """
    (tmp_path / "data").mkdir()
    tries = []
    for number, way in enumerate(WAYS_TO_CHANGE.values()):
        (tmp_path / f"data/{number}").write_text("kept\n")
        (tmp_path / f"data/{number}").chmod(0o666)
        tries.append(f"path = '/data/{number}'; fd = os.open(path, os.O_RDONLY)\n")
        tries.append(f"try: {way}\nexcept OSError: pass\n")
    before = _tree(tmp_path / "data")
    code = "import os, mmap, socket\n" + "".join(tries) + "print('tried')"
    assert python(gvisor, code, mounts=[bind(tmp_path / "data", "/data")]) == "tried\n"
    assert _tree(tmp_path / "data") == before


def test_no_file_of_the_system_can_be_emptied(gvisor: Gvisor) -> None:
    """Files of /usr and of the running Python that this user may change keep their content."""
    name = f"pytest-gvisor-canary-{uuid.uuid4().hex}"
    places = [
        place for place in ("/usr/local/share", f"{sys.prefix}/lib") if os.access(place, os.W_OK)
    ]
    paths = [os.path.join(place, name) for place in places]
    with contextlib.ExitStack() as stack:
        for path in paths:
            Path(path).write_text("kept\n")
            stack.callback(os.unlink, path)
        code = (
            "import os, sys\n"
            f"for path in {paths!r}:\n"
            "    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):\n"
            "        try: os.open(path, flags | os.O_TRUNC)\n"
            "        except OSError as error: print(error.errno)"
        )
        assert python(gvisor, code).split() == [str(errno.EROFS)] * 3 * len(paths)
        assert [Path(path).read_text() for path in paths] == ["kept\n"] * len(paths)


def test_a_writable_bind_is_written_to(gvisor: Gvisor, tmp_path: Path) -> None:
    """A writable bind takes writes, and new files belong to the user of the test."""
    (tmp_path / "data").mkdir()
    mounts = [bind(tmp_path / "data", "/data", readonly=False)]
    done = gvisor.run(["sh", "-c", "echo words > /data/new; mkdir /data/sub"], mounts=mounts)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data/new").read_text() == "words\n"
    assert (tmp_path / "data/new").stat().st_uid == os.geteuid()
    assert (tmp_path / "data/sub").is_dir()


def test_a_link_in_a_bind_does_not_lead_to_the_host(gvisor: Gvisor, tmp_path: Path) -> None:
    """An absolute link in a bound folder is followed inside, and `..` ends at its root."""
    (tmp_path / "data").mkdir()
    (tmp_path / "canary").write_text("secret\n")
    (tmp_path / "data/absolute").symlink_to(tmp_path / "canary")
    (tmp_path / "data/relative").symlink_to("../canary")
    script = "cat /data/absolute /data/relative /data/../canary; ls /data/.."
    done = gvisor.run(["sh", "-c", script], mounts=[bind(tmp_path / "data", "/data")])
    assert "secret" not in done.stdout
    assert done.stderr.count("No such file or directory") == 3


@pytest.mark.fault("G3")
def test_a_tmpfs_is_empty_and_bounded(gvisor: Gvisor) -> None:
    """A tmpfs has its size and mode, and hides the folder below it."""
    place = "/usr/share"  # which is not empty, and holds no checkout of this project
    script = (
        f"stat -c %a {place}; ls -A {place};"
        f" dd if=/dev/zero of={place}/big bs=64k count=64 status=none"
    )
    done = gvisor.run(["sh", "-c", script], mounts=[tmpfs(place, size="1M", mode=0o700)])
    assert done.stdout == "700\n"
    assert "No space left on device" in done.stderr


def test_a_directory_is_run_and_left_as_it_was(gvisor: Gvisor, busybox_root: Path) -> None:
    """A folder of the host is the root: all of it is there, and no write reaches it."""
    (busybox_root / "bin/data").write_text("kept\n")
    before = _tree(busybox_root)
    script = "ls /; echo x > /new; rm /bin/cat; echo x > /bin/data; touch /tmp/x /bin/y; id -u"
    done = gvisor.run(["/bin/sh", "-c", script], rootfs=directory(busybox_root))
    assert done.stdout.split() == ["bin", "dev", "proc", "sys", "tmp", "0"]
    assert (done.returncode, done.stderr) == (0, "")
    assert _tree(busybox_root) == before


def _tree(folder: Path) -> list[tuple[str, int, int, bytes]]:
    return [
        (
            str(path),
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted([folder, *folder.rglob("*")])
    ]


def test_an_empty_root_has_what_it_was_given(gvisor: Gvisor) -> None:
    """A root of one static program and a script has no other file."""
    root = empty(
        {"bin/sh": BUSYBOX.read_bytes(), "run": '#!/bin/sh\nfind / -xdev -type f; echo "$1"\n'}
    )
    done = gvisor.run(["/run", "hello"], rootfs=root)
    assert sorted(done.stdout.split()) == ["/bin/sh", "/run", "hello"]


def test_two_runs_share_nothing(gvisor: Gvisor, busybox_root: Path) -> None:
    """A sandbox's writes are not in the next one, also with the same root folder."""
    root = directory(busybox_root)
    script = "ls /tmp /; echo x > /tmp/x; echo x > /x"
    first, second = (gvisor.run(["/bin/sh", "-c", script], rootfs=root) for _ in range(2))
    assert first.stdout == second.stdout
    assert "x" not in second.stdout.split()


@pytest.mark.fault("B6")
@pytest.mark.parametrize("way", ["read-only", "writable", "the socket itself"])
def test_a_socket_of_the_host_stays_closed(gvisor: Gvisor, tmp_path: Path, way: str) -> None:
    """A workload cannot connect to it, in a folder that it has or bound by its own name."""
    import socket

    code = (
        "import errno, socket\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):\n"
        "    try: print(socket.socket(socket.AF_UNIX, kind).connect('/data/s'))\n"
        "    except OSError as error: print(errno.errorcode[error.errno])"
    )
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    mount = bind(folder, "/data", readonly=way == "read-only")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        os.chmod(folder / "s", 0o777)
        server.listen()
        server.setblocking(False)
        if way == "the socket itself":
            mount = bind(folder / "s", "/data/s", dangerous=True)
        done = gvisor.run(["python3", "-I", "-c", code], mounts=[mount])
        assert set(done.stdout.split()) <= {"ECONNREFUSED", "EPROTOTYPE", "EACCES"}, done
        assert len(done.stdout.split()) == 3
        with pytest.raises(BlockingIOError):
            server.accept()


def test_the_whole_host_must_be_named_as_dangerous(gvisor: Gvisor, tmp_path: Path) -> None:
    """With `dangerous=True` the host's root is shown, still read-only."""
    (tmp_path / "canary").write_text("seen\n")
    script = f"cat /host{tmp_path}/canary; echo x > /host{tmp_path}/canary"
    done = gvisor.run(["sh", "-c", script], mounts=[bind("/", "/host", dangerous=True)])
    assert done.stdout == "seen\n", done.stderr
    assert (tmp_path / "canary").read_text() == "seen\n"
    with pytest.raises(UsageError, match="dangerous=True"):
        directory("/")


def test_no_other_run_sees_what_a_hook_has_written_to_the_root(gvisor: Gvisor) -> None:
    """The folder of `host()` is one for all runs of a session, but for those with a hook."""
    other = gvisor._hooks
    path = Path("/written-by-a-hook")
    numbers = iter(range(9))

    def write(spec: dict[str, Any]) -> None:
        Path(spec["root"]["path"], path.name).write_text(f"{next(numbers)}")

    gvisor._hooks = Hooks(modify_spec=write)
    assert [gvisor.run(["cat", str(path)]).stdout for _ in range(2)] == ["0", "1"]
    gvisor._hooks = other
    assert gvisor.run(["test", "-e", str(path)]).returncode == 1
