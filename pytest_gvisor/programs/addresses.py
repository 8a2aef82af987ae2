"""Host names, and addresses that a relay connects to only if the user has allowed them. Pure.

A name of the allow-list may answer with any address: its owner decides, and so may an attacker. An
address counts as public only if it is none of the kinds below. The table does not rest on
`ipaddress.is_global`, which differs between releases of Python: 3.11 calls 64:ff9b::a9fe:a9fe
public, which a NAT64 gateway turns into the metadata service of a cloud.

Sources: the IANA registries of special-purpose addresses for IPv4 and IPv6.
"""

from __future__ import annotations

import functools
import ipaddress
import re

_KINDS = {
    "this network": "0.0.0.0/8",
    "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7",
    "shared by carriers": "100.64.0.0/10",
    "loopback": "127.0.0.0/8 ::1/128",
    "unspecified": "::/128",
    "link-local, as is the metadata service of clouds": "169.254.0.0/16 fe80::/10",
    "of a cloud's own host": "168.63.129.16/32",
    "for protocols": "192.0.0.0/24",
    "for documents": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
    "for benchmarks": "198.18.0.0/15 2001:2::/48",
    "multicast": "224.0.0.0/4 ff00::/8",
    "reserved": "240.0.0.0/4",
    "IPv4 in IPv6": "::ffff:0:0/96 ::ffff:0:0:0/96 ::/96",
    "IPv4 by NAT64": "64:ff9b::/96 64:ff9b:1::/48",
    "IPv4 by 6to4": "192.88.99.0/24 2002::/16",
    "IPv4 by Teredo": "2001::/32",
    "for IPv6 protocols": "2001::/23",
}

# Only this eighth of IPv6 is given out (IANA's registry of the address space).
_UNICAST = "2000::/3"

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII)
# getaddrinfo(3) reads such a name as an IPv4 address: 127.1, 0x7f.1, 2130706433 (inet_aton(3)).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@functools.cache
def _networks() -> list[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]]:
    pairs = ((net, kind) for kind, nets in _KINDS.items() for net in nets.split())
    return [(ipaddress.ip_network(net), kind) for net, kind in pairs]


def kind_of(address: str) -> str:
    """Return the kind of an address that is not public; ``""`` for a public one.

    ``address`` is as getaddrinfo(3) writes it, a scope such as ``%eth0`` included. Text that is no
    address is "no address".
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "no address"
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id:
        found = ipaddress.IPv6Address(int(found))
    # The smallest network that has it: the loopback address is also in ::/96.
    nets = [(net.prefixlen, kind) for net, kind in _networks() if found in net]
    if nets:
        return max(nets)[1]
    return "" if found.version == 4 or found in ipaddress.ip_network(_UNICAST) else "reserved"


def literal(host: str) -> str:
    """Return the canonical text of an address; ``""`` for a name, and for an address with a scope.

    `ipaddress` takes any text as a scope.
    """
    try:
        return "" if "%" in host else str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def no_name(text: str) -> str:
    """Return why text in small letters is no host name; ``""`` for a name."""
    labels = text.split(".")
    if len(text) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return "no host name"
    return "an odd spelling of an address" if _NUMBER.fullmatch(labels[-1]) else ""
