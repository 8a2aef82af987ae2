"""Messages as a sentry sends them."""

import struct

from tests.fakes.fake_runsc import varint


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(kind: int, payload: bytes = b"", *, dropped: int = 0) -> bytes:
    """A datagram with its header."""
    return struct.pack("<HHI", 8, kind, dropped) + payload


def context(process: int = 1, thread: int = 0, cwd: bytes = b"") -> bytes:
    """The context of an event: who did it, and where."""
    found = field(2, thread or process) + field(4, process)
    return field(1, found + (field(8, cwd) if cwd else b""))


def ended(result: int = 0, error: int = 0) -> bytes:
    """The end of a system call."""
    return field(2, field(1, result % 2**64) + field(2, error))


def opened(
    path: bytes, flags: int, result: int = 3, *, error: int = 0, number: int = 257,
    process: int = 1, cwd: bytes = b"/here", folder: bytes = b"",
) -> bytes:  # fmt: skip
    """The payload of an open, of kind 7."""
    found = context(process, cwd=cwd) + ended(result, error) + field(3, number)
    found += field(4, 2**64 - 100) + field(6, path) + field(7, flags)
    return found + (field(5, folder) if folder else b"")


def closed(fd: int, path: bytes, process: int = 1) -> bytes:
    """The payload of a close, of kind 8."""
    return context(process) + field(3, 3) + field(4, fd) + field(5, path)


def raw(number: int, *, error: int = 0, address: int = 0, thread: int = 1, **flags: int) -> bytes:
    """The payload of a call by its number, of kind 6; ``flags`` are by ``_`` and their field."""
    more = b"".join(field(int(name[1:]), value) for name, value in flags.items())
    return context(thread=thread) + ended(3, error) + field(4, number) + more + field(9, address)


def executed(argv: list[bytes], program: bytes, process: int, env: tuple[bytes, ...] = ()) -> bytes:
    """The payload of an execve, of kind 3."""
    words = b"".join(field(3, word) for word in argv) + b"".join(field(4, one) for one in env)
    return context(process, cwd=b"/") + field(2, program) + words


def tried(argv: list[bytes], program: bytes, process: int, number: int = 59) -> bytes:
    """The payload of an execve that begins, of kind 11."""
    words = b"".join(field(7, word) for word in argv)
    return context(process, cwd=b"/here") + field(3, number) + field(6, program) + words


def cloned(made: int, process: int = 1) -> bytes:
    """The payload of a clone, of kind 2."""
    return context(process) + field(3, made) + field(4, made)


def on_socket(address: bytes, fd: int, *, error: int = 0, process: int = 1) -> bytes:
    """The payload of a connect or a bind, of kind 10 and 24."""
    return context(process) + ended(0, error) + field(3, 42) + field(4, fd) + field(6, address)


def made_socket(family: int, kind: int, fd: int, process: int = 1) -> bytes:
    """The payload of a socket, of kind 12."""
    return context(process) + ended(fd) + field(3, 41) + field(4, family) + field(5, kind)
