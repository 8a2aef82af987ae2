"""Addresses that a name of the allow-list may not answer with."""

import pytest

from pytest_gvisor.programs.addresses import kind_of, literal


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "this network"),
        ("0.1.2.3", "this network"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "shared by carriers"),
        ("100.100.100.200", "shared by carriers"),  # a cloud's metadata service
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "of a cloud's own host"),
        ("169.254.169.254", "link-local, as is the metadata service of clouds"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.9", "for protocols"),  # public for Python 3.11
        ("192.0.0.192", "for protocols"),  # a cloud's metadata service
        ("192.0.2.1", "for documents"),
        ("192.88.99.1", "IPv4 by 6to4"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "for benchmarks"),
        ("198.51.100.1", "for documents"),
        ("203.0.113.1", "for documents"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "IPv4 in IPv6"),
        ("::ffff:127.0.0.1", "IPv4 in IPv6"),
        ("::ffff:8.8.8.8", "IPv4 in IPv6"),
        ("::ffff:0:127.0.0.1", "IPv4 in IPv6"),
        ("64:ff9b::a9fe:a9fe", "IPv4 by NAT64"),  # public for Python 3.11
        ("64:ff9b:1::1", "IPv4 by NAT64"),
        ("100::1", "reserved"),
        ("2001::1", "IPv4 by Teredo"),
        ("2001:2::1", "for benchmarks"),
        ("2001:1ff::1", "for IPv6 protocols"),
        ("2001:db8::1", "for documents"),
        ("2002:7f00:1::", "IPv4 by 6to4"),
        ("3fff::1", "for documents"),
        ("4000::1", "reserved"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),  # a cloud's metadata service
        ("fe80::1", "link-local, as is the metadata service of clouds"),
        ("fe80::1%lo", "link-local, as is the metadata service of clouds"),
        ("::1%lo", "loopback"),
        ("fec0::1", "reserved"),
        ("ff02::1", "multicast"),
        ("127.1", "no address"),
        ("0x7f.0.0.1", "no address"),
        ("0177.0.0.1", "no address"),
        ("2130706433", "no address"),
        ("", "no address"),
        ("a name", "no address"),
    ],
)
def test_an_address_that_is_not_public_has_a_kind(address: str, kind: str) -> None:
    """Each kind of the registries, and each spelling that has passed a check somewhere."""
    assert kind_of(address) == kind


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
    assert [literal(text) for text in ("pypi.org", "127.1", "010.0.0.1", "")] == [""] * 4
