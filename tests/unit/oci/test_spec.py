from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.errors import InvalidBundle
from pytest_gvisor.oci import reader, validate
from pytest_gvisor.oci.spec import (
    Capabilities,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Spec,
    User,
)
from pytest_gvisor.oci.vocabulary import Capability, MountType, NamespaceType, RlimitType

TOOLS = ("runc", "runc-rootless", "runsc", "umoci", "umoci-rootless")


def words(annotation: Any) -> st.SearchStrategy[str]:
    """The strings that an annotation allows."""
    return st.sampled_from(get_args(annotation)[1].words)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
name = st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True)
path = st.lists(name, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
ids = st.integers(0, 2**32 - 2)
sets = st.lists(words(Capability), unique=True).map(tuple)
resources = st.fixed_dictionaries(
    {},
    optional={
        "memory": st.fixed_dictionaries({}, optional={"limit": st.integers(-1, 2**63 - 1)}),
        "pids": st.fixed_dictionaries({"limit": st.integers(-1, 2**40)}),
        "cpu": st.fixed_dictionaries(
            {}, optional={"quota": st.integers(-1, 2**40), "cpus": text | st.just("")}
        ),
        "unified": st.dictionaries(text, text, max_size=3),
    },
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    permitted = draw(sets)
    kinds = draw(st.lists(st.sampled_from([*NamespaceType][:5]), unique=True))
    limits = draw(st.dictionaries(words(RlimitType), st.integers(0, 2**64 - 1)))
    env = draw(st.dictionaries(name, text, max_size=4))
    tmpfs = st.builds(Mount, destination=path, type=st.just(MountType.TMPFS), source=text)
    return Spec(
        oci_version=draw(st.sampled_from(["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0"])),
        process=Process(
            args=tuple(draw(st.lists(text, min_size=1, max_size=4))),
            cwd=draw(path),
            user=User(uid=draw(ids), gid=draw(ids), additional_gids=tuple(draw(st.lists(ids)))),
            env=tuple(f"{key}={entry}" for key, entry in env.items()),
            terminal=draw(st.booleans()),
            capabilities=Capabilities(permitted=permitted, effective=permitted[:2]),
            rlimits=tuple(
                Rlimit(type=kind, soft=number // 2, hard=number) for kind, number in limits.items()
            ),
            oom_score_adj=draw(st.none() | st.integers(-1000, 1000)),
        ),
        root=Root(path=draw(path), readonly=draw(st.booleans())),
        mounts=tuple(draw(st.lists(tmpfs, max_size=3, unique_by=lambda mount: mount.destination))),
        annotations=draw(st.dictionaries(text, text, max_size=3)),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in kinds),
            resources=draw(st.none() | resources),
            sysctl=draw(st.dictionaries(text, text, max_size=3)),
        ),
    )


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every object of a JSON value that is not a mere table."""
    found = []
    if isinstance(value, dict) and way[-1:] not in {("annotations",), ("sysctl",), ("unified",)}:
        found.append(way)
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        if isinstance(entry, dict | list):
            found += places(entry, (*way, key))
    return found


@given(specs())
def test_a_specification_survives_json(spec: Spec) -> None:
    """A written specification is equal when it is read."""
    assert validate.read(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.fault("B7")
@given(specs(), st.data())
def test_a_bad_key_is_reported_wherever_it_is(spec: Spec, data: st.DataObject) -> None:
    """An unknown key is reported with its place, in any object."""
    value = spec.to_json()
    way = data.draw(st.sampled_from([place for place in places(value) if place[-1:] != ("x",)]))
    target = value
    for step in way:
        target = target[step]
    target["noSuchKey"] = 1
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)
    with pytest.raises(InvalidBundle) as caught:
        validate.read(value)
    assert caught.value.problems == (f"{place}.noSuchKey".lstrip(".") + ": unknown key",)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_other_tools_write_is_read(tool: str, sample: Callable[[str], Any]) -> None:
    """runc's, runsc's and umoci's own config.json are read, and nothing of them is lost."""
    value = sample(tool)
    again = validate.read(value).to_json()
    for mount in value["mounts"]:
        if mount["type"] == "none":
            del mount["type"]
    assert again == value


WRONG = [
    (
        ("process", "noNewPriviliges"),
        True,
        "process.noNewPriviliges: unknown key; did you mean noNewPrivileges",
    ),
    (
        ("process", "user", "additional_gids"),
        True,
        "process.user.additional_gids: unknown key; did you mean additionalGids",
    ),
    (("root", "readOnly"), True, "root.readOnly: unknown key; did you mean readonly"),
    (("linux", "maskedpaths"), True, "linux.maskedpaths: unknown key; did you mean maskedPaths"),
    (("process", "\x1b[31m"), True, 'process["\\u001b[31m"]: unknown key'),
    (("process", "args"), "true", 'process.args: must be a list, not "true"'),
    (("process", "args"), ["a", 1], "process.args[1]: must be a string, not 1"),
    (("process", "args"), ["a\0b"], "process.args[0]: has a NUL byte"),
    (("process", "env"), ["A=\ud800"], "process.env[0]: has a lone surrogate, which is not text"),
    (("process", "user", "uid"), -1, "process.user.uid: -1 is not in 0..4294967294"),
    (("process", "user", "uid"), 2**32 - 1, "process.user.uid: 4294967295 is not in 0..4294967294"),
    (("process", "user", "gid"), 1.0, "process.user.gid: must be a whole number, not a fraction"),
    (("process", "user", "gid"), True, "process.user.gid: must be a whole number, not true"),
    (("process", "user"), None, "process.user: must be an object, not null"),
    (("process", "terminal"), 1, "process.terminal: must be true or false, not 1"),
    (
        ("process", "rlimits", 0, "hard"),
        2**64,
        "process.rlimits[0].hard: 18446744073709551616 is not in 0..18446744073709551615",
    ),
    (
        ("process", "rlimits", 0, "type"),
        "RLIMIT_NOFILES",
        "process.rlimits[0].type: unknown rlimit type RLIMIT_NOFILES; did you mean RLIMIT_NOFILE",
    ),
    (
        ("process", "capabilities", "bounding"),
        ["CAP_KILL", "CAP_FOO"],
        "process.capabilities.bounding[1]: unknown capability CAP_FOO",
    ),
    (("mounts", 0, "type"), "ext4", "mounts[0].type: unknown mount type ext4"),
    (("root", "path"), None, "root.path: must be a string, not null"),
    (("annotations",), {"a": 1}, "annotations.a: must be a string, not 1"),
    (("annotations",), {"a\0": ""}, 'annotations["a\\u0000"] (the key): has a NUL byte'),
    (("windows",), {}, "windows: is for Windows"),
]


@pytest.mark.fault("B7", "B10")
@pytest.mark.parametrize(("way", "bad", "expected"), WRONG)
def test_a_wrong_key_or_value_is_reported_with_its_place(
    way: tuple[Any, ...], bad: object, expected: str, value: dict[str, Any]
) -> None:
    """A misspelt key is reported with the right one, and a value of a wrong type or range."""
    target: Any = value
    for step in way[:-1]:
        target = target[step]
    target[way[-1]] = bad
    with pytest.raises(InvalidBundle) as caught:
        validate.read(value)
    assert expected in caught.value.problems


@pytest.mark.fault("B14")
def test_a_key_that_is_there_twice_is_reported() -> None:
    """JSON's last-one-wins is not taken: two readers could read two things."""
    data = (
        b'{"ociVersion": "1.0.2", "process": {"args": ["a"], "args": ["b"]}, "root": {"path": "r"}}'
    )
    _, found = validate.examine(reader.load(data, where="x"))
    assert "process.args: this key is there twice" in found


CARRIED: dict[str, Any] = {
    "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}],
    "netDevices": {"eth0": {"name": "eth1"}},
    "resources": {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": -1, "disableOOMKiller": False},
        "cpu": {"idle": 0, "mems": ""},
        "blockIO": {"throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 600}]},
        "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 500}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3}},
    },
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["getcwd"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}],
            }
        ],
    },
    "intelRdt": {"closID": "one", "enableCMT": True},
    "personality": {"domain": "LINUX"},
    "timeOffsets": {"monotonic": {"secs": -3, "nanosecs": 0}},
}


def test_what_is_passed_on_stays_as_it_was_written(value: dict[str, Any]) -> None:
    """Also a value that is the runtime's default: of these parts nothing here knows defaults."""
    value["linux"] |= CARRIED
    value["process"] |= {
        "consoleSize": {"height": 0, "width": 0},
        "scheduler": {"policy": "SCHED_OTHER", "nice": 0},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
        "execCPUAffinity": {"initial": "0-3"},
    }
    assert validate.read(value).to_json() == value


def test_what_is_passed_on_is_as_closed_as_the_rest(value: dict[str, Any]) -> None:
    """A key that is unknown, missing, of a wrong type or out of its range has its place."""
    value["linux"] |= {
        "resources": {
            "memory": {"Limit": 1, "limit": "1"},
            "pids": {},
            "rdma": {"a": {"hcaHandles": -1}},
        },
        "seccomp": {"defaultAction": "NEVER", "syscalls": [{"names": ["a"], "args": [1]}]},
    }
    spec, found = validate.examine(value)
    assert found == [
        "linux.resources.memory.Limit: unknown key; did you mean limit",
        'linux.resources.memory.limit: must be a whole number, not "1"',
        "linux.resources.pids.limit: missing",
        "linux.resources.rdma.a.hcaHandles: -1 is not in 0..4294967295",
        "linux.seccomp.defaultAction: unknown seccomp action NEVER",
        "linux.seccomp.syscalls[0].args[0]: must be an object, not 1",
        "linux.seccomp.syscalls[0].action: missing",
    ]
    assert spec is not None
    assert validate.problems(spec) == []  # a bad part is left out of what is checked further
