"""Addresses that a name of the allow-list may not answer with."""

import pytest

from pytest_gvisor.programs.addresses import kind_of, literal

KINDS = {
    "this network": ["0.0.0.0", "0.1.2.3"],
    "private": [
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254",
    ],
    "shared by carriers": ["100.64.0.1", "100.100.100.200"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1", "::1%lo"],
    "of a cloud's own host": ["168.63.129.16"],
    "link-local, as is the metadata service of clouds": [
        "169.254.169.254", "fe80::1", "fe80::1%lo",
    ],
    "for protocols": ["192.0.0.9", "192.0.0.192"],
    "for documents": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "IPv4 by 6to4": ["192.88.99.1", "2002:7f00:1::"],
    "for benchmarks": ["198.18.0.1", "2001:2::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1"],
    "reserved": ["240.0.0.1", "255.255.255.255", "100::1", "4000::1", "fec0::1"],
    "unspecified": ["::"],
    "IPv4 in IPv6": ["::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1"],
    "IPv4 by NAT64": ["64:ff9b::a9fe:a9fe", "64:ff9b:1::1"],
    "IPv4 by Teredo": ["2001::1"],
    "for IPv6 protocols": ["2001:1ff::1"],
    "no address": ["127.1", "0x7f.0.0.1", "0177.0.0.1", "2130706433", "", "a name"],
}  # fmt: skip
"""Each kind, and addresses of it. Metadata services of clouds have one of the carriers' addresses,
192.0.0.192 and fd00:ec2::254, and Python 3.11 takes 192.0.0.9 and 64:ff9b::/96 for public."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_that_is_not_public_has_a_kind(kind: str) -> None:
    """Each kind of the registries, and each spelling that has passed a check somewhere."""
    assert {address: kind_of(address) for address in KINDS[kind]} == dict.fromkeys(
        KINDS[kind], kind
    )


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "9.255.255.255", "11.0.0.1", "100.63.0.1", "100.128.0.1", "126.0.0.1",
                "128.0.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255",
                "2001:200::1", "2001:4860:4860::8888", "2606:4700::1111", "2003::1"],
)  # fmt: skip
def test_a_public_address_has_none(address: str) -> None:
    """The neighbours of each refused network too."""
    assert kind_of(address) == ""


def test_a_literal_is_an_address_in_one_form() -> None:
    """A name is no literal, and neither is an odd spelling."""
    assert literal("127.0.0.1") == "127.0.0.1"
    assert literal("2001:DB8:0::1") == "2001:db8::1"
    others = ("pypi.org", "127.1", "010.0.0.1", "", "fe80::1%eth0", "fe80::1%\n")
    assert {literal(text) for text in others} == {""}
