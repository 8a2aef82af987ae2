"""The families of addresses that ``AI_ADDRCONFIG`` finds on the host, and not in a sandbox."""

from __future__ import annotations

import socket

from pytest_gvisor.settings import Network, Settings


def missing(settings: Settings) -> list[str]:
    """Return the names of families that count on the host, and would not in the sandbox.

    With the host's network, or in a named network namespace, there are real addresses.
    """
    if settings.network is Network.HOST or settings.netns:
        return []
    return [family.name for family in (socket.AF_INET, socket.AF_INET6) if _counts(family)]


def _counts(family: socket.AddressFamily) -> bool:
    try:
        # Without a name: nothing is looked up.
        socket.getaddrinfo(None, 1, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
    except OSError:
        return False
    return True
