"""The kernel calls: the effect of each, and a refusal that names the whole call."""

import errno
import os
import re
from collections.abc import Callable
from typing import Any

import pytest

from pytest_gvisor.programs import linux

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: mounts and namespaces of its own"
)
Alone = Callable[..., Any]

BAD_FLAGS = 0x1  # no CLONE_ flag: the low byte is a signal number (sched.h)


PATHS = -100, b"/nowhere/x", os.O_RDONLY
NO_ROOT = errno.EPERM
"""The error of a caller without rights, before the kernel looks at the arguments."""


@pytest.mark.parametrize(
    ("call", "number", "text"),
    [
        (lambda: linux.prctl(-1, 7), errno.EINVAL, "prctl(-1, 7, 0, 0, 0)"),
        (lambda: linux.set_parent_death_signal(999), errno.EINVAL, "prctl(1, 999, 0, 0, 0)"),
        (lambda: linux.unshare(BAD_FLAGS), errno.EINVAL, "unshare(0x1)"),
        (lambda: linux.mount("none", "/nowhere/x", "tmpfs", 1, "a=b"), errno.ENOENT,
         "mount('none', '/nowhere/x', 'tmpfs', 0x1, 'a=b')"),
        (lambda: linux.clone_mounts(-7), errno.EBADF, "open_tree(-7, '', 0x89001)"),
        (lambda: linux.attach_mounts(-7, -8), errno.EBADF, "move_mount(-7, '', -8, '', 0x44)"),
        (lambda: linux.set_apart(-7, readonly=True), errno.EBADF,
         "mount_setattr(-7, '', 0x9000, readonly=True)"),
        (lambda: linux.openat2(*PATHS, linux.RESOLVE_NO_MAGICLINKS), errno.ENOENT,
         "openat2(-100, b'/nowhere/x', 0x0, 0x2)"),
        (lambda: linux.umount_lazily("/nowhere/x"), errno.ENOENT,
         "umount2('/nowhere/x', MNT_DETACH)"),
    ],
)  # fmt: skip
def test_a_refusal_holds_the_errno_and_the_whole_call(
    call: Callable[[], None], number: int, text: str
) -> None:
    """The error has the whole call, so that a reader can repeat it."""
    with pytest.raises(OSError, match=re.escape(text)) as caught:
        call()
    assert caught.value.errno in (number, *([NO_ROOT] if os.geteuid() else []))


@needs_root
def test_a_new_network_namespace_has_its_loopback_brought_up(alone: Alone) -> None:
    """The address 127.0.0.1 can be reached after the call, and not before."""
    assert alone("""
        import socket
        linux.unshare(linux.CLONE_NEWNET)
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        def reaches():
            with socket.socket() as client:
                return client.connect_ex(server.getsockname()) == 0
        before = reaches()
        linux.loopback_up(server.fileno())
        result = [before, reaches()]
    """) == [False, True]


@needs_root
def test_one_capability_is_given_up_and_no_other(alone: Alone) -> None:
    """The bounding set loses the capability too, so no execve brings it back."""
    before, after = alone("""
        names = ("CapEff", "CapPrm", "CapBnd")
        before = [int(proc.status_of()[name], 16) for name in names]
        linux.drop_capability(linux.CAP_NET_ADMIN)
        result = before, [int(proc.status_of()[name], 16) for name in names]
    """)
    assert after == [bits & ~(1 << linux.CAP_NET_ADMIN) for bits in before]
    assert after[0] or not before[0]


def test_capabilities_are_given_up(alone: Alone) -> None:
    """Afterwards only the kept one is permitted and effective, and the bounding set is empty."""
    if os.geteuid() != 0:
        assert (
            alone("""
            linux.set_capabilities()
            result = proc.status_of()["CapPrm"]
        """)
            == "0" * 16
        )
        return
    found = alone("""
        linux.empty_bounding_set()
        linux.set_capabilities(linux.CAP_KILL)
        status = proc.status_of()
        result = [status[name] for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")]
    """)
    kill = f"{1 << linux.CAP_KILL:016x}"
    assert found == [kill, kill, "0" * 16, "0" * 16]
