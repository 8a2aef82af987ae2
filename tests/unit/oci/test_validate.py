import json
from dataclasses import replace
from typing import Any

import pytest

from pytest_gvisor.base.errors import InvalidBundle, UsageError
from pytest_gvisor.oci import validate
from tests.unit.oci.conftest import change

ODD_IDS = ["../victim", "..", "a/b", "", "a\n", "\n", "a\0", "é", "a" * 65, "-detach", ".a", "A"]


@pytest.mark.fault("B1")
@pytest.mark.parametrize("name", ODD_IDS)
def test_an_id_that_runsc_cannot_be_trusted_with_is_refused(name: str) -> None:
    """An id that is a path, a flag, too long or not plain is a usage error."""
    with pytest.raises(UsageError):
        validate.check_id(name)


@pytest.mark.parametrize("name", ["a", "0", "a" * 64, "pg-1_2.3"])
def test_a_plain_id_is_taken(name: str) -> None:
    """An id of 1 to 64 plain characters comes back as it is."""
    assert validate.check_id(name) == name


def bind(**other: object) -> dict[str, object]:
    return {"destination": "/data", "type": "bind", "source": "/srv", "options": ["ro"], **other}


def ids(inside: int, outside: int, size: int) -> dict[str, int]:
    return {"containerID": inside, "hostID": outside, "size": size}


def tmpfs(destination: str) -> dict[str, object]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs"}


RULES = [
    ("hooks", {"poststop": [{"path": "/x"}]}, "hooks: refused"),
    ("process.args", [], "process.args: is empty"),
    ("process.args", [""], "process.args[0]: is empty"),
    ("process.cwd", "x", 'process.cwd: "x" is not absolute'),
    ("process.cwd", "/a/../b", "process.cwd: \"/a/../b\" has a '..' in it"),
    ("process.env", ["A"], 'process.env[0]: "A" is not KEY=value'),
    ("process.env", ["=A"], 'process.env[0]: "=A" is not KEY=value'),
    ("process.env", ["A=1", "A=2"], 'process.env[1]: "A" is there twice'),
    ("process.user.umask", 0o1000, "process.user.umask: 512 is not in 0..511"),
    ("process.rlimits[0].soft", 21, "process.rlimits[0].soft: 21 is above"),
    (
        "process.rlimits",
        [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2,
        'process.rlimits[1]: "RLIMIT_CORE" is there twice',
    ),
    (
        "process.capabilities.effective",
        ["CAP_CHOWN"],
        "process.capabilities.effective[0]: CAP_CHOWN is not in permitted",
    ),
    (
        "process.capabilities.ambient",
        ["CAP_KILL"],
        "process.capabilities.ambient[0]: CAP_KILL is not in inheritable",
    ),
    ("process.terminal", True, "process.terminal: a workload under test gets pipes"),
    ("ociVersion", "", 'ociVersion: "" is not a release 1.x'),
    ("ociVersion", "9.0", 'ociVersion: "9.0" is not'),
    ("ociVersion", "1.0.0-rc1", 'ociVersion: "1.0.0-rc1" is not'),
    ("ociVersion", "1.0.2\n", 'ociVersion: "1.0.2\\n" is not'),
    ("root.path", "", 'root.path: "" is not absolute'),
    ("root.path", "rootfs", 'root.path: "rootfs" is not absolute'),
    ("root.path", "/a/../..", "root.path: \"/a/../..\" has a '..' in it"),
    ("hostname", "a" * 65, "hostname: is longer than 64 bytes"),
    ("hostname", "a b", 'hostname: "a b" is not made of letters'),
    ("linux.namespaces", [], "hostname: there is no uts namespace for it"),
    (
        "linux.namespaces",
        [{"type": "uts"}, {"type": "uts"}],
        'linux.namespaces[1]: "uts" is there twice',
    ),
    ("linux.namespaces", [{"type": "pid", "path": "x"}], "linux.namespaces[0].path"),
    (
        "linux.namespaces",
        [{"type": "uts"}, {"type": "user"}],
        "linux.namespaces: a new user namespace needs uidMappings",
    ),
    ("linux.uidMappings", [ids(0, 0, 1)], "linux.uidMappings: there is no user namespace for it"),
    (
        "linux.uidMappings",
        [ids(0, 0, 2), ids(1, 9, 1)],
        "linux.uidMappings: containerID 1 is mapped twice",
    ),
    (
        "linux.gidMappings",
        [ids(0, 2, 2**32 - 1)],
        "linux.gidMappings[0].hostID: with its size, goes beyond",
    ),
    ("linux.uidMappings", [ids(0, 0, 0)], "linux.uidMappings[0].size: is 0: it maps nothing"),
    (
        "linux",
        {"namespaces": [{"type": "uts"}, {"type": "user"}], "uidMappings": [ids(0, 0, 1)]},
        "linux.namespaces: a new user namespace needs uidMappings",
    ),
    ("annotations", {"dev.gvisor.flag.debug": "1"}, 'annotations["dev.gvisor.flag.debug"]'),
    ("annotations", {"io.kubernetes.cri.x": "1"}, 'annotations["io.kubernetes.cri.x"]'),
    ("mounts", [bind(destination="data")], 'mounts[0].destination: "data" is not absolute'),
    ("mounts", [bind(destination="/a/../b")], "mounts[0].destination"),
    ("mounts", [bind(destination="//")], "mounts[0].destination: a mount onto / would"),
    ("mounts", [bind(destination="/./")], "mounts[0].destination: a mount onto / would"),
    ("mounts", [bind(destination="/proc")], "mounts[0].destination: only the sandbox's own"),
    ("mounts", [bind(destination="/proc/self")], "mounts[0].destination"),
    ("mounts", [bind(destination="//proc/./self")], "mounts[0].destination"),
    ("mounts", [bind(destination="/proc/acpi")], 'mounts[0].destination: "/proc/acpi" is'),
    ("mounts", [tmpfs("/proc/self")], 'mounts[0].destination: "/proc/self" is inside /proc'),
    ("mounts", [bind(source="")], "mounts[0].source: missing"),
    ("mounts", [bind(source="srv")], 'mounts[0].source: "srv" is not absolute'),
    ("mounts", [bind(type="none")], "mounts[0].type: missing"),
    ("mounts", [bind(options=["readonly"])], "mounts[0].options[0]: runsc has no mount option"),
    ("mounts", [bind(options=["rro"])], "mounts[0].options: runsc ignores an option"),
    ("mounts", [bind(options=["suid"])], "mounts[0].options: runsc ignores an option"),
    ("mounts", [bind(), bind(destination="/data/")], 'mounts[1]: "/data" is there twice'),
]


@pytest.mark.fault("B5", "B8", "B10", "B11", "B12")
@pytest.mark.parametrize(("place", "entry", "expected"), RULES)
def test_a_broken_rule_is_reported(
    place: str, entry: object, expected: str, value: dict[str, Any]
) -> None:
    """Each rule, broken, is reported with its place."""
    spec, found = validate.examine(change(value, place, entry))
    if spec is not None and not found:
        found = validate.problems(spec)
    assert [text for text in found if text.startswith(expected)], found


@pytest.mark.parametrize(("place", "entry"), [("ociVersion", "9.0"), ("process", 7)])
def test_nothing_is_read_of_a_specification_with_a_problem(
    place: str, entry: object, value: dict[str, Any]
) -> None:
    """Whether one could be made of it or not."""
    with pytest.raises(InvalidBundle, match=place):
        validate.read(change(value, place, entry))


WHOLE = [ids(0, 1, 2**32 - 1)]
PARTS = [ids(5, 0, 5), ids(0, 5, 5)]
USER = [{"type": "uts"}, {"type": "user"}]


@pytest.mark.parametrize(
    ("place", "entry"),
    [
        ("process.args", ["true", ""]),
        ("process.user.umask", 0o777),
        ("process.rlimits[0].soft", 20),
        ("process.env", ["A=", "B==", "C=A=1"]),
        ("hostname", "a" * 64),
        ("domainname", "a.b"),
        ("mounts", [tmpfs("/proc/acpi"), bind(), bind(destination="/data/x")]),
        ("linux", {"namespaces": USER, "uidMappings": WHOLE, "gidMappings": PARTS}),
        ("linux", {"namespaces": [*USER[:1], {"type": "user", "path": "/proc/1/ns/user"}]}),
    ],
)
def test_a_rule_is_kept_up_to_its_bound(place: str, entry: object, value: dict[str, Any]) -> None:
    """A value at its limit, or one that only resembles a refused one, passes."""
    assert validate.problems(validate.read(change(value, place, entry))) == []


def test_a_good_specification_has_no_problems(value: dict[str, Any]) -> None:
    """A valid specification passes."""
    spec = validate.read(value)
    assert validate.problems(spec) == []


def test_a_domain_is_checked_without_a_host(value: dict[str, Any]) -> None:
    """A domain is checked at its own place, also without a host name."""
    del value["hostname"]
    value["domainname"] = "a b"
    _, found = validate.examine(value)
    assert found == ["domainname: \"a b\" is not made of letters, digits, '.', '_' and '-'"]


def test_a_specification_made_in_python_is_checked_alike(value: dict[str, Any]) -> None:
    """Values that no JSON gave, NUL bytes and wrong types among them, are reported too."""
    spec = validate.read(value)
    bad = replace(spec, hostname="a\0", process=replace(spec.process, args=("a", 3)))  # type: ignore[arg-type]
    assert set(validate.problems(bad)) == {
        "hostname: has a NUL byte",
        "process.args[1]: must be a string, not 3",
    }


def test_empty_hooks_are_no_hooks(value: dict[str, Any]) -> None:
    """Hooks that some tools write without a single one in them are left out."""
    assert validate.read({**value, "hooks": {"prestart": []}}) == validate.read(value)


def test_what_has_no_effect_is_dropped_and_named(value: dict[str, Any]) -> None:
    """Such a key is dropped from a foreign bundle. Elsewhere it is an unknown key."""
    before = json.loads(json.dumps(value))
    resources = {"memory": {"limit": 1, "swappiness": 2}, "cpu": {"shares": 3}, "blockIO": {"x": 1}}
    value["process"] |= {"scheduler": {"policy": "SCHED_OTHER"}, "selinuxLabel": ""}
    value["linux"] |= {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}, "resources": resources}
    _, found = validate.examine(value)
    assert "linux.seccomp: unknown key" in found
    assert validate.drop_ignored(value) == [
        "process.scheduler",
        "linux.seccomp",
        "linux.resources.blockIO",
        "linux.resources.memory.swappiness",
        "linux.resources.cpu.shares",
    ]
    before["linux"]["resources"] = {"memory": {"limit": 1}}
    assert validate.read(value).to_json() == before


@pytest.mark.parametrize("odd", [None, [], 1, {"linux": []}, {"linux": {"resources": None}}])
def test_what_is_no_object_is_left_to_the_reader(odd: object) -> None:
    """A part of another type is reported by the reader."""
    assert validate.drop_ignored(odd) == []
