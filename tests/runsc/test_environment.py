"""Runsc's process as the host's /proc shows it, and the environment that the workload finds."""

import contextlib
import hashlib
import os
import re
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor import Gvisor, Platform, Runsc, directory, is_gvisor_kernel
from pytest_gvisor.programs.child import HIGH_FD
from pytest_gvisor.programs.proc import children_of, words_of
from pytest_gvisor.sessions.launcher import Launcher
from tests.mounts import masked
from tests.runsc.conftest import Running, Start, status_of, wait_for

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def newly(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[], Start]]:
    """Gives a ``running`` whose keeper is started when it is first used, as the test is then."""
    with contextlib.ExitStack() as stack:

        def make() -> Start:
            launcher = Launcher()
            stack.callback(launcher.close)
            monkeypatch.setattr(gvisor, "_launcher", launcher)
            started: Start = request.getfixturevalue("running")
            return started

        yield make


def variables_of(pid: int) -> list[str]:
    """The environment of a process, NAME=VALUE each."""
    return Path(f"/proc/{pid}/environ").read_text().removesuffix("\0").split("\0")


def expected_environment(run: Running, runsc: Runsc) -> list[str]:
    sidecars = f"GVISOR_SIDECAR_BINARIES_DIR={runsc.sidecars.folder}"
    return [
        f"PATH={PATH}", f"TMPDIR={run.root}", f"XDG_RUNTIME_DIR={run.root}", "HOME=/root",
        "USER=root", "LOGNAME=root", *([sidecars] if runsc.uses_sidecars else []),
    ]  # fmt: skip


@pytest.mark.parametrize("network", ["none", "host"])
def test_the_argv_of_runsc_is_this(
    running: Start, gvisor: Gvisor, gvisor_platform: Platform, network: str
) -> None:
    """The command line of the running runsc is exactly the documented one."""
    run = running(network=network)
    folder = run.root.removesuffix("/root")
    name = os.path.basename(folder)
    mounts_by_default = "gofer-network-namespace" in gvisor.runsc.flags
    enforces = gvisor.runsc.enforces_release
    # fmt: off
    expected = [
        "runsc",
        "--root", f"{folder}/root",
        "--ignore-cgroups",
        "--network", network,
        "--platform", gvisor_platform,
        "--overlay2", "root:memory",
        "--log", f"{folder}/log",
        "--panic-log", f"{folder}/panic",
        "--pod-init-config", f"{folder}/pod-init.json",
        *(["--sidecar-release-enforcement-policy=ALWAYS"] if enforces else []),
        *(["--gofer-network-namespace=new"] if mounts_by_default else []),
        "run", "--bundle", f"{folder}/bundle", name,
    ]
    # fmt: on
    assert words_of(run.runsc) == expected
    assert gvisor.records[-1].argv == (gvisor.runsc.path, *expected[1:])
    assert digest(run.runsc) == gvisor.runsc.sha256
    run.end()


def test_the_environment_of_runsc_is_this(newly: Callable[[], Start], gvisor: Gvisor) -> None:
    """The running runsc has these variables, and its folders are there, private, and its own.

    A release that looks for sidecars is told the checked folder.
    """
    run = newly()()
    assert variables_of(run.runsc) == expected_environment(run, gvisor.runsc)
    for folder in (os.path.dirname(run.root), run.root):
        found = os.lstat(folder)
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
        assert stat.S_ISDIR(found.st_mode)
    run.end()


@pytest.mark.fault("D5")
def test_the_environment_of_pytest_does_not_reach_runsc(
    newly: Callable[[], Start], gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the keeper nor runsc gets a variable of the process that started them."""
    hostile = {
        "LD_PRELOAD": "/nowhere/evil.so", "LD_LIBRARY_PATH": "/nowhere",
        "GODEBUG": "madvdontneed=1", "LANG": "xx_XX",
        "GOTRACEBACK": "crash", "RUNSC_PATH": "/nowhere/runsc", "HOME": "/nowhere",
        "PATH": "/nowhere:.", "PYTHONSTARTUP": "/nowhere", "PYTHONPATH": "/nowhere",
        "SECRET_TOKEN": "do-not-tell", "USER": "mallory", "LOGNAME": "mallory",
        "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": "/nowhere",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    run = newly()("env > /shared/env")
    assert variables_of(run.runsc) == expected_environment(run, gvisor.runsc)
    keeper = variables_of(run.keeper)
    inside = run.path("env").read_text().splitlines()
    run.end()
    for name, value in hostile.items():
        assert f"{name}={value}" not in keeper
        assert f"{name}={value}" not in inside


@pytest.mark.fault("D4")
def test_working_folder_umask_and_session_are_fixed(
    newly: Callable[[], Start], tmp_path: Path
) -> None:
    """runsc runs in /, with umask 022, in a session of its own, wherever pytest was started."""
    with contextlib.chdir(tmp_path), masked(0o077):
        run = newly()()
    assert os.readlink(f"/proc/{run.runsc}/cwd") == "/"
    assert status_of(run.runsc)["Umask"] == "0022"
    assert os.getsid(run.runsc) == run.runsc
    run.end()


@pytest.fixture
def held() -> Iterator[list[os.stat_result]]:
    """500 descriptors that a child would inherit, a secret pipe and the host's / among them."""
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        os.write(writer, b"secret")
        opened = [reader, writer, os.open("/", os.O_RDONLY | os.O_DIRECTORY)]
        opened.append(os.open("/etc/passwd", os.O_RDONLY))
        while len(opened) < 500:
            opened.append(os.memfd_create("held"))
        for fd in opened:
            os.set_inheritable(fd, True)
            stack.callback(os.close, fd)
        yield [os.fstat(fd) for fd in opened]


def _open_files(pid: int) -> dict[int, os.stat_result]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.stat(f"/proc/{pid}/fd/{name}")
    return found


def _paths(pid: int) -> set[str]:
    """The paths of what a process has open beside its standard streams."""
    names = set()
    for fd in _open_files(pid).keys() - {0, 1, 2}:
        with contextlib.suppress(FileNotFoundError):  # closed since
            names.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    # Go's runtime, from 1.25 on, keeps the files of its own cgroup's CPU limit open, read-only.
    quota = r"/sys/fs/cgroup/.*cpu\.(cfs_quota_us|cfs_period_us|max)"
    return {name for name in names if name.startswith("/") and not re.fullmatch(quota, name)}


@pytest.mark.fault("D1")
def test_no_descriptor_of_pytest_reaches_runsc(
    held: list[os.stat_result], newly: Callable[[], Start]
) -> None:
    """Runsc gets three pipes and its own executable, and the keeper next to nothing."""
    run = newly()()
    files = _open_files(run.runsc)
    for fd in (0, 1, 2):
        assert stat.S_ISFIFO(files[fd].st_mode)
    assert len({(files[fd].st_ino, files[fd].st_dev) for fd in (0, 1, 2)}) == 3
    secrets = {(found.st_dev, found.st_ino) for found in held}
    for pid in (run.runsc, run.keeper):
        assert [fd for fd, file in _open_files(pid).items() if _id(file) in secrets] == []
    # Beside these, runsc keeps its log, and things that have no name. While it starts the sandbox,
    # it opens its state, and closes it again.
    log = f"{os.path.dirname(run.root)}/log"
    own = {log, os.readlink(f"/proc/{run.runsc}/exe")}
    wait_for(lambda: _paths(run.runsc) <= own, "runsc to keep nothing but its log and its program")
    program = os.stat(f"/proc/{run.runsc}/exe")
    assert _id(files[HIGH_FD]) == _id(program)
    flags = Path(f"/proc/{run.runsc}/fdinfo/{HIGH_FD}").read_text().split("flags:")[1].split()[0]
    assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY
    run.end()


def digest(pid: int) -> str:
    """The SHA-256 of the program that a process executes."""
    with open(f"/proc/{pid}/exe", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _id(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


@pytest.mark.fault("D1")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the sentry's descriptors are root's")
def test_no_descriptor_of_pytest_reaches_the_sandbox(
    held: list[os.stat_result], newly: Callable[[], Start]
) -> None:
    """The secret pipe and the files of pytest are not among the sentry's or the gofer's either."""
    run = newly()()
    # The gofer and the sentry open the root file systems of their own namespaces, so not "/".
    secrets = {_id(found) for found in held if not stat.S_ISDIR(found.st_mode)}
    for name in ("boot", "gofer"):
        files = _open_files(run.child(name))
        assert files
        assert [fd for fd, file in files.items() if _id(file) in secrets] == []
    run.end()


@pytest.mark.fault("D6")
def test_every_process_has_no_new_privileges(running: Start) -> None:
    """runsc, gofer and sentry can gain no privilege; the sentry filters its own system calls."""
    run = running()
    pids = {"runsc": run.runsc, "gofer": run.child("gofer"), "sentry": run.child("boot")}
    found = {name: status_of(pid) for name, pid in pids.items()}
    assert {name: status["NoNewPrivs"] for name, status in found.items()} == {
        "runsc": "1",
        "gofer": "1",
        "sentry": "1",
    }
    assert (found["sentry"]["Seccomp"], found["gofer"]["Seccomp"]) == ("2", "2")
    below = [pid for child in children_of(run.runsc) for pid in (child, *children_of(child))]
    others = set()
    for pid in below:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            others.add(status_of(pid)["NoNewPrivs"])
    assert others == {"1"}
    run.end()


WHO_AM_I = """
#include <stdio.h>
#include <unistd.h>
int main(void) { printf("%d %d\\n", getuid(), geteuid()); return 0; }
"""


@pytest.mark.fault("D6")
def test_a_set_uid_program_of_roots_gains_nothing(
    gvisor: Gvisor, compile_c: Callable[[str], Path], busybox_root: Path
) -> None:
    """The effective user stays the caller's, although the program is root's and has the bit."""
    helper = busybox_root / "bin/helper"
    shutil.copy(compile_c(WHO_AM_I), helper)
    helper.chmod(0o4755)
    script = "busybox stat -c '%a %u' /bin/helper; helper"
    done = gvisor.run(["/bin/sh", "-c", script], user=1000, rootfs=directory(busybox_root))
    assert done.stdout == "4755 0\n1000 1000\n"


def test_the_workload_is_under_gvisors_kernel(gvisor: Gvisor) -> None:
    """uname, /proc/version and the kernel's log are gVisor's, not the host's."""
    script = "uname -sr; cat /proc/version; dmesg | head -n 1"
    system, version, log = gvisor.run(["sh", "-c", script]).stdout.splitlines()
    name, release = system.split()
    assert (name, is_gvisor_kernel(release)) == ("Linux", True)
    assert version.startswith(f"Linux version {release} ")
    assert "Starting gVisor" in log
    assert os.uname().release not in system + version


def environment_inside(gvisor: Gvisor, **options: Any) -> dict[str, str]:
    """The workload's environment, as its kernel has it."""
    data = gvisor.run(["cat", "/proc/self/environ"], **options).stdout_bytes
    pairs = [os.fsdecode(word).partition("=") for word in data.rstrip(b"\0").split(b"\0")]
    return {name: value for name, _, value in pairs}


def test_the_workloads_environment_is_fixed(
    gvisor: Gvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three variables, and none of pytest's; PATH has the running Python's programs in front."""
    monkeypatch.setenv("SECRET_TOKEN", "do-not-tell")
    found = environment_inside(gvisor)
    assert found.keys() == {"PATH", "HOME", "LANG"}
    assert (found["HOME"], found["LANG"]) == ("/root", "C.UTF-8")
    assert found["PATH"].endswith(PATH)
    in_front = [folder for folder in found["PATH"].removesuffix(PATH).split(":") if folder]
    assert set(in_front) <= {f"{prefix}/bin" for prefix in (sys.prefix, sys.base_prefix)}


def test_variables_arrive_as_they_were_given(gvisor: Gvisor) -> None:
    """Commas, equals signs, newlines, empty and any other text arrive unchanged."""
    given = {
        "COMMAS": "a,b,,c",
        "EQUALS": "a=b=c",
        "LINES": "one\ntwo\n",
        "EMPTY": "",
        "SPACES": "  a  b ",
        "TEXT": "ä € 🐍",
        "QUOTES": "'\"\\$HOME`true`",
        "lower.dotted-name": "x",
        "HOME": "/elsewhere",
    }
    found = environment_inside(gvisor, env=given)
    assert {name: found[name] for name in given} == given
    assert found.keys() == {*given, "PATH", "LANG"}


WHO = 'echo "$(id -u) $(id -g) $(id -G) $HOME"'


@pytest.mark.parametrize(
    ("user", "seen"),
    [
        (0, "0 0 0 /root"),
        ("root", "0 0 0 /root"),
        (1000, "1000 0 0 /tmp"),
        ("1000:1001", "1000 1001 1001 /tmp"),
        ((65534, 65533), "65534 65533 65533 /tmp"),
    ],
    ids=["number", "root", "other", "text", "pair"],
)
def test_the_user_inside_is_the_one_asked_for(gvisor: Gvisor, user: Any, seen: str) -> None:
    """The uid and gid inside are the requested ones, for any user of pytest."""
    assert gvisor.run(["sh", "-c", WHO], user=user).stdout == f"{seen}\n"


def test_a_workload_is_root_in_its_sandbox_unless_asked(gvisor: Gvisor) -> None:
    """A workload without settings is uid 0 in /, on a host named gvisor, as the first process."""
    done = gvisor.run(["sh", "-c", 'echo "$(id -u) $(pwd) $(hostname) $$"'])
    assert done.stdout == "0 / gvisor 1\n"


def test_working_folder_and_host_name_are_those_asked_for(gvisor: Gvisor) -> None:
    """cwd and hostname are taken."""
    done = gvisor.run(["sh", "-c", 'echo "$(pwd) $(hostname)"'], cwd="/usr/bin", hostname="a-b.c")
    assert done.stdout == "/usr/bin a-b.c\n"


def test_the_workload_has_three_descriptors_and_no_children(gvisor: Gvisor) -> None:
    """A workload starts with its three streams open, alone in its process namespace."""
    code = (
        "import os\n"
        "print([os.path.exists(f'/proc/self/fd/{n}') for n in range(5)])\n"
        "print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))"
    )
    done = gvisor.run(["python3", "-S", "-c", code])
    assert done.stdout == "[True, True, True, False, False]\n[1]\n"


def test_limits_and_capabilities_of_the_workload(gvisor: Gvisor) -> None:
    """A workload has no core files, the host's open files, docker's capabilities without NET_RAW.

    That one is asked for too; runsc takes it away unless it is started with --net-raw.
    """
    done = gvisor.run(["sh", "-c", "ulimit -c; ulimit -n; grep CapEff /proc/self/status"])
    core, files, capabilities = done.stdout.split("\n")[:3]
    assert (core, files) == ("0", str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    assert int(capabilities.split()[1], 16) == 0xA80425FB & ~(1 << 13)


def test_a_user_in_numbers_has_entries_in_passwd_and_group(gvisor: Gvisor) -> None:
    """Programs that look up who they are find a user, a group and the home of the environment."""
    script = (
        "import os, pwd, grp; print(pwd.getpwuid(os.getuid()).pw_dir == os.environ['HOME'], "
        "grp.getgrgid(os.getgid()).gr_name)"
    )
    command = ["sh", "-c", f'whoami; id -Gn; python3 -c "{script}"']
    assert gvisor.run(command, user="1000:1001").stdout == "user\nuser\nTrue user\n"
