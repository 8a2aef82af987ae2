"""Ctrl-C, a closed terminal, a polite kill: pytest ends as without us, and nothing is left."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.faults.little import HANGING, Little, eventually


def hanging(little: Little, *arguments: str) -> int:
    """Start a pytest whose test hangs in a sandbox, and wait until it does; its process group."""
    little.write(test_it=HANGING.replace("LIMITS", str(os.geteuid() == 0)))
    process = little.start(*arguments)
    assert eventually(lambda: little.note("up") or process.poll() is not None) is not None
    assert process.poll() is None, little.output()
    time.sleep(0.3)
    return process.pid


def ended(little: Little) -> int:
    """How pytest ended, which has to be soon; nothing may be left soon after."""
    status = little.started[-1].wait(20)
    assert eventually(lambda: not little.left(), 10) is not None, little.left()
    return status


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, pytest.ExitCode.INTERRUPTED),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGQUIT, -signal.SIGQUIT),
    ],
)
def test_a_signal_to_the_terminal_s_processes_ends_all(
    little: Little, number: signal.Signals, status: int
) -> None:
    """Sent once to the whole group: pytest's own exit status, and nothing of ours."""
    os.killpg(hanging(little), number)
    assert ended(little) == status
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in little.output()


@pytest.mark.fault("F3")
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3])
def test_a_second_ctrl_c_does_not_stop_the_cleaning(any_little: Little, pause: float) -> None:
    """However soon it follows the first, the keeper goes on."""
    group = hanging(any_little)
    for _ in range(3):
        os.killpg(group, signal.SIGINT)
        time.sleep(pause)
    assert ended(any_little) in {pytest.ExitCode.INTERRUPTED, -signal.SIGINT, 1}


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
def test_an_exit_without_goodbye_leaves_nothing(any_little: Little) -> None:
    """As pytest-timeout's thread method ends pytest."""
    any_little.write(
        test_it="""
        import os, threading

        def test_it(gvisor):
            threading.Timer(1.5, lambda: os._exit(7)).start()
            gvisor.run(["sleep", "100"], timeout=50)
        """
    )
    any_little.start()
    assert ended(any_little) == 7
