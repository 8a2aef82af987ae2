"""The configuration of the pytest inside: families of addresses."""

from __future__ import annotations

import socket

import pytest

from pytest_gvisor.inside.configuration import families
from pytest_gvisor.settings import Network, Settings


@pytest.fixture(params=[set(), {"AF_INET"}, {"AF_INET", "AF_INET6"}], ids=len)
def counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The families that the host's C library finds addresses of."""

    def find(_host: None, _port: int, family: socket.AddressFamily, *rest: int) -> list[object]:
        assert rest[-1] == socket.AI_ADDRCONFIG
        if family.name not in request.param:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", find)
    found: set[str] = request.param
    return found


def test_those_of_the_host_are_missing_where_there_is_loopback_alone(counting: set[str]) -> None:
    """Without a network, and in a network namespace that the sandbox has for itself."""
    for network in (Network.NONE, Network.SANDBOX):
        assert set(families(Settings(network=network))) == counting


@pytest.mark.parametrize(
    "settings",
    [Settings(network=Network.HOST), Settings(network=Network.SANDBOX, netns="/run/netns/x")],
    ids=["host", "netns"],
)
def test_none_is_missing_where_there_are_real_addresses(
    counting: set[str], settings: Settings
) -> None:
    """The addresses of the host, or of the namespace that was named, decide by themselves."""
    assert len(counting) < 3
    assert families(settings) == []
