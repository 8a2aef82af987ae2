"""The user of tests inside: the caller, root or a given one."""

import os

import pytest

from tests.inside.conftest import inside

needs_user = pytest.mark.skipif(
    os.geteuid() == 0, reason="needs an unprivileged user: root's tests are root inside"
)

FACTS = """
import getpass, grp, os, pwd, subprocess, sys
from pathlib import Path

def facts():
    return (os.getresuid(), os.getresgid(), sorted(os.getgroups()))

def test_facts():
    assert facts() == {facts!r}
    assert pwd.getpwuid(os.getuid()).pw_uid == os.getuid()
    assert grp.getgrgid(os.getgid()).gr_gid == os.getgid()
    assert all(grp.getgrgid(gid) for gid in os.getgroups())

def test_names():
    name = pwd.getpwuid(os.getuid()).pw_name
    assert getpass.getuser() == name
    assert subprocess.run(["whoami"], capture_output=True, text=True).stdout == name + "\\n"
    subprocess.run(["id", "-Gn"], check=True, capture_output=True)

def test_home():
    assert str(Path.home()) == pwd.getpwuid(os.getuid()).pw_dir == os.environ["HOME"]
    Path.home().joinpath("canary").write_text("mine")

def test_processes_have_it_too():
    code = "import os; print((os.getresuid(), os.getresgid(), sorted(os.getgroups())))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(done.stdout) == facts()

def test_nothing_is_seen_of_the_way_there():
    assert not [word for word in (*sys.argv, *os.environ.values()) if "nested" in word]
"""


def test_it_is_the_caller(project: pytest.Pytester) -> None:
    """Ids and groups are the caller's, with entries in passwd and group, and a home."""
    facts = os.getresuid(), os.getresgid(), sorted(os.getgroups())
    project.makepyfile(FACTS.replace("{facts!r}", repr(facts)))
    assert inside(project).parseoutcomes() == {"passed": 5}


ORDINARY = """
import glob, os, subprocess, sys
from pathlib import Path
import pytest

HERE = Path(__file__).parent
ROOTS = ["/etc/passwd", "/etc/new", "/new", "/usr/new", "/dev/new", "/home/new"]

def test_it_writes_the_project_and_what_is_its_own(tmp_path):
    for folder in (HERE, tmp_path, Path.home(), Path("/tmp"), Path("/dev/shm")):
        file = folder / "canary"
        file.write_text("mine")
        assert (file.stat().st_uid, file.stat().st_gid) == (os.getuid(), os.getgid())
    with open(__file__, "a") as file:
        file.write("# changed")
    os.chmod(__file__, 0o600)
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(HERE)], check=True)
    assert list(HERE.glob("__pycache__/*.pyc"))

@pytest.mark.parametrize("path", ROOTS)
def test_it_is_refused_what_is_roots(path):
    assert not os.access(path, os.W_OK)
    with pytest.raises(PermissionError):
        open(path, "a")

def test_it_cannot_read_a_closed_file_of_roots():
    status = os.stat("/etc/shadow")
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)
    assert not os.access("/etc/shadow", os.R_OK)
    with pytest.raises(PermissionError):
        open("/etc/shadow")

def test_it_cannot_give_files_away_or_take_an_id():
    file = HERE / "given"
    file.write_text("")
    for call in (
        lambda: os.chown(file, 0, 0), lambda: os.setuid(0), lambda: os.setgid(0),
        lambda: os.setgroups([]), lambda: os.kill(1, 0), lambda: open("/proc/1/mem", "rb"),
        lambda: os.chroot("/"), lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 3)),
    ):
        with pytest.raises(PermissionError):
            call()

def test_it_has_no_capabilities():
    lines = [line.split() for line in open("/proc/self/status") if line.startswith("Cap")]
    assert {int(bits, 16) for _, bits in lines} == {0}
    assert {os.stat(path).st_uid for path in ("/", "/usr", "/etc", "/etc/passwd", "/tmp")} == {0}

def test_a_database_that_refuses_root_starts(tmp_path):
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    code = "import os, sys; os.makedirs(sys.argv[2]); sys.exit(os.geteuid() == 0)"
    program = found[-1:] or [sys.executable, "-c", code]
    subprocess.run([*program, "-D", str(tmp_path / "data")], check=True, capture_output=True)
"""


@needs_user
def test_an_ordinary_user_is_one_inside(project: pytest.Pytester) -> None:
    """The project is writable, root's files are refused, and there are no capabilities."""
    project.makepyfile(ORDINARY)
    result = inside(project, "--gvisor-platform", "systrap,ptrace")
    assert result.parseoutcomes() == {"passed": 22}


def test_a_test_names_its_user_and_has_a_sandbox_of_its_own(project: pytest.Pytester) -> None:
    """Tests of one user share a sandbox; others see none of it, and root is as it was before."""
    project.makepyfile(
        """
        import os, pytest
        from pathlib import Path

        @pytest.mark.in_gvisor(user="1234:4321")
        class TestGiven:
            def test_ids(self):
                assert (os.getresuid(), os.getresgid()) == ((1234,) * 3, (4321,) * 3)
                assert os.getgroups() == [4321]
                assert str(Path.home()) == "/home/user"
                Path.home().joinpath("canary").write_text("mine")
                with pytest.raises(PermissionError):
                    open("/etc/shadow")

            def test_it_is_still_there(self):
                assert Path("/home/user/canary").read_text() == "mine"

        @pytest.mark.in_gvisor(user="root")
        def test_root():
            assert not os.path.exists("/home/user/canary")
            assert os.getuid() == os.getgid() == 0
            (line,) = [l for l in open('/proc/self/status') if l.startswith('CapEff:')]
            assert int(line.split()[1], 16) == 0xA80425FB & ~(1 << 13)
            Path("/etc/new").write_text("")

        @pytest.mark.in_gvisor
        def test_of_the_run():
            assert os.getuid() == 77
        """
    )
    project.path.chmod(0o755)  # root's is closed to the others, as on the host
    assert inside(project, "--gvisor-user", "77").parseoutcomes() == {"passed": 4}
