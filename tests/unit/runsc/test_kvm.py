"""The message on a device of KVM that cannot be opened, before anything runs."""

import errno
import os
from pathlib import Path

import pytest

from pytest_gvisor.base.completed import Completed
from pytest_gvisor.base.errors import LaunchError
from pytest_gvisor.base.settings import Platform
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.runsc.platforms import Availability, probe


def never(_deadline: float) -> Completed:
    """Fail where a sandbox would start."""
    pytest.fail("the probe went on to a run")


def look(device: str) -> Availability:
    """The verdict on a device with which no sandbox is tried."""
    return probe(Platform.KVM, {Platform.KVM}, never, kvm_device=device)


def refused(number: int, monkeypatch: pytest.MonkeyPatch, device: str = "/dev/null") -> str:
    """The device; the kernel refuses to open it with this error."""
    real = os.open

    def refuse(path: str, *args: int, **options: int) -> int:
        if path == device:
            raise OSError(number, os.strerror(number))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    return device


def test_no_device_and_no_file(tmp_path: Path) -> None:
    """The messages for a missing device and for a folder differ."""
    missing, folder = look(str(tmp_path / "kvm")), look(str(tmp_path))
    assert (missing.cause, folder.cause) == (Cause.NO_DEVICE, Cause.NO_DEVICE)
    assert missing.detail == f"there is no {tmp_path}/kvm"
    assert "EISDIR" in folder.detail
    assert "firmware" in missing.next_step


def test_no_permission_names_mode_group_and_who(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the mode, the group and the user that need a change."""
    (tmp_path / "kvm").touch(0o640)
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    found = look(refused(errno.EACCES, monkeypatch, str(tmp_path / "kvm")))
    assert found.cause is Cause.NO_PERMISSION
    assert f"may not be opened by uid {os.geteuid()} (mode 0640, group " in found.detail
    assert "udevadm" in found.next_step


def test_what_a_container_was_not_given_is_not_a_matter_of_permissions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A device cgroup says EPERM to root too, where a file's mode says EACCES."""
    found = look(refused(errno.EPERM, monkeypatch))
    assert found.cause is Cause.NOT_GIVEN
    assert f"forbids uid {os.geteuid()} to open it (EPERM: " in found.detail
    assert "`--device /dev/kvm`" in found.next_step
    assert "usermod" not in found.next_step
    assert "udev" not in found.next_step


def test_a_device_whose_mode_is_not_in_the_way_names_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EACCES in spite of the mode: nodev, or a security module."""
    monkeypatch.setattr(os, "access", lambda *_args, **_options: True)
    found = look(refused(errno.EACCES, monkeypatch))
    assert found.cause is Cause.NO_PERMISSION
    assert "its mode lets it: nodev, or a security module (AppArmor, SELinux)" in found.detail


@pytest.mark.fault("G6")
def test_a_shortage_is_no_word_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a free descriptor, the device is neither missing nor forbidden."""
    device = refused(errno.EMFILE, monkeypatch)
    with pytest.raises(LaunchError, match="cannot open /dev/null") as caught:
        look(device)
    assert (caught.value.stage, caught.value.errno) == ("kvm", errno.EMFILE)
