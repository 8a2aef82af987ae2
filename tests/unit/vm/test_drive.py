"""The output of a VM's console."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pytest_gvisor.vm.drive import _Console


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
