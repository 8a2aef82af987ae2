"""``python -m pytest_gvisor vm``: a real VM with a real kvm, and nothing left."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_gvisor.programs import proc
from pytest_gvisor.sessions import session_folder
from tests.faults.little import PATIENCE, STRICT
from tests.runsc.conftest import wait_for

VM = (sys.executable, "-m", "pytest_gvisor", "vm")
MAKES_A_VM = """
import fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
KVM_CREATE_VM = 0xAE01
print("made" if fcntl.ioctl(kvm, KVM_CREATE_VM, 0) > 0 else "none")
"""


def machinery(mark: str) -> list[str]:
    """The command lines that contain this mark, apart from this process's."""
    lines = [" ".join(proc.words_of(pid)) for pid in proc.pids() if pid != os.getpid()]
    return [line for line in lines if mark in line]


@pytest.fixture
def share() -> Iterator[Path]:
    """A folder whose name no other process has in its command line."""
    folder = Path(f"/var/tmp/pytest-gvisor-vm-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def nothing_of_the_vm_is_left(vm_options: list[str], share: Path) -> Iterator[None]:
    """Check that the VM leaves no process, folder or file of vng's two seconds after its end."""
    before = set(os.listdir("/tmp"))
    yield
    base = session_folder.base_folder()
    wait_for(lambda: not machinery(share.name), "the VM's processes to end")
    assert [name for name in os.listdir("/tmp") if name.startswith("virtme")
            and name not in before] == []  # fmt: skip
    for name in os.listdir(base) if os.path.isdir(base) else ():
        assert not os.path.exists(os.path.join(base, name, "shared")), name


def test_a_command_runs_in_it(vm_options: list[str], share: Path) -> None:
    """Status, both streams, exact bytes and a file come back, and its kvm makes VMs.

    scripts/suite-in-vm runs a part of the suite on gVisor's kvm platform in it.
    """
    script = (
        "printf 'a\\377\\n'; printf err >&2; cat; id -u; pwd; echo $GREETING; touch /usr/mark; "
        'echo file >"$1/file"; "$0" -c "$2"; exit 7'
    )
    # fmt: off
    argv = [*VM, *vm_options, "--timeout=300", f"--share={share}", "--",
            "sh", "-c", script, sys.executable]
    done = subprocess.run(
        [*argv, str(share), MAKES_A_VM], capture_output=True, timeout=320, stdin=subprocess.DEVNULL,
        env={**os.environ, "GREETING": "good day's $HOME"},
    )
    # fmt: on
    cwd = os.getcwd().encode()
    assert done.stdout == b"a\xff\n0\n" + cwd + b"\ngood day's $HOME\nmade\n", done.stderr
    assert (done.returncode, done.stderr) == (7, b"err")
    assert (share / "file").read_text() == "file\n"
    assert not os.path.exists("/usr/mark")


@contextlib.contextmanager
def start(vm_options: list[str], share: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A VM whose command would not end, and which is booting."""

    def boots() -> bool:
        programs = (line.partition(" ")[0] for line in machinery(share.name))
        return any(name.endswith("/qemu-system-x86_64") for name in programs)

    with subprocess.Popen(
        [*VM, *vm_options, f"--share={share}", "--", "sleep", "1000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            wait_for(boots, "the VM to start")
            yield process
        finally:
            process.kill()


def test_the_deadline_ends_it(vm_options: list[str], share: Path) -> None:
    """The VM is dead at the deadline, with status 124 as of timeout(1) and the reason."""
    argv = [*VM, *vm_options, f"--share={share}", "--timeout=8", "--", "sleep", "1000"]
    started = time.monotonic()
    done = subprocess.run(argv, capture_output=True, timeout=PATIENCE + 60)
    assert time.monotonic() - started < 8 + (10 if STRICT else PATIENCE)
    assert done.returncode == 124
    assert b"the command in the VM did not end within 8 s; the VM is dead" in done.stderr
    assert machinery(share.name) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_any_signal_ends_it(vm_options: list[str], share: Path, number: signal.Signals) -> None:
    """The VM is dead within a second of any end of the command line tool."""
    with start(vm_options, share) as process:
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        if STRICT:
            time.sleep(1)
            assert machinery(share.name) == []
        wait_for(lambda: not machinery(share.name), "the end of the VM")
    assert process.returncode == (130 if number == signal.SIGINT else -number)


def test_a_killed_warden_takes_the_vm_with_it(vm_options: list[str], share: Path) -> None:
    """The warden's guard kills the VM's command; the folder goes with the tool."""
    with start(vm_options, share) as process:
        wardens = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
        )
        os.kill(int(wardens.stdout), signal.SIGKILL)
        _out, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 125
    assert b"its warden was killed" in told
