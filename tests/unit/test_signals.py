from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

CODE = """
import os, signal, subprocess
from tests import conftest

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a program
conftest.pytest_configure()
os.kill(os.getpid(), signal.SIGHUP)
child = subprocess.Popen(["sleep", "1000"])
child.send_signal(signal.SIGHUP)
print(child.wait(60))
"""


def test_what_nohup_starts_lets_its_children_be_hung_up() -> None:
    """The suite itself lives on, as it is to under nohup."""
    argv = [sys.executable, "-c", CODE]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == (f"{-signal.SIGHUP}\n", 0), done.stderr
