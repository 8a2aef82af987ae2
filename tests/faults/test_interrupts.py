"""Ctrl-C, a closed terminal, a polite kill: pytest ends as without us, and nothing is left."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_gvisor import Gvisor
from pytest_gvisor.sessions.launcher import Launcher
from tests.faults.little import FILES_AFTER, LONGER, PATIENCE, Little, eventually, hang
from tests.inside.conftest import PLUGINS


def ended(little: Little, since: float | None = None) -> int:
    """How pytest ended; soon after its end, and after the signal, nothing may be left."""
    status = little.started[-1].wait(PATIENCE * 2)
    little.assert_gone()
    assert since is None or time.monotonic() - since < FILES_AFTER * LONGER
    return status


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    ("number", "status", "way"),
    [
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED, "run"),
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED, "sandbox"),
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED, "inside"),
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED, "xdist"),
        (signal.SIGTERM, -signal.SIGTERM, "run"),
        (signal.SIGTERM, -signal.SIGTERM, "xdist"),
        (signal.SIGHUP, -signal.SIGHUP, "sandbox"),
        (signal.SIGQUIT, -signal.SIGQUIT, "inside"),
    ],
)
def test_a_signal_to_the_terminal_s_processes_ends_all(
    any_little: Little, number: signal.Signals, status: int, way: str
) -> None:
    """A signal to the whole group ends all processes soon, with pytest's own exit status."""
    group = hang(any_little, way).pid
    since = time.monotonic()
    os.killpg(group, number)
    assert ended(any_little, since) == status, any_little.output()
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in any_little.output()


@pytest.mark.fault("F3")
def test_a_closed_terminal_ends_no_pytest_that_ignores_it(any_little: Little) -> None:
    """Under nohup, a running sandbox ends by itself with its own verdict."""
    any_little.write(
        test_it="""
        import pathlib

        def test_it(gvisor):
            def go():
                pathlib.Path("up").touch()
                while not pathlib.Path("closed").exists():
                    yield b""
                yield b"on"

            assert gvisor.run(["cat"], input=go()).stdout == "on"
        """
    )
    any_little.before = ("nohup",)
    process = any_little.start()
    assert eventually(lambda: any_little.note("up") or process.poll() is not None) is not None
    os.killpg(process.pid, signal.SIGHUP)
    (any_little.folder / "closed").touch()
    assert ended(any_little) == 0, any_little.output()


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    ("pause", "way"),
    [(0.0, "run"), (0.02, "run"), (0.02, "sandbox"), (0.02, "inside"), (0.3, "xdist")],
)
def test_a_second_ctrl_c_does_not_stop_the_cleaning(
    any_little: Little, pause: float, way: str
) -> None:
    """The keeper goes on cleaning, however soon the second Ctrl-C follows the first.

    pytest expects no second one: it then ends as Python does for what nobody catches.
    """
    group = hang(any_little, way).pid
    for _ in range(3):
        since = time.monotonic()
        os.killpg(group, signal.SIGINT)
        time.sleep(pause)
    assert ended(any_little, since) in {pytest.ExitCode.INTERRUPTED, -signal.SIGINT}


@pytest.mark.fault("F7")
@pytest.mark.parametrize("options", [["-x"], ["--maxfail=1"], ["-p", "no:terminal"]])
def test_a_test_that_fails_in_the_middle_of_a_run_leaves_nothing(
    any_little: Little, options: list[str]
) -> None:
    """A thread of the test still waits for its sandbox when pytest ends."""
    any_little.write(
        test_it="""
        import threading, time

        def test_it(gvisor):
            def run():
                try:
                    gvisor.run(["sleep", "100"], timeout=50)
                except BaseException:
                    pass
            threading.Thread(target=run, daemon=True).start()
            while not gvisor.records or not gvisor.records[-1].argv:
                time.sleep(0.01)
            time.sleep(0.5)
            assert False

        def test_another(gvisor):
            assert gvisor.run(["echo", "x"]).stdout == "x\\n"
        """
    )
    any_little.start(*options)
    assert ended(any_little) == pytest.ExitCode.TESTS_FAILED


@pytest.mark.fault("F7")
def test_pytest_timeout_s_thread_leaves_nothing(
    any_little: Little, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of pytest-timeout ends pytest in the middle of a run, and nothing is left."""
    assert PLUGINS.is_dir(), f"{PLUGINS} is not there: run scripts/setup"
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS), prepend=os.pathsep)
    any_little.write(
        test_it="""
        def test_it(gvisor):
            gvisor.run(["true"])
            gvisor.run(["sleep", "100"], timeout=50)
        """
    )
    any_little.start("-p", "no:randomly", "--timeout=2", "--timeout-method=thread")
    assert ended(any_little) == 1
    assert "Timeout" in any_little.output()
    assert "Stack of MainThread" in any_little.output()


THREADS, EACH = 8, 5


@pytest.mark.fault("D2")
def test_eight_threads_run_40_sandboxes(gvisor: Gvisor) -> None:
    """Each run gets its own output, none hangs, and no descriptor or thread is left."""
    gvisor.run(["true"])
    before = len(os.listdir("/proc/self/fd"))

    def runs(thread: int) -> list[str]:
        done = [gvisor.run(["echo", f"{thread}.{number}"]) for number in range(EACH)]
        return [one.stdout for one in done]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(runs, range(THREADS)))
    assert found == [[f"{t}.{n}\n" for n in range(EACH)] for t in range(THREADS)]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.fault("D3")
def test_a_sandbox_outlives_the_thread_that_launched_it(gvisor: Gvisor, short_folder: str) -> None:
    """A parent-death signal is sent when the launching *thread* ends: that is the keeper's.

    The keeper itself is started by a thread that ends at once, while the sandbox of another runs.
    """
    launcher = Launcher(short_folder)
    first = threading.Thread(target=launcher.keeper)
    first.start()
    first.join()
    other = Gvisor(runsc=gvisor.runsc, platform=gvisor.platform, launcher=launcher)
    found: list[str] = []
    second = threading.Thread(
        target=lambda: found.append(other.run(["sh", "-c", "sleep 1; echo well"]).stdout)
    )
    second.start()
    for _ in range(20):
        short_lived = threading.Thread(target=launcher.session)
        short_lived.start()
        short_lived.join()
    second.join()
    launcher.close()
    assert found == ["well\n"]
