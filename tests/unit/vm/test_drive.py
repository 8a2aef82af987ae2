"""The output of a VM's console, and the files that a VM leaves."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_gvisor.base.errors import MachineFailed
from pytest_gvisor.vm import drive, parts
from pytest_gvisor.vm.drive import _Console
from pytest_gvisor.vm.machine import Machine
from pytest_gvisor.vm.parts import Parts


@pytest.fixture
def writer(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has written the parameter, so many times, to its standard error."""
    text, times = request.param
    program = f"import sys; sys.stderr.write({text!r} * {times})"
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        yield process


LINES = (
    "qemu-system-x86_64: warning: TCG doesn't support requested feature: x\r\n"
    "[    0.1] booting \033[31m\n"
    "\n"
    "[    0.3] panic"
)


@pytest.mark.parametrize("writer", [(LINES, 1)], indirect=True)
def test_the_end_of_the_console_is_told(writer: subprocess.Popen[bytes]) -> None:
    """The error has the end of the console, escaped, without the lines of each boot."""
    console = _Console(writer)
    while writer.poll() is None:
        console.read()
    console.read()
    assert console.end() == "\n  [    0.1] booting \\x1b[31m\n  [    0.3] panic"


@pytest.mark.parametrize("writer", [("x\n", 200_000)], indirect=True)
def test_a_console_does_not_stop_the_vm_and_does_not_grow(writer: subprocess.Popen[bytes]) -> None:
    """More than a pipe holds is taken while the VM runs, and its end alone is kept."""
    console = _Console(writer)
    while writer.poll() is None:
        console.read()
    console.read()
    assert console.end().endswith("\n  x\n  x")
    assert len(console._last) <= 64 * 1024


@pytest.mark.parametrize("makes", [os.mkfifo, os.mkdir])
def test_no_file_is_exchanged_while_it_is_opened(
    makes: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VM puts a FIFO or a folder in the place of a file that has just been looked at."""
    path = tmp_path / "stdout"
    path.write_text("x")

    def then(look: Callable[..., Any]) -> Callable[..., Any]:
        def looks(*arguments: Any, **more: Any) -> Any:
            found = look(*arguments, **more)
            if arguments[0] == str(path) and path.is_file():
                path.unlink()
                makes(path)
            return found

        return looks

    for look in ("lstat", "open"):
        monkeypatch.setattr(os, look, then(getattr(os, look)))
    got: list[bytes] = []
    drive._Tail(str(tmp_path), "stdout", got.append).pass_on()
    assert got == [b"x"]


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """Runs a VM whose guest does this in the folder that it shares with the driver."""

    def run(script: str) -> int:
        vng = tmp_path / "vng"
        enter = 'for a; do case $a in --rwdir=*) cd "${a##*=}";; esac; done'
        vng.write_text(f"#!/bin/sh\n{enter}\n{script}")
        vng.chmod(0o755)
        found = Parts(vng=str(vng), path="/usr/bin:/bin", qemu="/bin/qemu", kernel="/boot/k")
        monkeypatch.setattr(parts, "find", lambda **_options: found)
        return drive.run(Machine(command=("true",)), 20, lambda _: None, lambda _: None)

    return run


def test_a_vm_writes_nothing_but_its_own_folder(vm: Callable[[str], int]) -> None:
    """The lock, the journal and the sockets of the session are not in what it is given.

    A FIFO in the place of the journal would stop each later sweep of this user.
    """
    assert vm('[ "$(ls -A)" = script ] && echo 7 >status') == 7


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("mkfifo stdout; sleep 9", "no regular file as stdout"),
        ("mkdir stderr; sleep 9", "no regular file as stderr"),
        ("mkfifo status", "no regular file as status"),
        ("ln -s /proc/sys/kernel/pid_max status", "no regular file as status"),
        ("echo 256 >status", "the VM ended before its command did"),
        ("printf %0200d 0 >status", "the VM ended before its command did"),
    ],
)
def test_a_vm_that_lies_neither_hangs_the_driver_nor_is_a_success(
    vm: Callable[[str], int], script: str, says: str
) -> None:
    """The driver reads regular files alone, and a status that a process can have."""
    with pytest.raises(MachineFailed, match=says):
        vm(script)
