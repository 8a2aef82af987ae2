"""The values that users write, and the settings that they become."""

from __future__ import annotations

import math
import os
import re
import selectors
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_gvisor import settings
from pytest_gvisor.errors import LaunchError, UsageError
from pytest_gvisor.run.call_settings import CallSettings, SessionSettings
from pytest_gvisor.run.capture import Capture
from pytest_gvisor.setting_table import SETTINGS, Kind, Setting, names_from
from pytest_gvisor.settings import Keep, Network, Platform, Rootless, Settings

if TYPE_CHECKING:
    import enum

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
    return typing.get_type_hints(settings.READERS[kind])["return"]


def test_the_table_and_the_class_have_the_same_names() -> None:
    """Three fields are no settings of their own: they are read with platform and runsc."""
    assert {*NAMES} == TYPES.keys() - {"native", "releases", "label"}
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_the_table_and_the_class_have_the_same_type_and_default(setting: Setting) -> None:
    """A setting whose default is None is optional."""
    kind = type_of(setting.kind)
    meant = kind | None if setting.default is None else kind
    assert TYPES[setting.name] == meant
    assert getattr(Settings(), setting.name) == setting.default


def test_each_kind_has_one_reader() -> None:
    """A kind is a set of choices or has a reader, and each kind has a setting."""
    kinds = {one.kind for one in SETTINGS}
    assert kinds == {*settings.CHOICES, *settings.READERS} == {*typing.get_args(Kind)}
    assert not settings.CHOICES.keys() & settings.READERS.keys()


@pytest.mark.parametrize("setting", SETTINGS, ids=NAMES)
def test_help_is_there_where_it_is_shown_and_names_each_choice(setting: Setting) -> None:
    """An option or an ini key of pytest has a help, and so has an option of a command."""
    assert bool(setting.help) is bool({"command line", "ini"} & {*setting.sources})
    shown = [setting.help] * bool(setting.help) + [one.help for one in setting.commands.values()]
    for word in settings.CHOICES.get(setting.kind, ()):
        assert all(re.search(rf"\b{word}\b", text) for text in shown)


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


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("systrap", (Platform.SYSTRAP,)),
        (" kvm , ptrace ", (Platform.KVM, Platform.PTRACE)),
        ("ptrace,kvm,ptrace", (Platform.PTRACE, Platform.KVM)),
        ("auto", ()),
        ("auto, auto", ()),
        ("all", tuple(Platform)),
        ("ptrace,all", (Platform.PTRACE, Platform.SYSTRAP, Platform.KVM)),
        (["kvm", "systrap,ptrace"], (Platform.KVM, Platform.SYSTRAP, Platform.PTRACE)),
        (Platform.KVM, (Platform.KVM,)),
        ((Platform.KVM, "ptrace"), (Platform.KVM, Platform.PTRACE)),
        ({"kvm"}, (Platform.KVM,)),
    ],
)
def test_platforms_are_kept_in_their_order_and_once(
    written: object, meant: tuple[Platform, ...]
) -> None:
    """A comma list, a list of these, or enums; ``auto`` is no platform of its own."""
    assert settings.platforms(written) == meant
    assert settings.replaced(Settings(), {"platform": written}).platforms == meant


@pytest.mark.parametrize("written", ["", " ", ",", " , ", [], [""], ()])
def test_platforms_that_name_nothing_are_refused(written: object) -> None:
    """An empty variable in a script is a mistake, and no ``auto``."""
    with pytest.raises(UsageError, match="names nothing"):
        settings.platforms(written)


@pytest.mark.parametrize(
    "written", ["auto,ptrace", "ptrace,auto", "all,auto", ["auto", "kvm"], "auto,native,kvm"]
)
def test_auto_stands_alone(written: object) -> None:
    """The binary decides which platform `auto` is, so another one could be the same."""
    with pytest.raises(UsageError, match=r"auto stands alone; leave it out .*, or name what"):
        settings.platforms(written)


@pytest.mark.parametrize("written", ["x-en", "Systrap", "systrap kvm", "kvm,,7", "é", "x" * 33])
def test_what_is_no_name_of_a_platform_is_refused_with_the_choices(written: str) -> None:
    """The message lists the platforms."""
    with pytest.raises(UsageError, match=r"is not one of systrap, kvm, ptrace"):
        settings.platforms(written)


@pytest.mark.parametrize("written", [7, None, b"kvm", [7], True])
def test_a_platform_is_a_word(written: object) -> None:
    """A value of another type is not converted."""
    with pytest.raises(UsageError, match="is not a word"):
        settings.platforms(written)


def test_a_platform_that_is_not_known_is_one_by_its_form() -> None:
    """Only the binary knows its platforms, so the command line accepts each valid form."""
    assert settings.platforms("systrap,slimvm") == (Platform.SYSTRAP, Platform("slimvm"))
    assert settings.expected_failures({"slimvm": "reason"}) == {"slimvm": "reason"}


@pytest.mark.parametrize("words", [Network, Rootless, Keep])
def test_each_word_is_read_as_itself(words: type[enum.StrEnum]) -> None:
    """Another text is refused with the choices."""
    for member in words:
        assert settings.word(words, member.value, "x") is member
        assert settings.word(words, member, "x") is member
    with pytest.raises(UsageError, match=f"x='y' is not one of {', '.join(words)}"):
        settings.word(words, "y", "x")


@pytest.mark.parametrize(("written", "meant"), [(1, 1.0), (0.5, 0.5), ("10", 10.0), (" 1e2 ", 100)])
def test_seconds_are_a_number_above_0(written: object, meant: float) -> None:
    """Written as text or not."""
    found = settings.seconds(written, "timeout")
    assert (found, type(found)) == (meant, float)


@pytest.mark.parametrize("written", [2147484, 1e7, "99999999", 1e300, 10**400])
def test_seconds_that_no_wait_takes_are_the_longest_that_each_does(written: object) -> None:
    """Somebody who writes them means for ever, and epoll refuses them."""
    found = settings.seconds(written, "timeout")
    assert found == settings.LONGEST
    reader, writer = os.pipe()
    with selectors.DefaultSelector() as selector, open(reader, "rb"), open(writer, "wb"):
        selector.register(reader, selectors.EVENT_READ)
        os.write(writer, b"x")
        assert selector.select(found)


@pytest.mark.parametrize(
    "written", [0, -1, "0", math.inf, "nan", math.nan, "-inf", "ten", "", None, True, [1], "1s"]
)
def test_other_seconds_are_refused(written: object) -> None:
    """A missing deadline is no choice."""
    with pytest.raises(UsageError, match="timeout="):
        settings.seconds(written, "timeout")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, True), (False, False), ("1", True), ("TRUE", True), ("yes", True), ("On", True),
        ("0", False), ("false", False), ("NO", False), ("off", False), ("", False),
    ],
)  # fmt: skip
def test_a_flag_is_a_bool_or_a_word_that_means_one(written: object, meant: bool) -> None:
    """A flag may have the texts of ini files and variables."""
    assert settings.flag(written, "strict") is meant


@pytest.mark.parametrize("written", ["maybe", 1, 0, None, "y"])
def test_other_flags_are_refused(written: object) -> None:
    """Another value is never taken for a yes."""
    with pytest.raises(UsageError, match="neither true nor false"):
        settings.flag(written, "strict")


@pytest.mark.parametrize("written", [-1, 1.0, "1", True, None])
def test_a_count_is_a_whole_number(written: object) -> None:
    """A count is at least 0."""
    with pytest.raises(UsageError, match="whole number"):
        settings.count(written, "max_output")
    assert settings.count(0, "max_output") == 0


@pytest.mark.parametrize("written", [10**400, -(10**400), True, "1", []])
def test_other_cpus_are_refused(written: object) -> None:
    """A whole number may be larger than any float."""
    with pytest.raises(UsageError, match="is not a number"):
        settings.replaced(Settings(), {"cpus": written})


def test_more_output_than_any_memory_holds_is_refused() -> None:
    """A mapping of that size is an OverflowError, and no refusal of the kernel's."""
    most = settings.MOST_OUTPUT
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
     ("nofile", True, "open files"), ("nofile", 63, "open files"), ("nofile", 64.0, "open files"),
     ("nofile", "-1", "open files"), ("nofile", "many", "open files"),
     ("nofile", "9" * 5000, "open files"), ("nofile", 2**30 + 1, "open files")],
)  # fmt: skip
def test_limits_of_another_kind_are_refused(name: str, written: object, word: str) -> None:
    """Limits of another type are refused before anything is made."""
    with pytest.raises(UsageError, match=word):
        settings.replaced(Settings(), {name: written})


def test_limits_are_read() -> None:
    """A size may be text such as `256M`, which is parsed when the specification is made."""
    written = {"memory": "256M", "pids": 10, "cpus": 2, "shm": "1G", "nofile": "4096"}
    found = settings.replaced(Settings(), written)
    assert (found.memory, found.pids, found.cpus) == ("256M", 10, 2.0)
    assert (found.shm, found.nofile) == ("1G", 4096)


@pytest.mark.parametrize("name", ["tiemout", "", "Network", "args"])
def test_an_unknown_setting_is_refused_with_the_choices(name: str) -> None:
    """A misspelt one is no silent default."""
    with pytest.raises(UsageError, match=r"is not a setting; there are .*timeout"):
        settings.replaced(Settings(), {name: 1})


def test_type_checkers_know_each_setting_of_a_call_and_of_a_session() -> None:
    """The arguments for editors are those of the table."""
    # A call has its timeout beside the settings, as `subprocess.run`.
    assert {*CallSettings.__optional_keys__, "timeout"} == {*names_from("call")}
    whole = {*names_from("marker"), *names_from("call")}
    assert SessionSettings.__optional_keys__ == whole


def test_only_what_is_changed_changes() -> None:
    """The original stays as it was."""
    before = Settings(network=Network.HOST, timeout=5.0)
    after = settings.replaced(before, {"timeout": 7})
    assert (after.network, after.timeout) == (Network.HOST, 7.0)
    assert before.timeout == 5.0
    assert settings.replaced(before, {}) == before


def test_native_is_read_beside_platforms() -> None:
    """The last mention of `native` decides, and `native` alone is a usage error."""
    both = settings.replaced(Settings(), {"platform": "native, ptrace"})
    assert (both.native, both.platforms) == (True, (Platform.PTRACE,))
    assert settings.replaced(Settings(), {"platform": ["auto", "native"]}).native
    assert not settings.replaced(both, {"platform": "all"}).native
    with pytest.raises(UsageError, match="--no-gvisor"):
        settings.replaced(Settings(), {"platform": "native"})


@pytest.mark.parametrize(
    "value", [None, {}, [], "ptrace", {"kv-n": "x"}, {1: "x"}, {"ptrace": " "}, {"native": None}]
)
def test_an_expected_failure_has_a_platform_and_a_reason(value: object) -> None:
    """Both are texts; the reason is for readers of the report."""
    good = {"ptrace": "slow", "native": "needs gVisor"}
    assert settings.expected_failures(good) == good
    with pytest.raises(UsageError, match="xfail"):
        settings.expected_failures(value)
