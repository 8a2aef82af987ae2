"""``--gvisor-explain``: a test that differs is a flake, or the call that differs is named.

The corpus has small programs with one known difference each. strace(1) has to be installed.
"""

import json
import os
import textwrap
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

HEAD = """
import ctypes, errno, fcntl, mmap, os, signal, socket, struct, subprocess
import pytest

LIBC = ctypes.CDLL(None, use_errno=True)
zeros = ctypes.create_string_buffer

def call(number, *arguments):
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def option(level, name, *more):
    with socket.socket() as one:
        one.getsockopt(level, name, *more)

def in_child(act):
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def notified():
    LIBC.prctl(38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    call(317, 1, 8, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))

def handle():
    call(303, -100, b"/usr", zeros(struct.pack("Ii", 128, 0), 136), ctypes.byref(ctypes.c_int()), 0)

def tries_first():
    try:
        call(425, 8, zeros(120))
    except OSError:
        pass
    open("/proc/kallsyms").close()

def traced():
    child = os.fork()
    if child == 0:
        failed = LIBC.ptrace(0, 0, None, None)
        os._exit(2) if failed else os.kill(os.getpid(), signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    try:
        call(101, 0x4209, child, struct.pack("QII", 0, 0, 1), zeros(128))
    finally:
        os.kill(child, signal.SIGKILL)

def vma_name():
    with mmap.mmap(-1, 4096) as some:
        where = ctypes.addressof(ctypes.c_char.from_buffer(some))
        assert not LIBC.prctl(0x53564D41, 0, ctypes.c_ulong(where), ctypes.c_ulong(4096), b"name")

def mounted(path):
    call(165, b"none", path, b"ramfs", 0, None)
    call(166, path, 2)

def extents(fd):
    fcntl.ioctl(fd, 0xC020660B, bytearray(struct.pack("QQQQ", 0, 4096, 0, 0)))

def file(tmp_path):
    (tmp_path / "x").write_text("hi")
    return os.open(tmp_path / "x", os.O_RDONLY)
"""

ENOENT = "succeeds on the host, and fails with ENOENT in gVisor"
ENOSYS = "succeeds on the host, and fails with ENOSYS in gVisor"
EPERM = "succeeds on the host, and fails with EPERM in gVisor"
EINVAL = "succeeds on the host, and fails with EINVAL in gVisor"

FIVE = {
    "io_uring": ("call(425, 8, zeros(120))", "io_uring_setup(8", ENOSYS),
    "proc": ("open('/proc/kallsyms').close()", '"/proc/kallsyms"', ENOENT),
    "seccomp_notify": ("in_child(notified)", "seccomp(SECCOMP_SET_MODE_FILTER", EINVAL),
    "meminfo": ("assert 'DirectMap4k' in open('/proc/meminfo').read()", "read(", "</proc/meminfo>"),
    "ptrace": ("traced()", "the host's side is missing", "ptrace(PTRACE_PEEKSIGINFO"),
}
"""Bodies of tests, each with the begin of the call, and what else the sentence has to say."""

OTHERS = {
    "perf": ("call(298, struct.pack('IIQ', 1, 112, 9).ljust(112, b'\\0'), 0, -1, -1, 0)",
             "perf_event_open(", "ENODEV in gVisor"),
    "bpf": ("call(321, 0, struct.pack('IIIII', 2, 4, 8, 1, 0).ljust(120, b'\\0'), 72)",
            "bpf(BPF_MAP_CREATE", EPERM),
    "userfaultfd": ("call(323, 1)", "userfaultfd(", ENOSYS),
    "add_key": ("call(248, b'user', b'name', b'data', 4, -3)", "add_key(", "EACCES in gVisor"),
    "handle": ("handle()", "name_to_handle_at(", "ENOTSUP in gVisor"),
    "packet": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()", "socket(AF_PACKET",
               EPERM),
    "netlink": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9).close()",
                "socket(AF_NETLINK", "EPROTONOSUPPORT in gVisor"),
    "vsock": ("socket.socket(socket.AF_VSOCK).close()", "socket(AF_VSOCK",
              "EAFNOSUPPORT in gVisor"),
    "mptcp": ("socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()", "socket(AF_INET",
              EINVAL),
    "busy_poll": ("option(socket.SOL_SOCKET, 46)", "getsockopt(", "ENOPROTOOPT in gVisor"),
    "repair": ("option(socket.IPPROTO_TCP, 19)", "getsockopt(", "ENOPROTOOPT in gVisor"),
    "pagemap": ("open('/proc/self/pagemap').close()", '"/proc/self/pagemap"', ENOENT),
    "time_namespace": ("os.open('/proc/self/ns/time', 0)", '"/proc/self/ns/time"', ENOENT),
    "sys": ("assert 'lo' in os.listdir('/sys/class/net')", '"/sys/class/net"', ENOENT),
    "hugetlb": ("os.close(os.memfd_create('huge', 4))", "memfd_create(", EINVAL),
    "mount": ("mounted(str(tmp_path).encode())", 'mount("none"', EPERM),
    "fiemap": ("extents(file(tmp_path))", "ioctl(",
               "ENOTTY in gVisor"),
    "lease": ("fcntl.fcntl(file(tmp_path), fcntl.F_SETLEASE, fcntl.F_RDLCK)", "fcntl(", EINVAL),
    "dnotify": ("fcntl.fcntl(os.open(tmp_path, 0), fcntl.F_NOTIFY, fcntl.DN_CREATE)", "fcntl(",
                EINVAL),
    "nowait": ("os.preadv(os.open('/usr/bin/env', 0), [bytearray(4)], 0, os.RWF_NOWAIT)",
               "preadv2(", "ENOTSUP in gVisor"),
    "kcmp": ("call(312, os.getpid(), os.getpid(), 0, 1, 1)", "kcmp(", EPERM),
    "vmsplice": ("call(278, os.pipe()[1], struct.pack('QQ', ctypes.addressof(zeros(2)), 2), 1, 0)",
                 "vmsplice(", ENOSYS),
    "landlock": ("call(444, None, 0, 1)", "landlock_create_ruleset(", ENOSYS),
    "timerslack": ("assert LIBC.prctl(30, 0, 0, 0, 0) == 50000", "prctl(PR_GET_TIMERSLACK", EINVAL),
    "vma_name": ("vma_name()", "prctl(PR_SET_VMA", "EINVAL on the host, and succeeds in gVisor"),
    "program": ("subprocess.run(['cat', '/proc/interrupts'], check=True)", '"/proc/interrupts"',
                ENOENT),
    "fallback": ("tries_first()", '"/proc/kallsyms"', ENOENT),
}  # fmt: skip


ONCE = """
    import os

    if "PYTEST_GVISOR_INSIDE" not in os.environ:
        from pytest_gvisor.plugin import explain

        explain.TIMES = 1
"""
"""A conftest.py's text: a test that differs runs again once, since it differs each time."""


def explained(project: pytest.Pytester, *arguments: str) -> dict[str, str]:
    """Run the project's tests on both sides; return the sentence on each test that differs."""
    options = ["--in-gvisor", "--gvisor-platform=native,systrap", "--gvisor-strict"]
    result = project.runpytest_subprocess(
        *options, "--gvisor-explain", "--gvisor-report=report.json", *arguments
    )
    assert "gVisor: platforms differ" in result.stdout.str()
    notes = json.loads((project.path / "report.json").read_text())["notes"]
    assert notes
    assert {*notes} <= {*result.outlines}
    found = (note.partition("::")[2].partition(": ") for note in notes)
    return {test: sentence for test, _, sentence in found}


@pytest.mark.parametrize(("corpus", "least"), [(FIVE, 5), (OTHERS, 20)], ids=["five", "others"])
def test_the_call_that_answers_otherwise_is_named(
    project: pytest.Pytester, corpus: dict[str, tuple[str, str, str]], least: int
) -> None:
    """At least 20 of 25 are named right, and none wrong: where the host refuses one, none is."""
    tests = (f"def test_{name}(tmp_path):\n    {body[0]}\n" for name, body in corpus.items())
    project.makeconftest(ONCE)
    project.makepyfile(HEAD + "\n".join(tests))
    told = explained(project)
    named = {name for name, sentence in told.items() if "https:" in sentence and "(" in sentence}
    right = {
        name
        for name, sentence in told.items()
        if all(text in sentence for text in corpus[name.removeprefix("test_")][1:])
    }
    assert named - right == set(), told
    if os.geteuid() == 0:  # the kernel refuses some of these to others
        assert len(right) >= least, told


FLAKE = """
    import pathlib
    from pytest_gvisor import is_gvisor_kernel
    import os

    def test_flake():
        counted = pathlib.Path(__file__).with_name("counted")
        if not is_gvisor_kernel(os.uname().release):
            with counted.open("a") as file:
                file.write("x")
            assert counted.stat().st_size > 1

    def test_gone():
        counted = pathlib.Path(__file__).with_name("counted")
        if not is_gvisor_kernel(os.uname().release):
            assert counted.stat().st_size > 1
"""


def test_a_flake_is_called_a_flake(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test fails once on the host. The project's own options and reports are not disturbed."""
    folder = project.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(folder))
    project.makeini(
        "[pytest]\ngvisor_explain = true\n"
        "addopts = --junitxml=junit.xml --gvisor-platform=native,systrap -x --maxfail=9\n"
    )
    project.makepyfile(textwrap.dedent(FLAKE))
    told = explained(project)
    often = "repeated, it passed 5 of 5 times on the host, and 5 of 5 times in gVisor"
    assert told == {"test_flake": f"a flake: {often}", "test_gone": f"a flake: {often}"}
    assert (project.path / "counted").read_text() == "x" * 6
    assert len([*ET.parse(project.path / "junit.xml").iter("testcase")]) == 4
    assert [path for path in Path(folder).iterdir() if "explain" in path.name] == []


@pytest.mark.parametrize(
    ("strace", "cause"),
    [(None, "strace(1) is not installed"), ("/bin/false", "strace(1) may not trace here")],
)
def test_a_host_s_side_that_cannot_be_had_is_said_to_be_missing(
    project: pytest.Pytester, strace: str | None, cause: str
) -> None:
    """The call in gVisor is named by the failure's own error, and without one there is none."""
    project.makeconftest(
        f"""{ONCE}
    import shutil
    import pytest

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish():
        shutil.which = lambda *_, **__: {strace!r}
    """
    )
    project.makepyfile(
        """
        import os

        def test_named():
            open("/proc/kallsyms").close()

        def test_not_named():
            assert os.path.exists("/proc/kallsyms")
        """
    )
    told = explained(project)
    assert told["test_not_named"] == f"the host's side is missing, because {cause}"
    assert told["test_named"].startswith(f"{told['test_not_named']}; in gVisor, openat(AT_FDCWD ")
    assert "/proc/kallsyms, O_RDONLY" in told["test_named"]
    assert ") fails with ENOENT: https:" in told["test_named"]
