"""A test inside, or a workload, wants to keep the host for ever, or to fill it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_gvisor import Gvisor
from tests.inside.conftest import project

__all__ = ["project"]

TIMEOUT = "2"

LOUD = """
import os, signal, struct, sys, time, warnings
import pytest

def loud():
    if os.fork() == 0:
        fd = os.open("/proc/1/fd/2", os.O_WRONLY)
        while True:
            os.write(fd, b"x" * 9999 + b"\\n")

def channel(config):
    return config.pluginmanager.get_plugin("gvisor-worker")._channel

def send_for_ever(config, kind, **fields):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
    while True:
        channel(config).send(kind, id=test, **fields)

def at_the_end(config, act):
    worker, real = config.pluginmanager.get_plugin("gvisor-worker"), channel(config)

    class Ours:
        def __getattr__(self, name):
            return getattr(real, name)

        def send(self, kind, **fields):
            if kind == "finished":
                act()
            real.send(kind, **fields)

    worker._channel = Ours()
"""

ATTACKS = {
    "a flood in a debugger": """
def test_it():
    loud()
    breakpoint()
""",
    "a debugger again and again": """
def test_it():
    while True:
        try:
            breakpoint()
        except BaseException:
            pass
""",
    "questions without end": """
def test_it(pytestconfig):
    send_for_ever(pytestconfig, "debugger", event="open", shown=False)
""",
    "a trickle of warnings at the end": """
def test_it(pytestconfig):
    real = channel(pytestconfig)
    def act():
        while True:
            real.send("warning", text="x" * 30_000, when="runtest")
            time.sleep(0.08)
    at_the_end(pytestconfig, act)
""",
    "a teardown of the session": """
@pytest.fixture(scope="session")
def held():
    yield
    loud()
    while True:
        warnings.warn("x" * 30_000)

def test_it(held):
    pass
""",
    "half a message": """
def test_it(pytestconfig):
    ours = channel(pytestconfig)
    head = struct.pack("<8sIII", bytes(8), ours._encoder._number, 2**26, 0)
    os.write(ours.socket, head + b"{")
    while True:
        os.write(ours.socket, b" ")
        time.sleep(0.01)
""",
    "short messages": """
def test_it(pytestconfig):
    send_for_ever(pytestconfig, "phase", when="call")
""",
    "subtests": """
def test_it(subtests):
    while True:
        with subtests.test():
            pass
""",
    "a stop": """
def test_it():
    loud()
    os.kill(os.getpid(), signal.SIGSTOP)
""",
    "pytest.exit": """
@pytest.fixture(scope="session")
def held():
    yield
    while True:
        try:
            pytest.exit("again")
        except BaseException:
            pass

def test_it(held):
    pytest.exit("now")
""",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_test_inside_keeps_the_host_for_its_time_alone(
    attack: str, project: pytest.Pytester
) -> None:
    """However much or little comes from inside, the session ends, and shows a bounded output."""
    project.makepyfile(test_it=LOUD + ATTACKS[attack])
    result = project.runpytest_subprocess(
        "--in-gvisor", "--gvisor-strict", "--gvisor-timeout", TIMEOUT, timeout=120
    )
    assert sum(map(len, result.outlines)) < 40_000_000
    assert result.outlines[-1].strip("= ").rpartition(" in ")[0]


def test_an_strace_fills_neither_disk_nor_memory(gvisor: Gvisor) -> None:
    """A log of any length takes no room in the session folder, and the report says it was cut."""
    calls = "import os\nfor _ in range(5000): os.getppid()"
    with gvisor.sandbox(debug=True) as sandbox:
        sandbox.exec(["python3", "-c", calls], check=True)
        session = Path(gvisor._launcher.session().path)
        written = [path.stat() for path in session.glob("*/logs/*")]
        assert written
        assert sum(info.st_size for info in written) == 0
    log = gvisor.records[-1].debug_logs["boot"]
    first, *lines = log.splitlines()
    assert first.endswith("bytes before …]")
    assert any("strace.go" in line for line in lines)
    assert len(log.encode()) < 300_000
