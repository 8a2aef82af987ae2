"""The test of a KVM device, by a child that is dead at its deadline."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.errors import LaunchError
from pytest_gvisor.programs import ask_kvm
from pytest_gvisor.runsc import causes, kvm
from pytest_gvisor.runsc.causes import Cause
from pytest_gvisor.settings import Platform

REPOSITORY = Path(__file__).parents[3]


def saying(text: str) -> list[str]:
    """A command that says this in the child's place."""
    return [sys.executable, "-I", "-S", "-c", f"print({text!r})"]


def refusal(device: str = "/dev/kvm", **options: Any) -> kvm.Refusal:
    """The refusal of a device, in twenty seconds unless there is another deadline."""
    found = kvm.look(device, **{"deadline": 20.0, **options})
    assert found is not None
    return found


def test_a_device_that_does_all_is_of_use() -> None:
    """The version, a VM and a processor: the three steps, and each descriptor is closed."""
    made: list[int] = []

    def ioctl(_fd: int, request: int, _arg: int) -> int:
        if request == ask_kvm.KVM_GET_API_VERSION:
            return 12
        made.append(os.open(os.devnull, os.O_RDONLY))
        return made[-1]

    assert ask_kvm.ask("/dev/null", ioctl) == {"step": ""}
    for fd in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert kvm.look("/dev/kvm", command=saying('{"step": ""}'), deadline=20.0) is None


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("KVM_CREATE_VM", errno.EBUSY),
        ("KVM_CREATE_VM", errno.ENOTSUP),
        ("KVM_CREATE_VCPU", errno.EPERM),
    ],
)
def test_a_refused_ioctl_is_named_with_its_error(step: str, number: int) -> None:
    """The failing step of runsc is named, with the kernel's error."""
    requests = {"KVM_CREATE_VM": ask_kvm.KVM_CREATE_VM, "KVM_CREATE_VCPU": 0xAE41}

    def ioctl(_fd: int, request: int, _arg: int) -> int:
        if request == requests[step]:
            raise OSError(number, "refused")
        return 12 if request == ask_kvm.KVM_GET_API_VERSION else os.open("/", os.O_RDONLY)

    assert ask_kvm.ask("/dev/null", ioctl) == {"step": step, "errno": number}
    answer = f'{{"step": "{step}", "errno": {number}}}'
    found = refusal(command=saying(answer))
    assert found.cause is Cause.REFUSED
    assert found.detail.startswith(f"/dev/kvm refuses {step} ({errno.errorcode[number]}: ")
    assert "firmware" in causes.remedy(Platform.KVM, found.cause)


def test_what_a_container_s_profile_forbids_is_a_refusal() -> None:
    """A filter of the kernel makes the refusal here."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from tests.faults import seccomp; "
        "seccomp.NUMBERS['x86_64']['ioctl'], seccomp.NUMBERS['aarch64']['ioctl'] = 16, 29; "
        f"seccomp.refuse('ioctl', {errno.EPERM}, {ask_kvm.KVM_GET_API_VERSION}, position=1); "
        "from pytest_gvisor.runsc import kvm; "
        "print(kvm.look('/dev/null', deadline=20.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    detail = "/dev/null refuses KVM_GET_API_VERSION (EPERM: Operation not permitted)"
    expected = kvm.Refusal(cause=Cause.REFUSED, detail=detail)
    assert done.stdout.strip() == repr(expected), done.stderr


def test_another_version_of_the_interface_is_not_kvm() -> None:
    """12 is the one there has been since 2007."""
    assert ask_kvm.ask("/dev/null", lambda *_: 11) == {
        "step": "KVM_GET_API_VERSION", "value": 11,
    }  # fmt: skip
    answer = '{"step": "KVM_GET_API_VERSION", "value": 11}'
    found = refusal(command=saying(answer))
    assert found == kvm.Refusal(cause=Cause.NOT_KVM, detail="/dev/kvm has KVM API 11 and not 12")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_another_device_is_not_kvm(device: str) -> None:
    """Another device opens, and does not know the question."""
    found = refusal(device)
    assert found.cause is Cause.NOT_KVM
    assert found.detail.startswith(f"{device} is not KVM's device (ENOTTY: ")


def test_no_device_and_no_file(tmp_path: Path) -> None:
    """The messages for a missing device and for a folder differ."""
    missing, folder = refusal(str(tmp_path / "kvm")), refusal(str(tmp_path))
    assert (missing.cause, folder.cause) == (Cause.NO_DEVICE, Cause.NO_DEVICE)
    assert missing.detail == f"there is no {tmp_path}/kvm"
    assert "EISDIR" in folder.detail


def test_no_permission_names_mode_group_and_who(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the mode, the group and the user that need a change."""
    device = tmp_path / "kvm"
    device.touch(0o640)
    monkeypatch.setattr(os, "access", lambda *_args, **_options: False)
    found = refusal(str(device), command=saying(f'{{"step": "open", "errno": {errno.EACCES}}}'))
    assert found.cause is Cause.NO_PERMISSION
    assert f"may not be opened by uid {os.geteuid()} (mode 0640, group " in found.detail
    assert "udevadm" in causes.remedy(Platform.KVM, found.cause)


def test_what_a_container_was_not_given_is_not_a_matter_of_permissions() -> None:
    """A device cgroup says EPERM to root too, where a file's mode says EACCES."""
    found = refusal("/dev/null", command=saying(f'{{"step": "open", "errno": {errno.EPERM}}}'))
    assert found.cause is Cause.NOT_GIVEN
    assert f"forbids uid {os.geteuid()} to open it (EPERM: " in found.detail
    remedy = causes.remedy(Platform.KVM, found.cause)
    assert "`--device /dev/kvm`" in remedy
    assert "usermod" not in remedy
    assert "udev" not in remedy


def test_a_device_whose_mode_is_not_in_the_way_names_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EACCES in spite of the mode: nodev, or a security module."""
    monkeypatch.setattr(os, "access", lambda *_args, **_options: True)
    found = refusal("/dev/null", command=saying(f'{{"step": "open", "errno": {errno.EACCES}}}'))
    assert found.cause is Cause.NO_PERMISSION
    assert "its mode lets it: nodev, or a security module (AppArmor, SELinux)" in found.detail


def test_a_device_that_does_not_answer_is_left_at_the_deadline(tmp_path: Path) -> None:
    """The child is dead at the deadline, whatever it ignores."""
    pid = tmp_path / "pid"
    stuck = (
        "import os, signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); "
        f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    )
    command = [sys.executable, "-I", "-S", "-c", stuck]
    for deadline in (3, 30):  # a busy machine may take longer to start it
        started = time.monotonic()
        found = refusal(command=command, deadline=float(deadline))
        assert time.monotonic() - started < deadline + 30
        assert found.cause is Cause.PROBE_HUNG
        assert f"within {deadline} s" in found.detail
        if pid.exists() and pid.read_text():
            break
    assert not os.path.exists(f"/proc/{pid.read_text()}")


@pytest.mark.parametrize(
    "text", ["", "[]", "no", "[" * 10000, "{}", '{"step": 7}', '{"step": "KVM_CREATE_VM"}']
)
def test_a_child_that_says_nonsense_is_no_word_of_the_device(text: str) -> None:
    """Never a device of use, and never a refusal of KVM's."""
    with pytest.raises(LaunchError, match="ended with exit status 0 and no answer"):
        kvm.look("/dev/kvm", command=saying(text), deadline=20.0)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9 (SIGKILL) and no answer"),
        ("raise MemoryError('none')", "exit status 1 and no answer: MemoryError: none"),
    ],
)
def test_a_child_that_dies_is_no_word_of_the_device(code: str, told: str) -> None:
    """The error has the child's end, and the command that repeats the question."""
    with pytest.raises(LaunchError) as caught:
        kvm.look("/dev/kvm", command=[sys.executable, "-I", "-S", "-c", code], deadline=20.0)
    assert caught.value.stage == "kvm"
    assert told in caught.value.message
    assert "repeats the request" in caught.value.next_step


def test_a_child_that_cannot_be_started_is_no_word_of_the_device() -> None:
    """A child that cannot start, as without free processes, is a launch error."""
    with pytest.raises(LaunchError, match="cannot be started") as caught:
        kvm.look("/dev/kvm", command=["/nonexistent/python"], deadline=20.0)
    assert (caught.value.stage, caught.value.errno) == ("kvm", errno.ENOENT)


def test_a_child_that_cannot_be_killed_does_not_hold_the_look_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel may hold it in an ioctl: it is left, with its pipes closed, and that is a hang."""
    made: list[subprocess.Popen[bytes]] = []

    class Stuck(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

        def kill(self) -> None:
            """Ignore the signal."""

    monkeypatch.setattr(subprocess, "Popen", Stuck)
    monkeypatch.setattr(kvm, "_DEATH", 0.1)
    stuck = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(20)"]
    started = time.monotonic()
    try:
        found = refusal(command=stuck, deadline=0.1)
        assert time.monotonic() - started < 10
        assert found.cause is Cause.PROBE_HUNG
        assert "cannot be killed" in found.detail
        assert made[0].stdout is not None
        assert made[0].stdout.closed
    finally:
        os.kill(made[0].pid, signal.SIGKILL)
        made[0].wait()
