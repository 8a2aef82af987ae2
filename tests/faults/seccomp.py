"""A seccomp filter that refuses chosen system calls: for programs of the tests' own.

It runs in the little projects' pytest, since it cannot be undone. Everything that is started from
there has it too.
"""

import ctypes
import os
import platform
import struct

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
CLONE_VM = 0x100

# include/uapi/linux/filter.h and seccomp.h
LOAD = 0x20
AND = 0x54
EQUAL = 0x15
RETURN = 0x06
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
NUMBER_AT = 0
FIRST_ARGUMENT_AT = 16

NUMBERS = {
    "x86_64": {"clone": 56, "prctl": 157, "setsid": 112, "close_range": 436, "pidfd_open": 434,
               "fork": 57, "clone3": 435, "mount": 165},
    "aarch64": {"clone": 220, "prctl": 167, "setsid": 157, "close_range": 436, "pidfd_open": 434,
                "clone3": 435, "mount": 40},
}  # fmt: skip


def refuse(
    call: str, errno: int, argument: int | None = None, mask: int = 0xFFFFFFFF, position: int = 0
) -> None:
    """Have a call fail with this errno from now on.

    With ``argument``, only where its argument at ``position``, the first, under the mask, is this.
    """
    number = NUMBERS[platform.machine()][call]
    program = [(LOAD, 0, 0, NUMBER_AT)]
    if argument is None:
        program += [(EQUAL, 0, 1, number)]
    else:
        program += [
            (EQUAL, 0, 4, number),
            (LOAD, 0, 0, FIRST_ARGUMENT_AT + 8 * position),
            (AND, 0, 0, mask),
            (EQUAL, 0, 1, argument),
        ]
    program += [(RETURN, 0, 0, ERRNO | errno), (RETURN, 0, 0, ALLOW)]
    install(b"".join(struct.pack("=HBBI", *step) for step in program), len(program))


def refuse_fork(errno: int) -> None:
    """Have fork fail, and neither threads nor `subprocess`, which shares its memory."""
    refuse("clone", errno, argument=0, mask=CLONE_VM)


def refuse_threads(errno: int) -> None:
    """Have threads fail, and no process: glibc makes them by clone3."""
    refuse("clone3", errno)


def install(code: bytes, length: int) -> None:
    """Install a filter for this thread and all that it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    buffer = ctypes.create_string_buffer(code)
    filters = ctypes.create_string_buffer(struct.pack("@HP", length, ctypes.addressof(buffer)))
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filters), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
