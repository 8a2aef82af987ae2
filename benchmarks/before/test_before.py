"""The six failures of docs/failures.md as subprocess shows them, without pytest-gvisor.

The command that printed the parts "before" of that page, as root on a machine without kvm:

    COLUMNS=80 python -m pytest -p no:gvisor -c /dev/null --noconftest --rootdir=/tmp \
        benchmarks/before/test_before.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

RUNSC = ["runsc", "--network=none"]


def run(
    *args: str, timeout: float = 60, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a command by ``runsc do``, as projects do that have no plugin for it."""
    return subprocess.run(
        [*RUNSC, *flags, "do", *args], check=False, capture_output=True, text=True, timeout=timeout
    )


def test_status() -> None:
    """A status other than 0."""
    done = run("sh", "-c", "echo reading; echo bad input >&2; exit 3")
    assert done.returncode == 0


def test_time_out() -> None:
    """A workload that runs on."""
    run("sh", "-c", "echo started; sleep 60", timeout=5)


def test_missing_program() -> None:
    """A name that is not there."""
    done = run("pyton3", "--version")
    assert done.returncode == 0


def test_crash() -> None:
    """A sentry that dies."""
    started = subprocess.Popen(
        [*RUNSC, "do", "sleep", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(3)
    kill_the_sentry(started.pid)
    stdout, stderr = started.communicate(timeout=60)
    assert started.returncode == 0, stdout + stderr


def test_platform() -> None:
    """A platform that the machine has not."""
    done = run("true", flags=["--platform=kvm"])
    assert done.returncode == 0


def test_inside(tmp_path: Path) -> None:
    """A failing test in a sandbox."""
    test = tmp_path / "test_inside.py"
    test.write_text(
        "def test_inside():\n"
        "    numbers = [1, 2, 3]\n"
        '    print("numbers:", numbers)\n'
        "    assert sum(numbers) == 7\n"
    )
    done = run("python3", "-m", "pytest", "-p", "no:cacheprovider", str(test))
    assert done.returncode == 0


def kill_the_sentry(above: int) -> None:
    """Kill the process of runsc below this one that is the sentry."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"boot" in words and parent == above:
            os.kill(int(folder.name), signal.SIGKILL)
