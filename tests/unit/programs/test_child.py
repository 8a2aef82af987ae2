"""The child's steps up to runsc, and the error of each failing step."""

import errno
import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor.programs.child import HIGH_FD
from pytest_gvisor.programs.proc import status_of
from tests.faults import seccomp

Alone = Callable[..., Any]

BECOME = """
def become(
    *argv, executable=sys.executable, parent=None, before=lambda: None, cgroups=(), **fields
):
    "Fork, become a program, and give the report, the wait status and what was printed."
    reader, writer = os.pipe()
    out, out_writer = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    fd = executable if isinstance(executable, int) else os.open(executable, os.O_RDONLY)
    asked = order.Order(
        id="", argv=argv, term=(), env={"A": "b"}, folder="", root="", **fields
    )
    fds = [fd, null, out_writer, null, *cgroups]
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        before()
        child.become(asked, fds, parent=parent or me, error_pipe=writer)
    os.close(writer)
    os.close(out_writer)
    report = os.read(reader, 4096).decode()
    printed = b""
    while data := os.read(out, 65536):
        printed += data
    return report, os.waitpid(pid, 0)[1], printed.decode()

def python(code):
    return [sys.executable, "-I", "-S", "-c", code]
"""

LOOK = """
import json, os, signal
status = {line.partition(":")[0]: line.split()[-1] for line in open("/proc/self/status")}
print(json.dumps({
    "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
    "env": open("/proc/self/environ").read(),  # os.environ has what Python adds
    "umask": os.umask(0),
    "cwd": os.getcwd(),
    "session": os.getsid(0) == os.getpid(),
    "blocked": int(status["SigBlk"], 16),
    # But PIPE and XFSZ, which are Python's own, and the C library's two, which a shell may ignore.
    "ignored": int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 3 << 31),
    "new_privs": status["NoNewPrivs"],
}))
"""

ROOM = """
import subprocess, sys
code = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('FDSize')])"
print(subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True).stdout.decode())
"""


REFUSE = """
def refuse(call, number):
    sys.path.insert(0, seccomp_folder)
    import ctypes, platform, seccomp
    seccomp.refuse(call, number)
    libc = ctypes.CDLL(None, use_errno=True)
    nothing = ctypes.c_uint(1 << 30)  # a descriptor that is not open
    assert libc.syscall(seccomp.NUMBERS[platform.machine()][call], nothing, nothing, 0) == -1
    assert ctypes.get_errno() == number
"""


@pytest.mark.fault("D1", "D4", "D5", "D7")
@pytest.mark.parametrize("refused", [0, errno.ENOSYS, errno.EPERM], ids=["", "ENOSYS", "EPERM"])
def test_the_child_is_clean_whatever_its_parent_is_like(alone: Alone, refused: int) -> None:
    """Descriptors, environment, umask, folder, signals and session are the child's own.

    So too where close_range(2) is unknown to the kernel, or forbidden by a seccomp filter.
    """
    report, status, printed = alone(
        """
        def hostile():
            if refused:
                refuse("close_range", refused)
            for fd in [*(os.dup(0) for _ in range(500)), os.open("/", os.O_RDONLY)]:
                os.set_inheritable(fd, True)
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir(os.getcwd())
            os.umask(0o777)
            os.environ["LD_PRELOAD"] = "/nowhere.so"
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)

        result = become(*python(look), before=hostile)
        """,
        before=BECOME + REFUSE,
        look=LOOK,
        refused=refused,
        seccomp_folder=os.path.dirname(seccomp.__file__),
    )
    assert (report, status) == ("", 0)
    found = json.loads(printed)
    assert found.pop("fds") == [0, 1, 2, 3, HIGH_FD]  # 3 is that of the look itself
    assert found == {
        "env": "A=b\0",
        "umask": 0o022,
        "cwd": "/",
        "session": True,
        "blocked": 0,
        "ignored": 0,
        "new_privs": "1",
    }


@pytest.mark.parametrize("limit", [4096, HIGH_FD])
def test_a_process_of_runsc_s_has_room_for_descriptors(alone: Alone, limit: int) -> None:
    """The process waits for no RCU grace period when it takes 256. A low limit is no obstacle."""
    report, status, printed = alone(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        result = become(*python(room))
        """,
        before=BECOME,
        room=ROOM,
        limit=limit,
    )
    assert (report, status) == ("", 0)
    assert (int(json.loads(printed.replace("'", ""))[0]) > 256) == (limit > HIGH_FD)


REGISTER = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 324, "aarch64": 283}[os.uname().machine]
def call(command):
    return ctypes.get_errno() if libc.syscall(number, command, 0, 0) < 0 else 0
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
# MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, and the command itself
print(call(1 << 4), call(1 << 3), call(0), int(status["Seccomp_filters"]))
"""


@pytest.mark.parametrize("skip", [True, False])
def test_the_registration_for_membarrier_is_answered_and_not_made(alone: Alone, skip: bool) -> None:
    """With the filter a registration succeeds, and the kernel refuses what it would allow."""
    report, status, printed = alone(
        """
        result = become(*python(register), skip_membarrier=skip)
        """,
        before=BECOME,
        register=REGISTER,
        skip=skip,
    )
    assert (report, status) == ("", 0)
    registered, used, query, filters = map(int, printed.split())
    here = int(status_of()["Seccomp_filters"])
    assert (registered, query, filters - here) == (0, 0, int(skip))
    assert used == (errno.EPERM if skip else 0)


@pytest.mark.fault("D7")
@pytest.mark.parametrize(
    ("broken", "stage", "number"),
    [
        ("os.setsid", "session", errno.EPERM),
        ("linux.set_parent_death_signal", "session", errno.EINVAL),
        ("os.dup2", "descriptors", errno.EMFILE),
        ("linux.reset_signals", "session", errno.EINVAL),
        ("os.chdir", "session", errno.EACCES),
        ("linux.set_no_new_privs", "no_new_privs", errno.EPERM),
        ("proc.status_of", "verify", errno.ENOENT),
        ("linux.set_seccomp_filter", "seccomp", errno.EINVAL),
        ("os.execve", "execve", errno.ENOEXEC),
    ],
)
def test_each_failing_step_is_told_with_its_errno(
    alone: Alone, broken: str, stage: str, number: int
) -> None:
    """The error pipe says the stage, the errno and the text; nothing is executed."""
    report, status, printed = alone(
        """
        owner, name = broken.split(".")

        def fail(*_, **__):
            raise OSError(number, "it is broken")

        def breaking():
            setattr(globals()[owner], name, fail)

        result = become(*python("print(1)"), before=breaking, skip_membarrier=True)
        """,
        before=BECOME,
        broken=broken,
        number=number,
    )
    assert report == f"{stage} {number} it is broken"
    assert (os.waitstatus_to_exitcode(status), printed) == (127, "")


@pytest.mark.fault("D6")
@pytest.mark.parametrize(
    ("says", "detail"),
    [
        ({"Threads": "2", "NoNewPrivs": "1"}, "the launching process has 2 threads, not 1"),
        ({"Threads": "1", "NoNewPrivs": "0"}, "NoNewPrivs reads '0', not 1"),
        ({"Threads": "1", "NoNewPrivs": ""}, "NoNewPrivs reads '', not 1"),
    ],
)
def test_without_the_kernel_s_word_there_is_no_way_through(
    alone: Alone, says: dict[str, str], detail: str
) -> None:
    """The child goes on only if /proc confirms one thread and no-new-privs."""
    report, status, printed = alone(
        """
        def lying():
            proc.status_of = lambda: says

        result = become(*python("print(1)"), before=lying)
        """,
        before=BECOME,
        says=says,
    )
    assert report == f"verify 0 {detail}"
    assert (os.waitstatus_to_exitcode(status), printed) == (127, "")


def test_a_child_whose_keeper_is_gone_does_not_go_on(alone: Alone) -> None:
    """The parent-death signal of a parent that ended before it was asked for never comes."""
    report, status, _ = alone('result = become("x", parent=1)', before=BECOME)
    assert report == "session 0 the keeper is gone"
    assert os.waitstatus_to_exitcode(status) == 127


@pytest.mark.parametrize("argv", [[1], ["a\0b"]])
def test_an_argv_that_no_program_can_have_is_told(alone: Alone, argv: list[object]) -> None:
    """An error of Python's own ends the child like any other."""
    report, status, _ = alone("result = become(*argv)", before=BECOME, argv=argv)
    assert report.startswith("execve 0 ")
    assert os.waitstatus_to_exitcode(status) == 127


def test_a_cgroup_that_cannot_be_joined_is_told(alone: Alone) -> None:
    """A limit that does not hold is no limit: the child does not go on without it."""
    report, status, _ = alone(
        """
        read_only = os.open("/proc/self/status", os.O_RDONLY)
        result = become("x", cgroups=(read_only,))
        """,
        before=BECOME,
    )
    assert report == f"cgroup {errno.EBADF} {os.strerror(errno.EBADF)}"
    assert os.waitstatus_to_exitcode(status) == 127


def test_the_parent_death_signal_is_kept_in_a_user_namespace(alone: Alone) -> None:
    """The signal stays in commit_creds(), as the owner has all capabilities in the namespace."""
    assert (
        alone("""
        import ctypes
        child.settle(os.getppid())
        child._own_users()
        found = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(found), 0, 0, 0)  # PR_GET_PDEATHSIG
        result = found.value
    """)
        == signal.SIGKILL
    )
