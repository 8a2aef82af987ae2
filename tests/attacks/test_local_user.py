"""Another local user attacks the files, programs and time of a user who runs tests.

Root plays both. Neither has a folder in /run/user, as under su, cron and CI.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import ImageError
from pytest_gvisor.images import docker
from pytest_gvisor.programs import leftovers
from tests.docker_daemon import serve
from tests.unit.images.conftest import item, layout, tar

__all__ = ["serve"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it plays two other users")

CHECKOUT = Path(__file__).parents[2]
# What is imported is read as root: the checkout may be closed to others. A change of uid makes
# /proc/self root's, and PR_SET_DUMPABLE (4) gives it back.
PROLOGUE = """
import contextlib, ctypes, json, os, sys
sys.path.insert(0, {checkout!r})
from pytest_gvisor.base.errors import GvisorError
from pytest_gvisor.oci import reach
from pytest_gvisor.oci.mounts import bind
from pytest_gvisor.oci.rootfs import directory
from pytest_gvisor.images.cache import Cache
from pytest_gvisor.sessions import private, session_folder, stopped_keepers
from pytest_gvisor.sessions.session_folder import SessionDir
{before}
os.setgroups([])
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
os.chdir("/")
"""
SESSION = """
chosen, passed = session_folder.choose_base()
path, swept = SessionDir.choose()
session = SessionDir.create(path)
there = os.listdir(path)
result = [chosen, passed, swept, there, session.remove()]
"""


@dataclasses.dataclass(frozen=True)
class User:
    """A user of the machine with a home folder, whose TMPDIR is shared by all users."""

    uid: int
    home: Path
    shared: Path

    def does(self, code: str, before: str = "", **environ: str) -> Any:
        """Run Python as this user, after ``before`` as root; returns the value of ``result``."""
        prologue = PROLOGUE.format(checkout=str(CHECKOUT), uid=self.uid, before=before)
        env = {"PATH": os.defpath, "HOME": str(self.home), "TMPDIR": str(self.shared), **environ}
        done = subprocess.run(
            [sys.executable, "-c", f"{prologue}{code}\nprint(json.dumps(result))"],
            stdout=subprocess.PIPE,
            env=env,
            timeout=60,
        )
        assert done.returncode == 0
        return json.loads(done.stdout)

    def owns(self, path: Path) -> Path:
        """Give the file at ``path``, or a symlink itself, to this user."""
        os.lchown(path, self.uid, self.uid)
        return path

    def folder(self, path: Path, mode: int = 0o700) -> Path:
        """Make a folder of this user's."""
        path.mkdir(mode)
        path.chmod(mode)
        return self.owns(path)

    def link(self, path: Path, target: Path) -> Path:
        """Make a symlink of this user's."""
        path.symlink_to(target)
        return self.owns(path)

    @contextlib.contextmanager
    def poses(self, session: object) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process of this user whose command line is that of a sandbox of the session."""
        with subprocess.Popen(
            ["sh", "-c", "echo; read x", "runsc", f"--root={session}/g1/root"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=self.uid, group=self.uid,
            extra_groups=[], cwd="/",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            process.stdout.read(1)
            yield process

    @property
    def bases(self) -> list[Path]:
        """The folders for sessions that are in reach of everybody, by their well-known names."""
        return [folder / f"pytest-gvisor-{self.uid}" for folder in (self.shared, Path("/tmp"))]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A sticky folder that everybody may write, as /tmp is, with a path that is short enough."""
    folder = Path(tempfile.mkdtemp(prefix="pga-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def user(uid: int, shared: Path) -> User:
    """A user, with a home folder beside the others' in a folder of root's."""
    homes = shared / "u"
    homes.mkdir(0o755, exist_ok=True)
    made = User(uid, homes / str(uid), shared)
    made.folder(made.home, 0o755)
    return made


@pytest.fixture
def victim(shared: Path) -> Iterator[User]:
    """The user who runs tests. The uid is unique to this process, so /tmp has no name of it."""
    made = user(1_000_000 + 2 * os.getpid(), shared)
    yield made
    for base in made.bases:
        if base.is_symlink():
            base.unlink()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def attacker(victim: User, shared: Path) -> User:
    """Another user of the machine."""
    return user(victim.uid + 1, shared)


def test_a_session_of_a_user_whom_nobody_attacks(victim: User) -> None:
    """The temporary folder is used, and nothing but the lock is left there."""
    base = str(victim.bases[0])
    assert victim.does(SESSION) == [base, [], [], ["lock"], []]
    assert os.listdir(base) == [".lock"]


def test_a_link_to_the_victim_s_home_deletes_nothing_there(victim: User, attacker: User) -> None:
    """A folder of the victim's that is named like a session is no dead session."""
    thesis = victim.folder(victim.home / "s-thesis")
    victim.home.chmod(0o700)
    for base in victim.bases:
        attacker.link(base, victim.home)
    path, passed, swept, there, leaks = victim.does(SESSION)
    assert thesis.is_dir()
    assert path == f"{victim.home}/.pytest-gvisor"
    assert [reason.split(": ")[1].split(" [")[0] for reason in passed] == [
        "is a symlink, or no folder"
    ] * 2
    assert (swept, there, leaks) == ([], ["lock"], [])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_into_the_attacker_s_folder_is_not_followed(
    victim: User, attacker: User, *, is_there: bool
) -> None:
    """The victim makes nothing in a place where the attacker can put a bundle of their own."""
    trap = attacker.folder(attacker.home / "trap", 0o777)
    target = trap / "base"
    if is_there:
        victim.folder(target)
    for base in victim.bases:
        attacker.link(base, target)
    path = victim.does(SESSION)[0]
    assert path == f"{victim.home}/.pytest-gvisor"
    assert [entry.name for entry in trap.rglob("*")] == (["base"] if is_there else [])


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_who_is_first_at_a_name_stops_nobody(victim: User, attacker: User, mode: int) -> None:
    """The victim uses the next folder, and the reason names each folder that was passed."""
    for base in victim.bases:
        attacker.folder(base, mode)
    path, passed, _, there, _ = victim.does(SESSION)
    assert path == f"{victim.home}/.pytest-gvisor"
    # A folder that is closed to the victim cannot even be looked into.
    assert all("cannot be opened" in reason or "owned by uid" in reason for reason in passed)
    assert [reason.split(": ")[0] for reason in passed] == [str(base) for base in victim.bases]
    assert there == ["lock"]


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_temporary_folder_in_the_attacker_s_is_not_used(
    victim: User, attacker: User, mode: int
) -> None:
    """The owner of a folder can rename its entries, and with them the victim's folder."""
    folder = attacker.folder(victim.shared / "a", mode)
    path, (reason,), *_ = victim.does(SESSION, TMPDIR=str(folder))
    assert path == str(victim.bases[1])
    assert f"the folder {folder} (mode {mode:04o}, owner uid {attacker.uid}) on the way" in reason
    assert list(folder.iterdir()) == []


def test_a_link_of_the_attacker_s_on_the_way_is_not_followed(victim: User, attacker: User) -> None:
    """The attacker could turn it while the victim's tests run."""
    real = victim.folder(victim.shared / "v")
    link = attacker.link(victim.shared / "link", real)
    path, (reason,), *_ = victim.does(SESSION, TMPDIR=str(link))
    assert path == str(victim.bases[1])
    assert f"its entry is uid {attacker.uid}'s" in reason
    assert list(real.iterdir()) == []


@pytest.mark.parametrize("whose", ["attacker", "victim"])
def test_a_runtime_folder_in_the_attacker_s_is_not_used(
    victim: User, attacker: User, whose: str
) -> None:
    """The folder is not used if the attacker owns it, as after su, or owns its parent."""
    above = attacker.folder(victim.shared / "a", 0o777)
    owner = attacker if whose == "attacker" else victim
    runtime = owner.folder(above / "r", 0o777 if owner is attacker else 0o700)
    assert victim.does(SESSION, XDG_RUNTIME_DIR=str(runtime))[0] == str(victim.bases[0])
    assert list(runtime.iterdir()) == []


DEAD = """
session = SessionDir.create(SessionDir.choose()[0])
os.mkdir(f"{session.path}/g1")
session.release()
result = session.path
"""


def test_a_command_line_of_the_attacker_s_stops_no_sweep(victim: User, attacker: User) -> None:
    """A process of another user never belongs to the victim's session."""
    dead = victim.does(DEAD)
    with attacker.poses(dead) as process:
        assert victim.does("result = session_folder.sweep()") == [dead]
        assert process.poll() is None
    assert not os.path.exists(dead)


@pytest.mark.parametrize("uid", [65534, None])
def test_processes_of_the_attacker_s_stop_no_sweep_of_root(
    attacker: User, tmp_path: Path, uid: int | None
) -> None:
    """Root could kill each of them, and the attacker begins others, until the sweep gives up.

    The attacker may be nobody, as whom services run.
    """
    (session := tmp_path / "s-1").mkdir()
    attacker = dataclasses.replace(attacker, uid=uid or attacker.uid)
    with attacker.poses(session) as process:
        assert leftovers.clear_session(str(session)) == []
        assert not session.exists()
        assert process.poll() is None


def test_the_sweep_finds_what_is_left_beside_an_attack(victim: User, attacker: User) -> None:
    """Sessions that died elsewhere are swept from where they are, wherever new ones go."""
    dead = victim.does(DEAD)
    assert os.path.dirname(dead) == str(victim.bases[0])
    attacker.link(victim.bases[1], victim.home)
    thesis = victim.folder(victim.home / "s-thesis")
    path, passed, swept, *_ = victim.does(SESSION, XDG_RUNTIME_DIR=str(victim.home))
    assert (path, passed, swept) == (f"{victim.home}/pytest-gvisor", [], [dead])
    assert thesis.is_dir()


@pytest.mark.parametrize("kind", ["folder", "link", "link in a folder"])
def test_images_are_not_kept_where_the_attacker_decides(
    victim: User, attacker: User, kind: str
) -> None:
    """A root filesystem of the attacker's could stand in the place of each image."""
    real = victim.folder(victim.home / "cache")
    if kind == "folder":
        cache = attacker.folder(attacker.home / "cache", 0o777)
    elif kind == "link":
        cache = attacker.link(victim.shared / "cache", real)
    else:
        cache = attacker.link(victim.folder(victim.home / "open", 0o777) / "cache", real)
    code = (
        "try:\n    Cache()._check()\nexcept GvisorError as error:\n    result = error.message\n"
        "else:\n    result = ''"
    )
    message = victim.does(code, XDG_CACHE_HOME=str(cache))
    assert message.startswith("the cache folder cannot be used: ")
    assert str(cache.parent) in message
    assert list(cache.iterdir()) == []


NAMESPACE = """
reader, writer = os.pipe()
root = os.getpid()
if not (child := os.fork()):
    os.read(reader, 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{root}/{kind}_map", "w") as file:
            file.write("0 100000 65536")
    os._exit(0)
ctypes.CDLL(None).unshare(0x10000000)  # CLONE_NEWUSER
os.write(writer, b"x")
os.waitpid(child, 0)
"""
DOCKER = """
from pytest_gvisor.images import docker
try:
    docker.Daemon()
except GvisorError as error:
    result = error.message
"""


@pytest.mark.parametrize("kind", ["program", "fifo"])
def test_no_configuration_of_the_attacker_s_is_docker_s(
    victim: User, attacker: User, kind: str
) -> None:
    """The docker SDK starts programs that its configuration names, and root may have the home
    folder of another user.
    """
    config = attacker.folder(attacker.home / ".docker") / "config.json"
    if kind == "fifo":
        os.mkfifo(config)
    else:
        config.write_text('{"credsStore": "x/../evil"}')
    attacker.owns(config)
    root = dataclasses.replace(victim, uid=0)
    told = root.does(DOCKER, HOME=str(attacker.home), DOCKER_HOST="unix:///none")
    assert re.search(f"the docker SDK cannot be used: .*owner uid {attacker.uid}", told)
    (own := victim.folder(victim.home / ".docker") / "config.json").write_text("{}")
    own.chmod(0o664)
    victim.owns(own)
    assert "there is no docker daemon" in victim.does(DOCKER, DOCKER_HOST="unix:///none")


def test_no_configuration_that_the_attacker_makes_after_the_check_is_docker_s(
    attacker: User, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it knows no registry, the docker SDK looks for its configuration again before a pull."""
    serve().answers["POST /v1.41/images/create"] = 200, ({"status": "done"},)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(attacker.home))
    with docker.Daemon() as daemon:
        config = attacker.folder(attacker.home / ".docker") / "config.json"
        config.write_text('{"credsStore": "evil"}')
        attacker.owns(config)
        with pytest.raises(ImageError, match="does not have it, though it has been pulled"):
            daemon.find("some/image:1", docker.Pull.ALWAYS)


def test_no_context_of_the_attacker_s_names_docker_s_daemon(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration, the docker SDK looks for a context in the current folder."""
    theirs = serve()
    monkeypatch.delenv("DOCKER_HOST")
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    monkeypatch.setenv("DOCKER_CONTEXT", "rootless")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("docker.utils.utils.DEFAULT_UNIX_SOCKET", "http+unix:///none")
    folder = tmp_path / "contexts/meta" / hashlib.sha256(b"rootless").hexdigest()
    folder.mkdir(parents=True)
    meta = {"Name": "rootless", "Metadata": {}, "Endpoints": {"docker": {"Host": theirs.address}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match="there is no docker daemon"):
        docker.Daemon()
    assert theirs.asked == []


ARCHIVE = """
from pytest_gvisor.images import archive, store
app, secret, cache = {paths!r}
opened = archive.opened

def late(*given, **more):
    os.unlink(app)
    os.symlink(secret, app)
    return opened(*given, **more)

archive.opened = late
try:
    with open(store.Images(Cache(cache)).rootfs(app).folder + "/f") as file:
        result = file.read()
except GvisorError as error:
    result = error.message
"""


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_no_link_of_the_attacker_s_leads_to_the_victim_s_archive(
    victim: User, attacker: User, when: str
) -> None:
    """The attacker's own program may run in the image, and tell what is in it."""
    secret, theirs = victim.home / "secret.tar", attacker.folder(attacker.home / "images", 0o777)
    secret.write_bytes(tar([item("f", b"secret")]))
    victim.owns(secret)
    if when == "before":
        app = attacker.link(theirs / "app.tar", secret)
    else:
        app = theirs / "app.tar"
        app.write_bytes(tar([item("f", b"its own")]))
    told = victim.does(ARCHIVE.format(paths=(str(app), str(secret), str(victim.home / "cache"))))
    wanted = f"is a link, and uid {attacker.uid} has put it there"
    assert ("its own" if when == "meanwhile" else wanted) in told


def test_no_link_in_the_attacker_s_layout_leads_to_the_victim_s_files(
    victim: User, attacker: User
) -> None:
    """The digest of a private layer may be known: pulls and manifests have it."""
    layers = [tar([item("f", b"secret")])]
    theirs = attacker.folder(attacker.home / "layout", 0o755)
    secret = victim.home / "layer"
    for name, data in layout(layers).items():
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_bytes(data)
    blobs = sorted((theirs / "blobs/sha256").iterdir(), key=lambda file: file.read_bytes()[:2])
    (layer,) = [blob for blob in blobs if blob.read_bytes().startswith(b"\x1f\x8b")]
    layer.rename(secret)
    victim.owns(secret)
    attacker.link(layer, secret)
    for path in [theirs, *theirs.rglob("*")]:
        attacker.owns(path)
    paths = (str(theirs), str(secret), str(victim.home / "cache"))
    told = victim.does(ARCHIVE.format(paths=paths).replace("archive.opened = late", ""))
    assert f"is a link, and uid {attacker.uid} has put it there" in told


def test_no_password_file_of_the_attacker_s_is_read_for_docker(
    victim: User, attacker: User
) -> None:
    """A FIFO would be waited for without an end."""
    os.mkfifo(attacker.home / ".netrc")
    root = dataclasses.replace(victim, uid=0)
    told = root.does(DOCKER, HOME=str(attacker.home), DOCKER_HOST="unix:///none")
    assert told.startswith("there is no docker daemon")


NOBODY = """
from pytest_gvisor.base import trust
own = {own!r}
os.mkdir(own, 0o700)
result = []
with contextlib.ExitStack() as held:
    for path in ({theirs!r}, own):
        way = trust.follow(path, held)
        problems = trust.way_problems(way, trust.Trust.here(os.geteuid()))
        result.append([way.stack[-1].info.st_uid, bool(problems)])
os.close(private.open_private(own))
os.rmdir(own)
"""


def test_nobody_of_a_user_namespace_is_not_each_user_of_the_machine(
    victim: User, attacker: User
) -> None:
    """A container's uid 65534 is shown as the owner of its own files, and of the files of users who
    have no place in the container.
    """
    theirs = attacker.folder(victim.bases[1], 0o755)
    code = NOBODY.format(theirs=str(theirs), own=f"{theirs}-own")
    nobody = dataclasses.replace(victim, uid=65534)
    assert nobody.does(code, NAMESPACE) == [[65534, True], [65534, False]]


REPLAY = """
import subprocess
from pytest_gvisor.programs import paths, replay
command = paths.command(replay.__file__, {kept!r})
ended = subprocess.run(command, stderr=subprocess.PIPE, text=True)
result = [ended.returncode, ended.stderr]
"""


@pytest.mark.parametrize("whose", ["attacker", "victim", "root"])
def test_no_run_is_repeated_where_the_attacker_can_replace_its_bundle(
    victim: User, attacker: User, whose: str
) -> None:
    """A replay.sh makes its bundle in TMPDIR, and runs what is there in the name of the victim."""
    owner = {"attacker": attacker, "victim": victim, "root": User(0, victim.home, victim.shared)}
    folder = owner[whose].folder(victim.shared / "t", 0o777)
    status, said = victim.does(REPLAY.format(kept=str(victim.home)), TMPDIR=str(folder))
    assert (status, said) == (1, f"replay: others can replace what is in {folder}: set TMPDIR\n")
    assert list(folder.iterdir()) == []
    folder.chmod(0o1777)
    status, said = victim.does(REPLAY.format(kept=str(victim.home)), TMPDIR=str(folder))
    assert ("others can" if whose == "attacker" else "order.json") in said


def test_no_run_is_repeated_where_a_stranger_has_the_number_of_root(
    victim: User, attacker: User
) -> None:
    """In a user namespace, the owner of ``/`` and the attacker have one number."""
    folder = attacker.folder(victim.bases[1], 0o1777)
    root = dataclasses.replace(victim, uid=0)
    status, said = root.does(REPLAY.format(kept="/"), NAMESPACE, TMPDIR=str(folder))
    assert (status, said) == (1, f"replay: others can replace what is in {folder}: set TMPDIR\n")
    assert "order.json" in root.does(REPLAY.format(kept="/"), NAMESPACE, TMPDIR="/tmp")[1]


TURNED = """
import shutil, tempfile
from pytest_gvisor.programs import replay
real = tempfile.mkdtemp
def mkdtemp(*arguments, **more):
    made = real(*arguments, **more)
    os.unlink({link!r})
    os.symlink("/tmp", {link!r})
    return made
tempfile.mkdtemp = mkdtemp
replay.prepare = lambda _kept, state: result.append(state)
replay.run = lambda _order: 0
result = []
replay.main(["/"])
"""


def test_no_link_decides_where_a_run_is_repeated_after_the_check(
    victim: User, attacker: User
) -> None:
    """TMPDIR is a link that turns when the folder of the run is made."""
    link = victim.link(victim.home / "t", victim.home)
    (state,) = victim.does(TURNED.format(link=str(link)), TMPDIR=str(link))
    assert os.path.dirname(state) == str(victim.home)


FOUND = """
import subprocess
from pytest_gvisor.programs import leftovers
words = ["setpriv", "--no-new-privs", "sh", "-c", "echo; read x", "runsc"]
words += ["--root={session}/g1/root"]
with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as own:
    own.stdout.read(1)
    result = [leftovers.processes({session!r}, everywhere=True) == [own.pid]]
    own.stdin.close()
"""


def test_no_stranger_in_a_user_namespace_is_waited_for(victim: User, attacker: User) -> None:
    """There, a stranger has the number of nobody."""
    session = victim.home / "s-1"
    nobody = dataclasses.replace(victim, uid=65534)
    with attacker.poses(session):
        assert nobody.does(FOUND.format(session=str(session)), NAMESPACE) == [True]


BOTH = """
import pytest

def test_of_a_workload(gvisor):
    assert gvisor.run(["true"], timeout=20).returncode == 0

@pytest.mark.in_gvisor
def test_inside(tmp_path):
    pass
"""


def test_no_name_of_the_attacker_s_ends_the_session(
    attacker: User, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the attacker has made pytest's folder for temporary files, only the tests that need one
    have an error.
    """
    monkeypatch.setenv("LOGNAME", "victim")
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(attacker.shared))
    attacker.folder(attacker.shared / "pytest-of-victim")
    pytester.makepyfile(BOTH)
    words = ["-m", "pytest", "-p", "no:cacheprovider", "--gvisor-platform=systrap"]
    result = pytester.run(sys.executable, *words)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no folder for temporary files: *pytest-of-victim*"])


NAMED = """
from pytest_gvisor.images import choose
os.chdir({folder!r})
result = []
for name in ("alpine", "team/app", "linked#a:1"):
    result.append([choose.as_file(name), choose.as_file(name, {folder!r})])
"""


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_no_file_of_the_attacker_s_is_the_image_of_that_name(
    victim: User, attacker: User, mode: int
) -> None:
    """The name is a daemon's image, and pytest is started in a shared folder, such as /tmp."""
    folder = User(0, victim.home, victim.shared).folder(victim.shared / "open", mode)
    (folder / "team").mkdir()
    files = [folder / "alpine", folder / "team/app", victim.home / "linked"]
    for file in files:
        file.touch()
    planted = [files[0], folder / "team", folder / "linked"]
    planted[2].symlink_to(files[2])
    for path in planted:
        attacker.owns(path)
    code = NAMED.format(folder=str(folder))
    assert victim.does(code) == [[None, None]] * 3
    for path in planted:
        victim.owns(path)
    found = [["alpine", ""], ["team/app", ""], ["linked", "a:1"]]
    assert [own for own, _ in victim.does(code)] == found
    root = dataclasses.replace(victim, uid=0)
    assert root.does(code) == [[None, None]] * 3
    project = victim.owns(folder.rename(victim.home / "project"))  # which root runs
    project.chmod(0o775)
    assert [own for own, _ in root.does(NAMED.format(folder=str(project)))] == found


LINK = """
from pytest_gvisor.cli import vm
vm.drive.run = lambda machine, *_: machine.shares[0]
def shown(make):
    try:
        return make()
    except GvisorError as error:
        return error.message
path = {path!r}
result = [
    shown(lambda: bind(path, "/d", readonly=False).source),
    shown(lambda: directory(path).path),
    shown(lambda: [*reach.allowed({{path: "rw"}})][0]),
    shown(lambda: vm.main(["--share", path, "true"])),
    bind(path, "/d", follow=True).source,
]
"""


@pytest.mark.parametrize("below", ["", "/inner"])
@pytest.mark.parametrize("place", ["sticky", "shared", "attacker's"])
def test_no_link_of_the_attacker_s_is_followed_to_the_victim_s_files(
    victim: User, attacker: User, place: str, below: str
) -> None:
    """A workload would read or write there. A link of the victim's or of root's is followed."""
    private = victim.folder(victim.home / "private")
    victim.folder(private / "inner")
    folder = victim.shared
    if place != "sticky":
        folder = victim.shared / "open"
        (attacker if place == "attacker's" else User(0, folder, folder)).folder(folder, 0o777)
    link = attacker.link(folder / "data", private)
    *refused, meant = victim.does(LINK.format(path=f"{link}{below}"))
    told = f"'{link}' is a link to '{private}', and uid {attacker.uid} has put it there"
    assert refused == [told] * 4
    assert meant == f"{private}{below}"
    for owner in (victim.uid, 0):
        os.lchown(link, owner, owner)
        assert victim.does(LINK.format(path=f"{link}{below}")) == [f"{private}{below}"] * 5


LATE = """
from pytest_gvisor.cli import vm
vm.drive.run = lambda machine, *_: machine.shares[0]
examine = vm.mounts.examine
def late(path, **options):
    found = examine(path, **options)
    os.symlink({private!r}, path)
    return found
vm.mounts.examine = late
try:
    result = vm.main(["--share", {path!r}, "true"])
except GvisorError as error:
    result = error.message
"""


def test_no_link_in_the_place_of_a_missing_folder_is_shared_with_a_vm(victim: User) -> None:
    """The attacker makes it when the place has been looked at, and the VM could write there."""
    private, path = victim.folder(victim.home / "private"), victim.shared / "reports"
    told = victim.does(LATE.format(private=str(private), path=str(path)))
    assert told == f"{path} cannot be shared: it cannot be used: No such file or directory"


OPEN = """
def opened(**allowed):
    try:
        return Bundle.open({folder!r}, **allowed).spec.mounts[0].source
    except InvalidBundle as error:
        return error.problems
result = [opened(), opened(allow_binds={{"{folder}/data": "rw"}})]
"""


@pytest.mark.parametrize("option", ["ro", "rw"])
def test_no_program_of_the_victim_s_is_left_in_a_bundle_of_the_attacker_s(
    victim: User, attacker: User, option: str
) -> None:
    """A program there could be set-uid to the victim, and the attacker could run it."""
    folder = attacker.folder(victim.shared / "bundle", 0o755)
    folder.joinpath("rootfs/there").mkdir(parents=True)
    data = attacker.folder(folder / "data", 0o777)
    bind = {"destination": "/there", "type": "bind", "source": "data", "options": [option]}
    process = {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    root = {"path": "rootfs"}
    config = {"ociVersion": "1.0.2", "process": process, "root": root, "mounts": [bind]}
    (folder / "config.json").write_text(json.dumps(config))
    code = OPEN.format(folder=str(folder))
    imports = "from pytest_gvisor import Bundle, InvalidBundle"
    told = f'"{data}" is another user\'s, or in a folder of theirs, and the sandbox would write it'
    argument = f"to give the sandbox these sources: allow_binds={{{str(data)!r}: 'rw'}}"
    refused: object = [f"mounts[0].source: {told}", argument] if option == "rw" else str(data)
    for one in (victim, dataclasses.replace(victim, uid=0)):
        assert one.does(code, imports) == [refused, str(data)]
    # The attacker can move a folder of the victim's into one of their own.
    victim.owns(data)
    assert victim.does(code, imports) == [refused, str(data)]
    victim.owns(folder)
    assert victim.does(code, imports) == [str(data)] * 2


CREATE = """
spec = validate.read({config!r})
try:
    result = Bundle.create({path!r}, spec).path
except GvisorError as error:
    result = error.message
"""


@pytest.mark.parametrize("below", ["", "/new"])
def test_no_bundle_lands_through_a_link_of_the_attacker_s(
    victim: User, attacker: User, below: str
) -> None:
    """Its configuration would replace the one that docker has there, for instance."""
    private, link = victim.folder(victim.home / "private"), victim.shared / "link"
    mine = private / "config.json"
    mine.write_text("mine")
    process = {"args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    config = {"ociVersion": "1.0.2", "process": process, "root": {"path": "/rootfs"}}
    code = CREATE.format(config=config, path=f"{link}{below}")
    imports = "from pytest_gvisor import Bundle\nfrom pytest_gvisor.oci import validate"
    attacker.link(link, private)
    told = f'the launch failed at bundle: cannot write "{link}{below}" [ELOOP'
    assert victim.does(code, imports).startswith(told)
    assert mine.read_text() == "mine"
    assert os.listdir(private) == ["config.json"]
    victim.owns(link)
    assert victim.does(code, imports) == f"{link}{below}"
    assert (private / below[1:] / "config.json").read_text().startswith('{"ociVersion"')


REPORT = """
from pytest_gvisor.report import outputs
try:
    result = outputs.check({path!r})
except GvisorError as error:
    result = error.message
"""


@pytest.mark.parametrize("below", ["", "/new"])
def test_no_report_lands_through_a_link_of_the_attacker_s(
    victim: User, attacker: User, below: str
) -> None:
    """The kernel follows none in a folder such as /tmp, and os.path.realpath follows each."""
    private = victim.folder(victim.home / "private")
    link = attacker.link(victim.shared / "out", private)
    code = REPORT.format(path=f"{link}{below}/r.json")
    told = f"{link}{below}/r.json cannot be written: {link} is a link of another user's"
    assert victim.does(code) == told
    assert list(private.iterdir()) == []
    root = dataclasses.replace(victim, uid=0)
    assert root.does(code, NAMESPACE) == told
    for owner in (victim.uid, 0):
        os.lchown(link, owner, owner)
        assert victim.does(code) == f"{private}{below}/r.json"


INIT = """
init.render = lambda *_, **__: "text"
try:
    with contextlib.redirect_stdout(sys.stderr):
        result = init.main(["github", "--output", {path!r}])
except OSError as error:
    result = error.strerror
"""


@pytest.mark.parametrize("below", ["", "/new"])
def test_no_file_for_a_ci_lands_through_a_link_of_the_attacker_s(
    victim: User, attacker: User, below: str
) -> None:
    """The attacker would choose the folder of a file whose name the victim has chosen."""
    private = victim.folder(victim.home / "private")
    link = attacker.link(victim.shared / "out", private)
    code, before = INIT.format(path=f"{link}{below}/x.yml"), "from pytest_gvisor.cli import init"
    assert victim.does(code, before) == f"{link} is a link of another user's"
    assert list(private.iterdir()) == []
    victim.owns(link)
    assert victim.does(code, before) == 0
    assert Path(f"{private}{below}/x.yml").read_text() == "text"


PUT = """
from pytest_gvisor.install import place
from pytest_gvisor.base.errors import InstallFailed
try:
    place.put({folder!r}, lambda _staging: 1 / 0)
except InstallFailed as error:
    result = error.message
"""


@pytest.mark.parametrize("below", ["bin", "more/bin"])
def test_nothing_is_made_in_a_folder_where_no_runsc_is_put(
    victim: User, attacker: User, below: str
) -> None:
    """The attacker could turn a part of the way, and root would make folders anywhere."""
    theirs = attacker.folder(victim.shared / "a", 0o777)
    root = dataclasses.replace(victim, uid=0)
    assert f"in {theirs} would be refused" in root.does(PUT.format(folder=f"{theirs}/{below}"))
    assert list(theirs.iterdir()) == []
    own = victim.folder(victim.home / "own")
    link = attacker.link(victim.shared / "link", own)
    assert "would be refused" in victim.does(PUT.format(folder=f"{link}/{below}"))
    assert list(own.iterdir()) == []
    with pytest.raises(AssertionError):  # of the division
        victim.does(PUT.format(folder=f"{own}/{below}"))
    assert own.joinpath(below).is_dir()
