"""The way to start runsc for each caller: by its uid, its namespace and one capability."""

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Network, Rootless
from pytest_gvisor.programs.proc import ALL_IDS, IdRange
from pytest_gvisor.runsc.rootless import Caller, Way, decide

ONE = (IdRange(inside=0, outside=1000, size=1),)

CALLERS = {
    "root": Caller(euid=0, uids=ALL_IDS, gids=ALL_IDS),
    "root in a container": Caller(euid=0, uids=ALL_IDS, gids=ALL_IDS, sys_admin=False),
    "unshare -r": Caller(euid=0, uids=ONE, gids=ONE),
    "unshare -r, without": Caller(euid=0, uids=ONE, gids=ONE, sys_admin=False),
    "user": Caller(euid=1000, uids=ALL_IDS, gids=ALL_IDS, sys_admin=False),
}
WAYS = {
    "root": (Way.PRIVILEGED, Way.MAPPED),
    "root in a container": (Way.OWN, Way.OWN),
    "unshare -r": (Way.MAPPED, Way.MAPPED),
    "unshare -r, without": (Way.OWN, Way.OWN),
    "user": (Way.FLAG, Way.FLAG),
}


@pytest.mark.parametrize("who", CALLERS)
def test_each_caller_has_its_way(who: str) -> None:
    """Each caller has one way for ``auto``, and one for ``on``."""
    asked = (Rootless.AUTO, Rootless.ON)
    assert tuple(decide(wish, CALLERS[who], Network.NONE) for wish in asked) == WAYS[who]


@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("user", "needs root, and the effective uid is 1000"),
        ("root in a container", "needs CAP_SYS_ADMIN"),
        ("unshare -r, without", "needs CAP_SYS_ADMIN"),
    ],
)
def test_off_is_an_error_where_it_cannot_be_had(who: str, told: str) -> None:
    """An impossible ``off`` is never treated as ``on``."""
    with pytest.raises(UsageError, match=told):
        decide(Rootless.OFF, CALLERS[who], Network.NONE)


def test_a_network_of_its_own_is_for_root_of_any_kind() -> None:
    """A user namespace of the child's own can have network namespaces; runsc's flag refuses it."""
    assert decide(Rootless.AUTO, CALLERS["root in a container"], Network.SANDBOX) is Way.OWN
    with pytest.raises(UsageError, match="network=sandbox is impossible without root"):
        decide(Rootless.AUTO, CALLERS["user"], Network.SANDBOX)


def test_this_process_knows_what_it_has() -> None:
    """The caller's capability is the one that the kernel lists as effective."""
    with open("/proc/self/status", encoding="ascii") as status:
        bits = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    assert Caller.read(0).sys_admin == bool(bits >> 21 & 1)
