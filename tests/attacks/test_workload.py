"""Code in a sandbox that wants more than the sandbox: the host's rights, or others' output."""

import contextlib
import dataclasses
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor import Gvisor, NotReady, TraceError, bind
from pytest_gvisor.oci import system_folders
from pytest_gvisor.oci.project import Project
from pytest_gvisor.sessions import places, session_folder
from pytest_gvisor.sessions.launcher import Launcher
from tests.bundlecheck import ENVIRONMENT
from tests.mounts import harmless

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root's rights are left")

WRITES_A_COMMAND = "print('#' * 2 + 'vso[task.setvariable variable=X]y', flush=True)"


def test_no_output_is_a_command_for_a_ci_system(gvisor: Gvisor) -> None:
    """Neither in the repr of a result, nor in the error of a wait, which pytest prints."""
    command = ["python3", "-I", "-S", "-c", WRITES_A_COMMAND]
    with gvisor.sandbox() as box, box.popen(command) as program:
        with pytest.raises(NotReady) as found:
            program.wait_for_output("what never comes")
        shown = [str(found.value), repr(box.exec(command, check=True))]
    assert [text.count("vso[task") for text in shown] == [2, 2]  # the command has it too
    assert not any("##vso[" in text for text in shown)


LEAVES_A_DOOR = """
import os, shutil

def test_it():
    shutil.copy("/usr/bin/id", OUT + "/door")
    os.chmod(OUT + "/door", 0o6755)
"""


@pytest.fixture
def leaving(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose test leaves a set-uid program in this folder."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    out = pytester.path / "build/out"
    out.mkdir(parents=True)
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(f"OUT = {str(out)!r}\n{LEAVES_A_DOOR}")
    return out


def _inside(pytester: pytest.Pytester, out: Path) -> pytest.RunResult:
    arguments = ("--in-gvisor", "--gvisor-strict", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*arguments, "--gvisor-writable", str(out))


@NEEDS_ROOT
def test_no_program_of_root_is_left_in_a_writable_folder(
    pytester: pytest.Pytester, leaving: Path
) -> None:
    """Root is refused before any test, with a remedy, and nothing is in the folder."""
    result = _inside(pytester, leaving)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            f"*--gvisor-writable={leaving} as root: a test could leave a set-uid program of root*",
            f"Run pytest as an ordinary user*mount -t tmpfs -o nosuid,nodev tmpfs {leaving}*",
        ]
    )
    assert list(leaving.iterdir()) == []


@NEEDS_ROOT
@pytest.mark.parametrize("options", ["nosuid", "nodev"])
def test_one_mount_option_is_not_enough(
    pytester: pytest.Pytester, leaving: Path, options: str
) -> None:
    """A file system without either nosuid or nodev is refused, below the folder as well."""
    (leaving / "below").mkdir()
    for folder in (leaving, leaving / "below"):
        with harmless(leaving):
            folder.mkdir(exist_ok=True)
            with harmless(folder, options=options):
                result = _inside(pytester, leaving)
                assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"(its mount {leaving / 'below'})" in result.stderr.str()


@NEEDS_ROOT
def test_where_no_program_is_set_uid_root_lets_tests_write(
    pytester: pytest.Pytester, leaving: Path
) -> None:
    """A set-uid program on a file system with nosuid and nodev gives nobody root's rights."""
    with harmless(leaving):
        assert _inside(pytester, leaving).parseoutcomes() == {"passed": 1}
        assert (leaving / "door").stat().st_mode & stat.S_ISUID
        assert os.statvfs(leaving / "door").f_flag & os.ST_NOSUID


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of sessions, with something in it, where TMPDIR is a folder of a project."""
    project = Path(tempfile.mkdtemp(prefix="pgf-", dir="/tmp"))  # sockets have short paths
    temporary = project / "in it/tmp"
    temporary.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = temporary / f"pytest-gvisor-{places.outer_uid()}"
    folder.mkdir(mode=0o700)
    (folder / "secret").write_text("of another run\n")
    yield folder
    shutil.rmtree(project)


LOOKS = """
import os
import pytest

@pytest.mark.in_gvisor
def test_inside():
    found = [name for _, _, names in os.walk(TMPDIR) for name in names]
    assert found == [], found
    assert os.listdir(TMPDIR) == [os.path.basename(SESSIONS)]
"""


def test_a_test_inside_sees_no_session_wherever_they_are(
    pytester: pytest.Pytester, sessions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests inside see an empty folder of sessions if TMPDIR is in the project."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    project = sessions.parents[2]
    (project / "pytest.ini").write_text("[pytest]\n")
    names = f"TMPDIR = {str(sessions.parent)!r}\nSESSIONS = {str(sessions)!r}\n"
    (project / "test_it.py").write_text(names + LOOKS)
    # As root they are in /run, whatever TMPDIR is.
    base = f"session_folder.base_folder = lambda: {str(sessions)!r}\n"
    (project / "conftest.py").write_text(
        f"from pytest_gvisor.sessions import session_folder\n{base}"
    )
    monkeypatch.chdir(project)
    arguments = ("-p", "no:cacheprovider", "--gvisor-strict", "--rootdir", str(project))
    result = pytester.runpytest_subprocess(*arguments, project)
    assert result.parseoutcomes() == {"passed": 1}


@pytest.mark.parametrize("readonly", [True, False])
def test_a_workload_sees_no_session_in_what_is_bound(
    gvisor: Gvisor, sessions: Path, *, readonly: bool
) -> None:
    """A bind of a folder that holds the folder of the sessions shows that one empty."""
    project = sessions.parents[2]
    inside = f"/p/{sessions.relative_to(project)}"
    mount = dataclasses.replace(bind(project, "/p"), options=("rbind", "ro" if readonly else "rw"))
    done = gvisor.run(["sh", "-c", f"cd '{inside}' && ls -A && ls ../.."], mounts=[mount])
    assert (done.stdout, done.stderr) == ("tmp\n", "")
    with gvisor.sandbox(rootfs=None, mounts=[mount]) as sandbox:
        assert sandbox.exec(["ls", "-A", inside]).stdout == ""
    assert (sessions / "secret").read_text() == "of another run\n"


def test_no_session_moves_to_where_a_running_sandbox_sees_it(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the session folder is removed, the next one is not below a folder that is bound."""
    with contextlib.ExitStack() as undo:
        short = tempfile.TemporaryDirectory(prefix="pgf-", dir="/tmp")
        top = undo.enter_context(short)
        folders = run, seen, linked, _other = [f"{top}/{name}" for name in ("r", "s", "l", "o")]
        bases = [f"{folder}/pytest-gvisor" for folder in folders]
        for folder in folders:
            os.mkdir(folder, 0o700)
        os.symlink("/none", bases[2])  # another user's, as in /tmp, who removes it then
        for module in (places, session_folder):
            monkeypatch.setattr(module, "session_bases", lambda: iter(bases))
        launcher = undo.enter_context(contextlib.closing(Launcher()))
        apart = Gvisor(runsc=gvisor.runsc, platform=gvisor.platform, launcher=launcher)
        mounts = [bind(seen, "/seen"), bind(linked, "/linked")]
        sandbox = undo.enter_context(apart.sandbox(mounts=mounts))
        shutil.rmtree(run)
        os.unlink(bases[2])
        undo.enter_context(apart.sandbox(env={"TOKEN": "of another sandbox"}))
        assert os.path.dirname(launcher.session().path) == bases[3]
        assert sandbox.exec(["find", "/seen", "/linked"]).stdout == "/seen\n/linked\n"


OPENS = """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
tried, got = 0, []
for folder in ("/proc/1/fd", "/proc/1/task/1/fd"):
    for number in os.listdir(folder):
        for flags in (os.O_RDONLY, os.O_WRONLY):
            tried += 1
            try:
                os.open(f"{folder}/{number}", flags | os.O_NONBLOCK)
                got.append(f"{folder}/{number}")
            except OSError:
                pass
for name in ("mem", "cwd", "root", "exe", "environ"):
    try:
        os.open(f"/proc/1/{name}", os.O_RDONLY)
        got.append(name)
    except OSError:
        pass
pidfd = c.syscall(434, 1, 0)  # pidfd_open and pidfd_getfd, on every machine
got += [number for number in range(16) if c.syscall(438, pidfd, number, 0) >= 0]
if c.ptrace(16, 1, 0, 0) == 0:
    got.append("ptrace")
print(tried > 10, got)
"""

TAKES = """
import os, time
end = time.monotonic() + SECONDS
print("up", flush=True)
while time.monotonic() < end:
    files = []
    for process in os.listdir("/proc") if EVERYONE else ["1"]:
        if process.isdigit() and int(process) != os.getpid():
            for number in range(20) if process == "1" else (1, 2):
                try:
                    path = f"/proc/{process}/fd/{number}"
                    files.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                except OSError:
                    pass
    for file in files * 50:
        try:
            os.read(file, 65536)
        except OSError:
            pass
    for file in files:
        os.close(file)
"""


def test_no_program_reaches_into_the_guest(gvisor: Gvisor) -> None:
    """Root's programs open none of its descriptors and files, and cannot trace it."""
    with gvisor.sandbox() as sandbox:
        sandbox.exec(["python3", "-c", "pass"], user=1000)
        assert sandbox.exec(["python3", "-c", OPENS]).stdout == "True []\n"


@pytest.mark.parametrize("user", [0, 1000], ids=["of the guest", "of other users"])
def test_no_program_takes_output(gvisor: Gvisor, user: int) -> None:
    """Root takes none through the guest's descriptors, nor a user that of another's programs."""
    script = TAKES.replace("SECONDS", "2").replace("EVERYONE", str(user != 0))
    expected = "".join(f"{number}\n" for number in range(1, 1001))
    with (
        gvisor.sandbox() as sandbox,
        sandbox.popen(["python3", "-c", script], user=user) as thief,
    ):
        thief.wait_for_output("up\n")
        taken, count = [], 0
        while thief.poll() is None or count < 2:
            who = (0, 1001)[count % 2]
            done = sandbox.exec(["sh", "-c", "echo 1; sleep 0.01; seq 2 1000"], user=who)
            assert (done.returncode, done.exact) == (0, True)
            taken += [done.stdout] if done.stdout != expected else []
            count += 1
    assert taken == []


ENDS_ITS_FIRST_THREAD = """
import ctypes, os, threading, time
def go_on():
    while open("/proc/self/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    beats = open("/tmp/beats", "ab", 0)
    os.write(1, b"goes on\\n")
    while True:
        beats.write(b"x")
        time.sleep(0.01)
if os.fork() == 0:
    threading.Thread(target=go_on).start()
    ctypes.CDLL(None).syscall({"x86_64": 60}.get(os.uname().machine, 93), 0)  # exit
time.sleep(100)
"""


def test_no_process_lives_on_by_the_end_of_its_first_thread(gvisor: Gvisor) -> None:
    """The kernel calls it a zombie then, while its other threads run."""
    with gvisor.sandbox() as sandbox:
        with sandbox.popen(["python3", "-I", "-S", "-c", ENDS_ITS_FIRST_THREAD]) as process:
            process.wait_for_output("goes on\n")
        beats = sandbox.get("/tmp/beats")
        time.sleep(0.3)
        assert sandbox.get("/tmp/beats") == beats


UNCOVERS = r"""
mkdir -p /tmp/m
for mode in slave unchanged; do
    unshare -Urm --propagation $mode sh -c '
        umount .env; umount -l .git; mount --bind . /tmp/m; mount --rbind . /tmp/m
        umount /tmp/m/.env; umount -l /tmp/m/.git; mount --move .git /opt
        cat .env .git/config /tmp/m/.env /tmp/m/.git/config'
done
umount .env; umount .git; mount --bind . /tmp/m; rm -rf .git; mv .env x
cat .env .git/config /tmp/m/.env /proc/self/root/$PWD/.env ../*/.env link; cat tool
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with secrets, whose Python imports what this one does."""
    folder = tmp_path / "project/venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "ours.pth").write_text("\n".join([str(Path(__file__).parents[2]), *paths]))
    for path in ("pip.conf", "conda-meta/state", "etc/jupyter/token", "src/x/.env", ".env"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("SECRET\n")
    for private in (packages / "secret.ini", packages / "own.pth", folder / "share/mine"):
        private.parent.mkdir(exist_ok=True)
        private.write_text("SECRET\n")
        private.chmod(0o600)
    (packages / "module.py").write_text("print('imported')\n")
    return folder


READS = """
import os, sys, pytest_gvisor
prefix, runsc = sys.argv[1:]
python = f"{prefix}/bin/python"
code = f"cd {prefix}; grep -rs SECRET . ..; {python} -c 'import module, sys; print(sys.prefix)'"
with pytest_gvisor.session(runsc=runsc) as gvisor:
    print(gvisor.run(["sh", "-c", code]).stdout)
    print(gvisor.run(["python", "-c", "import module"], check=True).stdout)
    with gvisor.sandbox() as sandbox:
        print(sandbox.exec(["sh", "-c", code]).stdout)
"""


def test_a_workload_sees_no_secret_beside_the_running_python(
    gvisor: Gvisor, environment: Path
) -> None:
    """Its packages are seen, but no settings of tools, and no file that others may not read."""
    runsc = gvisor.runsc.path
    words = [f"{environment}/bin/python", "-c", READS, str(environment), runsc]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False)
    assert (done.stderr, "SECRET" in done.stdout) == ("", False)
    inside = ["imported", str(environment)]
    assert done.stdout.split() == [*inside, "imported", *inside]


SHORT = """
import errno, os, sys, pytest_gvisor
prefix, runsc = sys.argv[1:]
scan = os.scandir

def scandir(path="."):
    if short and str(path).endswith("site-packages"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
    return scan(path)

os.scandir = scandir
for short in (True, False):
    try:
        with pytest_gvisor.session(runsc=runsc) as gvisor:
            print(gvisor.run(["sh", "-c", f"grep -rs SECRET {prefix}; echo seen"]).stdout)
    except pytest_gvisor.LaunchError as error:
        print(errno.errorcode[error.errno])
"""


def test_no_secret_is_shown_for_want_of_a_descriptor(gvisor: Gvisor, environment: Path) -> None:
    """A folder that cannot be looked into for a moment is none without private files."""
    words = [f"{environment}/bin/python", "-c", SHORT, str(environment), gvisor.runsc.path]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/", check=False)
    assert (done.stderr, done.stdout.split()) == ("", ["EMFILE", "seen"])


@NEEDS_ROOT
@pytest.mark.parametrize("above", ["/usr/src", "/usr/local", "/usr/share"])
def test_a_project_below_usr_is_no_folder_of_the_system_s(
    gvisor: Gvisor, above: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workload sees it if it is asked for, without secrets and what links of their names show."""
    root = Path(tempfile.mkdtemp(prefix="pytest-gvisor-", dir=above))
    try:
        root.chmod(0o755)
        for name in (".env", "tool", "production"):
            (root / name).write_text(f"{name}\n")
        (root / "prod.env").symlink_to("production")
        os.link(root / ".env", root / "twin")
        monkeypatch.setattr(gvisor, "_project", Project(root=str(root)))
        monkeypatch.setattr(system_folders, "projects", [str(root)])
        look = ["sh", "-c", f"cd {root} && cat .env tool production prod.env twin"]
        assert gvisor.run(look).stdout == ""
        with gvisor.sandbox() as sandbox:
            assert sandbox.exec(look).stdout == ""
        assert gvisor.run(look, project=True).stdout == "tool\n"
        mine = [bind(root, root)]
        assert gvisor.run(["cat", f"{root}/.env"], mounts=mine).stdout == ".env\n"
    finally:
        shutil.rmtree(root)


def test_a_workload_cannot_uncover_a_secret_of_the_project(gvisor: Gvisor, tmp_path: Path) -> None:
    """Neither root nor root of a user namespace inside can take away what hides it."""
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    for name in (".env", ".git/config"):
        (root / name).write_text("SECRET\n")
    (root / "tool").write_text("seen\n")
    (root / "link").symlink_to(".env")
    gvisor._project = Project(root=str(root))
    done = gvisor.run(["sh", "-c", UNCOVERS], project=True)
    assert done.stdout == "seen\n"
    assert (root / ".git/config").read_text() == "SECRET\n"


def test_a_mount_uncovers_no_secret_that_a_link_of_the_host_leads_to(
    gvisor: Gvisor, tmp_path: Path
) -> None:
    """The link has the path at which the sandbox has another file, and another folder."""
    root = tmp_path / "project"
    (root / "keys").mkdir(parents=True)
    for name in (".env", "keys/id_rsa"):
        (root / name).write_text("SECRET\n")
    (tmp_path / "app.env").symlink_to(root / ".env")
    (tmp_path / "app").symlink_to(root / "keys")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/env").write_text("other\n")
    gvisor._project = Project(root=str(root))
    look = ["cat", *map(str, (tmp_path / "app.env", root / ".env", root / "keys/id_rsa"))]
    mounts = [bind(tmp_path / "tests/env", tmp_path / "app.env"),
              bind(tmp_path / "tests", tmp_path / "app")]  # fmt: skip
    assert gvisor.run(look, project=True, mounts=mounts, check=True).stdout == "other\n"


def test_a_mount_uncovers_no_secret_of_a_project_that_has_two_names(
    gvisor: Gvisor, tmp_path: Path
) -> None:
    """By its real name each secret is hidden; by the other the caller's files are there."""
    real = tmp_path / "real/project"
    (real / "keys").mkdir(parents=True)
    for name in (".env", "keys/id_rsa"):
        (real / name).write_text("SECRET\n")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "tests").mkdir()
    for name in ("env", "id_rsa"):
        (tmp_path / "tests" / name).write_text("other\n")
    root = tmp_path / "link/project"
    gvisor._project = Project(root=str(root))
    look = ["cat", *(f"{top}/{name}" for top in (root, real) for name in (".env", "keys/id_rsa"))]
    mounts = [bind(tmp_path / "tests/env", root / ".env"), bind(tmp_path / "tests", root / "keys")]
    done = gvisor.run(look, project=True, mounts=mounts, check=True)
    assert done.stdout == "other\nother\n"


SPECIAL = """
import os, socket, stat, sys
def try_all(*acts):
    for act in acts:
        try:
            if got := act(): print(got)
        except OSError: pass
try_all(
    lambda: os.open("/shown/fifo", os.O_RDONLY | os.O_NONBLOCK),
    lambda: os.open("/shown/fifo", os.O_WRONLY | os.O_NONBLOCK),
    lambda: os.open("/shown/disk", os.O_RDONLY | os.O_NONBLOCK),
    lambda: os.mkfifo("/shown/new-fifo"),
    lambda: os.mknod("/shown/new-disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)),
    lambda: os.mknod("/shown/new-mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
    lambda: os.setxattr("/shown/file", "security.capability", bytes(20)),
    lambda: socket.socket(socket.AF_UNIX).bind("/shown/new-socket"),
    lambda: socket.socket(socket.AF_UNIX).connect_ex(chr(0) + sys.argv[1]) == 0,
    lambda: socket.create_connection(("169.254.169.254", 80), 1),
    lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
)
"""


def test_special_files_and_nameless_sockets_are_no_doors(gvisor: Gvisor, tmp_path: Path) -> None:
    """A writable folder has no FIFO, device or socket to use or to make for the host."""
    os.mkfifo(tmp_path / "fifo", 0o666)
    (tmp_path / "file").touch()
    if os.geteuid() == 0:
        os.mknod(tmp_path / "disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
    before = set(os.listdir(tmp_path))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{tmp_path.name}-{os.getpid()}")
        server.listen()
        argv = ["python3", "-c", SPECIAL, f"{tmp_path.name}-{os.getpid()}"]
        done = gvisor.run(argv, mounts=[bind(tmp_path, "/shown", readonly=False)])
    # gVisor may keep a FIFO and a socket of its own at the new names.
    assert (done.stdout, done.stderr) == ("", "")
    assert set(os.listdir(tmp_path)) == before
    assert os.listxattr(tmp_path / "file") == []


ITS_OWN_MOUNT = """
import ctypes, os
libc = ctypes.CDLL(None)
assert libc.unshare(0x10000000 | 0x20000) == 0  # CLONE_NEWUSER | CLONE_NEWNS
assert libc.mount(b"/secret", b"/usr/share", None, ctypes.c_ulong(4096), None) == 0
print(open("/usr/share/key").read())
"""
MAY_NOT_MOUNT = """
import ctypes
assert ctypes.CDLL(None).mount(b"/secret", b"/usr/share", None, ctypes.c_ulong(4096), None) == -1
"""


@pytest.mark.parametrize("warm", [False, True])
def test_no_mount_of_its_own_hides_a_file_from_a_check(
    gvisor: Gvisor, tmp_path: Path, warm: bool
) -> None:
    """In a user namespace a program may mount, and a file has then another path."""
    (tmp_path / "key").write_text("SECRET")
    mounts = [bind(tmp_path, "/secret")]
    traces = []
    for code in (ITS_OWN_MOUNT, MAY_NOT_MOUNT):
        command = ["python3", "-I", "-S", "-c", code]
        if warm:
            with gvisor.sandbox(mounts=mounts, trace=True) as sandbox:
                done = sandbox.exec(command, check=True)
        else:
            done = gvisor.run(command, mounts=mounts, trace=True, check=True)
        assert done.trace is not None
        traces.append((done.stdout, done.trace))
    (stolen, trace), (_, refused) = traces
    assert stolen == "SECRET\n"
    (gap,) = trace.gaps
    assert gap.endswith(" may have given files other paths: 1 calls")
    with pytest.raises(TraceError, match="given files other paths"):
        trace.check(forbid=["read:/secret/**"])
    assert refused.complete


def test_no_text_of_a_workload_is_an_error_where_a_hint_is_sought(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks for a file would end by it, which pytest shows as a warning."""
    ended: list[object] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    script = r"printf 'cat: /tmp/\0/x: No such file or directory\n' >&2; exit 3"
    assert gvisor.run(["sh", "-c", script]).returncode == 3
    assert ended == []
