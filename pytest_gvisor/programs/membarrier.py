"""A filter that spares runsc three RCU grace periods at its start.

From 2024 to July 2026, each process of runsc registers for membarrier(2)'s private expedited
command when it starts. It does so whatever its platform is (pkg/sentry/hostmm/membarrier.go). The
kernel answers after a grace period of RCU, which takes some 10 ms, and runsc has three processes.

Only kvm uses the command. systrap and ptrace use the global one (`UseHostGlobalMemoryBarrier` in
pkg/sentry/platform). The sentry's own filter allows them no other. So for these two, the filter
answers the registration with 0, and the kernel registers nothing.

Imports the standard library and `linux` only, because the keeper runs with ``-I -S``.
"""

from __future__ import annotations

import os
import struct

from pytest_gvisor.programs import linux

# include/uapi/linux/membarrier.h
_REGISTER_PRIVATE_EXPEDITED = 1 << 4

# include/uapi/linux/audit.h, and the number of membarrier on the architecture
_MACHINES = {"x86_64": (0xC000003E, 324), "aarch64": (0xC00000B7, 283)}

# include/uapi/linux/filter.h and bpf_common.h: load a word, jump if equal, return
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06

# include/uapi/linux/seccomp.h: offsets in struct seccomp_data, and actions
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def skip_registration() -> None:
    """Have runsc's registration succeed at once. Needs no-new-privs. Raises `OSError`.

    Does nothing on an unknown processor.
    """
    machine = os.uname().machine
    if machine in _MACHINES:
        linux.set_seccomp_filter(_program(*_MACHINES[machine]))


def _program(architecture: int, number: int) -> bytes:
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
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
