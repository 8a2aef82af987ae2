"""`Platform` is a text, one object for each name, and its class lists the known ones."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

from pytest_gvisor import Platform

NAMES = ["systrap", "kvm", "ptrace", "slimvm"]


def test_the_class_lists_what_is_known_in_a_fixed_order() -> None:
    """Ids are made of it, so no binary and no other name that was seen may change it."""
    assert Platform("slimvm") not in Platform
    assert list(Platform) == [Platform.SYSTRAP, Platform.KVM, Platform.PTRACE]
    assert [one.value for one in Platform] == ["systrap", "kvm", "ptrace"]
    assert len(Platform) == 3
    assert "kvm" in Platform
    assert Platform["KVM"] is Platform.__members__["KVM"] is Platform.KVM


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_object_however_it_came(name: str) -> None:
    """The class, pickle (as in xdist and multiprocessing) and copies give the same object."""
    platform = Platform(name)
    assert Platform(platform) is Platform(name) is platform
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(platform, protocol)) is platform
    assert copy.copy(platform) is copy.deepcopy(platform) is platform


@pytest.mark.parametrize("name", NAMES)
def test_a_platform_is_its_text(name: str) -> None:
    """A platform is a text in messages, as a key, in JSON and in a dataclass."""

    @dataclasses.dataclass
    class Holder:
        platform: Platform

    platform = Platform(name)
    assert isinstance(platform, str)
    assert platform == name
    assert {platform: 1}[name] == 1  # type: ignore[index]
    assert f"{platform}" == str(platform) == platform.value == name
    assert type(platform.value) is type(str(platform)) is str
    assert platform.name == name.upper()
    assert json.loads(json.dumps(dataclasses.asdict(Holder(platform)))) == {"platform": name}
    assert dataclasses.asdict(Holder(platform))["platform"] is platform
    assert repr(platform) == f"<Platform.{name.upper()}: {name!r}>"


@pytest.mark.parametrize(("name", "found"), [("kvm", "K"), ("ptrace", "P"), ("slimvm", "other")])
def test_a_platform_is_matched_by_the_class(name: str, found: str) -> None:
    """A platform matches in a `match` statement, as members of an enum do."""
    match Platform(name):
        case Platform.KVM:
            assert found == "K"
        case "ptrace":
            assert found == "P"
        case _:
            assert found == "other"


@pytest.mark.parametrize(
    "value", ["", "KVM", "k-vm", "7x", "x y", "kvm\n", "auto", "all", "native", "x" * 33, 7, None]
)
def test_another_form_is_a_value_error(value: object) -> None:
    """Another form is refused, as by an enum, and so are other values of the option."""
    with pytest.raises(ValueError, match="is not a valid Platform"):
        Platform(value)
