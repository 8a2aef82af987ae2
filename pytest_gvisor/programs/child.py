"""The child between fork and execve: its steps to runsc, and the report of a failed one.

Runs in the keeper's fork only, with the standard library and modules of this folder. There is no
way through without no-new-privs. Each step either holds, or ends the child with its name and errno
in the error pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import sys
import termios
import time
from collections.abc import Sequence
from typing import NoReturn

from pytest_gvisor.programs import linux, proc, sources
from pytest_gvisor.programs.order import Order

HIGH_FD = 1000
"""A descriptor that runsc inherits, of its executable, so that its processes have large tables.

runsc gives streams the descriptors from 256 on (startingStdioFD in runsc/boot/loader.go). Where
there are threads, a table that grows waits for an RCU grace period of 8 ms: expand_fdtable in
fs/file.c. The table of a process is as large as its parent's highest descriptor needs.
"""

_EXECUTABLE = 3
_ERROR_PIPE = 4
_FAILED = 128  # the status of a runsc that has failed itself

# include/uapi/linux/membarrier.h
_REGISTER_PRIVATE_EXPEDITED = 1 << 4

# include/uapi/linux/audit.h, and the number of membarrier on the architecture
_MACHINES = {"x86_64": (0xC000003E, 324), "aarch64": (0xC00000B7, 283)}

# include/uapi/linux/filter.h and bpf_common.h: load a word, jump if equal, return
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06

# include/uapi/linux/seccomp.h: offsets in struct seccomp_data, and actions
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def hide_net_sysctls() -> None:
    """Cover /proc/sys/net with an empty tmpfs; this process's mount namespace is its own.

    Before it takes over a network namespace's interfaces, runsc asks whether the namespace is the
    host's. It looks for /proc/sys/net/core/rmem_default there. On older kernels only the initial
    namespace has that file. On newer ones (6.18 is one) every namespace has it, and runsc 20240729
    then refuses every namespace. Whether it is the host's namespace has been asked by then, by
    inode (netns.py). The tmpfs goes over ``net`` and not ``core``. Below ``net`` each network
    namespace has directory entries of its own, on which a mount would not be seen.
    """
    flags = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("none", "/proc/sys/net", "tmpfs", flags, "size=4k")


def make_netns(path: str) -> None:
    """Make a network namespace with its loopback up, and bind it to ``path`` for runsc to join.

    A namespace that runsc makes for itself has its loopback down. runsc gives the sandbox no
    interface that is down: not even 127.0.0.1 would answer inside. The bind is seen in this
    process's mount namespace alone, so it is gone with runsc.
    """
    linux.unshare(linux.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        linux.loopback_up(any_socket.fileno())
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    linux.mount("/proc/self/ns/net", path, "none", linux.MS_BIND)


def _own_mounts(*, users: bool) -> None:
    if users or os.geteuid() != 0:
        _own_users()
    linux.unshare(linux.CLONE_NEWNS)
    # Without this, a mount in the new namespace would also appear in the host's.
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SLAVE)


def _own_users() -> None:
    """Make a user namespace with this user as root, for a caller that may not mount otherwise.

    That is any user but root, and root without CAP_SYS_ADMIN, as in a container.
    """
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER)
    # Without real root, groups can be mapped only when setgroups is given up (user_namespaces(7)).
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def skip_membarrier() -> None:
    """Have runsc's registration for membarrier(2) succeed at once, by a filter.

    From 2024 to July 2026, each process of runsc registers for the private expedited command when
    it starts, on every platform (pkg/sentry/hostmm/membarrier.go). The kernel
    answers after a grace period of RCU, which takes some 10 ms, and runsc has three processes.

    Only kvm uses the command. systrap and ptrace use the global one (`UseHostGlobalMemoryBarrier`
    in pkg/sentry/platform). The sentry's own filter allows them no other. So for these two, the
    filter answers the registration with 0, and the kernel registers nothing.

    Needs no-new-privs. Raises `OSError`. Does nothing on an unknown processor.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        return
    architecture, number = _MACHINES[machine]
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 5, architecture),  # a 32-bit call has other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 0, 1, _REGISTER_PRIVATE_EXPEDITED),
        (_RETURN, 0, 0, _ERRNO | 0),
        (_RETURN, 0, 0, _ALLOW),
    )
    linux.set_seccomp_filter(b"".join(struct.pack("=HBBI", *step) for step in steps))


def _verify() -> None:
    status = proc.status_of()
    threads, no_new_privs = status.get("Threads", ""), status.get("NoNewPrivs", "")
    if threads != "1":
        raise OSError(0, f"the launching process has {threads} threads, not 1")
    if no_new_privs != "1":
        raise OSError(0, f"NoNewPrivs reads {no_new_privs!r}, not 1")


def settle(parent: int) -> None:
    """Take the steps that are the same for each order. Raises `OSError`.

    They undo what the keeper has set for itself. The host's OOM killer ends this process first.
    """
    os.setsid()
    # execve keeps the signal, but for a program with set-user-ID or capabilities (prctl(2)).
    # A new user namespace keeps the signal: commit_creds() clears it with the ids or for
    # capabilities over the old one.
    linux.set_parent_death_signal(signal.SIGKILL)
    # The signal is sent when the parent ends; a parent that ended before the prctl sends nothing.
    if os.getppid() != parent:
        raise OSError(0, "the keeper is gone")
    with (
        contextlib.suppress(OSError),  # where /proc is read-only
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as score,
    ):
        score.write("1000")  # proc_pid_oom_score_adj(5); each process of the sandbox inherits it
    linux.reset_signals()
    os.umask(0o022)
    os.chdir("/")


def begin_first(order: Order, link: int, keeper: int) -> None:
    """Start the runsc of the container that has the relay, and wait until the relay listens.

    The relay says so with a byte of its output. If its runsc ends before that, this process ends as
    a runsc that has failed, and the log says why.

    That runsc becomes a child of the keeper, and ends with it. It outlives the workload's: what the
    workload has sent at its end is still passed on.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if between == 0:
        between = os.getpid()
        if os.fork():
            os._exit(0)
        while os.getppid() == between:
            time.sleep(0.001)
        settle(keeper)  # in a session of its own, which has no terminal
        with linux.closing(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as null:
            for number, fd in enumerate((null, writer, null)):
                os.dup2(fd, number)
        os.execve(_EXECUTABLE, order.first, order.env)
    os.waitpid(between, 0)
    os.close(writer)
    os.close(link)
    if not os.read(reader, 1):
        os._exit(_FAILED)
    os.close(reader)


def become(order: Order, fds: Sequence[int], *, parent: int, error_pipe: int) -> NoReturn:
    """Turn this fork into runsc, or report ``stage errno text`` and exit with status 127.

    ``fds`` are the order's: the executable, three streams, ``cgroup.procs`` files to join, and the
    socket of a relay.
    """
    stage = "session"
    try:
        settle(parent)
        stage = "descriptors"
        executable, *streams = fds[:_ERROR_PIPE]
        linux.place_descriptors((*streams, executable, error_pipe, *fds[_ERROR_PIPE:]))
        error_pipe = _ERROR_PIPE
        if order.terminal:
            stage = "terminal"
            # Only a session leader without a terminal may take one (ioctl_tty(2)): see setsid.
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        stage = "cgroup"
        for descriptor in range(_ERROR_PIPE + 1, len(fds) + 1 - order.link):
            os.write(descriptor, b"0")  # "0" names the writer itself (cgroups(7))
        if order.own_users or order.hide_net_sysctls or order.netns or order.sources:
            stage = "mount_namespace"
            _own_mounts(users=order.own_users)
        stage = "mounts"
        sources.bind(order.sources)
        if order.netns:
            stage = "network_namespace"
            make_netns(order.netns)
        if order.hide_net_sysctls:
            stage = "mount_namespace"
            hide_net_sysctls()
        if order.link:
            os.set_inheritable(len(fds), True)
        stage = "no_new_privs"
        linux.set_no_new_privs()
        stage = "verify"
        _verify()
        if order.skip_membarrier:
            stage = "seccomp"
            skip_membarrier()
        with contextlib.suppress(OSError):  # RLIMIT_NOFILE may be lower
            os.dup2(_EXECUTABLE, HIGH_FD)
        if order.first:
            stage = "relay"
            begin_first(order, len(fds), parent)
        stage = "execve"
        # By descriptor: the file that was checked runs, even if its path names another one by now.
        os.execve(_EXECUTABLE, order.argv, order.env)
    except Exception as error:  # noqa: BLE001 -- the keeper reports an error of any kind
        number = getattr(error, "errno", None) or 0
        report = f"{stage} {number} {getattr(error, 'strerror', None) or repr(error)}"
        os.write(error_pipe, report.encode("utf-8", "backslashreplace")[:2000])
    finally:  # a fork of the keeper must never run on
        sys.stderr.flush()
        os._exit(127)
