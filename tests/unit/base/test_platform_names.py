"""`Platform` is a text, one object for each name, and its class lists the known ones."""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys

import pytest

import pytest_gvisor
from pytest_gvisor import Platform, is_gvisor_kernel

NAMES = ["systrap", "kvm", "ptrace", "slimvm"]


def test_the_class_lists_what_is_known_in_a_fixed_order() -> None:
    """Ids are made of it, so no binary and no other name that was seen may change it."""
    assert Platform("slimvm") not in Platform
    assert list(Platform) == [Platform.SYSTRAP, Platform.KVM, Platform.PTRACE]
    assert [one.value for one in Platform] == ["systrap", "kvm", "ptrace"]
    assert Platform("kvm") in Platform


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_one_object_however_it_came(name: str) -> None:
    """The class, pickle (as in xdist and multiprocessing) and copies give the same object."""
    platform = Platform(name)
    assert Platform(platform) is Platform(name) is platform
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
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
    assert repr(platform) == repr(name)


@pytest.mark.parametrize(
    "value", ["", "KVM", "k-vm", "7x", "x y", "kvm\n", "auto", "all", "native", "x" * 33, 7, None]
)
def test_another_form_is_a_value_error(value: object) -> None:
    """Another form is refused, as by an enum, and so are other values of the option."""
    with pytest.raises(ValueError, match="is not a valid Platform"):
        Platform(value)


@pytest.mark.parametrize("release", ["4.4.0", "4.19.0-gvisor", "5.10.0-gvisor", "10.0.123-gvisor"])
def test_each_name_of_gvisors_kernel_is_known(release: str) -> None:
    """Old and current names match, as do other digits with the same suffix."""
    assert is_gvisor_kernel(release)


@pytest.mark.parametrize(
    "release",
    [
        "4.4.0-generic", "4.4.0-210-generic", "4.4.0-gvisor-generic", "4.4.01", "14.4.0", "4x4x0",
        "6.18.44-fc", "6.1.0-49-amd64", "4.19.0", "4.19.0-27-amd64", "4.19-gvisor", "-gvisor",
        "4.19.0-gvisor+", "x4.19.0-gvisor", "4.19.0.gvisor", "٤.19.0-gvisor", "",
        "4.4.0\n", "4.19.0-gvisor\n", " 4.4.0",
    ],
)  # fmt: skip
def test_the_kernel_of_a_host_is_not_taken_for_gvisors(release: str) -> None:
    """A distribution's suffix, other digits, other characters, and a line that was not stripped."""
    assert not is_gvisor_kernel(release)


def test_it_is_imported_without_the_rest_of_the_package() -> None:
    """A program that only asks for the kernel's name loads its module alone."""
    code = (
        "import sys; from pytest_gvisor import is_gvisor_kernel; "
        "print(*sorted(name for name in sys.modules if 'pytest' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.split(), done.stderr) == (
        ["pytest_gvisor", "pytest_gvisor.base", "pytest_gvisor.base.kernel"],
        "",
    )
    assert "is_gvisor_kernel" in pytest_gvisor.__all__
