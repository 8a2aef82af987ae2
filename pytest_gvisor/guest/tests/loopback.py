"""Addresses of the loopback that make a family count for ``AI_ADDRCONFIG``, as on the host.

The C library leaves out a family whose only addresses are 127.0.0.1 and ::1 (getaddrinfo(3)). In a
sandbox without a network that is all there is, so ``localhost`` would have no address. Another
address of the loopback counts, and leads nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import Any

# glibc's sysdeps/unix/sysv/linux/check_pf.c compares with these two addresses alone.
_ADDRESSES = {
    "AF_INET": (socket.AF_INET, "127.0.0.2", 32),
    "AF_INET6": (socket.AF_INET6, "fe80::1", 128),
}
_LO = 1  # gVisor makes it first

# include/uapi/linux: netlink.h, rtnetlink.h, if_addr.h
_NLMSG_ERROR = 2
_RTM_NEWADDR = 20
_FLAGS = 0x1 | 0x4 | 0x200 | 0x400  # REQUEST, ACK, EXCL, CREATE
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")


def make_count(families: list[str], linux: Any) -> None:
    """Add an address for each of ``families``, and give up the right to that for ever.

    Raises OSError if the right is kept.
    """
    with contextlib.suppress(OSError):  # a kernel that adds none: the family does not count then
        _add(families)
    linux.drop_capability(linux.CAP_NET_ADMIN)


def _add(families: list[str]) -> None:
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as netlink:
        for name in families:
            family, address, prefix = _ADDRESSES[name]
            netlink.sendall(request(family, socket.inet_pton(family, address), prefix))
            check(netlink.recv(4096))


def request(family: int, address: bytes, prefix: int) -> bytes:
    """Return the message that adds an address to the loopback (rtnetlink(7))."""
    body = struct.pack("=BBBBI", family, prefix, 0, 0, _LO)
    for kind in (_IFA_LOCAL, _IFA_ADDRESS):
        body += struct.pack("=HH", 4 + len(address), kind) + address
    return _HEADER.pack(_HEADER.size + len(body), _RTM_NEWADDR, _FLAGS, 1, 0) + body


def check(answer: bytes) -> None:
    """Raise OSError for an answer that is not an acknowledgement (netlink(7))."""
    kind = _HEADER.unpack_from(answer)[1]
    (number,) = struct.unpack_from("=i", answer, _HEADER.size)
    if kind != _NLMSG_ERROR or number:
        raise OSError(-number, f"{os.strerror(-number)} in RTM_NEWADDR")
