"""``pytest-gvisor doctor`` under obstacles to sandboxes: it names each with a remedy."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fixtures.dockerd import own_daemon
from pytest_gvisor.runsc import locate
from tests.fakes.fake import FINE, FakeRunsc

CHECKOUT = Path(__file__).parents[2]
REFUSING = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.faults import seccomp
seccomp.NUMBERS["x86_64"].update(ptrace=101, unshare=272)
seccomp.NUMBERS["aarch64"].update(ptrace=117, unshare=97)
for call in sys.argv[2].split(","):
    seccomp.refuse(call, 1)
from pytest_gvisor.cli.main import main
sys.exit(main(["doctor", *sys.argv[3:]]))
"""
RELEASES = {"current": "", "2024": "runsc-2024"}


def words(text: str) -> str:
    """The doctor's lines as one."""
    return " ".join(text.split())


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The doctor's arguments for a runsc of two releases, whose texts differ."""
    name = RELEASES[request.param]
    if not name:
        return []
    path = CHECKOUT / ".build" / name / "usr/bin/runsc"
    if not path.exists():
        pytest.skip(f"no Debian archive with {name}: scripts/older-runsc")
    copy = tmp_path / "runsc"
    shutil.copyfile(path, copy)
    copy.chmod(0o755)
    return ["--runsc", str(copy)]


def doctor_without(*calls: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The doctor where the kernel refuses these calls to it and all that it starts."""
    return subprocess.run(
        [sys.executable, "-c", REFUSING, str(CHECKOUT), ",".join(calls), *options],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_without_ptrace_the_cause_is_what_the_sentry_said(release: list[str]) -> None:
    """runsc's own message is that the sandbox is gone; its log has the reason, in each release."""
    done = doctor_without("ptrace", options=release)
    told = words(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    bad = re.search(r"NO platform \w+ the probe failed: (.*?) (?:-|ok|NO) (?:platform|user) ", told)
    assert bad, told
    assert re.search(r"runsc's log: [^|]*unable to attach: operation not permitted \|", bad[1])
    assert "this process is under a seccomp filter, as in a container" in bad[1]
    assert "a program that forks, runs a thread and reads a file" in bad[1]
    assert "-> Let the container's profile allow ptrace, namespaces and mounts: " in bad[1]
    assert "Tests cannot run here: see NO above." in told


def test_the_platforms_of_the_binary_are_listed_beside_those_that_are_known(tmp_path: Path) -> None:
    """The doctor tries an unknown platform of the binary; a missing one is no problem."""
    fake = FakeRunsc.make(tmp_path / "fake")
    fake.script(
        *FINE, ["write", 1, "4.19.0-gvisor\n"], ["task_exit", 0], ["exit", 0],
        platforms=["systrap", "slimvm"],
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest_gvisor", "doctor", "--runsc", str(fake.path)],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    told = words(done.stdout)
    assert "ok platform systrap works, and is the default" in told
    assert "- platform ptrace not compiled in: this runsc has slimvm, systrap" in told
    assert "ok platform slimvm works" in told
    assert done.returncode == 0


def test_without_user_namespaces_the_switch_is_named(release: list[str]) -> None:
    """The doctor names the switch with every release, although only one release names it itself."""
    if release and os.geteuid() != 0:
        pytest.skip("needs root: another user's namespace shows nobody as the owner of /tmp")
    forbid = "echo 0 > /proc/sys/user/max_user_namespaces"
    done = subprocess.run(
        ["unshare", "--map-root-user", "sh", "-ec", f'{forbid}; exec "$@"', "sh", sys.executable,
         "-m", "pytest_gvisor", "doctor", *release],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=CHECKOUT,
    )  # fmt: skip
    told = words(done.stdout)
    assert (done.returncode, done.stderr) == (1, "")
    bad = re.search(r"NO platform \w+ the probe failed: (.*?) (?:-|ok|NO) (?:platform|user) ", told)
    assert bad, told
    assert "no space left on device" in bad[1]
    assert "/proc/sys/user/max_user_namespaces is 0: no user can make a user namespace" in bad[1]
    assert "-> As root: sysctl user.max_user_namespaces=10000" in bad[1]


def test_without_namespaces_their_want_is_said() -> None:
    """The failed launch names the missing namespaces."""
    done = doctor_without("unshare")
    told = words(done.stdout)
    assert done.stderr == ""
    if os.geteuid() == 0:  # another user's runsc makes its own by clone(2)
        assert done.returncode == 1
        assert "NO platform systrap the launch failed at mount_namespace: " in told
        assert "-> This process may not make namespaces or mounts" in told


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A dockerd of this module's own, with an image that has only folders."""
    runsc = locate.find()
    runsc.close()
    with own_daemon(runsc.path, "systrap") as found:
        yield found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: dockerd")
def test_in_a_container_it_says_the_truth_and_the_remedy_works(
    address: str, tmp_path: Path
) -> None:
    """Under docker's default profile no sandbox can be; started as the doctor says, one can."""
    for name in ("bin", "lib", "lib64"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    for name in ("run", "tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o1777)
    tree = subprocess.run(["tar", "-C", tmp_path, "-c", "."], capture_output=True, check=True)
    docker = ["docker", "--host", address]
    imported = subprocess.run(
        [*docker, "import", "-", "doctor:test"], input=tree.stdout, capture_output=True, timeout=60
    )
    assert imported.returncode == 0, imported.stderr
    shown = {"/usr", "/etc", sys.prefix, sys.base_prefix, str(CHECKOUT)}
    run = [*docker, "run", "--rm", "--network", "none"]
    run += [f"--volume={path}:{path}:ro" for path in sorted(shown)]

    def doctor(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*run, *options, "doctor:test", sys.executable, "-m", "pytest_gvisor", "doctor"],
            capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    done = doctor()
    told = words(done.stdout)
    assert done.returncode == 1, done.stderr
    assert "NO platform systrap the launch failed at mount_namespace: " in told
    assert "platform kvm no device: there is no /dev/kvm" in told
    if os.path.exists("/dev/kvm"):
        told = words(doctor("--volume=/dev/kvm:/dev/kvm").stdout)
        assert "not given to this container: /dev/kvm is there" in told
        assert "`--device /dev/kvm`" in told
    remedy = ("--security-opt", "seccomp=unconfined")
    assert f"`docker run {' '.join(remedy)}`" in told
    assert "`pytest-gvisor vm -- pytest …`" in told
    for more in ((), ("--cap-add", "SYS_ADMIN"), ("--user", "1000:1000")):
        done = doctor(*remedy, *more, "--security-opt=apparmor=unconfined")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok platform systrap works" in words(done.stdout)
