import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base.errors import InvalidBundle
from pytest_gvisor.oci import reader, validate
from pytest_gvisor.oci.spec import (
    Capabilities,
    Cpu,
    Linux,
    Memory,
    Mount,
    Namespace,
    Pids,
    Process,
    Resources,
    Rlimit,
    Root,
    Spec,
    User,
)
from pytest_gvisor.oci.vocabulary import Capability, MountType, NamespaceType, RlimitType
from tests.unit.oci.conftest import change


def words(annotation: Any) -> st.SearchStrategy[str]:
    """The strings that an annotation allows."""
    return st.sampled_from(get_args(annotation)[1].words)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
name = st.from_regex(r"[A-Za-z_]{1,8}", fullmatch=True)
path = st.lists(name, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
ids = st.integers(0, 2**32 - 2)
sets = st.lists(words(Capability), unique=True).map(tuple)
limits = st.none() | st.integers(-1, 2**63 - 1)
resources = st.builds(
    Resources,
    memory=st.builds(Memory, limit=limits, swap=limits),
    pids=st.builds(Pids, limit=limits),
    cpu=st.builds(Cpu, quota=limits, period=st.none() | st.integers(0, 2**64 - 1)),
)


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    permitted = draw(sets)
    kinds = draw(st.lists(st.sampled_from([*NamespaceType][:5]), unique=True))
    rlimits = draw(st.dictionaries(words(RlimitType), st.integers(0, 2**64 - 1)))
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
                Rlimit(type=kind, soft=number // 2, hard=number) for kind, number in rlimits.items()
            ),
            oom_score_adj=draw(st.none() | st.integers(-1000, 1000)),
        ),
        root=Root(path=draw(path), readonly=draw(st.booleans())),
        mounts=tuple(draw(st.lists(tmpfs, max_size=3, unique_by=lambda mount: mount.destination))),
        annotations=draw(st.dictionaries(text, text, max_size=3)),
        linux=Linux(
            namespaces=tuple(Namespace(type=kind) for kind in kinds),
            resources=draw(resources),
            sysctl=draw(st.dictionaries(text, text, max_size=3)),
        ),
    )


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every object of a JSON value that is not a mere table."""
    found = []
    if isinstance(value, dict) and way[-1:] not in {("annotations",), ("sysctl",)}:
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


WRONG = [
    (
        "process.noNewPriviliges",
        True,
        "process.noNewPriviliges: unknown key; did you mean noNewPrivileges",
    ),
    (
        "process.user.additional_gids",
        True,
        "process.user.additional_gids: unknown key; did you mean additionalGids",
    ),
    ("root.readOnly", True, "root.readOnly: unknown key; did you mean readonly"),
    ("linux.uidmappings", True, "linux.uidmappings: unknown key; did you mean uidMappings"),
    ("process.\x1b", True, 'process["\\u001b"]: unknown key'),
    ("process.args", "true", 'process.args: must be a list, not "true"'),
    ("process.args", ["a", 1], "process.args[1]: must be a string, not 1"),
    ("process.args", ["a\0b"], "process.args[0]: has a NUL byte"),
    ("process.env", ["A=\ud800"], "process.env[0]: has a lone surrogate, which is not text"),
    ("process.user.uid", -1, "process.user.uid: -1 is not in 0..4294967294"),
    ("process.user.uid", 2**32 - 1, "process.user.uid: 4294967295 is not in 0..4294967294"),
    ("process.user.gid", 1.0, "process.user.gid: must be a whole number, not a fraction"),
    ("process.user.gid", True, "process.user.gid: must be a whole number, not true"),
    ("process.user", None, "process.user: must be an object, not null"),
    ("process.terminal", 1, "process.terminal: must be true or false, not 1"),
    (
        "process.rlimits[0].hard",
        2**64,
        "process.rlimits[0].hard: 18446744073709551616 is not in 0..18446744073709551615",
    ),
    (
        "process.rlimits[0].type",
        "RLIMIT_NOFILES",
        "process.rlimits[0].type: unknown rlimit type RLIMIT_NOFILES; did you mean RLIMIT_NOFILE",
    ),
    (
        "process.capabilities.bounding",
        ["CAP_KILL", "CAP_FOO"],
        "process.capabilities.bounding[1]: unknown capability CAP_FOO",
    ),
    ("mounts[0].type", "ext4", "mounts[0].type: unknown mount type ext4"),
    ("root.path", None, "root.path: must be a string, not null"),
    ("annotations", {"a": 1}, "annotations.a: must be a string, not 1"),
    ("annotations", {"a\0": ""}, 'annotations["a\\u0000"] (the key): has a NUL byte'),
    ("windows", {}, "windows: unknown key"),
]


@pytest.mark.fault("B7", "B10")
@pytest.mark.parametrize(("place", "bad", "expected"), WRONG)
def test_a_wrong_key_or_value_is_reported_with_its_place(
    place: str, bad: object, expected: str, value: dict[str, Any]
) -> None:
    """A misspelt key is reported with the right one, and a value of a wrong type or range."""
    with pytest.raises(InvalidBundle) as caught:
        validate.read(change(value, place, bad))
    assert expected in caught.value.problems


@pytest.mark.fault("B14")
def test_a_key_that_is_there_twice_is_reported() -> None:
    """JSON's last-one-wins is not taken: two readers could read two things."""
    data = b'{"ociVersion": "1.0.2", "process": {"args": ["a"], "args": ["b"]}}'
    with pytest.raises(InvalidBundle, match="a key twice in one object"):
        reader.load(data, where="x")


def test_everything_is_reported_at_once(value: dict[str, Any]) -> None:
    """Structure and rules, of all parts, are in one report."""
    value["hooks"] = {"prestart": [{"path": "/bin/touch"}]}
    value["process"] |= {"capabilities": {"bounding": ["CAP_FOO"]}, "cwd": "tmp", "nope": 1}
    value["mounts"] = [{"destination": "tmp", "type": "tmpfs"}]
    value["linux"] = {"namespaces": [{"type": "uts"}, {"type": "uts"}]}
    with pytest.raises(InvalidBundle) as caught:
        validate.read(value)
    assert sorted(problem.split(":")[0] for problem in caught.value.problems) == [
        "hooks",
        "linux.namespaces[1]",
        "mounts[0].destination",
        "process.capabilities.bounding[0]",
        "process.cwd",
        "process.nope",
    ]


def test_limits_and_devices_are_as_closed_as_the_rest(value: dict[str, Any]) -> None:
    """A key that is unknown, missing, of a wrong type or out of its range has its place."""
    value["linux"] |= {
        "devices": [{"type": "c", "uid": -1}],
        "resources": {"memory": {"Limit": 1, "limit": "1"}, "cpu": {"period": -1}},
    }
    _, found = validate.examine(value)
    assert found == [
        "linux.devices[0].uid: -1 is not in 0..4294967294",
        "linux.devices[0].path: missing",
        "linux.resources.memory.Limit: unknown key; did you mean limit",
        'linux.resources.memory.limit: must be a whole number, not "1"',
        "linux.resources.cpu.period: -1 is not in 0..18446744073709551615",
    ]
