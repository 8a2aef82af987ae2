"""The values that users write, and the settings that they become."""

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor.base import setting_values, settings
from pytest_gvisor.base.errors import LaunchError, UsageError
from pytest_gvisor.base.setting_table import SETTINGS, Kind, names_from, spellings
from pytest_gvisor.base.settings import CallSettings, SessionSettings, Settings
from pytest_gvisor.run.capture import Capture

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(),
    st.lists(st.text(), max_size=3), st.dictionaries(st.text(), st.text(), max_size=2),
)  # fmt: skip


TYPES = typing.get_type_hints(Settings)
NAMES = [one.name for one in SETTINGS]


def type_of(kind: Kind) -> Any:
    """The type of the values of a kind: that of its choices, or of its reader."""
    if kind in settings.CHOICES:
        return settings.CHOICES[kind]
    return typing.get_type_hints(setting_values.READERS[kind])["return"]


def test_the_table_and_the_class_have_the_same_names() -> None:
    """Four fields are no settings of their own: they are read with platform, runsc and allow."""
    assert {*NAMES} == TYPES.keys() - {"native", "releases", "label", "ports"}
    assert len(NAMES) == len(set(NAMES))


def test_the_table_and_the_class_have_the_same_type() -> None:
    """A setting whose default is None is optional."""
    for one in SETTINGS:
        kind, optional = type_of(one.kind), getattr(Settings(), one.name) is None
        assert TYPES[one.name] == (kind | None if optional else kind), one.name


def test_a_hint_has_each_spelling_of_a_setting() -> None:
    """A hint names the spelling of a call, of pytest and of each command."""
    assert spellings("timeout") == (
        "timeout=SECONDS, --gvisor-timeout or (pytest-gvisor run) --timeout"
    )
    assert spellings("debug") == "debug=True, --gvisor-debug or (pytest-gvisor run) --debug"
    assert spellings("runsc") == "--gvisor-runsc or (pytest-gvisor run and doctor) --runsc"


@given(name=st.sampled_from(NAMES), value=ANYTHING)
def test_any_value_is_read_or_a_usage_error_that_names_it(name: str, value: object) -> None:
    """Each value is read or refused, and a read value is read the same again."""
    said = read = ""
    try:
        found = settings.replaced(Settings(), {name: value})
        read = getattr(found, name)
    except UsageError as error:
        said = str(error)
    if said:
        assert name.removesuffix("s") in said
    elif name != "platforms":
        assert settings.replaced(Settings(), {name: read}) == found


@pytest.mark.parametrize("written", [10**400, -(10**400), True, "1", []])
def test_other_cpus_are_refused(written: object) -> None:
    """A whole number may be larger than any float."""
    with pytest.raises(UsageError, match="is not a number"):
        settings.replaced(Settings(), {"cpus": written})


def test_more_output_than_any_memory_holds_is_refused() -> None:
    """A mapping of that size is an OverflowError, and no refusal of the kernel's."""
    most = setting_values.MOST_OUTPUT
    assert settings.replaced(Settings(), {"max_output": most}).max_output == most
    with pytest.raises(LaunchError, match="bytes of memory"):
        Capture(most).room()
    with pytest.raises(UsageError, match=r"max_output=\d+ is more than"):
        settings.replaced(Settings(), {"max_output": most + 1})


@pytest.mark.parametrize("name", ["netns", "runsc"])
@pytest.mark.parametrize(("written", "meant"), [(None, None), ("/x", "/x"), (Path("/x/y"), "/x/y")])
def test_a_path_is_text_or_path_like(name: str, written: object, meant: str | None) -> None:
    """The value `None` stays `None`."""
    assert getattr(settings.replaced(Settings(), {name: written}), name) == meant


@pytest.mark.parametrize("name", ["netns", "runsc"])
@pytest.mark.parametrize("written", ["", b"/x", 7])
def test_other_paths_are_refused(name: str, written: object) -> None:
    """An empty one too."""
    with pytest.raises(UsageError, match="is not a path"):
        settings.replaced(Settings(), {name: written})


@pytest.mark.parametrize(
    ("name", "written", "word"),
    [("memory", 1.5, "size"), ("memory", True, "size"), ("memory", [1], "size"),
     ("pids", 1.5, "whole number"), ("pids", -1, "whole number"), ("cpus", "2", "number"),
     ("cpus", True, "number"), ("shm", True, "size"), ("shm", [1], "size"),
],
)  # fmt: skip
def test_limits_of_another_kind_are_refused(name: str, written: object, word: str) -> None:
    """Limits of another type are refused before anything is made."""
    with pytest.raises(UsageError, match=word):
        settings.replaced(Settings(), {name: written})


def test_limits_are_read() -> None:
    """A size may be text such as `256M`, which is parsed when the specification is made."""
    written = {"memory": "256M", "pids": 10, "cpus": 2, "shm": "1G"}
    found = settings.replaced(Settings(), written)
    assert (found.memory, found.pids, found.cpus) == ("256M", 10, 2.0)
    assert found.shm == "1G"


@pytest.mark.parametrize(
    "written",
    [
        [], ["exec"], ("read:/a/*", "exec:a", "connect:*:80"),
        ["read:**", "read:/", "read:/**/.env", "read:/a/..b*", "write:**/a", "write:**.py?v"],
        ["exec:/usr/bin/*", "exec:*", "exec:python?", "exec:**/sh", "connect:*", "connect:*.1:80"],
        ["connect:127.0.0.1:*", "connect:10.0.?.*", "connect:[::1]:80", "connect:[2001:db8:*"],
        ["connect:**", "connect:**:443", "connect:**/docker.sock", "connect:family?16"],
        ["connect:unix:/run/**", "connect:unix:@*", "connect:unix:here", "connect:[*]:443"],
        ["connect:**.sock", "connect:unix:**", "connect:*:/run/a", "connect:**]:443"],
        ["read:/My?Files/a?b??c", "write:/a/?b?", "exec:My?Tool", "connect:unix:/run/a?b"],
        ["connect:[::1]*", "connect:*]:443", "connect:**@x", "connect:family*", "connect:unix?/a"],
    ],
)  # fmt: skip
def test_forbidden_acts_are_kinds_with_patterns(written: Sequence[str]) -> None:
    """An act that is written twice counts once."""
    assert settings.replaced(Settings(), {"forbid": [*written, *written]}).forbid == (*written,)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("exec", "is not a list such as"),
        ([7], "is not a list such as"),
        (["execute"], "'execute' is no act; did you mean exec; there are read, write, exec, conn"),
        (["network"], "'network' is no act; there are read, write, exec, connect"),
        (["write:"], "'write:' matches nothing: a pattern is of a whole path"),
        (["read:app/x"], "'read:app/x' matches nothing"),
        (["exec:bin/sh"], "'exec:bin/sh' matches nothing"),
        (["write:*.py"], "'write:*.py' matches nothing"),
        (["read:*"], "'read:*' matches nothing"),
        (["read:?tmp"], "'read:?tmp' matches nothing"),
        (["write:/etc/**,connect"], "'write:/etc/**,connect' has a blank, a comma"),
        (["exec:sh,write:**"], "'exec:sh,write:**' has a blank, a comma"),
        (["write:/app/"], "'write:/app/' matches nothing"),
        (["read:/app/**/"], "'read:/app/**/' matches nothing"),
        (["read:/app/../etc/**"], "'read:/app/../etc/**' matches nothing"),
        (["exec://bin/sh"], "'exec://bin/sh' matches nothing"),
        (["connect:10.0.0.1"], "matches nothing: a pattern is of an address and a port"),
        (["connect:localhost:*"], "'connect:localhost:*' matches nothing"),
        (["connect:*.example.com:443"], "'connect:*.example.com:443' matches nothing"),
        (["connect:**.abc.de:443"], "'connect:**.abc.de:443' matches nothing"),
        (["connect:::1:80"], "'connect:::1:80' matches nothing"),
        (["connect:[0:0::1]:80"], "'connect:[0:0::1]:80' matches nothing"),
        (["connect:[2001:DB8::1]:80"], "'connect:[2001:DB8::1]:80' matches nothing"),
        (["connect:[::ffff:10.0.0.1]:80"], "'connect:[::ffff:10.0.0.1]:80' matches nothing"),
        (["connect:127.1:80"], "'connect:127.1:80' matches nothing"),
        (["connect:unix"], "'connect:unix' matches nothing"),
        (["connect:family"], "'connect:family' matches nothing"),
        (["connect:unix/run/a"], "'connect:unix/run/a' matches nothing"),
        (["connect:10.0.0.?"], "'connect:10.0.0.?' matches nothing"),
        (["connect:?"], "'connect:?' matches nothing"),
        (["connect:10.*.0.1"], "'connect:10.*.0.1' matches nothing"),
        (["connect:[2001:db8::*]"], "'connect:[2001:db8::*]' matches nothing"),
        (["connect:[::ffff:*]:80"], "matches nothing"),
        (["connect:[::ffff:*"], "matches nothing"),
        (["write:/app/**,"], "'write:/app/**,' has a blank, a comma"),
        (["write:/app/**, exec"], "'write:/app/**, exec' has a blank, a comma"),
        (["connect:unix:/run/../a"], "'connect:unix:/run/../a' matches nothing"),
        (["exec:sh,bash"], "'exec:sh,bash' has a blank, a comma"),
        (["exec:sh|bash"], "'exec:sh|bash' has a blank, a comma"),
        (["exec:git push"], "'exec:git push' has a blank, a comma"),
        (["exec:/bin/sh -c"], "'exec:/bin/sh -c' has a blank, a comma"),
        (["exec:*/sh"], "'exec:*/sh' matches nothing"),
        (["read:*/.env"], "'read:*/.env' matches nothing"),
        (["write:/a/**,/b/**"], "'write:/a/**,/b/**' has a blank, a comma"),
        (["write:/a;/b"], "'write:/a;/b' has a blank, a comma"),
        (["connect:family 16"], "'connect:family 16' has a blank, a comma"),
        (["write:/a/** /b/**"], "'write:/a/** /b/**' has a blank, a comma"),
        (["write:/{a,b}/**"], "'write:/{a,b}/**' has a blank, a comma"),
        (["read:/etc/shadow\n"], "'read:/etc/shadow\\n' has a blank, a comma"),
        (["connect:*/docker.sock"], "'connect:*/docker.sock' matches nothing"),
        (["connect:unix:*/docker.sock"], "'connect:unix:*/docker.sock' matches nothing"),
        (["connect:unix:*"], "'connect:unix:*' matches nothing"),
    ],
)
def test_an_act_that_matches_nothing_is_refused(written: object, message: str) -> None:
    """Such an act would forbid nothing, and nobody would notice."""
    with pytest.raises(UsageError, match=f"forbid.*{re.escape(message)}"):
        settings.replaced(Settings(), {"forbid": written})


@pytest.mark.parametrize("name", ["tiemout", "", "Network", "args"])
def test_an_unknown_setting_is_refused_with_the_choices(name: str) -> None:
    """A misspelt one is no silent default."""
    with pytest.raises(UsageError, match=r"is not a setting.*; there are .*timeout"):
        settings.replaced(Settings(), {name: 1})


def test_type_checkers_know_each_setting_of_a_call_and_of_a_session() -> None:
    """The arguments for editors are those of the table."""
    # A call has its timeout beside the settings, as `subprocess.run`.
    assert {*CallSettings.__optional_keys__, "timeout"} == {*names_from("call")}
    whole = {*names_from("marker"), *names_from("call")}
    assert SessionSettings.__optional_keys__ == whole
