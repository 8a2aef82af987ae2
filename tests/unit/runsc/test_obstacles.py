"""The obstacles to a sandbox on a machine, from a /proc that is made here."""

import datetime as dt
import errno
import os
import subprocess
from pathlib import Path

import pytest

from pytest_gvisor.base.settings import Platform
from pytest_gvisor.runsc import causes, platforms

ROOT = "22 1 0:21 / / rw - ext4 /dev/root rw\n"
PROC = "30 22 0:26 / /proc rw - proc proc rw\n"

# As the releases of 2022 and 2026 say it, of 2024, and of any in a chroot.
FORKING = "cannot create gofer process: gofer: fork/exec /proc/self/exe: "
NO_SPACE = (
    FORKING + "no space left on device",
    FORKING + "no space left on device: check whether /proc/sys/user/max_user_namespaces is set "
    "too low (gvisor.dev/issue/5964)",
)
NOT_PERMITTED = FORKING + "operation not permitted"
NO_PTRACE = tuple(
    f"{way}unable to attach: operation not permitted"
    for way in (
        "creating loader: creating platform: initialize systrap: ",
        "unable to initialize systrap source: ",
        "",
    )
)


def proc(
    folder: Path,
    *,
    scope: str = "1",
    seccomp: str = "0",
    namespaces: str = "1000",
    mounts: str = ROOT + PROC,
) -> str:
    """A /proc with these values in it."""
    for name, text in {
        "sys/kernel/yama/ptrace_scope": f"{scope}\n",
        "sys/user/max_user_namespaces": f"{namespaces}\n",
        "self/status": f"Name:\tx\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\n",
        "self/mountinfo": mounts,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def starts(found: list[causes.Obstacle]) -> list[str]:
    """The beginning of each fact."""
    return [fact.split(",")[0].split(":")[0] for fact, _fix in found]


YAMA, SECCOMP = "kernel.yama.ptrace_scope is 3", "this process is under a seccomp filter"
CHROOT, LIMIT = "this process is in a chroot", "/proc/sys/user/max_user_namespaces is 0"


def test_yama_and_seccomp_are_the_obstacles_to_tracing(tmp_path: Path) -> None:
    """Each obstacle has a fact and a remedy; a machine without any has none."""
    both = causes.tracing(proc(tmp_path / "a", scope="3", seccomp="2"))
    assert starts(both) == [YAMA, SECCOMP]
    assert "--security-opt seccomp=unconfined" in both[1][1]
    assert "`pytest-gvisor vm -- pytest …`" in both[1][1]
    assert causes.tracing(proc(tmp_path / "b")) == []
    assert causes.tracing(str(tmp_path / "none")) == []


@pytest.mark.parametrize("message", NO_SPACE)
def test_a_limit_on_user_namespaces_is_named_in_every_release(tmp_path: Path, message: str) -> None:
    """Found by the errno, and read from the kernel; one of the releases names it itself."""
    assert starts(causes.of_message(message, proc(tmp_path / "a", namespaces="0"))) == [LIMIT]
    assert causes.of_message(message, proc(tmp_path / "b")) == []


@pytest.mark.parametrize("message", NO_PTRACE)
def test_what_forbids_ptrace_is_named_in_every_release(tmp_path: Path, message: str) -> None:
    """A limit on namespaces is not named as the cause."""
    where = proc(tmp_path, scope="3", namespaces="0")
    assert starts(causes.of_message(message, where)) == [YAMA]


def test_a_root_that_is_no_mount_point_is_a_chroot(tmp_path: Path) -> None:
    """The message of a fork, and the errno of a mount or an unshare, both name the chroot."""
    where = proc(tmp_path / "a", mounts=PROC, seccomp="2")
    assert starts(causes.of_message(NOT_PERMITTED, where)) == [CHROOT]
    for number in (errno.EPERM, errno.EINVAL):
        assert starts(causes.of_errno(number, where)) == [CHROOT]
    (_fact, fix) = causes.chroot(where)[0]
    assert "outside of the chroot" in fix
    assert "`pytest-gvisor vm -- pytest …`" in fix
    whole = proc(tmp_path / "b", seccomp="2")
    assert starts(causes.of_message(NOT_PERMITTED, whole)) == [SECCOMP]
    assert causes.of_errno(errno.EINVAL, whole) == []


def test_another_root_in_the_same_mount_namespace_is_a_chroot(tmp_path: Path) -> None:
    """A chroot's root may be a mount point, as in builds; another namespace is a container."""
    where = Path(proc(tmp_path / "proc"))
    roots = [tmp_path / "host", tmp_path / "other"]
    for number, root in zip((1, "self"), roots, strict=True):
        root.mkdir()
        (where / str(number) / "ns").mkdir(parents=True, exist_ok=True)
        (where / str(number) / "root").symlink_to(root)
        (where / str(number) / "ns/mnt").symlink_to("mnt:[1]")
    assert starts(causes.chroot(str(where))) == [CHROOT]
    (where / "1/ns/mnt").unlink()
    (where / "1/ns/mnt").symlink_to("mnt:[2]")
    assert causes.chroot(str(where)) == []


def test_this_process_is_in_no_chroot() -> None:
    """The machine that runs the tests, in a container or not."""
    assert os.path.exists("/proc/self/mountinfo")
    assert causes.chroot() == []


JULY = dt.date(2024, 7, 29)


@pytest.mark.parametrize(
    ("go", "doubtful"),
    [("1.24.4", False), ("1.19.8", False), ("1.25", True), ("1.26.2", True), ("", False)],
)
def test_an_old_release_of_a_young_go_is_doubtful(go: str, doubtful: bool) -> None:
    """Go 1.24 is the last that it was made for; a version that is not known says nothing."""
    assert platforms.is_doubtful(JULY, lambda: go) is doubtful


@pytest.mark.parametrize("date", [None, dt.date(2026, 9, 5)])
def test_a_young_release_is_not_looked_into(date: dt.date | None) -> None:
    """A release without a date is not read either."""

    def go() -> str:
        pytest.fail("the binary was read")

    assert not platforms.is_doubtful(date, go)


def test_the_program_prints_the_kernels_release() -> None:
    """On the host the release is the host's, with nothing on standard error."""
    done = subprocess.run(platforms.PYTHON, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (f"{os.uname().release}\n", "")


def test_a_quota_that_is_used_up_has_its_own_remedy() -> None:
    """A platform has nothing to do with it: no advice on ptrace(2) follows."""
    said = "running container: open /run/user/1000/pytest-gvisor/panic: disk quota exceeded"
    facts, remedy = causes.explain(Platform.SYSTRAP, causes.Cause.PROBE_FAILED, said)
    assert (facts, remedy.partition(":")[0]) == ("", "A disk quota is used up")
