"""The kernel calls that Python's standard library lacks: the only ctypes of the package.

One wrapper a call, named as the call; each raises `OSError` whose text holds the whole call.
Imports the standard library only, because the keeper runs with ``-I -S``. It decides nothing: the
callers know which calls to make, and in which order.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable, Iterator, Sequence

# include/uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

# include/uapi/linux/seccomp.h
_SECCOMP_MODE_FILTER = 2

# include/uapi/linux/capability.h
CAP_DAC_OVERRIDE = 1
CAP_KILL = 5
CAP_NET_ADMIN = 12
_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)  # version 3, and this thread
_CAPABILITY_BITS = 64

# include/uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

# include/uapi/linux/sockios.h and if.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

# include/uapi/asm-generic/mman-common.h
_MADV_COLLAPSE = 25
_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 1, 2, 16, 32

# include/uapi/linux/{mount,fcntl}.h; the numbers are the same on every architecture
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40
_MOUNT_ATTR_RDONLY = 1
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
AT_FDCWD = -100

# include/uapi/linux/openat2.h; the number is the same on every architecture
_SYS_OPENAT2 = 437
_TRIES = 64
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
NO_LINKS = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_libc = ctypes.CDLL(None, use_errno=True)
# prctl is variadic and reads five unsigned longs: with fewer, PR_SET_NO_NEW_PRIVS sees rubbish in
# the unused ones and answers EINVAL.
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.unshare.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_char_p]
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
]  # fmt: skip
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} in {call}")


def prctl(option: int, value: int) -> None:
    """``prctl(option, value, 0, 0, 0)``."""
    _check(_libc.prctl(option, value, 0, 0, 0), f"prctl({option}, {value}, 0, 0, 0)")


def set_capabilities(*kept: int) -> None:
    """Call ``capset``: these capabilities are effective and permitted, none is inheritable."""
    bits = sum(1 << number for number in kept)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    # effective, permitted, inheritable: first the low words, then the high ones
    _capset([low, low, 0, high, high, 0], f"capset({bits:#x})")


def _capset(words: Sequence[int], call: str) -> None:
    data = struct.pack("6I", *words)
    result = _libc.capset(ctypes.c_char_p(_CAPABILITY_HEADER), ctypes.c_char_p(data))
    _check(result, call)


def drop_capability(number: int) -> None:
    """Give up one capability for this process and all that it starts (capabilities(7))."""
    prctl(PR_CAPBSET_DROP, number)
    sets = ctypes.create_string_buffer(24)
    _check(_libc.capget(ctypes.c_char_p(_CAPABILITY_HEADER), sets), "capget()")
    words = list(struct.unpack("6I", sets.raw))
    first = number // 32 * 3
    for index in range(first, first + 3):
        words[index] &= ~(1 << number % 32)
    _capset(words, f"capset() without capability {number}")


def empty_bounding_set() -> None:
    """Let no execve of this process or its children gain a capability (capabilities(7))."""
    for number in range(_CAPABILITY_BITS):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the kernel has no more of them
                return
            raise


def set_no_new_privs() -> None:
    """Forbid every execve of this process and its children to gain privileges (prctl(2))."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_seccomp_filter(program: bytes) -> None:
    """Add a filter of classic BPF, 8 bytes an instruction, to this thread (seccomp(2)).

    Without CAP_SYS_ADMIN it needs no-new-privs. Each program that is executed from now on keeps it.
    """
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, and their address
    whole = ctypes.create_string_buffer(
        struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )
    result = _libc.prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(whole), 0, 0)
    _check(result, "prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER)")


def set_parent_death_signal(number: int) -> None:
    """Ask for signal ``number`` when the *thread* that forked this process ends (prctl(2))."""
    prctl(PR_SET_PDEATHSIG, number)


def set_child_subreaper() -> None:
    """Become the parent of every orphan among this process's descendants (prctl(2))."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def unshare(flags: int) -> None:
    """``unshare(flags)``; `os.unshare` exists from Python 3.12 on only."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """``mount(source, target, kind, flags, data)``."""
    arguments = [os.fsencode(text) for text in (source, target, kind)]
    result = _libc.mount(*arguments, flags, os.fsencode(data))
    _check(result, f"mount({source!r}, {target!r}, {kind!r}, {flags:#x}, {data!r})")


def clone_mounts(fd: int) -> int:
    """Return a descriptor of a copy of the mounts at and below a file or folder, attached nowhere.

    ``open_tree(fd, "", OPEN_TREE_CLONE | AT_RECURSIVE | …)``; Linux 5.2 and later.
    """
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
    result: int = _libc.syscall(ctypes.c_long(_SYS_OPEN_TREE), fd, b"", flags)
    _check(min(result, 0), f"open_tree({fd}, '', {flags:#x})")
    return result


def attach_mounts(mounts: int, target: int) -> None:
    """Attach what `clone_mounts` has copied to a file or folder: ``move_mount``, Linux 5.2."""
    flags = _MOVE_MOUNT_EMPTY_PATHS
    result = _libc.syscall(ctypes.c_long(_SYS_MOVE_MOUNT), mounts, b"", target, b"", flags)
    _check(result, f"move_mount({mounts}, '', {target}, '', {flags:#x})")


def set_apart(mounts: int, *, readonly: bool) -> None:
    """Keep later mounts of the host out of a mount and of those below it; add the flag RDONLY.

    ``mount_setattr(mounts, "", …)``; Linux 5.12 and later. The C library has no wrapper before
    glibc 2.36.
    """
    # attr_set, attr_clr, propagation, userns_fd
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY * readonly, 0, MS_PRIVATE, 0)
    flags, size = _AT_EMPTY_PATH | _AT_RECURSIVE, ctypes.c_size_t(len(attributes))
    number = ctypes.c_long(_SYS_MOUNT_SETATTR)
    result = _libc.syscall(number, mounts, b"", flags, attributes, size)
    _check(result, f"mount_setattr({mounts}, '', {flags:#x}, {readonly=})")


def openat2(folder: int, path: bytes, flags: int, resolve: int) -> int:
    """``openat2(folder, path, {flags | O_CLOEXEC, 0, resolve})``; Linux 5.6 and later.

    With RESOLVE_IN_ROOT, neither ``/`` nor ``..`` nor a link in ``path`` leads out of the folder.
    """
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)  # flags, mode, resolve
    for _ in range(_TRIES):
        number, size = ctypes.c_long(_SYS_OPENAT2), ctypes.c_size_t(len(how))
        result: int = _libc.syscall(number, folder, path, how, size)
        if result >= 0:
            return result
        # EAGAIN: a folder on the way was renamed meanwhile, so the kernel could not rule out that
        # ``..`` left the root.
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    _check(result, f"openat2({folder}, {path!r}, {flags:#x}, {resolve:#x})")
    raise AssertionError


def umount_lazily(target: str) -> None:
    """``umount2(target, MNT_DETACH)``."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount2({target!r}, MNT_DETACH)")


def openssl_adder(file: str) -> Callable[[bytes], None]:
    """Return RAND_add(3) of an OpenSSL that is loaded from ``file``.

    Raises `OSError` if none is loaded from there, and `AttributeError` if it lacks the function.
    """
    add = ctypes.CDLL(file, os.RTLD_NOLOAD).RAND_add
    add.argtypes, add.restype = [ctypes.c_char_p, ctypes.c_int, ctypes.c_double], None
    return lambda data: add(data, len(data), len(data))


def loopback_up(any_socket: int) -> None:
    """Bring the loopback of a network namespace up, by a socket that was made in it (netdevice(7)).

    The caller makes the socket. To import that module takes 10 ms in a sandbox, where tests inside
    load this file and wait for it.
    """
    answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sH22x", b"lo", 0))
    flags = struct.unpack_from("16sH", answer)[1] | IFF_UP
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags))


def _mmap(address: int, length: int, protection: int, flags: int, fd: int) -> int:
    made = _libc.mmap(address, length, protection, flags, fd, 0)
    failed = made == ctypes.c_void_p(-1).value
    _check(int(failed), f"mmap({address:#x}, {length}, {protection}, {flags}, {fd}, 0)")
    return int(made)


def collapse(fd: int, length: int, alignment: int) -> None:
    """Have a file in memory put on huge pages: ``madvise(MADV_COLLAPSE)`` of an aligned mapping."""
    whole = length + alignment
    # A place with room for an aligned mapping, which then takes a part of it.
    place = _mmap(0, whole, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1)
    try:
        start = -(-place // alignment) * alignment
        _mmap(start, length, _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_FIXED, fd)
        result = _libc.madvise(start, length, _MADV_COLLAPSE)
        _check(result, f"madvise({start:#x}, {length}, MADV_COLLAPSE)")
    finally:
        _check(_libc.munmap(place, whole), f"munmap({place:#x}, {whole})")


def reset_signals() -> None:
    """Give every signal its default action, and block none: execve keeps ignored and blocked ones.

    The two signals that the C library uses for its threads are left out (nptl(7)).
    """
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Yield a descriptor, and close it at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def ready(*fds: int, seconds: float | None = None, event: int = select.POLLIN) -> list[int]:
    """Wait, for ever by default, and return those that can be read, or have ended.

    select(2) takes no descriptor above 1023, and a project may hold as many open.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, event)
    return [fd for fd, _event in poll.poll(None if seconds is None else 1000 * seconds)]


def place_descriptors(fds: Sequence[int], first: int = 0) -> None:
    """Move descriptors to the numbers from ``first`` on, and close all others from there on.

    Descriptors at the numbers of the standard streams stay open across an execve.
    """
    end = first + len(fds)
    # First out of the way of every target, so that no dup2 overwrites one that is still needed.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) for fd in fds]
    for number, fd in enumerate(high, first):
        os.dup2(fd, number, inheritable=number < 3)
    # Up to the highest open one. If a seccomp filter refuses close_range(2), Python closes numbers
    # one by one, and a range to the highest possible number would take seconds. The soft limit is
    # no bound: it may have been lowered while a higher number was open.
    os.closerange(end, max(map(int, os.listdir("/proc/self/fd"))) + 1)


@contextlib.contextmanager
def new_file(folder: int, name: str) -> Iterator[int]:
    """Yield the descriptor of a new file, which gets its name when the block has ended.

    It takes the place of what has that name in the folder; a link is not followed. Its mode is 0666
    less the umask, and less what the file in its place does not allow. It has no name before, so
    that nothing is left if this process is killed; where the file system wants one, it has another
    name. Raises `OSError`.
    """
    other = f".pytest-gvisor-{os.urandom(8).hex()}"
    flags, mode = os.O_WRONLY | os.O_CLOEXEC, 0o666
    with contextlib.suppress(FileNotFoundError):
        mode &= os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    try:
        try:
            fd = os.open(".", flags | os.O_TMPFILE, mode, dir_fd=folder)
        except OSError:  # some file systems, and gVisor, do not have it
            fd = os.open(other, flags | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
        with closing(fd):
            yield fd
            with contextlib.suppress(FileExistsError):
                os.link(f"/proc/self/fd/{fd}", other, dst_dir_fd=folder, follow_symlinks=True)
        os.rename(other, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(other, dir_fd=folder)
