from typing import Any

import pytest

from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Network
from pytest_gvisor.oci import validate
from pytest_gvisor.oci.defaults import CAPABILITIES, default_spec, parse_user
from pytest_gvisor.oci.mounts import bind, tmpfs
from pytest_gvisor.oci.spec import IdMapping, Mount
from pytest_gvisor.oci.vocabulary import MountType, NamespaceType


def made(**asked: Any) -> Any:
    spec = default_spec(["true"], root_path="/srv", **asked)
    assert validate.problems(spec) == []
    return spec.to_json()


def test_the_defaults_are_secure() -> None:
    """The defaults are no terminal, no new privileges and docker's 14 capabilities."""
    process = made()["process"]
    assert process["noNewPrivileges"] is True
    assert "terminal" not in process
    assert process["user"] == {"uid": 0, "gid": 0}
    assert len(CAPABILITIES) == 14
    sets = process["capabilities"]
    assert set(sets) == {"bounding", "effective", "permitted"}
    assert all(entry == [*CAPABILITIES] for entry in sets.values())


def test_the_namespaces_follow_the_network() -> None:
    """The host's network has no namespace; a sandbox's network may join an existing one."""

    def kinds(**asked: Any) -> dict[str, str]:
        entries = made(**asked)["linux"]["namespaces"]
        return {entry["type"]: entry.get("path", "") for entry in entries}

    assert kinds() == dict.fromkeys(["pid", "ipc", "uts", "mount", "network"], "")
    assert NamespaceType.NETWORK not in kinds(network=Network.HOST)
    joined = kinds(network=Network.SANDBOX, netns="/run/netns/x")
    assert joined["network"] == "/run/netns/x"
    for network in (Network.NONE, Network.HOST):
        with pytest.raises(UsageError):
            made(network=network, netns="/run/netns/x")


def test_id_mappings_bring_a_user_namespace() -> None:
    """Rootless OCI mode: mappings and the namespace for them."""
    one = [IdMapping(container_id=0, host_id=1000, size=1)]
    linux = made(id_mappings=(one, one))["linux"]
    assert {"type": "user"} in linux["namespaces"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]


def test_the_environment_is_fixed_and_the_callers_is_on_top() -> None:
    """The environment has nothing of this process; the caller's variables replace the fixed."""
    assert made()["process"]["env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "LANG=C.UTF-8",
    ]
    env = made(env={"LANG": "C", "X": "a=b"}, path=["/p/bin"], user=7)["process"]["env"]
    assert env[0].startswith("PATH=/p/bin:/usr/local/sbin:")
    assert env[1:] == ["HOME=/tmp", "LANG=C", "X=a=b"]


@pytest.mark.fault("B8")
@pytest.mark.parametrize("env", [{"A=B": "1"}, {"": "1"}, {"A": 1}, {1: "A"}, {"A": b"1"}])
def test_a_variable_that_cannot_be_meant_is_refused(env: Any) -> None:
    """A name with '=', an empty name and a value that is no text are usage errors."""
    with pytest.raises(UsageError):
        made(env=env)


def test_limits_are_there_where_asked_for() -> None:
    """Memory in bytes without extra swap, tasks, CPUs as quota of docker's period."""
    assert "resources" not in made()["linux"]
    assert made(memory="256M", pids=10, cpus=1.5)["linux"]["resources"] == {
        "memory": {"limit": 256 << 20, "swap": 256 << 20},
        "pids": {"limit": 10},
        "cpu": {"quota": 150_000, "period": 100_000},
    }
    for wrong in (
        {"memory": "x"},
        {"pids": 0},
        {"pids": True},
        {"cpus": 0},
        {"cpus": float("nan")},
    ):
        with pytest.raises(UsageError):
            made(**wrong)


def test_mounts_are_in_order_and_replace_defaults() -> None:
    """Parents come first, and a mount onto /tmp takes the place of the default one."""
    mounts = made(mounts=[bind("/usr", "/tmp/a/b"), tmpfs("/tmp", size=4096)])["mounts"]
    targets = [mount["destination"] for mount in mounts]
    assert targets.count("/tmp") == 1
    assert targets.index("/tmp") < targets.index("/tmp/a/b")
    assert {"/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"} < set(targets)
    assert (
        "size=4096" in next(mount for mount in mounts if mount["destination"] == "/tmp")["options"]
    )


@pytest.mark.parametrize(
    ("user", "expected"),
    [(0, (0, 0)), (7, (7, 0)), ("7", (7, 0)), ("7:8", (7, 8)), ((7, 8), (7, 8)), ("root", (0, 0))],
)
def test_users(user: Any, expected: tuple[int, int]) -> None:
    """A user is given in numbers, or as root."""
    parsed = parse_user(user)
    assert (parsed.uid, parsed.gid) == expected


@pytest.mark.fault("B9")
@pytest.mark.parametrize(
    "user",
    [-1, 2**32 - 1, 2**32, "-1", "nobody", "1:", "1:x", "1\n", "", (1,), (1, -1), True, 1.5, "٣"],
)
def test_a_user_that_is_none_is_a_usage_error(user: Any) -> None:
    """Names, negative numbers and (uid_t)-1 are refused: no passwd is read."""
    with pytest.raises(UsageError):
        parse_user(user)


def test_a_file_system_in_memory_may_hold_all_that_the_limit_allows() -> None:
    """A size that is named stays, and one of no limit or of an empty cover is not named."""
    asked = (tmpfs("/a"), tmpfs("/b", size=4096))
    cover = Mount(destination="/c", type=MountType.TMPFS, source="tmpfs", options=("ro",))
    spec = default_spec(["true"], root_path="/x", memory="1M", mounts=(*asked, cover))
    sizes = {
        mount.destination: [o for o in mount.options if o.startswith("size=")]
        for mount in spec.mounts
        if mount.type is MountType.TMPFS
    }
    assert sizes == {
        "/a": ["size=1048576"], "/b": ["size=4096"], "/c": [], "/tmp": ["size=1048576"],
        "/dev": ["size=65536k"], "/dev/shm": ["size=67108864"],
    }  # fmt: skip
    free = default_spec(["true"], root_path="/x", mounts=asked)
    assert asked[0] in free.mounts
