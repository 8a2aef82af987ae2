"""Each written value of a setting is read, or refused with its name."""

import enum
import math
import os
import selectors

import pytest

from pytest_gvisor.base import setting_values, settings
from pytest_gvisor.base.errors import UsageError
from pytest_gvisor.base.settings import Keep, Network, Platform, Rootless, Settings


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
    assert setting_values.platforms(written) == meant
    assert settings.replaced(Settings(), {"platform": written}).platforms == meant


@pytest.mark.parametrize("written", ["", " ", ",", " , ", [], [""], ()])
def test_platforms_that_name_nothing_are_refused(written: object) -> None:
    """An empty variable in a script is a mistake, and no ``auto``."""
    with pytest.raises(UsageError, match="names nothing"):
        setting_values.platforms(written)


@pytest.mark.parametrize(
    "written", ["auto,ptrace", "ptrace,auto", "all,auto", ["auto", "kvm"], "auto,native,kvm"]
)
def test_auto_stands_alone(written: object) -> None:
    """The binary decides which platform `auto` is, so another one could be the same."""
    with pytest.raises(UsageError, match=r"auto stands alone; leave it out .*, or name what"):
        setting_values.platforms(written)


@pytest.mark.parametrize("written", ["x-en", "Systrap", "systrap kvm", "kvm,,7", "é", "x" * 33])
def test_what_is_no_name_of_a_platform_is_refused_with_the_choices(written: str) -> None:
    """The message lists the platforms."""
    with pytest.raises(UsageError, match=r"is not one of systrap, kvm, ptrace"):
        setting_values.platforms(written)


@pytest.mark.parametrize("written", [7, None, b"kvm", [7], True])
def test_a_platform_is_a_word(written: object) -> None:
    """A value of another type is not converted."""
    with pytest.raises(UsageError, match="is not a word"):
        setting_values.platforms(written)


def test_a_platform_that_is_not_known_is_one_by_its_form() -> None:
    """Only the binary knows its platforms, so the command line accepts each valid form."""
    assert setting_values.platforms("systrap,slimvm") == (Platform.SYSTRAP, Platform("slimvm"))
    assert setting_values.expected_failures({"slimvm": "reason"}) == {"slimvm": "reason"}


@pytest.mark.parametrize("words", [Network, Rootless, Keep])
def test_each_word_is_read_as_itself(words: type[enum.StrEnum]) -> None:
    """Another text is refused with the choices."""
    for member in words:
        assert setting_values.word(words, member.value, "x") is member
        assert setting_values.word(words, member, "x") is member
    with pytest.raises(UsageError, match=f"x='y' is not one of {', '.join(words)}"):
        setting_values.word(words, "y", "x")


@pytest.mark.parametrize(("written", "meant"), [(1, 1.0), (0.5, 0.5), ("10", 10.0), (" 1e2 ", 100)])
def test_seconds_are_a_number_above_0(written: object, meant: float) -> None:
    """Written as text or not."""
    found = setting_values.seconds(written, "timeout")
    assert (found, type(found)) == (meant, float)


@pytest.mark.parametrize("written", [2147484, 1e7, "99999999", 1e300, 10**400])
def test_seconds_that_no_wait_takes_are_the_longest_that_each_does(written: object) -> None:
    """Somebody who writes them means for ever, and epoll refuses them."""
    found = setting_values.seconds(written, "timeout")
    assert found == setting_values.LONGEST
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
        setting_values.seconds(written, "timeout")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (True, True), (False, False), ("1", True), ("TRUE", True), ("yes", True), ("On", True),
        ("0", False), ("false", False), ("NO", False), ("off", False), ("", False),
    ],
)  # fmt: skip
def test_a_flag_is_a_bool_or_a_word_that_means_one(written: object, meant: bool) -> None:
    """A flag may have the texts of ini files and variables."""
    assert setting_values.flag(written, "strict") is meant


@pytest.mark.parametrize("written", ["maybe", 1, 0, None, "y"])
def test_other_flags_are_refused(written: object) -> None:
    """Another value is never taken for a yes."""
    with pytest.raises(UsageError, match="neither true nor false"):
        setting_values.flag(written, "strict")


@pytest.mark.parametrize("written", [-1, 1.0, "1", True, None])
def test_a_count_is_a_whole_number(written: object) -> None:
    """A count is at least 0."""
    with pytest.raises(UsageError, match="whole number"):
        setting_values.count(written, "max_output")
    assert setting_values.count(0, "max_output") == 0


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
    assert setting_values.expected_failures(good) == good
    with pytest.raises(UsageError, match="xfail"):
        setting_values.expected_failures(value)
